"""Which maps get a picture, and that the pictures can be drawn."""

from types import SimpleNamespace

import numpy as np
from frames import frame

from hdmap_mlflow.evaluation import pictures
from hdmap_mlflow.evaluation.figures import repair_figure, score_figure, transfer_figure
from hdmap_mlflow.evaluation.pictures import Sheet, choose, file_name, title
from hdmap_mlflow.evaluation.scoring import Scores

TABLE = frame([0, 0, 0, 0, 1, 1, 1, 1], [1, 2, 9, 6, 0, 3, 7, 8]).assign(path=[f"test/x/{i}.tiff" for i in range(8)])


def test_the_most_the_least_and_then_the_most_wrong_of_the_rest_are_chosen():
    chosen = choose(TABLE, 5, 1)
    assert [(one.row, one.kind) for one in chosen] == [(2, "most"), (4, "least"), (5, "wrong")]
    names = [file_name(one, TABLE) for one in chosen]
    assert names == ["good/most_1_2.png", "fault/least_1_4.png", "fault/wrong_1_5.png"]
    assert {one.kind for one in choose(TABLE, None, 2)} == {"most", "least", "same"}
    assert choose(TABLE, 5, 0) == []


def test_one_fault_map_is_shown_whatever_a_model_makes_of_it():
    """That of the median mean; where the scores have chosen it, too, there is one picture of it."""
    content = TABLE["path"].map(lambda path: int(path[-6]) % 3).to_numpy()  # the fault maps' are 1, 2, 0, 1
    for scores in (TABLE["score"], -TABLE["score"], TABLE["score"] * 0):
        table = TABLE.assign(image_mean=content, score=scores)
        assert 7 in [one.row for one in choose(table, None, 1)]
    assert len(choose(TABLE.assign(image_mean=content), None, 8)) == 8
    good = TABLE[TABLE["label"] == 0]
    assert [one.row for one in choose(good, None, 1) if one.kind == "same"] == [1]


def test_few_maps_are_shown_once_each():
    assert len(choose(TABLE, 5, 50)) == len(TABLE)


def test_a_title_says_what_the_threshold_made_of_the_map():
    one = choose(TABLE, 5, 1)[0]
    text = title("domain_B", TABLE.iloc[one.row], one, 5, simulated=True)
    assert "good, simulated" in text and "alarm, WRONG" in text and "domain_B / test/x/2.tiff" in text


def test_a_picture_names_the_teeth_and_says_what_is_absent():
    image = np.random.default_rng(0).random((31, 95))
    bare = Sheet(image.shape, (0, 1), None)
    bare.draw("t", image, None, None)
    assert [t.get_text() for a in bare.figure.axes for t in a.texts] == ["this model has no anomaly map", "no mask"]
    axes = Sheet(image.shape, (0, 1), (0, 1)).figure.axes
    assert {a.get_xlabel() for a in axes} >= {"ring tooth"} and {a.get_ylabel() for a in axes} >= {"planet tooth"}


def test_a_picture_does_not_depend_on_those_drawn_before_it():
    """The frame is drawn once: nothing of another map, its mask or its title may stay."""
    one, other = np.random.default_rng(0).random((2, 31, 95))
    sheet = Sheet(one.shape, (0, 1), (0, 1))
    alone = np.asarray(sheet.draw("one", one, one, None))
    marked = np.asarray(sheet.draw("the other", other, other, other > 0.9))
    assert (alone != marked).any()
    assert (np.asarray(sheet.draw("one", one, one, None)) == alone).all()
    assert (np.asarray(Sheet(one.shape, (0, 1), (0, 1)).draw("one", one, one, None)) == alone).all()


def test_figures_say_when_maps_are_simulated_and_when_there_is_no_curve():
    figure = score_figure("b", "target", TABLE[TABLE["label"] == 0], {"normal_q99": 5.0}, simulated=True)
    assert "simulated maps" in [t.get_text() for t in figure.texts]
    assert "no ROC curve" in figure.axes[1].texts[0].get_text()
    assert score_figure("b", "target", TABLE, {"F1": 5.0}).axes[1].lines
    assert transfer_figure("m", [("a", 0.9, (0.8, 0.95)), ("b", 0.7, (0.6, 0.8))], {"b": 0.6}).axes[0].patches
    assert len(repair_figure({"b": {"0": {"FPR": 1, "TPR": 1}, "5": {"FPR": 0, "TPR": 1}}}).axes) == 2


def test_pictures_show_what_scoring_kept_and_only_the_rest_is_computed(monkeypatch):
    rng = np.random.default_rng(1)
    heats, images = rng.random((2, len(TABLE), 6, 8)).astype(np.float32)
    table = TABLE.assign(split="test", group="", image_mean=TABLE["score"])
    asked, drawn = [], []

    def loader(domain, rows):
        return rows

    def again(model, rows, device):
        asked.extend(rows)
        return [(images[row], heats[row], np.zeros((6, 8), bool)) for row in rows]

    monkeypatch.setattr(pictures, "anomaly_maps", again)
    monkeypatch.setattr(pictures, "pixels_of", lambda rows: [(images[row], np.zeros((6, 8), bool)) for row in rows])
    monkeypatch.setattr(Sheet, "draw", lambda self, title, image, anomaly, mask: drawn.append((image, anomaly)))
    data = SimpleNamespace(chosen_dataloader=loader, scored={("b", "test"): table.assign(mask="")})
    chosen = choose(table, 5, 1)
    kept = {one.row: heats[one.row] for one in chosen if one.kind != "same"}
    found = list(pictures.of_domain(Scores("b", table, shown=kept), None, data, "cpu", 5, 1, False))
    assert asked == [one.row for one in chosen if one.kind == "same"] and len(found) == len(chosen) == len(drawn)
    for one, (image, heat) in zip(chosen, drawn, strict=True):
        assert image is images[one.row] or (image == images[one.row]).all()
        assert (heat == heats[one.row]).all()
