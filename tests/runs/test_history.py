"""A finished run read back: re-scored, verified, exported; and the ways in which that is refused."""

import json
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from maps import write_domain
from servers import new_store
from small import RANDOM_PATCHCORE, over

from hdmap_mlflow.__main__ import app
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.runs import export, flow, history, rescore, setup, verify

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("history")]  # the run is made once


@pytest.fixture(scope="module")
def made(maps, tmp_path_factory):
    """A finished run with pictures: its store's URI and its id; domain_B has masks."""
    folder = tmp_path_factory.mktemp("store")
    data = shutil.copytree(maps, folder / "maps")
    import cv2

    (data / "domain_B/test/masks").mkdir()
    for path in (data / "domain_B/test/fault").iterdir():
        mask = np.zeros((31, 95), np.uint8)
        mask[10:12, 20:60] = 255
        cv2.imwrite(str(data / "domain_B/test/masks" / f"{path.stem}.png"), mask)
    uri = new_store(folder / "mlflow.db")
    more = f"tracking.uri={uri},tracking.figures=true,tracking.heatmaps=1,tracking.output_dir={folder / 'out'}"
    config = setup.configure("patchcore", flags={"data.root": str(data)}, overrides=over(RANDOM_PATCHCORE, more))
    return uri, flow.execute(config, say=lambda _line: None).run_id


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_run_keeps_its_scores_cards_and_pictures(made):
    uri, run_id = made
    record = history.read_run(uri, run_id)
    assert record.source == "domain_A" and record.targets == ["domain_B", "domain_C"]
    told = history.read_json(uri, run_id, "cards.json")
    assert set(told["shift"]["domain_C"]) == {"intensity", "feature_MMD", "AUROC_drop"}
    assert told["shift"]["domain_C"]["intensity"] > told["shift"]["domain_B"]["intensity"] > 0.1
    assert {"pixel_AUROC", "pixel_AUPRO"} <= {n.rsplit("/", 1)[-1] for n in record.metrics if "domain_B" in n}
    assert not any("pixel" in name for name in record.metrics if "domain_C" in name)


def test_rescoring_repairs_a_wrong_metric_and_leaves_right_ones(made, capsys):
    uri, run_id = made
    assert rescore.rescore(uri, history.read_run(uri, run_id)) == rescore.Rescored(
        "patchcore/quickstart/domain_A/s0", run_id, [], []
    )
    right = history.read_run(uri, run_id).metrics["source/image_AP"]
    mlflow.MlflowClient(uri).log_metric(run_id, "source/image_AP", 0.123)
    app(["rescore", "--run", run_id, "--uri", uri])
    assert "0 new, 1 changed source/image_AP" in capsys.readouterr().out
    again = history.read_run(uri, run_id)
    assert again.metrics["source/image_AP"] == right and "| domain_B | target |" in again.tags["mlflow.note.content"]
    assert "intensity" in history.read_json(uri, run_id, "cards.json")["shift"]["domain_B"]


def test_a_run_is_verified_from_its_checkpoint(made):
    uri, run_id = made
    found = verify.verify(uri, run_id, maps=4)
    assert found.holds and set(found.differences) == {"domain_A", "domain_B", "domain_C"}
    assert history.read_run(uri, run_id).tag("verified").startswith("yes")


def test_verification_fails_when_the_stored_scores_are_others(made, monkeypatch, capsys):
    uri, run_id = made
    original = history.read_scores
    altered = {domain: table.assign(score=table["score"] * 1.01) for domain, table in original(uri, run_id).items()}
    monkeypatch.setattr(history, "read_scores", lambda *_: altered)
    assert app(["verify", run_id, "--maps", "2", "--uri", uri]) == 1
    assert "NOT verified" in capsys.readouterr().out
    assert history.read_run(uri, run_id).tag("verified").startswith("NO")


def test_verification_refuses_other_data(made, tmp_path):
    for name in ("domain_A", "domain_B", "domain_C"):
        write_domain(tmp_path / "other", name, train=5)
    with pytest.raises(BadInput, match="is not what run .* read"):
        verify.verify(*made, data_root=str(tmp_path / "other"))


def test_verification_knows_renamed_maps_by_their_content(made, tmp_path):
    """The data's digest ignores names, so that scores are compared map by map whatever the files are called."""
    root = Path(history.read_config(*made).data.root)
    for kind in ("other", "swapped"):
        folder = shutil.copytree(root, tmp_path / kind) / "domain_C/test/good"
        old = sorted(folder.iterdir())
        kept = [path.read_bytes() for path in old]
        for path, content in zip(old, kept if kind == "other" else kept[::-1], strict=True):
            path.unlink()
            (folder / (f"a{path.name}" if kind == "other" else path.name)).write_bytes(content)
        assert verify.verify(*made, maps=4, data_root=str(tmp_path / kind)).holds


