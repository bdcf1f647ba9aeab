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

from conceptnet_em import relabelling
from conceptnet_em.errors import InputError
from conceptnet_em.grid import Grid, too_small
from conceptnet_em.qap import design, intercept, mantel, qap
from conceptnet_em.relabelling import relabellings

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


def test_the_intercept_has_the_known_value_and_exact_counts_of_720_too():
    fit, greater = intercept(Y, X1, X2), intercept(Y, X1, X2, alternative="greater")
    assert (fit.slope, fit.t) == pytest.approx((TOY["ols"]["coef"][0], TOY["ols"]["t"][0]), 1e-6)
    assert fit.df == 27
    assert fit.p * 720 == pytest.approx(TOY["dsp_exact_two_sided_count_of_720"]["intercept"])
    assert greater.p * 720 == pytest.approx(TOY["dsp_exact_greater_count"]["intercept"])


def test_an_intercept_alone_is_the_mean_which_no_relabelling_can_speak_for():
    fit = intercept(Y)
    kept = ~np.eye(6, dtype=bool)
    assert fit.slope == pytest.approx(Y.values[kept].mean())
    assert fit.smallest_p == fit.p == 1


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


def test_mantel_agrees_with_scikit_bio_documentation_and_is_nan_without_variation():
    known = ANSWERS["skbio_min_3x3"]
    assert mantel(frame(known["x"]), frame(known["y"])) == pytest.approx(known["pearson"], abs=1e-6)
    assert math.isnan(mantel(frame(np.ones((3, 3))), frame(known["y"])))


def test_mantel_and_simple_qap_agree_with_scikit_bio():
    from skbio.stats import distance

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

    without, effects = rest(*dummies(6), w.values[kept]), rest(*dummies(6))
    all_in = rest(*dummies(6), x.values[kept], w.values[kept])
    fit = qap(y, x, covariates={"w": w})
    assert fit.r2 == pytest.approx(1 - all_in / np.sum((cells - cells.mean()) ** 2))
    assert fit.r2_over_effects == pytest.approx((without - all_in) / effects)


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


# --- relabelling groups (their members: test_relabelling.py) -------------------------------------


def test_distinct_topics_are_relabelled_freely():
    topics = {d: (d, "code" if k < 2 else "prose") for k, d in enumerate(DOMAINS)}
    assert relabellings(DOMAINS, topics=topics).size == 720
    assert qap(Y, X1, topics=topics) == qap(Y, X1)


def test_a_factorial_of_disjoint_sources_and_targets_is_refused():
    labels = list(FACTORIAL)
    y = frame(np.random.default_rng(0).normal(size=(6, 6)), labels[:6], labels[6:])
    with pytest.raises(InputError, match="same domains as sources and targets"):
        qap(y, y**2, topics=FACTORIAL)


def test_sampled_p_is_never_zero_and_agrees_with_the_exact_one(monkeypatch):
    y, x = noise(11, 7)
    strong, exact = qap(y + 50 * x, x), qap(y, x).p
    monkeypatch.setattr(relabelling, "ENUMERATE_UP_TO", 100)
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


def test_impossible_options_are_refused_together():
    with pytest.raises(InputError, match=r"(?s)no alternative 'bigger'.*interval 95"):
        qap(Y, X1, alternative="bigger", interval=95)


# --- designs of several predictors and stacked matrices ------------------------------------------


def stack(seed: int, size: int, traits: int, count: int) -> tuple[Grid, list[np.ndarray]]:
    """Cells (n, traits) of noise, `count` times."""
    rng = np.random.default_rng(seed)
    grid = Grid.of(frame(np.zeros((size, size))))
    return grid, [rng.normal(size=(len(grid.source), traits)) for _ in range(count)]


def test_each_predictor_is_tested_with_the_others_held_fixed():
    y, x, v, w = noise(3, 6, 4)
    grid = Grid.of(y)
    cells = {k: grid.cells(f)[:, None] for k, f in {"y": y, "x": x, "v": v, "w": w}.items()}
    given = design(cells["y"], {"x": cells["x"], "v": cells["v"]}, {"w": cells["w"]}, grid)
    group = relabellings(grid.labels)
    assert given.fit("x", group).p == qap(y, x, covariates={"v": v, "w": w}).p
    assert given.fit("x", group).slope == pytest.approx(
        qap(y, x, covariates={"v": v, "w": w}).slope
    )
    alone = given.fit("x", group, alone=True)
    assert (alone.p, alone.df) == (qap(y, x, covariates={"w": w}).p, 18 - 1)
    assert "covariate 'w', 'v' held fixed" in given.fit("x", group).null


