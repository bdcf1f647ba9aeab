"""The permutation regression against R's numbers, brute force, and data with a known answer."""

from __future__ import annotations

import json
import math
import re
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from conceptnet_em import qap as module
from conceptnet_em.errors import InputError
from conceptnet_em.qap import (
    align,
    mantel,
    qap,
    relabellings,
    symmetrised_interval,
    too_small,
)

ANSWERS = json.loads((Path(__file__).parent / "fixtures" / "known_answers.json").read_text("utf-8"))
TOY = ANSWERS["A_6x6_directed"]
DOMAINS = ["law", "diet", "cars", "money", "sleep", "garden"]
Y, X1, X2 = (pd.DataFrame(TOY[key], DOMAINS, DOMAINS, float) for key in ("Y", "X1", "X2"))
FACTORIAL = {f"{t}-{f}": (t, f) for t in DOMAINS for f in ("prose", "code")}


def frame(values, rows=None, columns=None) -> pd.DataFrame:
    rows = rows or [f"d{k:02d}" for k in range(len(values))]
    return pd.DataFrame(values, rows, columns or rows)


def noise(seed: int, size: int, count: int = 2) -> list[pd.DataFrame]:
    rng = np.random.default_rng(seed)
    return [frame(rng.normal(size=(size, size))) for _ in range(count)]


def mismatch(kinds: str) -> pd.DataFrame:
    """1 where source and target are of different kinds."""
    return frame([[float(a != b) for b in kinds] for a in kinds])


