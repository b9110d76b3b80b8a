"""The application that commands are added to."""

from cyclopts import App

from hdmap_mlflow import __version__


def version() -> str:
    """The package's version, and those of the libraries that make its numbers."""
    from importlib.metadata import version as of

    return f"hdmap_mlflow {__version__} ({', '.join(f'{name} {of(name)}' for name in ('anomalib', 'torch', 'mlflow'))})"


app = App(
    name="hdmap",
    help="Anomaly detection on gearbox health data maps: one flow and one honest record for every model.",
    version=version,
    version_flags=("--version",),
    help_format="plaintext",  # anything else imports a Markdown parser
    result_action="return_value",
    exit_on_error=False,
    print_error=False,
    suppress_keyboard_interrupt=False,
)
