"""The three validation strategies never share a map with what they report, and targets keep every map."""

from typing import get_args

import numpy as np
import pandas as pd
import pytest
from maps import write_domain
from records import grid, retagged

from hdmap_mlflow.config import DataConfig, build_config
from hdmap_mlflow.config.protocols import PROTOCOLS, Protocol
from hdmap_mlflow.data import layout
from hdmap_mlflow.data.splits import split
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.report.arrange import arrange
from hdmap_mlflow.report.summary import remarks
from hdmap_mlflow.report.tables import tabulate
from hdmap_mlflow.runs.result import Result


@pytest.fixture(scope="module")
def domains(maps):
    return [layout.read_domain(maps, name) for name in ("domain_A", "domain_B", "domain_C")]


def _digests(table: pd.DataFrame) -> set[str]:
    return set(table["digest"])


@pytest.mark.parametrize("validation", ["source_holdout", "synthetic"])
@pytest.mark.parametrize("seed", [0, 1])
def test_validation_shares_no_map_with_training_report_or_targets(domains, validation, seed):
    parts = split(domains, DataConfig(validation=validation, split_seed=seed))
    used = [parts.train, parts.source_test, *parts.targets.values()]
    for part in used:
        assert not _digests(parts.val) & _digests(part)
    assert not _digests(parts.train) & _digests(parts.source_test)
    assert set(parts.val["label"]) == {0, 1}


def test_source_test_validates_on_what_it_reports(domains):
    parts = split(domains, DataConfig(validation="source_test"))
    pd.testing.assert_frame_equal(parts.val, parts.source_test)
    assert len(parts.val) == 16


@pytest.mark.parametrize("validation", ["source_holdout", "source_test", "synthetic"])
def test_targets_keep_every_test_map(domains, validation):
    parts = split(domains, DataConfig(validation=validation))
    assert {name: len(table) for name, table in parts.targets.items()} == {"domain_B": 16, "domain_C": 16}


def test_holdout_halves_every_label_and_group(tmp_path):
    folder = write_domain(tmp_path, "domain_A", good=12, fault=8)
    rows = [
        f"test/{kind}/{i:06d}.tiff,{'warm' if i % 4 == 0 else 'cold'},"
        for kind, n in (("good", 12), ("fault", 8))
        for i in range(n)
    ]
    (folder / "metadata.csv").write_text("\n".join(["path,group,severity", *rows]))
    parts = split([layout.read_domain(tmp_path, "domain_A")], DataConfig())
    val, reported = (part.groupby(["label", "group"]).size() for part in (parts.val, parts.source_test))
    assert (val + reported).to_dict() == {(0, "cold"): 9, (0, "warm"): 3, (1, "cold"): 6, (1, "warm"): 2}
    assert ((val - reported).abs() <= 1).all()


def test_split_follows_its_seed_and_not_the_file_names(tmp_path, domains):
    again = split(domains, DataConfig(split_seed=0))
    assert _digests(again.val) == _digests(split(domains, DataConfig(split_seed=0)).val)
    assert _digests(again.val) != _digests(split(domains, DataConfig(split_seed=1)).val)
    folder = write_domain(tmp_path, "domain_A", gain=1.0)
    for i, path in enumerate(sorted((folder / "test/good").iterdir(), reverse=True)):
        path.rename(path.with_name(f"x{i}.tiff"))
    renamed = split([layout.read_domain(tmp_path, "domain_A")], DataConfig(split_seed=0))
    assert _digests(renamed.val) == _digests(again.val)


def test_synthetic_validation_sees_no_real_fault_and_reports_all(domains):
    parts = split(domains, DataConfig(validation="synthetic"))
    assert len(parts.source_test) == 16
    assert all(path.startswith("train/good") for path in parts.val["path"])
    assert parts.val["synthetic"].tolist() == (parts.val["label"] == 1).tolist()
    assert len(parts.train) + (parts.val["label"] == 0).sum() == 12


def test_max_train_limits_training_only(domains):
    full, limited = split(domains, DataConfig()), split(domains, DataConfig(max_train=5))
    assert len(limited.train) == 5
    assert _digests(limited.train) < _digests(full.train)
    assert _digests(limited.val) == _digests(full.val)


def test_a_source_without_faults_is_refused(tmp_path):
    write_domain(tmp_path, "domain_A", fault=0)
    with pytest.raises(BadInput, match="test/fault"):
        split([layout.read_domain(tmp_path, "domain_A")], DataConfig())