def related(rng, size: int, slope: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Similarity from latent places; transfer with source, target, pair and cell noise."""
    place = rng.normal(size=(size, 4))
    x = -np.linalg.norm(place[:, None] - place[None], axis=2)
    x = (x - x.mean()) / x.std()
    pair = rng.normal(size=(size, size))
    y = slope * x + rng.normal(size=(size, 1)) + rng.normal(size=size) + (pair + pair.T) / 2
    return frame(y + 0.5 * rng.normal(size=(size, size))), frame(x)


def brute(y, x, others, null=0.0, group=None) -> np.ndarray:
    """DSP t for every relabelling, by least squares anew; `others` are cell columns to hold."""
    kept = ~np.eye(len(y), dtype=bool)
    held = np.column_stack(others)
    cells = (y - null * x)[kept]
    residual = np.zeros(x.shape)
    residual[kept] = x[kept] - held @ np.linalg.lstsq(held, x[kept], rcond=None)[0]
    values = []
    for order in group or permutations(range(len(y))):
        moved = residual[np.ix_(order, order)][kept]
        design = np.column_stack([held, moved])
        solution, _, rank, _ = np.linalg.lstsq(design, cells, rcond=None)
        rest = cells - design @ solution
        moved = moved - held @ np.linalg.lstsq(held, moved, rcond=None)[0]
        se = math.sqrt(rest @ rest / (len(cells) - rank) / (moved @ moved))
        values.append(solution[-1] / se)
    return np.array(values)


def dummies(size: int) -> list[np.ndarray]:
    source, target = np.nonzero(~np.eye(size, dtype=bool))
    unit = np.eye(size)
    return [*unit[source].T, *unit[target].T]


# --- known answers -------------------------------------------------------------------------------


@pytest.mark.parametrize(("which", "x", "other"), [(1, X1, X2), (2, X2, X1)])
def test_ordinary_regression_agrees_with_netlm(which, x, other):
    fit = qap(Y, x, covariates={"other": other}, effects=False)
    assert fit.slope == pytest.approx(TOY["ols"]["coef"][which], abs=1e-6)
    assert fit.t == pytest.approx(TOY["ols"]["t"][which], abs=1e-6)
    assert fit.r2 == pytest.approx(TOY["ols"]["R2"], abs=1e-6)
    assert fit.df == 27


@pytest.mark.parametrize(("name", "x", "other"), [("X1", X1, X2), ("X2", X2, X1)])
def test_double_semi_partialling_gives_the_exact_counts_of_720(name, x, other):
    fit = qap(Y, x, covariates={"other": other}, effects=False)
    greater = qap(Y, x, covariates={"other": other}, effects=False, alternative="greater")
    assert fit.p * 720 == pytest.approx(TOY["dsp_exact_two_sided_count_of_720"][name])
    assert greater.p * 720 == pytest.approx(TOY["dsp_exact_greater_count"][name])
    assert (fit.exact, fit.n_permutations, fit.smallest_p) == (True, 720, 1 / 720)


def test_the_engine_fits_and_counts_the_intercept_too_when_given_ones_as_the_predictor():
    grid, cells = module._cells({"y": Y, "X1": X1, "X2": X2})
    y, ones = cells.pop("y"), np.ones(30)
    held = module._span(np.column_stack(list(cells.values())))
    slope, se, df, _ = module._regress(ones, y, held)
    assert (slope, slope / se) == pytest.approx((TOY["ols"]["coef"][0], TOY["ols"]["t"][0]), 1e-6)
    residuals = module._off(ones, held), module._off(y, held)
    tested = module._relabelled(*residuals, held, grid, relabellings(grid.labels))
    assert df == 27
    assert tested.p(0, "two-sided") * 720 == pytest.approx(37)
    assert tested.p(0, "greater") * 720 == pytest.approx(32)


def test_simple_qap_agrees_with_netlm():
    fit = qap(Y, X2, effects=False)
    assert (fit.slope, fit.t) == pytest.approx((2.83108108, 2.98308445), abs=1e-6)
    assert fit.p * 720 == pytest.approx(7)


@pytest.mark.parametrize(("name", "x"), [("X1", X1), ("X2", X2)])
def test_fixed_effects_give_the_known_slope_and_error(name, x):
    fit, known = qap(Y, x, name=name), TOY["twoway_FE_QAP"][name]
    assert (fit.slope, fit.se, fit.df) == pytest.approx([known[k] for k in ("b", "se", "df")], 1e-6)
    assert (fit.name, fit.n_cells, fit.n_domains) == (name, 30, 6)


@pytest.mark.parametrize(
    ("x", "null", "alternative", "count"),
    [
        (X1, 0, "two-sided", 1),
        (X1, 2, "greater", 3),
        (X1, 3, "less", 147),
        (X1, 4, "less", 1),
        (X2, 0, "two-sided", 10),
        (X2, 1, "greater", 28),
        (X2, 4, "less", 88),
    ],
)
def test_fixed_effects_give_the_exact_counts_of_720_at_any_null(x, null, alternative, count):
    fit = qap(Y, x, null=null, alternative=alternative)
    assert fit.p * 720 == pytest.approx(count)
    assert f"is {null}" in fit.null


def test_symmetrised_effects_give_the_known_slope_error_and_t_interval():
    slope, se, df, low, high = symmetrised_interval(Y, X1)
    assert (slope, se, df) == pytest.approx((2.94729820, 0.38794765, 8), abs=1e-6)
    assert (slope - low, high - slope) == pytest.approx((2.3060041 * se, 2.3060041 * se), 1e-6)


def test_mantel_agrees_with_scikit_bio_documentation_and_is_nan_without_variation():
    known = ANSWERS["skbio_min_3x3"]
    assert mantel(frame(known["x"]), frame(known["y"])) == pytest.approx(known["pearson"], abs=1e-6)
    assert math.isnan(mantel(frame(np.ones((3, 3))), frame(known["y"])))


def test_mantel_and_simple_qap_agree_with_scikit_bio():
    distance = pytest.importorskip("skbio.stats.distance")
    x, y = ((f + f.T) * mismatch("abcdefg") for f in noise(5, 7))
    r, p, _ = distance.mantel(x.values, y.values, permutations=999, seed=1)
    exact = qap(y, x, effects=False).p
    assert mantel(x, y) == pytest.approx(r, abs=1e-12)
    assert abs(p - exact) < 4 * math.sqrt(exact * (1 - exact) / 999) + 1e-3


# --- brute force ---------------------------------------------------------------------------------


@pytest.mark.parametrize("null", [0.0, 0.7])
def test_effects_with_covariates_agree_with_refitting_every_relabelling(null):
    y, x, w, v = noise(3, 5, 4)
    x, held = x + w, np.array(~np.eye(5, dtype=bool))
    t = brute(y.values, x.values, [*dummies(5), w.values[held], v.values[held]], null)
    fit = qap(y, x, covariates={"w": w, "v": v}, null=null)
    assert fit.t == pytest.approx(t[0])
    assert fit.p == np.mean(np.abs(t) >= abs(t[0]) - 1e-9)
    less = qap(y, x, covariates={"w": w, "v": v}, null=null, alternative="less")
    assert less.p == np.mean(t <= t[0] + 1e-9)


def test_a_rectangle_agrees_with_relabelling_sources_and_targets_apart():
    rng = np.random.default_rng(1)
    rows, columns = list("abc"), list("uvwz")
    y, x = (frame(rng.normal(size=(3, 4)), rows, columns) for _ in range(2))
    centred = x - x.mean() - x.mean(axis=1).to_numpy()[:, None] + x.values.mean()
    dots = [
        (centred.values[np.ix_(i, j)] * y.values).sum()
        for i, j in product(permutations(range(3)), permutations(range(4)))
    ]
    fit = qap(y, x)
    assert fit.p == np.mean(np.abs(dots) >= abs(dots[0]) - 1e-9)
    assert (fit.n_permutations, fit.n_cells, fit.df, fit.n_domains) == (144, 12, 5, 7)
    assert "3! × 4! = 144" in fit.group


def test_partly_shared_labels_keep_their_roles():
    rng = np.random.default_rng(2)
    y, x = (frame(rng.normal(size=(5, 5)), list("abcde"), list("cdefg")) for _ in range(2))
    fit = qap(y, x)
    assert (fit.n_cells, fit.n_domains, fit.n_permutations) == (22, 7, 2 * 6 * 2)
    assert fit.p >= fit.smallest_p == 1 / 24
    again = qap(y.iloc[::-1, ::-1], x.iloc[[2, 0, 1, 4, 3]])
    assert again == fit


# --- invariances ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [6, 9])
def test_shuffled_labels_give_the_same_fit(size):
    y, x, w = noise(size, size, 3)
    rng = np.random.default_rng(0)
    fit = qap(y, x, covariates={"w": w}, permutations=199)
    for _ in range(3):
        a, b, c = (rng.permutation(y.index) for _ in range(3))
        mixed = qap(y.loc[a, b], x.loc[b, c], covariates={"w": w.loc[c, a]}, permutations=199)
        assert mixed == fit
        assert symmetrised_interval(y.loc[a, b], x.loc[c]) == symmetrised_interval(y, x)


@pytest.mark.parametrize("seed", range(8))
def test_source_and_target_constants_change_nothing(seed):
    rng = np.random.default_rng(seed)
    y, x, w = noise(seed, 6, 3)
    shifts = [10 * rng.normal(size=(6, 1)) + 10 * rng.normal(size=6) for _ in range(3)]
    fit = qap(y, x, covariates={"w": w})
    moved = qap(y + shifts[0], x + shifts[1], covariates={"w": w + shifts[2]})
    assert (moved.p, moved.r2_over_effects) == pytest.approx((fit.p, fit.r2_over_effects))
    assert (moved.slope, *moved.interval) == pytest.approx((fit.slope, *fit.interval))


def test_the_diagonal_is_ignored():
    y, x = noise(1, 6)
    assert qap(y + np.diag([1e6] * 6), x + np.diag([np.nan] * 6)) == qap(y, x)


def test_a_shifted_null_is_the_null_of_the_shifted_matrix():
    y, x, w = noise(4, 6, 3)
    assert qap(y, x, covariates={"w": w}, null=0.4).p == qap(y - 0.4 * x, x, covariates={"w": w}).p


def test_turning_the_predictor_round_turns_the_alternative_round():
    y, x = noise(4, 6)
    assert qap(y, x, alternative="greater").p == qap(y, -x, alternative="less").p
    assert qap(y, x).slope == -qap(y, -x).slope


def test_shares_of_variance_are_those_of_two_least_squares_fits():
    y, x, w = noise(7, 6, 3)
    kept = ~np.eye(6, dtype=bool)
    cells = y.values[kept]

    def rest(*columns: np.ndarray) -> float:
        design = np.column_stack(columns)
        return float(np.sum((cells - design @ np.linalg.lstsq(design, cells, rcond=None)[0]) ** 2))

    all_in, effects = rest(*dummies(6), x.values[kept], w.values[kept]), rest(*dummies(6))
    fit = qap(y, x, covariates={"w": w})
    assert fit.r2 == pytest.approx(1 - all_in / np.sum((cells - cells.mean()) ** 2))
    assert fit.r2_over_effects == pytest.approx(1 - all_in / effects)


# --- interval ------------------------------------------------------------------------------------


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
@pytest.mark.parametrize(("size", "effects"), [(6, True), (6, False), (9, True)])
@pytest.mark.parametrize("held", [0, 1])
def test_the_interval_holds_exactly_the_nulls_that_are_not_rejected(
    alternative, size, effects, held
):
    y, x, w = noise(size + held, size, 3)
    given = {"covariates": {"w": w} if held else {}, "effects": effects, "alternative": alternative}
    low, high = qap(y, x, permutations=99, **given).interval
    ends = [end for end in (low, high) if math.isfinite(end)]
    assert len(ends) == (2 if alternative == "two-sided" else 1)
    for null in [*np.linspace(-2, 2, 17), *(e + d for e in ends for d in (-1e-8, 0.0, 1e-8))]:
        p = qap(y, x, permutations=99, null=null, interval=None, **given).p
        assert (p > 0.05) == (low <= null <= high)


def test_a_wider_level_gives_a_wider_interval_and_none_gives_none():
    y, x = noise(2, 6)
    narrow, wide = (qap(y, x, interval=level).interval for level in (0.8, 0.99))
    assert wide[0] < narrow[0] < qap(y, x).slope < narrow[1] < wide[1]
    assert all(map(math.isnan, qap(y, x, interval=None).interval))


def test_too_few_relabellings_leave_the_interval_open():
    rng = np.random.default_rng(0)
    y, x = (frame(rng.normal(size=(2, 3)), list("ab"), list("uvw")) for _ in range(2))
    fit = qap(y, x)
    assert fit.smallest_p >= 1 / 12
    assert fit.interval == (-math.inf, math.inf)


# --- relabelling groups --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [5, 7, 8])
def test_up_to_eight_labels_are_enumerated_with_the_identity_first(size):
    group = relabellings(list("abcdefgh"[:size]), permutations=10)
    count = math.factorial(size)
    assert (group.exact, group.size, group.smallest_p) == (True, count, 1 / count)
    assert len(np.unique(group.orders, axis=0)) == count
    assert list(group.orders[0]) == list(range(size))
    assert group.group == f"free relabelling of {size} domains ({size}! = {count:,})"


def test_nine_labels_are_sampled_without_the_identity():
    group = relabellings(list("abcdefghi"), permutations=500, seed=3)
    assert group.orders.shape == (500, 9)
    assert (group.exact, group.size, group.smallest_p) == (False, 362_880, 1 / 501)
    assert (np.sort(group.orders, axis=1) == np.arange(9)).all()
    assert (group.orders != np.arange(9)).any(axis=1).all()
    assert (group.orders == relabellings(list("abcdefghi"), permutations=500, seed=3).orders).all()


def test_a_sampled_identity_is_thrown_away(monkeypatch):
    monkeypatch.setattr(module, "ENUMERATE_UP_TO", 100)
    for seed in range(20):
        group = relabellings(list("abcde"), permutations=200, seed=seed)
        assert len(group.orders) == 200
        assert (group.orders != np.arange(5)).any(axis=1).all()


def test_a_factorial_moves_whole_topics_and_formats_together():
    labels = list(FACTORIAL)
    group = relabellings(labels, topics=FACTORIAL)
    assert group.orders.shape == (1_440, 12)
    assert (group.exact, group.size) == (True, 1_440)
    assert group.group == "joint relabelling of 6 topics × 2 formats (6! × 2! = 1,440)"
    assert len(np.unique(group.orders, axis=0)) == 1_440
    assert list(group.orders[0]) == list(range(12))
    for axis in (0, 1):
        part = np.array([FACTORIAL[label][axis] for label in labels])
        same = part[:, None] == part
        moved = part[group.orders]
        assert ((moved[:, :, None] == moved[:, None, :]) == same).all()


def test_the_order_of_labels_does_not_matter_to_a_factorial():
    labels = list(np.random.default_rng(0).permutation(list(FACTORIAL)))
    group = relabellings(labels, topics=FACTORIAL)
    topic = np.array([FACTORIAL[label][0] for label in labels])[group.orders]
    same = np.array([[FACTORIAL[a][0] == FACTORIAL[b][0] for a in labels] for b in labels])
    assert ((topic[:, :, None] == topic[:, None, :]) == same).all()


def test_distinct_topics_are_relabelled_freely():
    topics = {d: (d, "code" if k < 2 else "prose") for k, d in enumerate(DOMAINS)}
    assert relabellings(DOMAINS, topics=topics).size == 720
    assert qap(Y, X1, topics=topics) == qap(Y, X1)


@pytest.mark.parametrize(
    "left_out", [["law-code"], ["law-code", "diet-prose"], ["law-code", "diet-code", "cars-code"]]
)
def test_a_mixed_design_is_refused(left_out):
    labels = [label for label in FACTORIAL if label not in left_out]
    with pytest.raises(InputError, match="neither all of different topics nor a complete factor"):
        relabellings(labels, topics=FACTORIAL)


def test_repeated_labels_and_labels_without_a_topic_are_refused():
    with pytest.raises(InputError, match="more than once"):
        relabellings(["a", "b", "a"])
    with pytest.raises(InputError, match="no topic for x, z"):
        relabellings(["x", "law-code", "z"], topics=FACTORIAL)
    with pytest.raises(InputError, match="at least 1"):
        relabellings(list("abcdefghi"), permutations=0)


def test_a_factorial_of_disjoint_sources_and_targets_is_refused():
    labels = list(FACTORIAL)
    y = frame(np.random.default_rng(0).normal(size=(6, 6)), labels[:6], labels[6:])
    with pytest.raises(InputError, match="same domains as sources and targets"):
        qap(y, y**2, topics=FACTORIAL)


def test_sampled_p_is_never_zero_and_agrees_with_the_exact_one(monkeypatch):
    y, x = noise(11, 7)
    strong, exact = qap(y + 50 * x, x), qap(y, x).p
    monkeypatch.setattr(module, "ENUMERATE_UP_TO", 100)
    sampled = qap(y + 50 * x, x, permutations=99)
    assert strong.p == 1 / 5_040
    assert sampled.p == sampled.smallest_p == 1 / 100
    close = qap(y, x, permutations=4_000)
    assert not close.exact
    assert abs(close.p - exact) < 4 * math.sqrt(exact * (1 - exact) / 4_000)


def test_smallest_p_counts_relabellings_that_leave_a_mismatch_as_it_is():
    y = noise(0, 6)[0]
    assert qap(y, mismatch("cccttt")).smallest_p == pytest.approx(1 / 10)
    assert relabellings(list(y)).smallest_p == 1 / 720


def test_format_mismatch_cannot_be_tested_by_moving_topics_and_says_so():
    labels = list(FACTORIAL)
    other = [[float(FACTORIAL[a][1] != FACTORIAL[b][1]) for a in labels] for b in labels]
    y = frame(np.random.default_rng(0).normal(size=(12, 12)), labels)
    fit = qap(y, frame(other, labels), topics=FACTORIAL)
    assert fit.smallest_p == fit.p == 1
    assert fit.interval == (-math.inf, math.inf)


# --- refusals ------------------------------------------------------------------------------------


def test_align_orders_by_name_and_lists_every_fault():
    y, x = noise(0, 6)
    shuffled = x.iloc[::-1, [3, 1, 0, 2, 5, 4]]
    assert align(y, shuffled)[1].equals(x)
    wrong = x.rename(index={"d00": "new"}).rename(columns={"d01": "d02"})
    with pytest.raises(InputError) as caught:
        align(y, wrong, x * np.nan, x.astype(str))
    for words in (
        "matrix 2 lacks row labels that y has: d00",
        "matrix 2 has row labels that y lacks: new",
        "matrix 2 has repeated column labels: d02",
        "matrix 2 lacks column labels that y has: d01",
        "matrix 3 holds no value at all",
        "matrix 4 holds values that are not numbers",
    ):
        assert words in str(caught.value)


def test_missing_cells_are_counted_and_the_first_is_named():
    y, x = noise(0, 6)
    y.loc["d01", "d03"] = y.loc["d04", "d00"] = np.nan
    with pytest.raises(InputError, match="y lacks 2 of 30 off-diagonal cells, the first d01 → d03"):
        qap(y, x)


@pytest.mark.parametrize(
    ("x", "w", "reason"),
    [
        (mismatch("cttttt"), None, "predictor 'x' is explained by source and target effects"),
        (frame(np.full((6, 6), 0.3)), None, "predictor 'x' is constant off the diagonal"),
        (X1.values, mismatch("cttttt"), "covariate 'w' is explained by source and target effects"),
        (X1.values, 2 * X1.values + 1, "predictor 'x' is explained by .*, covariate 'w'"),
        (X1.values, frame(np.ones((6, 6))), "covariate 'w' is constant"),
    ],
)
def test_matrices_that_cannot_be_told_from_effects_or_each_other_are_refused(x, w, reason):
    covariates = {} if w is None else {"w": frame(np.array(w))}
    with pytest.raises(InputError, match=reason):
        qap(frame(Y.values), frame(np.array(x)), covariates=covariates)


def test_an_outcome_that_is_all_effects_is_refused():
    y = frame(np.arange(6.0)[:, None] + np.arange(6.0) ** 2)
    with pytest.raises(InputError, match="y is explained by source and target effects"):
        qap(y, frame(X1.values))


def test_two_domains_of_a_kind_are_enough_for_a_mismatch_to_be_told_from_effects():
    assert qap(noise(0, 8)[0], mismatch("cctttttt")).smallest_p == pytest.approx(1 / 28)


def test_grids_too_small_to_say_are_refused_with_the_reason():
    assert too_small(5) is None
    assert re.search("4 domains are too few", too_small(4) or "")
    assert re.search("parameters = 0", too_small(9, df=0) or "")
    with pytest.raises(InputError, match="4 domains are too few"):
        qap(*noise(0, 4))
    with pytest.raises(InputError, match="1 domains are too few"):
        qap(*noise(0, 1))
    y, x, *many = noise(0, 5, 12)
    with pytest.raises(InputError, match="no degree of freedom is left"):
        qap(y, x, covariates={str(k): w for k, w in enumerate(many)})
    with pytest.raises(InputError, match="4 domains are too few"):
        symmetrised_interval(*noise(0, 4))


def test_the_symmetrised_interval_needs_sources_that_are_targets():
    y = frame(np.random.default_rng(0).normal(size=(5, 5)), list("abcde"), list("vwxyz"))
    with pytest.raises(InputError, match="same domains"):
        symmetrised_interval(y, y**2)


def test_impossible_options_are_refused_together():
    with pytest.raises(InputError, match=r"(?s)no alternative 'bigger'.*interval 95"):
        qap(Y, X1, alternative="bigger", interval=95)


# --- simulation ----------------------------------------------------------------------------------


def test_fixed_effects_qap_rejects_a_true_null_as_often_as_it_says():
    rng = np.random.default_rng(2024)
    p = [qap(*related(rng, 6 + k % 3, 0.0), interval=None).p for k in range(300)]
    low, high = stats.binom.interval(0.999, 300, 0.05)
    assert low <= np.count_nonzero(np.array(p) <= 0.05) <= high


def test_a_planted_slope_is_recovered_and_covered():
    rng = np.random.default_rng(7)
    fits = [qap(*related(rng, 7, 0.5)) for _ in range(120)]
    slopes = np.array([fit.slope for fit in fits])
    assert abs(slopes.mean() - 0.5) < 4 * slopes.std() / math.sqrt(120)
    covered = np.mean([fit.interval[0] <= 0.5 <= fit.interval[1] for fit in fits])
    assert covered >= stats.binom.ppf(0.0005, 120, 0.95) / 120
    x = noise(0, 7)[0]
    exact = qap(0.5 * x + 3, x)
    assert exact.slope == pytest.approx(0.5, abs=1e-12)
    assert exact.p == 1 / 5_040


def test_free_relabelling_fails_on_a_factorial_where_joint_relabelling_holds():
    rng = np.random.default_rng(5)
    labels = list(FACTORIAL)
    topic = np.repeat(np.arange(6), 2)
    same = frame((topic[:, None] == topic).astype(float), labels)

    def grid() -> pd.DataFrame:
        """Directed pairs of topics differ, whatever the formats."""
        wide = rng.normal(size=(6, 6))[np.ix_(topic, topic)]
        return frame(wide + 0.3 * rng.normal(size=(12, 12)), labels)

    free, joint = [], []
    for _ in range(80):
        given = {"y": grid(), "x": grid(), "covariates": {"same topic": same}, "interval": None}
        free.append(qap(**given, permutations=199).p <= 0.05)
        joint.append(qap(**given, topics=FACTORIAL).p <= 0.05)
    assert np.mean(free) > 0.2
    assert np.sum(joint) <= stats.binom.ppf(0.9995, 80, 0.05)
