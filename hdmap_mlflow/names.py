"""The names of the record, each written once: scopes and names of metrics, tags, artifacts."""

import re
from collections.abc import Sequence

PREFIX = "hdmap."  # of every tag of ours


class Tag:
    """Tags by which runs are found, compared and explained; what reads a record leaves the prefix out."""

    KIND = f"{PREFIX}kind"  # run, trial, study, grid, report or watch
    STATUS = f"{PREFIX}status"  # running, finished, failed or killed
    REASON = f"{PREFIX}reason"  # why a run ended early
    # What a run is.
    MODEL = f"{PREFIX}model"
    CONDITION = f"{PREFIX}condition"
    SOURCE = f"{PREFIX}source"  # several are a comma list
    VALIDATION = f"{PREFIX}validation"
    PROTOCOL = f"{PREFIX}protocol"  # source_only or k_normals; source_only where absent
    FINGERPRINT = f"{PREFIX}fingerprint"
    DATA_DIGEST = f"{PREFIX}data_digest"
    SIMULATED = f"{PREFIX}simulated"
    BUILT = f"{PREFIX}built"  # how, on runs whose maps were built from vibration
    SAMPLE = f"{PREFIX}sample"  # what intervals took for independent: recordings, order or maps; maps where absent
    WEIGHTS = f"{PREFIX}weights"
    MODEL_DIGEST = f"{PREFIX}model_digest"  # SHA-256 of all files of the model, as it was recorded
    ENGINE = f"{PREFIX}engine"  # what computed the frozen backbones: torch, or OpenVINO with its version
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
    # Of a watch.
    WATCHED = f"{PREFIX}watched"  # the id of the run whose model scores
    FOLDER = f"{PREFIX}folder"
    THRESHOLD = f"{PREFIX}threshold"
    ALARM = f"{PREFIX}alarm"  # the rule: at least so many of the last so many maps above the threshold
    # Of an experiment.
    DOMAINS = f"{PREFIX}domains"  # the target domains that its views have columns for


class Scope:
    """The first part of a metric's name."""

    VAL = "val"
    SOURCE = "source"  # the mean of several, each of which has its own, see `source_scope`
    TARGET = "target"  # followed by a domain, see `target_scope`
    TARGET_MEAN = "target_mean"
    TARGET_WORST = "target_worst"
    TRANSFER = "transfer"
    POOLED = "pooled"  # all domains as one
    CROSS = "cross"  # followed by the domain of the good and that of the fault maps, or a domain and two of its groups
    HARMONIC = "harmonic"
    ADAPTED = "adapted"  # followed by adapters, a number of maps and a scope, see `adapted_scope`
    EPOCH = "epoch"
    COST = "cost"
    STUDY = "study"
    GRID = "grid"
    WATCH = "watch"


class Artifact:
    """Files and folders of a run, in MLflow and in the run's own folder."""

    CONFIG = "config.json"
    ENVIRONMENT = "environment.json"
    RESULT = "result.json"
    CARDS = "cards.json"
    SCORES = "scores"
    FIGURES = "figures"
    HEATMAPS = "heatmaps"
    CHECKPOINT = "checkpoint"  # of a run of before 0.19, or one that failed; else in the model
    MODEL = "model"  # the run's folder of it; in MLflow a logged model
    LOGS = "logs"


SOURCE_ONLY, K_NORMALS = "source_only", "k_normals"  # whether healthy maps of the target are used
REFERENCE = "reference"  # split of the healthy `train/good` maps that adapters draw from
PUBLISHED = "published"  # `score.image`: as the model's authors have it
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


def sources_of(source: str) -> list[str]:
    """The domains that a run's source names: `domain_A`, or several as `domain_A,domain_B`."""
    return source.split(",")


def source_scope(domain: str) -> str:
    """Of one source where a run has several; `source` alone is their mean."""
    return f"{Scope.SOURCE}/{domain}"


def target_scope(domain: str) -> str:
    return f"{Scope.TARGET}/{domain}"


def adapted_scope(chain: Sequence[str], k: int, scope: str) -> str:
    """`adapted/merge-z/k16/target_mean` for the adapters `merge`, then `z`; MLflow refuses `+`."""
    return f"{Scope.ADAPTED}/{'-'.join(chain)}/k{k}/{scope}"


VAL_AUROC = metric_name(Scope.VAL, AUROC)
SOURCE_AUROC = metric_name(Scope.SOURCE, AUROC)
MEAN_AUROC = metric_name(Scope.TARGET_MEAN, AUROC)
WORST_AUROC = metric_name(Scope.TARGET_WORST, AUROC)
