"""The report's page: what it links and explains on the screen, and that nothing of it is lost on paper."""

import re
import shutil
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from records import adapted, grid, record

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.evaluation.intervals import rate_expected
from hdmap_mlflow.report import write
from hdmap_mlflow.report.adapted import views_of
from hdmap_mlflow.report.arrange import arrange
from hdmap_mlflow.report.charts import charts
from hdmap_mlflow.report.citations import bibtex
from hdmap_mlflow.report.latex import escape, latex
from hdmap_mlflow.report.page import ORDER, html
from hdmap_mlflow.report.sections import details, sections, short_board
from hdmap_mlflow.report.tables import tabulate

pytestmark = [pytest.mark.slow, pytest.mark.mutants]

MODELS = ("reverse_distillation", "patchcore", "padim", "draem_sevnet", "efficient_ad", "supersimplenet", "dinomaly")
ADDRESS = "http://127.0.0.1:5000/#/experiments/1/runs/"


def with_facts(one):
    """A run as a real one is: a commit, settings, the shift's card."""
    params = {**one.params, "model.layers": "[layer1, layer2]", "train.max_epochs": "40", "train.optimizer": "null"}
    cards = {"shift": {"B": {"intensity": 0.5, "feature_MMD": 0.25}}} if one.source == "A" else {}
    return replace(one, params=params, cards=cards, tags={**one.tags, "mlflow.source.git.commit": "2133403abcdef"})


@pytest.fixture(scope="module")
def many():
    """Seven models, one of them hardly begun."""
    runs = grid([(name, 2.6 - i / 3) for i, name in enumerate(MODELS[:-1])], "AB", (0, 1))
    facts = [adapted(with_facts(one), "z") for one in [*runs, record(MODELS[-1], "A", 0, 2)]]
    views = {k: arrange(some) for k, some in views_of(facts)[0].items()}
    return tabulate(arrange(facts), views=views, strategies={"synthetic": arrange(facts)})


@pytest.fixture(scope="module")
def page(many):
    return html(many, charts(many), {"a map": "AAAA"}, "today", ADDRESS)


def test_the_contents_lead_to_every_heading_and_to_nothing_else(page):
    headings = re.findall(r'<h2 id="([^"]+)">', page)
    assert re.findall(r'<a href="#([^"]+)"', page) == headings
    assert len(headings) == len(ORDER) - 1, "no oracle study"


def test_no_section_is_left_out_of_the_page(many):
    assert {one.title for one in (*sections(many), *details(many))} <= set(ORDER)


def test_every_run_is_linked_with_its_commit(many, page):
    links = re.findall(rf'<a href="{re.escape(ADDRESS)}(\w+)">(\w+)</a>', page)
    assert [one for one, _ in links] == [shown for _, shown in links] == [run.run_id for run in many.grid.runs]
    assert page.count("<td>2133403abc</td>") == len(many.grid.runs)
    assert ADDRESS not in html(many, {}, {}, "today"), "a store without a page has no links"


def test_the_settings_of_every_entry_are_there_and_what_is_not_set_is_not(many):
    settings, _ = details(many)
    assert [row[0] for row in settings.rows] == [entry.label for entry in many.grid.entries]
    assert settings.rows[0][1] == "depth=3, layers=[layer1, layer2], train.max_epochs=40"


def test_the_summary_has_the_table_its_caption_and_what_to_cite(page):
    summary = page.partition('<section class="summary"')[2].partition("</section>")[0]
    assert "<strong>Table.</strong> Image AUROC under domain shift on simulated health data maps" in summary
    assert "(A, B) with 2 seeds each" in summary and "protocol source_holdout" in summary
    assert all(f"@misc{{{name}," in summary for name in (*MODELS, "maps_d1"))


def test_what_is_cited_is_the_paper_of_the_registry_and_a_users_own_class_is_not_imported(many):
    found = bibtex(many)
    own = bibtex(tabulate(arrange([record("no_such_module:Model", "A", 0, 2)])))
    roth = found.partition("@misc{patchcore,")[2].partition("\n}")[0]
    assert "author = {Roth and others}" in roth and "title = {{Towards Total Recall in Industrial Anomaly" in roth
    assert "howpublished = {CVPR}" in roth and "year = {2022}" in roth
    assert "note = {DRAEM (Zavrtanik et al., ICCV 2021) with scaled CutPaste" in found, "two papers are a note"
    assert found.count("{") == found.count("}") and "no_such_module" not in own and own.count("@") == 2


def test_the_tables_in_latex_hold_the_same_figures_and_no_bare_special_character(many):
    text = latex(many)
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2 + len(many.matrices)
    first = text.partition(r"\midrule")[2].partition(r"\bottomrule")[0].strip().splitlines()
    rows = short_board(many).rows
    assert [line.count(" & ") for line in first] == [len(row) - 1 for row in rows]
    assert first[0].startswith(r"reverse\_distillation/quick & 1 & ") and rows[0][3] in first[0]
    body = re.sub(r"\\[%&$#_{}]", "", text.partition(r"\midrule")[2].partition(r"\bottomrule")[0])
    assert not re.search(r"[%$#_{}^~]", body.replace("$\\pm$", ""))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("-", "--"),
        ("-0.100", "-0.100"),
        ("a_b 95 %", r"a\_b 95 \%"),
        (r"\x{1}", r"\textbackslash{}x\{1\}"),
        ("0.9 ± 0.1 < 1", r"0.9 $\pm$ 0.1 $<$ 1"),
    ],
)
def test_a_text_is_shown_by_latex_as_it_is(text, shown):
    assert escape(text) == shown


