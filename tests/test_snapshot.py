"""What runs, a grid, a study and a report leave, as it was when the package was rebuilt: names, values, fingerprints.

The record is a promise to users' old runs. `python -m pytest tests/test_snapshot.py --renew-snapshot` writes the file
anew: only for a name that is added, never to let one go.
"""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from lab import SOURCE, write
from mlflow import MlflowClient
from mlflow.utils.file_utils import local_file_uri_to_path
from reference import images
from servers import new_store
from starts import hdmap

from hdmap_mlflow.config import RunConfig, fingerprint

FILE = Path(__file__).with_name("snapshot.json")
SMALL = "data.image_size=[32,96],data.batch_size=8,model.weights=random,model.backbone=resnet18"
QUIET = "tracking.figures=true,tracking.heatmaps=1"
GRID = {
    "patchcore": ("0,1", SMALL + ",model.layers=[layer1]"),
    "padim": ("0", SMALL + ",model.layers=[layer1],model.n_features=20"),
    "reverse_distillation": ("0", SMALL + ",train.max_epochs=2"),
}
# Of a record: what tells of the day and the machine, and not of the result.
PASSING = ("cost/", "study/best_seconds")
PLACES = ("data.root", "tracking.uri", "tracking.output_dir")
PERSONAL = (
    "hdmap.process",
    "hdmap.fingerprint",
    "hdmap.planned",
    "hdmap.model_digest",
    "hdmap.resume",
    "hdmap.storage",
    "hdmap.gpu",
    "hdmap.mlflow_run",
    "mlflow.",
)
CODE = re.compile(r"(?<=^grid/4 runs)/[0-9a-f]{6}$")  # of a grid's name, what follows from its runs' fingerprints
TRAINED = "reverse_distillation"  # gradient steps differ by the processor: its names are kept, its values are not
MACHINE = ("mlflow.source", "mlflow.user")  # MLflow's own, different in a clone and in an archive
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("snapshot")]


def below(client, run_id, path=""):
    """Paths of a run's artifacts."""
    found = []
    for entry in client.list_artifacts(run_id, path or None):
        found += below(client, run_id, entry.path) if entry.is_dir else [entry.path]
    return sorted(found)


def identity(client, run_id, root):
    """The fingerprint of a run whose code never changes."""
    file = Path(local_file_uri_to_path(client.get_run(run_id).info.artifact_uri), "config.json")
    config = RunConfig.model_validate_json(file.read_text())
    digests = [(folder.name, images.domain_digest(folder)) for folder in sorted(root.iterdir())]
    return fingerprint(config, json.dumps(digests), "code")


def record(client, run, root):
    """What a run's record says that another machine would say, too."""
    params = {name: "" if name in PLACES else value for name, value in run.data.params.items()}
    metrics = {name: 0.0 if name.startswith(PASSING) else value for name, value in run.data.metrics.items()}
    tags = {
        name: "" if name.startswith(PERSONAL) else CODE.sub("", value)
        for name, value in run.data.tags.items()
        if not name.startswith(MACHINE)
    }
    out = {"params": params, "metrics": metrics, "tags": tags, "artifacts": below(client, run.info.run_id)}
    if "config.json" in out["artifacts"]:
        out["identity"] = identity(client, run.info.run_id, root)
    return out


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """The records of a grid of four runs, a study of three trials and a report, by run name."""
    folder = tmp_path_factory.mktemp("snapshot")
    write(folder / "maps")
    uri = new_store(folder / "mlflow.db")
    here = f",tracking.uri={uri},tracking.output_dir={folder / 'out'}"
    blocks = [
        {
            "models": model,
            "seeds": seeds,
            "sources": SOURCE,
            "data_root": str(folder / "maps"),
            "overrides": f"{overrides},{QUIET}{here}",
        }
        for model, (seeds, overrides) in GRID.items()
    ]
    (folder / "grid.yaml").write_text(json.dumps(blocks))
    grid = ("grid", "--grid", "grid.yaml", "--stagger", 0, "--ray-address", "local")
    said = [hdmap(folder, *grid), hdmap(folder, *grid, "--plan"), hdmap(folder, *grid)]
    hdmap(
        folder,
        "tune",
        "patchcore",
        "--condition",
        "quickstart",
        "--trials",
        3,
        "--refit-seeds",
        "",
        "--data-root",
        folder / "maps",
        "--no-ray",
        "--overrides",
        GRID["patchcore"][1] + here,
    )
    hdmap(folder, "report", "--uri", uri, "--out", "report")
    client = MlflowClient(uri)
    runs = client.search_runs(["1"], max_results=100)
    named = {}
    for run in runs:
        kind = run.data.tags["hdmap.kind"]
        named[
            f"trial {run.data.tags['hdmap.trial']}" if kind == "trial" else run.info.run_name if kind == "run" else kind
        ] = run
    records = {name: record(client, run, folder / "maps") for name, run in sorted(named.items())}
    return SimpleNamespace(records=records, runs=named, said=said)


def test_a_grid_through_ray_runs_each_cell_once_and_then_finds_nothing_to_do(left):
    first, planned, again = left.said
    assert "all 4 runs are finished" in first and "4 runs, 4 finished, 0 to run" in planned
    assert "before this launch" in again and "all 4 runs are finished" in again
    cells = [run for run in left.runs.values() if run.data.tags["hdmap.kind"] == "run"]
    assert len(cells) == 4 and len({run.info.run_id for run in cells}) == 4
    for run in cells:
        assert run.info.end_time - run.info.start_time > 500 and run.data.metrics["cost/fit_peak_MB"] > 50


def test_the_record_is_what_it_was(left, request):
    left = left.records
    if request.config.getoption("--renew-snapshot"):
        FILE.write_text(json.dumps(left, indent=1, sort_keys=True) + "\n")
    kept = json.loads(FILE.read_text())
    assert set(left) == set(kept)
    for name, was in kept.items():
        now = left[name]
        if name.startswith(TRAINED):
            now, was = names_alone(now), names_alone(was)
        for part in ("params", "tags", "artifacts", "identity"):
            assert now.get(part) == was.get(part), f"{name}: {part}"
        assert now["metrics"] == pytest.approx(was["metrics"], abs=1e-5), name


def names_alone(record):
    """A record without what its scores are: values, and of its pictures of maps which they show."""
    maps = [re.sub(r"\w+_\d+_\d+(?=\.png$)|(good|fault)/", "", path) for path in record["artifacts"]]
    return {**record, "metrics": dict.fromkeys(record["metrics"], 0.0), "artifacts": sorted(set(maps))}
