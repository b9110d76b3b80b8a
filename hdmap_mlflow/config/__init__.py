"""What a run is: settings, the layers that they come from, condition files, and which of them identify a run."""

from hdmap_mlflow.config.conditions import find_condition, load_conditions, name_problem, packaged_conditions
from hdmap_mlflow.config.documents import read_json, read_yaml
from hdmap_mlflow.config.identity import NOT_IDENTITY, fingerprint, identifying, unsaid
from hdmap_mlflow.config.layers import (
    build_config,
    dotted,
    dotted_key,
    one_line,
    parse_overrides,
    with_settings,
    with_values,
)
from hdmap_mlflow.config.settings import (
    AdaptConfig,
    CheckedConfig,
    Count,
    DataConfig,
    DomainName,
    ModelConfig,
    RunConfig,
    Seed,
    TrackingConfig,
    TrainConfig,
    own_experiment,
)