@pytest.mark.parametrize(("maps", "above"), [(32, 0), (400, 4)])
def test_what_a_threshold_of_few_maps_shows_lies_between_the_bounds_so_often(maps, above, tried=50):
    rng = np.random.default_rng(0)
    cut = np.sort(rng.normal(size=(20_000, maps)))[:, maps - 1 - above]
    shares = (rng.normal(size=(20_000, tried)) > cut[:, None]).mean(axis=1)
    low, high = rate_expected(maps, above, tried)
    assert ((low <= shares) & (shares <= high)).mean() >= 0.95
    assert (shares > high).mean() < 0.025 < (shares >= high).mean(), "and no wider"
    assert (high >= 0.1) == (maps < 100)


def test_of_thresholds_that_travelled_it_is_said_how_few_maps_set_them(many):
    section = next(one for one in sections(many) if one.title == "Thresholds that travelled")
    assert all(row[1:3] == ["20", "0% to 20%"] for row in section.rows)
    assert "applied unchanged to every domain" in section.notes[0] and section.notes[0].count(". ") == 1


@pytest.mark.parametrize("quality", [0.1, -0.5])
def test_a_source_that_is_not_clearly_better_than_chance_has_no_ratio_and_no_skill(quality):
    tables = tabulate(arrange(grid((("good", 2.5), ("weak", quality)))))
    good, weak = tables.leaderboard
    assert good.ratio and good.skill and not good.unproven
    assert weak.ratio is weak.skill is None and weak.gap is not None and "is not above" in weak.unproven
    board = sections(tables)[0]
    cells = dict(zip(board.header, board.rows[1], strict=True))
    assert cells["ratio"] == cells["skill"] == "-"
    assert any(note.startswith("weak/quick: no ratio and no skill, for on the source") for note in board.notes)


def test_the_pictures_of_several_models_show_one_map(tmp_path, monkeypatch):
    """The most anomalous map of the first is none of the second's most, but has a picture there, too."""
    shown = {"goodA0": ["most_1_0007", "least_1_0003"], "poorA0": ["most_1_0001", "wrong_1_0007"], "fineA0": []}
    for run_id, names in {**shown, "oddA0": ["most_1_0009"]}.items():
        folder = tmp_path / run_id / "B/fault"
        folder.mkdir(parents=True)
        for name in names:
            (folder / f"{name}.png").write_bytes(f"{run_id} {name}".encode())

    def artifacts(uri, run_id, name):
        if run_id == "bareA0":
            raise BadInput("keeps no heatmaps")
        return tmp_path / run_id

    monkeypatch.setattr("hdmap_mlflow.tracking.artifacts", artifacts)
    runs = [record(name, "A", 0, 2) for name in ("good", "poor", "fine", "odd", "bare")]
    found = write._pictures("uri", arrange(runs))
    assert list(found) == [
        "good/quick, trained on A, B/fault/0007, simulated",
        "odd/quick, trained on A, B/fault/0009, simulated; no other model has a picture of this map",
        "poor/quick, trained on A, B/fault/0007, simulated",
    ]


@pytest.fixture(scope="module")
def printed(page, tmp_path_factory):
    """The pages of the report as a browser prints them."""
    pdfium, browser = pytest.importorskip("pypdfium2"), shutil.which("chromium")
    if not browser:
        pytest.skip("no browser: apt-get install chromium")
    folder = tmp_path_factory.mktemp("printed")
    (folder / "report.html").write_text(page)
    flags = ["--headless", "--no-sandbox", "--no-pdf-header-footer", f"--user-data-dir={folder / 'profile'}"]
    command = [browser, *flags, f"--print-to-pdf={folder / 'report.pdf'}", str(folder / "report.html")]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    with pdfium.PdfDocument(folder / "report.pdf") as pdf:  # nothing of it is left to the garbage collector
        return [read_sheet(pdf[i]) for i in range(len(pdf))]


def read_sheet(sheet):
    """Its size, its text, and of each character the text from there on and its box: left, bottom, right, top."""
    text = sheet.get_textpage()
    boxes = [(text.get_text_range(i, 30), text.get_charbox(i)) for i in range(text.count_chars())]
    return SimpleNamespace(size=sheet.get_size(), text=text.get_text_bounded(), boxes=boxes)


def test_every_column_is_on_the_paper(many, printed):
    for sheet in printed:
        width, height = sheet.size
        assert width > height, "A4, across"
        for text, (left, bottom, right, top) in sheet.boxes:
            assert 0 <= left <= right <= width and 0 <= bottom <= top <= height, text
    words = re.sub(r"\s", "", " ".join(sheet.text for sheet in printed))  # a head may be broken into lines
    for section in (*sections(many), *details(many)):
        for head in section.header if section.rows else ():
            assert re.sub(r"\s", "", head) in words, (section.title, head)


def test_the_summary_is_one_page_of_paper_with_all_that_is_to_be_cited(printed):
    first, second = (sheet.text for sheet in printed[:2])
    assert "has the highest mean target AUROC" in first and "@misc{supersimplenet" in first
    assert second.strip().startswith("Leaderboard") and "Contents" not in "".join(sheet.text for sheet in printed)
