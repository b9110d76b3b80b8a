"""An alarm is m of the last n maps; drift is a distance in units of what is known."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.evaluation.alarms import Rule, drift


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 8), st.integers(0, 7))
def test_an_alarm_stands_while_enough_of_the_last_maps_are_above(above, least, more):
    last = least + more
    expected = [sum(above[max(0, i + 1 - last) : i + 1]) >= least for i in range(len(above))]
    assert Rule(least, last)(above).tolist() == expected


def test_the_rule_that_is_documented():
    assert Rule() == Rule.parse("3of5") and str(Rule()) == "3of5"
    assert Rule()([1, 0, 1, 0, 1, 0, 0]).tolist() == [False, False, False, False, True, False, False]


@pytest.mark.parametrize("text", ["", "3", "3/5", "0of5", "6of5", "-1of5", "3of5of7", "3 of 5", "2.5of5", "1of9999"])
def test_what_is_no_rule_is_refused(text):
    with pytest.raises(BadInput, match="give MofN, such as 3of5"):
        Rule.parse(text)


def table(score, mean):
    return pd.DataFrame({"score": np.asarray(score, float), "image_mean": np.asarray(mean, float)})


def test_drift_is_nothing_for_the_same_maps_and_a_shift_in_its_own_unit_for_others():
    known = table([1, 2, 3], [2, 2, 2])
    assert drift(known, known) == {"score_distance": 0, "intensity": 0}
    assert drift(known, table([3, 4, 5], [3, 3, 3])) == pytest.approx({"score_distance": 2, "intensity": 0.5})


def test_a_distance_without_a_unit_is_absent():
    assert drift(table([1, 1], [0, 0]), table([2, 2], [1, 1])) == {}
