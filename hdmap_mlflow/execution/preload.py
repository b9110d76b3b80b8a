"""What a run imports, imported once by the server from which runs are forked, without the libraries' own warnings."""

import warnings

with warnings.catch_warnings(action="ignore"):
    from hdmap_mlflow.data import datamodule  # noqa: F401
    from hdmap_mlflow.evaluation import cards, figures  # noqa: F401
    from hdmap_mlflow.execution import child  # noqa: F401
    from hdmap_mlflow.models.own import patchcore  # noqa: F401 - and with it all of anomalib
    from hdmap_mlflow.runs import flow, train  # noqa: F401
