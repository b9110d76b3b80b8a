"""Flags of the guideline's training scripts, and what says the same here (docs/guideline.md has the whole list)."""

from __future__ import annotations

from cyclopts.exceptions import UnknownOptionError

from hdmap_mlflow.errors import BadInput

GPU = (
    "one run takes GPU 0 of those that CUDA_VISIBLE_DEVICES shows, so write CUDA_VISIBLE_DEVICES=N before the command; "
    "`hdmap grid` shares all of them"
)
EXPERIMENT = (
    "a condition goes by its name: `hdmap train MODEL --condition NAME`, or all of a file: "
    "`hdmap grid --models MODEL --conditions all --condition-file FILE`"
)
LOGS = 'give --overrides "tracking.output_dir=FOLDER" (default: results)'
EQUIVALENTS = {"--gpu-id": GPU, "--experiment-id": EXPERIMENT, "--log-dir": LOGS}


def explained(error: Exception) -> Exception:
    """The error itself, or the line that names our equivalent where a flag of the guideline was not understood."""
    if isinstance(error, UnknownOptionError):
        flag = (error.token.keyword or error.token.value or "").partition("=")[0].replace("_", "-")
        if flag in EQUIVALENTS:
            return BadInput(f"{flag} is a flag of the guideline's scripts; here {EQUIVALENTS[flag]}")
    return error
