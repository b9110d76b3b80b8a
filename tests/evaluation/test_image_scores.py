"""`score.image`: what a map's score is of its anomaly map, at native size."""

from types import SimpleNamespace

import pytest
import torch

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.evaluation.scoring import IMAGE_SCORES, image_scores

MAPS = torch.rand(3, 1, 20, 5, generator=torch.Generator().manual_seed(0))


def _score(how: str, anomaly_map=MAPS, size=(20, 5)):  # noqa: ANN001
    model = SimpleNamespace(image_score=how)
    return image_scores(
        model, SimpleNamespace(pred_score=torch.tensor([[7.0], [8.0], [9.0]]), anomaly_map=anomaly_map), size
    )


def test_published_is_what_the_model_says_with_or_without_an_anomaly_map():
    assert _score("published").tolist() == [7, 8, 9]
    assert _score("published", None).tolist() == [7, 8, 9]
    assert image_scores(
        SimpleNamespace(), SimpleNamespace(pred_score=torch.ones(2), anomaly_map=None), (1, 1)
    ).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("how", "naive"),
    [
        ("max", max),
        ("top10", lambda values: sum(sorted(values)[-10:]) / 10),
        ("mean", lambda values: sum(values) / 100),
        ("row", lambda values: max(sum(values[5 * row : 5 * row + 5]) / 5 for row in range(20))),
    ],
)
def test_a_score_of_the_anomaly_map_is_the_naive_one(how: str, naive):  # noqa: ANN001
    expected = [naive(one.flatten().tolist()) for one in MAPS]
    assert _score(how).tolist() == pytest.approx(expected)


def test_rows_are_those_of_the_map_and_not_of_the_network():
    tooth = torch.zeros(1, 1, 4, 4)
    tooth[0, 0, 1] = 1  # of four rows of a network, for a map of two teeth: they share it
    assert float(_score("row", tooth, (2, 4))[0]) == pytest.approx(0.5)


@pytest.mark.parametrize("how", IMAGE_SCORES)
def test_a_model_without_an_anomaly_map_is_said_to_have_none(how: str):
    with pytest.raises(BadInput, match=f"score.image={how} reads an anomaly map"):
        _score(how, None)