def test_verification_refuses_to_compare_the_scores_of_different_maps(made, monkeypatch):
    original = history.read_scores
    mixed = {domain: table[::-1].reset_index(drop=True) for domain, table in original(*made).items()}
    monkeypatch.setattr(history, "read_scores", lambda *_: mixed)
    with pytest.raises(BadInput, match="domain_A are not those that run .* scored"):
        verify.verify(*made, maps=4)


def test_an_export_has_the_guidelines_form(made, tmp_path):
    uri, run_id = made
    path = export.export(uri, run_id, tmp_path / "out")
    assert path.name.startswith("result_quickstart_2")
    result = json.loads(path.read_text())
    fields = {"condition", "source_results", "target_results", "avg_target_auroc", "training_info", "best_checkpoint"}
    assert fields <= set(result)
    written = files(tmp_path / "out")
    assert {"scores/domain_A.parquet", "figures/transfer.png", "figures/scores_domain_C.png"} <= written
    pictures = [name for name in written if name.startswith("visualize/")]
    assert any(name.startswith("visualize/source_domain/domain_A/") for name in pictures)
    assert any(name.startswith("visualize/target_domains/domain_C/fault/most_1_") for name in pictures)
    for domain in ("domain_B", "domain_C"):
        assert {p.name for p in (tmp_path / "out/visualize/target_domains" / domain).iterdir()} == {"good", "fault"}
    with pytest.raises(BadInput, match="not an empty folder"):
        export.export(uri, run_id, tmp_path / "out")


def test_unknown_runs_experiments_and_stores_are_refused_in_one_line(made, tmp_path):
    uri, _ = made
    with pytest.raises(BadInput, match="no run abc"):
        history.read_run(uri, "abc")
    with pytest.raises(BadInput, match="no experiment 'x' .* hdmap"):
        history.read_experiment(uri, "x")
    with pytest.raises(BadInput, match="there is no store"):
        history.read_run(f"sqlite:///{tmp_path / 'none.db'}", "abc")
    assert not (tmp_path / "none.db").exists()


def test_unfinished_and_scoreless_runs_are_named_and_nan_scores_name_their_maps(made, tmp_path):
    uri, _ = made
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("half", (tmp_path / "a").as_uri())
    ids = []
    for status in ("FAILED", "FINISHED", "FINISHED"):
        made_run = client.create_run(experiment, tags={"hdmap.kind": "run", "hdmap.source": "a"}, run_name=status)
        ids.append(made_run.info.run_id)
        client.set_terminated(made_run.info.run_id, status)
    broken = tmp_path / "a.parquet"
    same = {"split": ["val", "test"], "label": 0, "image_max": 1.0, "image_mean": 0.5}
    pd.DataFrame({"path": ["test/good/7.tiff", "test/good/8.tiff"], "score": [np.nan, 1.0]} | same).to_parquet(broken)
    client.log_artifact(ids[2], str(broken), "scores")
    with pytest.raises(BadInput, match="no finished run with scores"):
        history.read_experiment(uri, "half")
    with pytest.raises(BadInput, match="keeps no scores"):
        history.read_run(uri, ids[1])
    with pytest.raises(BadInput, match="test/good/7.tiff"):
        history.read_run(uri, ids[2])


def test_a_report_is_written_and_kept_as_a_run_of_its_own(made, tmp_path, capsys):
    uri, run_id = made
    assert not app(["report", "--uri", uri, "--out", str(tmp_path / "report")])
    assert "has the highest mean target AUROC" in capsys.readouterr().out
    assert files(tmp_path / "report") == {f"report.{kind}" for kind in ("html", "md", "csv", "tex", "bib")}
    assert "data:image/png;base64," in (tmp_path / "report/report.html").read_text()
    client = mlflow.MlflowClient(uri)
    (kept,) = client.search_runs(["1"], "tags.`hdmap.kind` = 'report'")
    assert kept.info.status == "FINISHED" and "## Leaderboard" in kept.data.tags["mlflow.note.content"]
    records, _ = history.read_experiment(uri, "hdmap")
    assert [record.run_id for record in records] == [run_id], "a report is not a run to be reported"
    client.set_tag(run_id, "hdmap.oracle", "true")
    try:
        with pytest.raises(BadInput):  # settings chosen on targets are ranked nowhere
            app(["report", "--uri", uri, "--out", str(tmp_path / "none")])
    finally:
        client.delete_tag(run_id, "hdmap.oracle")