@pytest.mark.parametrize("seed", range(6))
def test_one_map_with_a_mask_and_again_without_stays_on_one_side(tmp_path, seed):
    folder = write_domain(tmp_path, "domain_A", train=1, good=4, fault=4)
    (folder / "test/fault/again.tiff").write_bytes((folder / "test/fault/000000.tiff").read_bytes())
    (folder / "test/masks").mkdir()
    np.save(folder / "test/masks/again.npy", np.eye(31, 95))
    parts = split([layout.read_domain(tmp_path, "domain_A", pack=False)], DataConfig(split_seed=seed))
    twins = {"test/fault/000000.tiff", "test/fault/again.tiff"}
    assert len(twins & set(parts.val["path"])) in (0, 2)
    assert len(parts.val) + len(parts.source_test) == 9


def test_settings_accept_the_strategies_of_the_table():
    assert get_args(DataConfig.model_fields["validation"].annotation) == tuple(PROTOCOLS)


def test_one_row_of_the_table_is_a_strategy_everywhere(domains, monkeypatch):
    def halve_training(train, test, fraction, rng):
        count = round(fraction * len(train))
        return train[count:], pd.concat([train[:count], test[test["label"] == 1]]), test

    with pytest.raises(BadInput, match="input should be 'source_holdout', 'source_test' or 'synthetic', got 'halved'"):
        build_config("m", {"name": "c", "config": {"validation": "halved"}})
    row = Protocol(halve_training, fraction=0.5, rule="Chosen on half of the training maps.", caution="Half is gone.")
    monkeypatch.setitem(PROTOCOLS, "halved", row)
    halved = DataConfig().model_copy(update={"validation": "halved"})  # accepted names are read with the table
    parts = split(domains, halved)
    assert len(parts.train) == 6 and parts.val["label"].tolist() == [0] * 6 + [1] * 8 and len(parts.source_test) == 16
    assert len(split(domains, halved.model_copy(update={"val_fraction": 0.25})).train) == 9
    counts, config = {"domain_A": 16}, build_config("m", {"name": "c", "config": {}})
    config = config.model_copy(update={"data": halved})
    assert "Half is gone." in Result("id", "", config, list(counts), counts, {}, False).remarks()
    said = remarks(tabulate(arrange([retagged(one, validation="halved") for one in grid()])))
    assert "Chosen on half of the training maps." in said


def _recorded(root, name="domain_A", recordings=4, maps=3):
    """A domain of which every class has several recordings; a recording is of one state."""
    folder = write_domain(root, name, train=6, good=recordings * maps, fault=recordings * maps)
    lines = [
        f"test/{kind}/{i:06d}.tiff,{kind} {i // maps}" for kind in ("good", "fault") for i in range(recordings * maps)
    ]
    lines += [f"train/good/{i:06d}.tiff,train {i // maps}" for i in range(6)]
    (folder / "metadata.csv").write_text("\n".join(["path,recording", *lines]) + "\n")
    return layout.read_domain(root, name)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("validation", ["source_holdout", "synthetic"])
def test_a_recording_lies_whole_on_one_side_of_the_split(tmp_path, validation, seed):
    parts = split([_recorded(tmp_path)], DataConfig(validation=validation, split_seed=seed))
    beside = parts.source_test if validation == "source_holdout" else parts.train
    assert not set(parts.val["recording"]) & set(beside["recording"])
    if validation == "source_holdout":
        assert parts.val.groupby("label")["recording"].nunique().tolist() == [2, 2]


def test_a_class_of_one_recording_is_still_divided_by_maps(tmp_path):
    parts = split([_recorded(tmp_path, recordings=1, maps=8)], DataConfig())
    assert (
        parts.val["label"].value_counts().to_dict()
        == {0: 4, 1: 4}
        == parts.source_test["label"].value_counts().to_dict()
    )


def test_recordings_are_part_of_the_datas_identity_and_no_names_are_not(tmp_path):
    named = _recorded(tmp_path).digest()
    folder = tmp_path / "domain_A"
    text = (folder / "metadata.csv").read_text()
    (folder / "metadata.csv").write_text(text.replace("good 0", "good 9"))
    assert layout.read_domain(tmp_path, "domain_A").digest() != named
    (folder / "metadata.csv").unlink()
    without = layout.read_domain(tmp_path, "domain_A").digest()
    (folder / "metadata.csv").write_text("path,recording\n")
    assert layout.read_domain(tmp_path, "domain_A").digest() == without != named


def test_a_recording_in_train_and_test_is_refused(tmp_path):
    _recorded(tmp_path)
    file = tmp_path / "domain_A" / "metadata.csv"
    file.write_text(file.read_text().replace("train 0", "good 1"))
    with pytest.raises(BadInput, match="recording 'good 1' has maps in train and in test"):
        layout.read_domain(tmp_path, "domain_A")
