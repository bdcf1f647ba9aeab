"""Searching many predictors: the corrected p keeps its promise and the uncorrected one does not."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from conceptnet_em.errors import InputError
from conceptnet_em.multiplicity import holm, max_stat
from conceptnet_em.regression import regress
from conceptnet_em.relabelling import relabellings

OPEN = {"units": False, "standardise": False}


def frame(values) -> pd.DataFrame:
    names = [f"d{k:02d}" for k in range(len(values))]
    return pd.DataFrame(np.asarray(values, float), names, names)


def noise(seed: int, count: int, size: int = 6) -> list[pd.DataFrame]:
    rng = np.random.default_rng(seed)
    return [frame(rng.normal(size=(size, size))) for _ in range(count)]


def test_one_predictor_needs_no_correction():
    y, x = noise(0, 2)
    entry, fit = max_stat(y, {"x": x}, **OPEN)["x"], regress(y, x, **OPEN)
    assert (entry.slope, entry.t) == pytest.approx((fit.slope, fit.t))
    assert entry.p == entry.p_corrected == fit.p


def test_each_p_is_that_of_the_predictor_alone_and_the_corrected_one_counts_the_largest():
    y, w, *xs = noise(1, 6)
    found = max_stat(y, {str(k): x for k, x in enumerate(xs)}, covariates={"w": w}, **OPEN)
    group, moved = relabellings(list(y.index)), []
    kept = ~np.eye(6, dtype=bool)
    source, target = np.nonzero(kept)
    held = np.column_stack([np.eye(6)[source], np.eye(6)[target], w.values[kept]])

    def off(v):
        return v - held @ np.linalg.lstsq(held, v, rcond=None)[0]

    rest = off(y.values[kept])
    for x in xs:
        left = np.zeros((6, 6))
        left[kept] = off(x.values[kept])
        rows = [off(left[np.ix_(order, order)][kept]) for order in group.orders]
        moved.append([abs(row @ rest) / np.linalg.norm(row) for row in rows])
    largest = np.max(moved, axis=0)
    for k, x in enumerate(xs):
        assert found[str(k)].p == regress(y, x, covariates={"w": w}, **OPEN).p
        expected = np.mean(largest >= moved[k][0] - 1e-9)
        assert found[str(k)].p_corrected == pytest.approx(expected)


def test_correction_orders_as_t_does_and_never_lowers_p():
    y, *xs = noise(2, 7)
    found = max_stat(y, dict(zip("abcdef", xs, strict=True)), **OPEN)
    entries = sorted(found.entries, key=lambda entry: -abs(entry.t))
    corrected = [entry.p_corrected for entry in entries]
    assert corrected == sorted(corrected)
    assert all(entry.p_corrected >= entry.p for entry in entries)
    assert found.best == entries[0]
    assert list(found.table().index) == [entry.name for entry in entries]


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
@pytest.mark.parametrize("level", [0.05, 0.3])
def test_thresholds_are_where_p_reaches_the_level(alternative, level):
    y, *xs = noise(11, 9)
    xs[0], xs[1] = xs[0] + 2 * y, xs[1] - 2 * y
    alike = dict(zip("abcdefgh", xs, strict=True))
    found = max_stat(y, alike, alternative=alternative, level=level, keep=True, **OPEN)
    turn = {"two-sided": abs, "greater": float, "less": lambda t: -t}[alternative]
    for entry in found.entries:
        statistic = turn(entry.t)
        assert (entry.p <= level) == (statistic > entry.threshold + 1e-9)
        assert (entry.p_corrected <= level) == (statistic > found.threshold + 1e-9)
        assert found.null[entry.name][0] == pytest.approx(statistic)
        assert entry.p == np.mean(found.null[entry.name] >= statistic - 1e-9)
    largest = np.max([*found.null.values()], axis=0)
    assert np.mean(largest > found.threshold + 1e-9) <= level
    assert np.mean(largest >= found.threshold - 1e-9) > level
    assert {entry.p <= level for entry in found.entries} == {True, False}


def test_t_under_relabelling_is_the_t_of_the_relabelled_predictor():
    y, w, x = noise(12, 3)
    group = relabellings(list(y.index), permutations=5, enumerate_up_to=1)
    null = max_stat(y, {"x": x}, covariates={"w": w}, group=group, keep=True, **OPEN).null["x"]
    kept = ~np.eye(6, dtype=bool)
    source, target = np.nonzero(kept)
    held = np.column_stack([np.eye(6)[source], np.eye(6)[target], w.values[kept]])
    left = np.zeros((6, 6))
    left[kept] = x.values[kept] - held @ np.linalg.lstsq(held, x.values[kept], rcond=None)[0]
    for order, expected in zip(group.with_identity(), null, strict=True):
        moved = frame(left[np.ix_(order, order)])
        t = regress(y, moved, covariates={"w": w}, **OPEN).t
        assert abs(t) == pytest.approx(expected)


def test_what_was_not_asked_for_is_not_kept_and_never_in_the_json():
    y, x = noise(13, 2)
    assert max_stat(y, {"x": x}, **OPEN).null == {}
    kept = max_stat(y, {"x": x}, keep=True, **OPEN)
    assert len(kept.null["x"]) == 720
    assert "null" not in json.loads(kept.to_json())
    assert kept == max_stat(y, {"x": x}, **OPEN)


def test_one_sided_search_looks_at_one_side():
    y, x = noise(3, 2)
    up = max_stat(y + 3 * x, {"x": x, "turned": -x}, alternative="greater", **OPEN)
    assert up["x"].p_corrected == pytest.approx(1 / 720)
    assert up["turned"].p == 1
    assert up.best.name == "x"


def test_the_best_of_many_layers_is_right_as_often_as_it_says_only_when_corrected():
    rng = np.random.default_rng(5)
    group = relabellings([f"d{k:02d}" for k in range(6)], permutations=99, enumerate_up_to=1)
    naive, corrected = 0, 0
    for _ in range(80):
        y, *layers = (frame(rng.normal(size=(6, 6))) for _ in range(13))
        found = max_stat(y, {str(k): x for k, x in enumerate(layers)}, group=group, **OPEN)
        naive += min(entry.p for entry in found.entries) <= 0.05
        corrected += found.best.p_corrected <= 0.05
    assert naive >= 0.3 * 80
    assert corrected <= stats.binom.ppf(0.9995, 80, 0.05)


def test_trait_specific_layers_are_searched_with_stacked_traits():
    a, b, *xs = noise(6, 6)
    alike = {"shared": xs[0], "own": {"a": xs[1], "b": xs[2]}}
    found = max_stat({"a": a, "b": b}, alike, **OPEN)
    assert found["own"].p == regress({"a": a, "b": b}, alike["own"], **OPEN).p
    assert found["shared"].p == regress({"a": a, "b": b}, alike["shared"], **OPEN).p


def test_what_is_not_estimable_has_its_reason_and_does_not_stop_the_rest():
    y, x, hole = noise(7, 3)
    hole.iloc[0, 1] = np.nan
    found = max_stat(y, {"x": x, "flat": frame(np.ones((6, 6))), "hole": hole}, **OPEN)
    assert [entry.status for entry in found.entries] == ["ok", "not_estimable", "not_estimable"]
    assert "constant" in found["flat"].reason
    assert "lacks 1 of 30" in found["hole"].reason
    assert found.best.name == "x"
    table = json.loads(found.to_json(), parse_constant=lambda word: pytest.fail(word))
    assert table["entries"][1]["p"] is None


def test_a_search_over_four_domains_says_why_it_cannot_be_tested():
    y, x, z = noise(8, 3, 4)
    text = str(max_stat(y, {"x": x, "z": z}, **OPEN))
    assert text == (
        "None of 2 predictors is estimable: 4 domains are too few to test a slope by relabelling; "
        "at least 5 needed."
    )


def test_the_sentence_gives_both_p_values():
    y, x, z = noise(9, 3)
    text = str(max_stat(y + 5 * x, {"near": x, "far": z}, **OPEN))
    assert "Of 2 predictors near stands out most" in text
    assert "corrected for the search p = 0.0014 (alone it would be 0.0014)" in text


def test_impossible_searches_are_refused():
    y, x = noise(10, 2)
    with pytest.raises(InputError, match=r"(?s)no similarity to look at.*no alternative 'up'"):
        max_stat(y, {}, alternative="up")
    with pytest.raises(InputError, match="level 0 is none; give one between 0 and 1"):
        max_stat(y, {"x": x}, level=0, **OPEN)
    with pytest.raises(InputError, match="no predictor 'z'; there is x"):
        max_stat(y, {"x": x}, **OPEN)["z"]


def test_holm_steps_down_as_worked_out_by_hand():
    # sorted: .005 × 4 = .02, .01 × 3 = .03, .03 × 2 = .06, .04 × 1 = .04 raised to .06
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(found) == list("abcd")
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


def test_a_primary_that_could_not_be_tested_still_counts():
    found = holm({"P1": 0.03, "P2": float("nan")})
    assert found["P1"] == pytest.approx(0.06)
    assert math.isnan(found["P2"])
    with pytest.raises(InputError, match=r"no p-value: P1 = 1\.5"):
        holm({"P1": 1.5})
