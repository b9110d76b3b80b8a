"""A small study."""

from hdmap_mlflow.config import DataConfig, ModelConfig, RunConfig
from hdmap_mlflow.models.searchspace import Float, Int
from hdmap_mlflow.tuning.space import Space
from hdmap_mlflow.tuning.storage import StudyStorage
from hdmap_mlflow.tuning.study import Study

CONFIG = RunConfig(condition="c", data=DataConfig(), model=ModelConfig(name="m", settings={"x": 0.5, "n": 3}))
DIMENSIONS = {"model.x": Float(low=0, high=1), "model.n": Int(low=1, high=9)}
SPACE = Space(DIMENSIONS, CONFIG)


def study(kind="sqlite", space=SPACE, terms=None, directions=("maximize",), **more):
    place = StudyStorage.of("journal://s.log" if kind == "journal" else "sqlite:///s.db")
    return Study(place, "s", space, terms or {"data_digest": "d"}, list(directions), **more)
