"""Anomaly detection on gearbox health data maps (HDMAP): one flow and one honest record for every model.

    import hdmap_mlflow as hdmap

    result = hdmap.execute(hdmap.configure("padim", flags={"data.source_domain": "domain_B"}))
    print(result.markdown())

What is named here is the public interface. Each name is imported when it is first used, for torch costs seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hdmap_mlflow.data.simulate import simulate
    from hdmap_mlflow.errors import BadInput
    from hdmap_mlflow.report.summary import headline
    from hdmap_mlflow.report.write import compare, write_report
    from hdmap_mlflow.runs.export import export
    from hdmap_mlflow.runs.flow import execute
    from hdmap_mlflow.runs.history import read_experiment, read_run
    from hdmap_mlflow.runs.rescore import rescore
    from hdmap_mlflow.runs.setup import configure
    from hdmap_mlflow.runs.verify import verify
    from hdmap_mlflow.tracking import artifacts

__version__ = "0.1.0"
_PLACES = {
    "BadInput": "errors",
    "artifacts": "tracking",
    "compare": "report.write",
    "configure": "runs.setup",
    "execute": "runs.flow",
    "export": "runs.export",
    "headline": "report.summary",
    "read_experiment": "runs.history",
    "read_run": "runs.history",
    "rescore": "runs.rescore",
    "simulate": "data.simulate",
    "verify": "runs.verify",
    "write_report": "report.write",
}
__all__ = list(_PLACES)


if not TYPE_CHECKING:  # a type checker sees the imports above, and an error in any other name

    def __getattr__(name: str) -> Any:
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)

    def __dir__() -> list[str]:
        return sorted([*globals(), *_PLACES])
