"""The application that commands are added to."""

from cyclopts import App

app = App(
    name="hdmap",
    help="Anomaly detection on gearbox health data maps: one flow and one honest record for every model.",
    version_flags=(),
    help_format="plaintext",  # anything else imports a Markdown parser
    result_action="return_value",
    exit_on_error=False,
    print_error=False,
    suppress_keyboard_interrupt=False,
)
