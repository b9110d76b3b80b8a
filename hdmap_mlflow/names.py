"""The names of the record, each written once: scopes and names of metrics, tags, artifacts."""

import re

PREFIX = "hdmap."  # of every tag of ours


class Tag:
    """Tags by which runs are found, compared and explained; what reads a record leaves the prefix out."""

    KIND = f"{PREFIX}kind"  # run, trial, study, grid or report
    STATUS = f"{PREFIX}status"  # running, finished, failed or killed
    REASON = f"{PREFIX}reason"  # why a run ended early
    # What a run is.
    MODEL = f"{PREFIX}model"
    CONDITION = f"{PREFIX}condition"
    SOURCE = f"{PREFIX}source"
    VALIDATION = f"{PREFIX}validation"
    FINGERPRINT = f"{PREFIX}fingerprint"
    DATA_DIGEST = f"{PREFIX}data_digest"
    SIMULATED = f"{PREFIX}simulated"
    SAMPLE = f"{PREFIX}sample"  # what intervals took for independent: recordings, order or maps; maps where absent
    WEIGHTS = f"{PREFIX}weights"
    # What became of it.
    GRADE = f"{PREFIX}grade"
    VERIFIED = f"{PREFIX}verified"
    CHECKPOINT = f"{PREFIX}checkpoint"  # where one that was not uploaded lies
    LOG_TAIL = f"{PREFIX}log_tail"
    LEFT_OUT = f"{PREFIX}left_out"  # extras that failed, each with its reason; the numbers stand without them
    UPLOADED_FROM = f"{PREFIX}uploaded_from"  # the id of a run that its store had lost, on the one in its place
    # The process that writes it.
    PROCESS = f"{PREFIX}process"
    GPU = f"{PREFIX}gpu"
    # Its place in a grid or a study.
    PART_OF = f"{PREFIX}part_of"  # the name of the grid or study
    RESUME = f"{PREFIX}resume"  # the command that goes on with it
    PLANNED = f"{PREFIX}planned"  # the fingerprint that the plan expects
    RETRY = f"{PREFIX}retry"
    RETRY_OF = f"{PREFIX}retry_of"
    BATCH_SIZE_PLANNED = f"{PREFIX}batch_size_planned"
    STUDY = f"{PREFIX}study"
    STORAGE = f"{PREFIX}storage"
    ORACLE = f"{PREFIX}oracle"  # true where targets chose the settings
    TRIAL = f"{PREFIX}trial"
    ROLE = f"{PREFIX}role"  # baseline or best, of a refit
    BEST = f"{PREFIX}best"
    BEST_TRIAL = f"{PREFIX}best_trial"
    # Of an experiment.
    DOMAINS = f"{PREFIX}domains"  # the target domains that its views have columns for


class Scope:
    """The first part of a metric's name."""

    VAL = "val"
    SOURCE = "source"
    TARGET = "target"  # followed by a domain, see `target_scope`
    TARGET_MEAN = "target_mean"
    TARGET_WORST = "target_worst"
    TRANSFER = "transfer"
    POOLED = "pooled"  # all domains as one
    CROSS = "cross"  # followed by the domain of the good maps and that of the fault maps
    HARMONIC = "harmonic"
    EPOCH = "epoch"
    COST = "cost"
    STUDY = "study"
    GRID = "grid"


class Artifact:
    """Files and folders of a run, in MLflow and in the run's own folder."""

    CONFIG = "config.json"
    ENVIRONMENT = "environment.json"
    RESULT = "result.json"
    CARDS = "cards.json"
    SCORES = "scores"
    FIGURES = "figures"
    HEATMAPS = "heatmaps"
    CHECKPOINT = "checkpoint"
    LOGS = "logs"


AUROC = "image_AUROC"  # the metric by which runs are compared
DOMAIN = r"^\w([\w.\- ]*[\w\-])?$"  # what MLflow takes as part of a metric's name, and Windows as a file's
DOMAIN_BYTES = 100  # two of them and a metric fit the 250 characters of a name; one and a suffix, those of a file's
ROW = "baseline_row_AUROC"  # the trivial score that records of before 0.17 lack


def metric_name(scope: str, name: str) -> str:
    """`<scope>/<name>`: a metric's full name."""
    return f"{scope}/{name}"


def domain_flaw(name: str) -> str:
    """Why metrics and files cannot bear a domain's name, with what they can; empty for a good name."""
    if not re.fullmatch(DOMAIN, name):
        return "is no name of a domain: letters, digits, spaces and _ - . only, the last no space or dot"
    if len(name.encode()) > DOMAIN_BYTES:
        return f"is no name of a domain: longer than {DOMAIN_BYTES} bytes"
    return ""


def target_scope(domain: str) -> str:
    return f"{Scope.TARGET}/{domain}"


VAL_AUROC = metric_name(Scope.VAL, AUROC)
SOURCE_AUROC = metric_name(Scope.SOURCE, AUROC)
MEAN_AUROC = metric_name(Scope.TARGET_MEAN, AUROC)
WORST_AUROC = metric_name(Scope.TARGET_WORST, AUROC)
