"""The benchmarks: both sides of the comparison give the same scores, and what is bounded stays within its bounds."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import starts

from benchmarks import adaptation, calibrate, quickstarts
from benchmarks.coverage import MEASURES, Design
from hdmap_mlflow.models.registry import REGISTRY

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_fitting_from_a_stream_stays_within_a_limit_that_keeping_everything_breaks() -> None:
    for kind, fits in (("all", False), ("padim", True), ("patchcore", True)):  # the limit limits
        process = starts.Work(starts.bounded, kind)
        process.wait(120)
        assert ("done" in process.log.read_text()) is fits, process.log.read_text()[-500:]


@pytest.mark.slow
def test_the_comparison_with_plain_anomalib_compares_equal_results() -> None:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.compare", "--model", "padim", "--train", "12"]
    command += ["--test", "4", "--size", "64", "--repeats", "1"]
    out = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert float(re.search(r"largest relative difference (\S+),", out)[1]) < 1e-4  # type: ignore[index]
    assert "raw scores of 32 maps" in out


@pytest.mark.slow
def test_the_calibration_shows_that_published_maps_are_easier_for_both_methods(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["calibrate", "--domains", "domain_A", "--train", "24", "--test", "24"])
    calibrate.main()
    table = capsys.readouterr().out.splitlines()[-4:]
    head, _, published, hard = ([cell.strip() for cell in line.split("|")] for line in table)
    assert published[2:3] + hard[2:3] == ["0.58/0.58", "0.26/0.26"]
    for method in ("patchcore", "padim"):
        column = head.index(method)
        assert float(published[column]) > float(hard[column]) + 0.05


def measured(source: float, *targets: float, weights: str = "embedded") -> quickstarts.Measured:
    trivial = {"image max": "0.700", "image mean": "0.600", "row ratio": "0.950"}
    domains = zip("ABCD", (source, *targets), strict=False)
    rows = [{"domain": name, "AUROC": f"{auroc:.3f}", "95 % interval": "0.1-0.9", **trivial} for name, auroc in domains]
    return {"rows": rows, "seconds": 61.4, "peak_mb": 1234.5, "weights": weights}


def test_the_page_of_models_is_sorted_by_targets_and_marks_what_the_trivial_scores_beat() -> None:
    text = quickstarts.page(
        {
            "padim": measured(0.8, 0.7, 0.7),
            "patchcore": measured(0.96, 0.9, 0.8),
            "dinomaly": measured(0.65, 0.99, 0.99, weights="random"),
            "toothwise": measured(0.95, 0.96, 0.96, weights="none"),
            "winclip": {"failed": "needs the hub"},
        }
    )
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")][1:]
    assert [row[0] for row in rows] == [
        "`dinomaly`",
        "**toothwise**",
        "*row ratio*",
        "**patchcore**",
        "*image maximum*",
        "`padim`",
        "*image mean*",
    ]
    below = {row[0].strip("`*"): row[1] for row in rows}
    assert below["dinomaly"] == "image max, row ratio" and below["padim"] == "row ratio" and not below["patchcore"]
    assert rows[3][2:9] == ["0.960 (0.1-0.9)", "0.900 (0.1-0.9)", "0.800 (0.1-0.9)", "0.850", "61", "1,234", "embedded"]
    first = next(line for line in text.splitlines() if line.startswith("On a CPU"))
    assert re.findall("`(.*?)`", first) == ["toothwise", "patchcore", "padim"], "none that the image maximum beats"
    assert f"- `dinomaly`: {REGISTRY['dinomaly'].random_why}" in text.splitlines()
    assert "- `winclip`: needs the hub" in text.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(("maps", "correlation"), [(10, 0.3), (50, 0.1)])
def test_over_recordings_intervals_cover_and_the_test_errs_as_claimed_and_over_maps_they_do_not(maps, correlation):
    """`python -m benchmarks.coverage` asks all of it, with more repetitions."""
    design = Design(recordings=10, maps=maps, correlation=correlation)
    for name, (measure, (low, high)) in MEASURES.items():
        aware, unaware = (
            measure(design, 0.8, sample, 300, np.random.default_rng(0)) for sample in ("recordings", "maps")
        )
        assert low - 0.02 <= aware <= high + 0.02, name
        assert unaware > 0.15 if "test" in name else unaware < 0.9, name


def test_the_benchmark_of_adapters_writes_its_table_and_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys):
    """Features of two channels in place of a backbone's; the target has twice the gain."""
    import torch
    from sklearn.metrics import roc_auc_score

    def features(count: int, gain: float, seed: int, faults: int = 0) -> torch.Tensor:
        out = gain * torch.rand(count, 2, 4, 4, generator=torch.Generator().manual_seed(seed))
        out[:, 1] += 3 * gain  # which a memory of the first channel alone would take for a fault, and a fault for less
        out[count - faults :, 1] -= 2 * gain
        return out

    def domain(gain: float, seed: int) -> adaptation.Domain:
        train, val, test = features(8, gain, seed), features(6, gain, seed + 1), features(10, gain, seed + 2, faults=5)
        return adaptation.Domain(train, val, np.ones(6, bool), test, np.repeat([0, 1], 5))

    def nearest(rows: torch.Tensor, _count: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.cdist(rows, inner.memory_bank).min(dim=1)

    inner = SimpleNamespace(nearest_neighbors=nearest, compute_anomaly_score=lambda patches, *_: patches.amax(dim=1))
    domains = {"A": domain(1.0, 0), "B": domain(2.0, 10)}
    banks = {name: one.train[:4].movedim(1, -1).flatten(0, -2) for name, one in domains.items()}
    read = []
    monkeypatch.setattr(adaptation, "read", lambda *_: read.append(1) or (inner, domains, banks))
    monkeypatch.setattr(adaptation, "K", (0, 2, 4))
    out = tmp_path / "new" / "table.md"
    adaptation.main(["--data", "any", "--out", str(out), "--pairs", "1"])
    first = pd.read_csv(out.with_suffix(".csv"))
    assert set(first["pair"]) == {"A -> B"} and len(first) == 2 + 2 * 3 * 9
    z = first[first["chain"] == "z"]["image_AUROC"]
    assert z.tolist() == [first["image_AUROC"][0]] * 6, "the order of a target's maps stays"
    for k in (2, 4):
        drawn = domains["B"].train[np.random.default_rng([1, 0]).permutation(8)[:k]].movedim(1, -1).flatten(0, -2)
        patches = torch.cdist(domains["B"].test.movedim(1, -1).flatten(1, -2), drawn).amin(dim=2)
        (bank,) = first[(first["chain"] == "k_bank") & (first["k"] == k) & (first["draw"] == 0)]["image_AUROC"]
        assert bank == pytest.approx(roc_auc_score(domains["B"].label, patches.amax(dim=1))), "by all channels"
    pair = adaptation.pair
    monkeypatch.setattr(adaptation, "pair", lambda *given: read.append(2) or pair(*given))
    adaptation.main(["--data", "any", "--out", str(out)])
    assert read.count(2) == 1, "the pair that was there is not computed again"
    head, _, plain, *rest = out.read_text().splitlines()
    assert head.startswith("| chain | k | pairs |") and plain.startswith("| plain | 0 | 2 | 0 | ") and len(rest) == 19
    assert "| | 0.000 |" in plain.replace("  ", " "), "one draw has no sd"
    assert "| merge+z | 4 | 2 |" in capsys.readouterr().out


def test_the_page_on_transfer_says_who_gains_and_what_was_not_run():
    from dataclasses import replace

    from records import DOMAINS, all_but, record

    from benchmarks import transfer
    from hdmap_mlflow.report.arrange import arrange

    def way(depth: str, one: float, several: float | None) -> list:
        runs = [record("patchcore", source, 0, one) for source in DOMAINS]
        runs += [all_but(target, several, "patchcore") for target in DOMAINS] if several is not None else []
        return [
            replace(
                run, params={**run.params, "model.depth": depth}, tags={**run.tags, "hdmap.fingerprint": str(i) + depth}
            )
            for i, run in enumerate(runs)
        ]

    grid = arrange([*way("3", 0.5, 3.0), *way("4", 2.5, None)])
    by_depth = {entry.first.params["model.depth"]: entry for entry in grid.entries}
    entries = {("patchcore", "as it is"): by_depth["3"], ("patchcore", "row context"): by_depth["4"]}
    found = transfer.Measured(entries, grid, 7)
    answers = transfer.answers(found)
    assert answers["more sources"]["patchcore"].low > 0
    assert (
        list(answers["row context"]) == ["patchcore, one source"]
        and answers["row context"]["patchcore, one source"].low > 0
    )
    text = transfer.page({"made": found}, "one model", "python -m benchmarks.transfer")
    assert "- made. All domains but the target as sources, in place of one: helps patchcore (+" in text
    assert "Row context and row score together: not run." in text and "made: 9 runs, 7 of those" in text
    assert "there is none of: `patchcore` as it is with seed 1 and 2, `patchcore` row context with seed 1 and 2" in text
    assert "`patchcore` both with seed 0 and 1 and 2" in text and "`cutpaste` as it is with seed 0 and 1 and 2." in text
    assert "Not run at all: simulated maps." in text
    assert "| patchcore | row context |" in text and "| not run | 0 |" in text


@pytest.mark.slow
def test_the_benchmark_of_a_card_tries_every_line_on_a_cpu(tmp_path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu", "--device", "cpu", "--tiny", "--size", "64"]
    subprocess.run([*command, "--out", tmp_path / "gpu.md"], capture_output=True, cwd=ROOT, check=True)
    rows = [line.split("|")[1:-1] for line in (tmp_path / "gpu.md").read_text().splitlines() if line.startswith("| ")]
    cells = {(row[0].strip(), row[1].strip()): row for row in rows}
    assert {("patchcore", "plain"), ("patchcore", "ours"), ("padim", "plain"), ("padim", "ours")} <= set(cells)
    for model in ("patchcore", "padim"):
        assert float(cells[model, "ours"][-1]) == 0  # here both are the CPU
    assert any(name.startswith("coreset") and row[-1].strip() == "0.0% other picks" for (name, _), row in cells.items())
    assert ("`data.eval_batch_size=auto`: 32", "") in cells, "a CPU keeps what it has"
    assert any(name.startswith("search") for name, _ in cells) and sum(name in ("32", "64") for name, _ in cells) == 2
