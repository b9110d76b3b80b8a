"""Tables on terminals of several widths."""

import re

import pytest

from hdmap_mlflow.console import show_table

COLUMNS = ["domain", "role", "maps", "AUROC", "95 % interval", "AP", "F1", "FPR", "TPR"]
COLUMNS += ["image max", "image mean", "row ratio"]
FIGURES = ["64", "0.989", "0.955-0.998", "0.990", "0.933", "0.000", "0.875", "0.861", "0.597", "1.000"]


@pytest.mark.parametrize("domain", ["domain_A", "gearbox of the second turbine"])
@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_a_narrow_terminal_wraps_names_and_heads_and_cuts_no_figure(domain, width, monkeypatch, capsys):
    for name, value in {"TTY_COMPATIBLE": "1", "COLUMNS": str(width), "NO_COLOR": "1", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    show_table("a run", COLUMNS, [[domain, "source", *FIGURES]], left=2)
    shown = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    assert "…" not in shown
    assert next(line for line in shown.splitlines() if "0.989" in line).split()[-10:] == FIGURES
    assert set(" ".join(COLUMNS).split()) | set(domain.split()) | {"source"} <= set(shown.split())
    assert domain != "domain_A" or width < 80 or max(map(len, shown.splitlines())) <= width
