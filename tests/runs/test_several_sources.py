"""One run on two sources, from training to what is done with it afterwards."""

import numpy as np
import pandas as pd
import pytest
from small import RANDOM_PADIM

import hdmap_mlflow as hdmap
from hdmap_mlflow import tracking
from hdmap_mlflow.runs import history, reading, trained
from hdmap_mlflow.runs.adapt import adapt
from hdmap_mlflow.runs.export import export
from hdmap_mlflow.runs.rescore import rescore
from hdmap_mlflow.runs.verify import verify

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("several sources")]
BOTH = ["domain_A", "domain_B"]


@pytest.fixture(scope="module")
def done(maps, tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HDMAP_CACHE", str(folder / "cache"))
        uri = f"sqlite:///{folder / 'mlflow.db'}"
        flags = {"data.root": str(maps), "data.source_domain": BOTH, "tracking.uri": uri}
        over = RANDOM_PADIM.replace(",tracking.figures=false,tracking.heatmaps=0", ",tracking.heatmaps=1")
        yield hdmap.execute(hdmap.configure("padim", flags=flags, overrides=over)), uri


def test_the_source_is_the_mean_of_the_sources_and_each_has_a_scope(done):
    result, uri = done
    assert result.config.name == "padim/quickstart/domain_A,domain_B/s0"
    own = {k.split("/", 2)[2] for k in result.metrics if k.startswith("source/domain_A/")}
    assert {"image_AUROC", "FPR_at_normal_q99", "baseline_max_AUROC"} <= own
    for name in own:
        each = [result.metrics[f"source/{domain}/{name}"] for domain in BOTH]
        assert result.metrics[f"source/{name}"] == pytest.approx(np.mean(each), abs=1e-12)
    gap = result.metrics["source/image_AUROC"] - result.metrics["target/domain_C/image_AUROC"]
    assert result.metrics["transfer/gap"] == pytest.approx(gap, abs=1e-12)
    low, high = result.cards["intervals"]["domain_A,domain_B"]["image_AUROC"]
    assert low <= result.metrics["source/image_AUROC"] <= high
    assert [row[:2] for row in result.rows()][:3] == [
        ["domain_A,domain_B", "mean of sources"],
        ["domain_A", "source"],
        ["domain_B", "source"],
    ]
    assert {"cross/domain_A/domain_B/image_AUROC", "cross/domain_B/domain_C/image_AUROC"} <= set(result.metrics)
    assert not [name for name in result.metrics if "," in name]
    assert set(result.cards["shift"]) == {"domain_C"}


def test_a_threshold_is_of_the_healthy_validation_maps_of_all_sources(done):
    result, uri = done
    record = history.read_run(uri, result.run_id)
    assert record.sources == BOTH and record.targets == ["domain_C"] and sorted(record.scores) == [*BOTH, "domain_C"]
    val = pd.concat([record.part("val", domain) for domain in BOTH]).query("label == 0")["score"]
    assert result.metrics["val/threshold_normal_q99"] == pytest.approx(val.max(), rel=1e-6)
    assert all(path.startswith(("test/", "train/")) for path in record.scores["domain_A"]["path"])
    assert list(record.scores["domain_A"]) == list(record.scores["domain_C"]), "each file is that of one domain"
    run = trained.load(uri, result.run_id)
    assert reading.of(run, "normal_q99").threshold == result.metrics["val/threshold_normal_q99"]
    assert sorted(run.normals["score"]) == sorted(val)


def test_what_follows_a_run_holds_of_several_sources(done, tmp_path):
    result, uri = done
    assert set(verify(uri, result.run_id, maps=4).differences) == {*BOTH, "domain_C"}
    again = rescore(uri, history.read_run(uri, result.run_id))
    assert (again.new, again.changed) == ([], [])
    card = adapt(uri, result.run_id, ["merge", "z"], 4)
    after = card["curve"]["merge+z"]["4"]
    assert set(after) == {"source", "target/domain_C", "target_mean", "target_worst", "pooled"}
    kept = history.read_run(uri, result.run_id)
    assert all(any(str(name).startswith("adapted/merge-z/k4/") for name in table) for table in kept.scores.values())
    again = rescore(uri, kept)
    assert again.changed == []
    out = export(uri, result.run_id, tmp_path / "out", say=lambda line: pytest.fail(line)).parent
    assert sorted(path.name for path in (out / "visualize/source_domain").iterdir()) == BOTH
    assert list((out / "visualize/source_domain/domain_B").rglob("*.png"))
    assert (
        trained.load(uri, str(out)).normals["score"].tolist()
        == trained.load(uri, result.run_id).normals["score"].tolist()
    )


def test_the_record_says_which_data_sets_trained(done):
    result, uri = done
    run = tracking.get_run(uri, result.run_id)
    contexts = {one.dataset.name: one.tags[0].value for one in run.inputs.dataset_inputs}
    assert contexts == {"domain_A": "training", "domain_B": "training", "domain_C": "testing"}
