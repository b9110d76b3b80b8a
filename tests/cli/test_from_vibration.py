"""From vibration to a verdict on nothing but the package: simulate, build maps, train, and find the damaged tooth."""

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from hdmap_mlflow import read_experiment
from hdmap_mlflow.data.formats import read_map
from hdmap_mlflow.report import sheets

pytestmark = pytest.mark.slow


def test_a_damaged_tooth_of_simulated_vibration_is_found(exit_code, store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = ["--train", "4", "--test", "2", "--maps", "2", "--averages", "1", "--severities", "0.8,1.6"]
    few += ["--deviation", "0"]  # teeth all alike: the ground truth; what rough teeth do to it, docs/maps.md says
    assert exit_code("simulate-vibration", "--out", "vibration", *few) == 0
    assert exit_code("build-maps", "vibration/SPEC.yaml", "--out", "maps") == 0
    assert (tmp_path / "maps" / sheets.PAGE).read_text().count("<img") == 9, "three sensors in three roles"
    told = json.loads((tmp_path / "maps/SIMULATED.json").read_text())["recordings"]
    assert exit_code("train", "padim", "--data-root", "maps", "--source-domain", "sensor_1") == 0

    (run,), _ = read_experiment(store.uri, "hdmap")
    assert run.tag("simulated") == "true" and "HDMAP-style" in run.tag("built")
    table = run.scores["sensor_1"].query("split == 'test'")
    auroc = run.metrics["source/image_AUROC"]
    assert auroc == roc_auc_score(table["label"], table["score"])
    assert auroc > 0.8 and auroc >= run.metrics["source/baseline_mean_AUROC"]
    for row in run.scores["sensor_2"].query("label == 1").itertuples():
        rows = read_map(tmp_path / "maps/sensor_2" / row.path).mean(axis=1)
        assert np.argmax(rows) == told[row.recording]["rows"][0], "the brightest row is the damaged tooth's"
