"""Which healthy maps are drawn."""

import numpy as np
import pandas as pd
import pytest
from records import scores

from hdmap_mlflow.adaptation.draw import draw, order, pool
from hdmap_mlflow.config import AdaptConfig
from hdmap_mlflow.errors import BadInput

ADAPT = AdaptConfig()
OF_TEST = AdaptConfig.model_validate({"from": "test"})


def table(recordings=0):
    """40 reported maps of a target and 30 healthy ones beside them, of so many recordings in each role."""
    parts = []
    for split, n in (("test", 40), ("reference", 30)):
        one = scores("B", 1.0, 0, split, n)
        one["label"] *= split == "test"
        one["recording"] = [f"{split} {i % recordings}" for i in range(n)] if recordings else ""
        parts.append(one)
    return pd.concat(parts, ignore_index=True)


def test_maps_are_drawn_from_the_healthy_ones_that_are_not_reported():
    drawn = draw(table(), "B", 4, 0, ADAPT)
    assert len(drawn.normals) == 4 and set(drawn.normals["split"]) == {"reference"} and drawn.normals["path"].is_unique
    assert drawn.reported["path"].tolist() == table().query("split == 'test'")["path"].tolist()


def test_draws_differ_and_come_again_and_small_ones_are_part_of_large_ones():
    found = [set(draw(table(), "B", 8, number, ADAPT).normals["path"]) for number in (0, 1, 0)]
    assert found[0] == found[2] != found[1]
    assert set(draw(table(), "B", 3, 0, ADAPT).normals["path"]) < found[0]
    assert set(draw(table(), "B", 8, 0, AdaptConfig(seed=1)).normals["path"]) != found[0], "the seed counts"
    assert set(draw(table(), "C", 8, 0, ADAPT).normals["path"]) != found[0], "and the domain"


def test_the_maps_of_a_draw_are_of_as_few_recordings_as_can_be():
    whole = table(recordings=6)
    assert draw(whole, "B", 5, 0, ADAPT).normals["recording"].nunique() == 1
    assert draw(whole, "B", 6, 0, ADAPT).normals["recording"].nunique() == 2
    assert sorted(order(whole, 0)) == list(range(70))
    assert whole["recording"].iloc[pool(whole, "B", AdaptConfig(pool=10))].nunique() <= 3


@pytest.mark.parametrize("recordings", [0, 4])
def test_maps_that_are_taken_out_of_the_reported_ones_are_not_reported_nor_is_their_recording(recordings):
    drawn = draw(table(recordings), "B", 3, 0, OF_TEST)
    assert set(drawn.normals["split"]) == {"test"} and set(drawn.normals["label"]) == {0}
    assert not set(drawn.normals["path"]) & set(drawn.reported["path"])
    if recordings:
        assert not set(drawn.normals["recording"]) & set(drawn.reported["recording"])
    else:
        assert len(drawn.reported) == 37


@pytest.mark.parametrize(
    ("adapt", "k", "says"), [(ADAPT, 31, "30 healthy maps"), (OF_TEST, 16, "20 healthy maps.*5 must")]
)
def test_more_maps_than_there_are_is_refused(adapt, k, says):
    draw(table(), "B", k - 1, 0, adapt)
    with pytest.raises(BadInput, match=f"adapt.k={k} is more than B has: {says}"):
        draw(table(), "B", k, 0, adapt)


def test_labels_choose_no_map():
    flipped = table().assign(label=1 - table()["label"])
    for number in range(3):
        one, other = (draw(of, "B", 5, number, ADAPT) for of in (table(), flipped))
        assert one.normals["path"].tolist() == other.normals["path"].tolist()
        assert one.reported["path"].tolist() == other.reported["path"].tolist()
    assert not np.array_equal(table()["label"], flipped["label"])