@pytest.mark.parametrize("held", [0, 1])
def test_stacked_traits_agree_with_brute_force_over_all_relabellings(held):
    grid, (y, x, w) = stack(held, 5, 3, 3)
    given = design(y, {"x": x}, {"w": w} if held else {}, grid)
    fit = given.fit("x", relabellings(grid.labels))
    own = np.kron(np.array(dummies(5)).T, np.eye(3))  # trait × source and trait × target
    columns = [*own.T, *([w.ravel()] if held else [])]
    base = np.column_stack(columns)

    def off(v):
        return v - base @ np.linalg.lstsq(base, v, rcond=None)[0]

    left, t = off(x.ravel()).reshape(x.shape), []
    for order in permutations(range(5)):
        place = {(a, b): k for k, (a, b) in enumerate(zip(grid.source, grid.target, strict=True))}
        rows = [place[order[a], order[b]] for a, b in zip(grid.source, grid.target, strict=True)]
        moved, rest = off(left[rows].ravel()), off(y.ravel())
        slope = moved @ rest / (moved @ moved)
        t.append(slope / math.sqrt(np.sum((rest - slope * moved) ** 2) / fit.df / (moved @ moved)))
    assert fit.df == 60 - 3 * 9 - held - 1
    assert fit.t == pytest.approx(t[0])
    assert fit.p == np.mean(np.abs(t) >= abs(t[0]) - 1e-9)


def test_a_similarity_that_traits_share_gives_the_test_of_their_average():
    grid, (y, x) = stack(4, 6, 3, 2)
    shared, group = np.repeat(x[:, :1], 3, axis=1), relabellings(grid.labels)
    whole = design(y, {"x": shared}, {}, grid).fit("x", group)
    mean = design(y.mean(axis=1, keepdims=True), {"x": x[:, :1]}, {}, grid).fit("x", group)
    assert whole.slope == pytest.approx(mean.slope)
    assert whole.interval == pytest.approx(mean.interval)
    assert whole.p == mean.p


def test_a_covariate_that_nearly_explains_the_predictor_still_gives_exact_counts():
    y, x, noisy = noise(9, 5, 3)
    w = x + 0.01 * noisy
    counts = brute(y.values, x.values, [*dummies(5), w.values[~np.eye(5, dtype=bool)]])
    fit = qap(y, x, covariates={"w": w})
    assert fit.p == np.mean(np.abs(counts) >= abs(counts[0]) - 1e-9)


def test_a_relabelling_that_turns_the_predictor_into_the_covariate_keeps_its_digits():
    swap = [1, 0, 3, 2, 5, 4]
    u, small, y = (f.values for f in noise(10, 6, 3))
    kept = ~np.eye(6, dtype=bool)
    held = np.column_stack(dummies(6))
    square = np.zeros((6, 6))
    square[kept] = u[kept] - held @ np.linalg.lstsq(held, u[kept], rcond=None)[0]
    turned = square[np.ix_(swap, swap)]
    even, odd = square + turned, square - turned  # as long as each other: x ⟂ its swap
    x = even / np.linalg.norm(even) + odd / np.linalg.norm(odd)
    w = x[np.ix_(swap, swap)] + 1e-6 * small
    grid = Grid.of(frame(x))
    cells = [grid.cells(frame(m))[:, None] for m in (y, x, w)]
    model = design(cells[0], {"x": cells[1]}, {"w": cells[2]}, grid)
    found = model.products("x", relabellings(grid.labels)).y
    (t,) = brute(y, x, [*dummies(6), w[kept]], group=[swap])
    place = [tuple(o) for o in permutations(range(6))].index(tuple(swap))
    rest = y[kept] - (full := np.column_stack([held, w[kept]])) @ np.linalg.lstsq(full, y[kept])[0]
    r = found[place] / np.linalg.norm(rest)
    assert r * math.sqrt(17 / (1 - r**2)) == pytest.approx(t, rel=1e-7)


def test_relabellings_made_before_serve_many_fits_whatever_their_label_order():
    y, x = noise(2, 9)
    group = relabellings(list(y.index)[::-1], permutations=200, seed=4)
    assert qap(y, x, group=group).n_permutations == 200
    few = relabellings(list(y.index)[:8])
    with pytest.raises(InputError, match="these relabellings are for d00"):
        qap(y, x, group=few)


# --- simulation ----------------------------------------------------------------------------------


def test_fixed_effects_qap_rejects_a_true_null_as_often_as_it_says():
    rng, rejected = np.random.default_rng(2024), 0
    for k in range(300):
        y, x = related(rng, 6 + k % 3, 0.0)
        group = relabellings(list(y.index), permutations=499, seed=k, enumerate_up_to=720)
        rejected += qap(y, x, group=group, interval=None).p <= 0.05
    low, high = stats.binom.interval(0.999, 300, 0.05)
    assert low <= rejected <= high


def test_an_outcome_that_covariates_explain_is_refused_rather_than_fitted_to_rounding():
    x, w = noise(5, 6)
    with pytest.raises(InputError, match="y is explained by source and target effects, covariate"):
        qap(2 * w + 1, x, covariates={"w": w})


def test_a_planted_slope_is_recovered_and_covered():
    rng = np.random.default_rng(7)
    group = relabellings([f"d{k:02d}" for k in range(7)], permutations=999, enumerate_up_to=1)
    fits = [qap(*related(rng, 7, 0.5), group=group) for _ in range(120)]
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
