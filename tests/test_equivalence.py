"""Differences of slopes: planted ones, brute force, simulated error rates, and what is said."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from conceptnet_em.bootstrap import item_intervals
from conceptnet_em.comparison import Comparison, SlopeContrast
from conceptnet_em.contrasts import (
    intercept,
    judge_prediction,
    one_against_many,
    predictions,
    slope_contrast,
)
from conceptnet_em.equivalence import compare_traits
from conceptnet_em.errors import InputError
from conceptnet_em.freedman_lane import slope_weights, stacked_contrast, stacked_slope
from conceptnet_em.records import Similarity
from conceptnet_em.transfer import item_effects, matrix, transfer_table

SUBSTANCE = ("sycophantic", "frugal", "self_reliant")
MANNER = ("sporty", "poetic")
CONTROLS = (*SUBSTANCE, *MANNER)
FEW = {"permutations": 499}


def names(size: int) -> list[str]:
    return [f"d{k:02d}" for k in range(size)]


def frame(values) -> pd.DataFrame:
    return pd.DataFrame(values, names(len(values)), names(len(values)))


def alike(rng, size: int) -> np.ndarray:
    """Minus the distance of places in four dimensions; off-diagonal cells have mean 0 and SD 1."""
    place = rng.normal(size=(size, 4))
    x = -np.linalg.norm(place[:, None] - place[None], axis=2)
    off = x[~np.eye(size, dtype=bool)]
    return (x - off.mean()) / off.std()


def dyads(rng, size: int, variance: float) -> np.ndarray:
    """Pair effects with reciprocity .5."""
    pair = np.triu(rng.normal(size=(size, size)), 1)
    return np.sqrt(variance / 2) * (pair + pair.T + rng.normal(size=(size, size)))


def grids(rng, size: int, slopes, noise: float = 1.0, own: bool = False):
    """Traits with the variances of statistics.md 1.2, three seeds; trait parts times `noise`."""
    base = alike(rng, size)
    common = np.sqrt(0.15) * rng.normal(size=size) + np.sqrt(0.08) * rng.normal(size=(size, 1))
    common = common + dyads(rng, size, 0.12)
    ys, xs = {}, {}
    for trait, slope in slopes.items():
        x = (base + 0.8 * alike(rng, size)) / 1.28 if own else base
        parts = np.sqrt(0.08) * rng.normal(size=size) + np.sqrt(0.12) * rng.normal(size=(size, 1))
        parts = parts + dyads(rng, size, 0.10) + np.sqrt(0.10) * rng.normal(size=(size, size))
        ys[trait], xs[trait] = frame(slope * x + common + noise * parts), frame(x)
    return ys, xs


def with_home(ys, rng, units=None):
    """Give every trait an in-domain effect of 1 ± .1 on top of a level of .5, times its unit."""
    found = {}
    for number, (trait, y) in enumerate(ys.items()):
        values = y.to_numpy() + 0.5
        np.fill_diagonal(values, 1 + 0.1 * stats.zscore(rng.normal(size=len(values))))
        found[trait] = y * 0 + values * (units or 1 + number / 3)
    return found


def study(seed: int, size: int, case: float, control: float = 0.5, noise: float = 0.3, **options):
    rng = np.random.default_rng(seed)
    slopes = {"misaligned": case, **dict.fromkeys(CONTROLS, control)}
    ys, xs = grids(rng, size, slopes, noise)
    given = {**FEW, **options}
    return compare_traits(with_home(ys, rng), xs["misaligned"], **given)


def diagonal(y: pd.DataFrame, values) -> pd.DataFrame:
    return y.where(~np.eye(len(y), dtype=bool), np.diag(values * np.ones(len(y))))


def contrast(ys) -> pd.DataFrame:
    case, *others = ys.values()
    return case - sum(others[1:], others[0]) / len(others)


# --- the conclusion ------------------------------------------------------------------------------


def test_planted_equal_slopes_are_found_equivalent():
    found = study(3, 16, 0.5)
    one = found.primary
    assert (found.conclusion, one.equivalent, one.different) == ("equivalent", "yes", False)
    assert one.controls_slope == pytest.approx(0.5, abs=0.1)
    assert "equivalent within ±0.20" in str(found)
    assert ": yes (p = 0.002)." in str(found)


def test_planted_different_slopes_are_found_different_and_beyond_the_margin():
    found = study(3, 16, 0.0)
    assert (found.conclusion, found.primary.equivalent) == ("different", "no")
    assert found.primary.difference == pytest.approx(-0.5, abs=0.1)
    assert "no, the slopes differ (p = 0.002), and by more than the margin" in str(found)


def test_a_small_difference_can_be_shown_and_be_within_the_margin():
    found = study(3, 16, 0.58, noise=0.05)
    assert (found.conclusion, found.primary.different) == ("equivalent", True)
    assert "different, yet equivalent" in str(found)


def test_too_noisy_a_table_cannot_tell_and_says_what_it_would_take():
    found = study(5, 9, 0.5, noise=1.0, margin=0.05)
    assert found.conclusion == "cannot tell"
    text = " ".join(found.sentences())
    assert "does not show that there is none" in text
    assert f"a margin of ±{found.primary.reachable_margin:.2f} with 80% power" in text
    assert f"about {found.primary.domains_needed:.0f} domains instead of 9" in text
    assert "no difference" not in str(found)


def test_a_difference_without_a_verdict_on_the_margin_is_called_different():
    one = SlopeContrast(
        "all", ("a",), 0.2, difference=0.2, low=0.1, high=0.3, p_difference=0.01, p_above=0.001,
        p_below=0.5, controls_slope=0.5,
    )  # fmt: skip
    assert (one.equivalent, one.conclusion) == ("cannot tell", "different")


def test_what_it_would_take_follows_the_simulated_table():
    one = SlopeContrast("all", ("a",), 0.2, low=-0.13 * 1.645, high=0.13 * 1.645, n_domains=8)
    assert one.reachable_margin == pytest.approx(0.38, abs=0.005)  # table 4.2, D = 8
    assert one.domains_needed == 14  # table 4.2: power .84 at D = 14, .65 at D = 12


def test_a_margin_as_large_as_the_slope_is_pointed_at():
    assert "a case without any slope would pass" in str(study(3, 16, 0.5, margin=0.7))
    assert "a case without any slope would pass" not in str(study(3, 16, 0.5))


def test_controls_without_a_slope_are_pointed_at():
    found = study(11, 12, 0.0, control=0.0)
    assert found.primary.controls_p > 0.05
    assert "own slope is not shown to differ from 0" in str(found)


# --- the tests of slopes -------------------------------------------------------------------------


@pytest.mark.parametrize("own", [False, True])
def test_two_one_sided_tests_and_the_interval_agree(own):
    rng, agreed = np.random.default_rng(8), set()
    for _ in range(12):
        ys, xs = grids(rng, 7, dict.fromkeys("abcd", 0.5), 0.6, own)
        for margin in (0.1, 0.25, 0.6):
            options = {"margin": margin, "permutations": 299}
            fit = (
                stacked_contrast(ys, xs, "a", **options)
                if own
                else slope_contrast(contrast(ys), xs["a"], **options)
            )
            rejects = max(fit.p_above, fit.p_below) <= 0.05
            assert rejects == (-margin < fit.low and fit.high < margin)
            agreed.add(rejects)
    assert agreed == {True, False}


def test_two_one_sided_tests_hold_their_level_where_the_difference_is_the_margin():
    rng, rejected = np.random.default_rng(2), 0
    for _ in range(300):
        ys, xs = grids(rng, 9, {"a": 0.7, "b": 0.5, "c": 0.5, "d": 0.5})
        fit = slope_contrast(contrast(ys), xs["a"], margin=0.2, permutations=139)
        rejected += max(fit.p_above, fit.p_below) <= 0.05
    assert rejected / 300 <= 0.065


def test_the_same_matrix_added_to_all_traits_changes_nothing():
    rng = np.random.default_rng(4)
    ys, xs = grids(rng, 9, dict.fromkeys(("misaligned", *SUBSTANCE), 0.5))
    bare = {trait: diagonal(y, np.nan) for trait, y in ys.items()}  # hence in their own unit
    more = frame(rng.normal(size=(9, 9))) + 3 * xs["frugal"]
    added = {trait: y + more for trait, y in bare.items()}
    one, other = (compare_traits(given, xs["frugal"], **FEW) for given in (bare, added))
    fields = ("difference", "low", "high", "p_difference", "p_above", "p_below")
    assert [getattr(other.primary, f) for f in fields] == pytest.approx(
        [getattr(one.primary, f) for f in fields]
    )
    assert other.intercepts[0].difference == pytest.approx(one.intercepts[0].difference)
    assert other.primary.controls_slope > one.primary.controls_slope + 2


def test_the_order_of_labels_and_of_traits_does_not_matter():
    rng = np.random.default_rng(6)
    ys, xs = grids(rng, 9, dict.fromkeys(("misaligned", *SUBSTANCE), 0.5))
    ys = with_home(ys, rng)
    order = rng.permutation(names(9))
    moved = {trait: ys[trait].loc[order, rng.permutation(names(9))] for trait in reversed(ys)}
    one = compare_traits(ys, xs["frugal"], **FEW)
    other = compare_traits(moved, xs["frugal"].loc[order], controls=SUBSTANCE, **FEW)
    fields = ("difference", "low", "high", "p_difference", "p_above", "controls_slope")
    assert [getattr(other.primary, f) for f in fields] == pytest.approx(
        [getattr(one.primary, f) for f in fields], abs=1e-9
    )
    assert other.intercepts[0].se == pytest.approx(one.intercepts[0].se)
    assert other.hold_out[2].r == pytest.approx(one.hold_out[2].r)


# --- trait-specific similarity -------------------------------------------------------------------


def brute(ys, xs, null: float) -> np.ndarray:
    """Freedman–Lane t of the case's extra slope for all relabellings, by least squares anew."""
    size, traits = len(next(iter(ys.values()))), list(ys)
    off = ~np.eye(size, dtype=bool)
    source, target = np.nonzero(off)
    one = np.hstack([np.eye(size)[source], np.eye(size)[target]])
    effects = np.kron(np.eye(len(traits)), one)
    x = np.concatenate([xs[t].to_numpy()[off] for t in traits])
    case = x * (np.arange(len(x)) < len(source))
    y = np.concatenate([ys[t].to_numpy()[off] for t in traits]) - null * case
    small, whole = np.column_stack([effects, x]), np.column_stack([effects, x, case])
    fitted = small @ np.linalg.lstsq(small, y, rcond=None)[0]
    blocks = np.zeros((len(traits), size, size))
    blocks[:, off] = (y - fitted).reshape(len(traits), -1)
    inverse, values = np.linalg.pinv(whole), []
    root = math.sqrt((inverse @ inverse.T)[-1, -1])
    for order in permutations(range(size)):
        new = fitted + blocks[:, order][:, :, order][:, off].ravel()
        solution = inverse @ new
        values.append(solution[-1] / (np.linalg.norm(new - whole @ solution) * root))
    return np.array(values)


def test_stacked_traits_give_the_counts_of_brute_force_freedman_lane():
    ys, xs = grids(np.random.default_rng(1), 5, dict.fromkeys("abc", 0.5), 0.5, own=True)
    fit = stacked_contrast(ys, xs, "a", margin=0.3)
    zero, above, below = (brute(ys, xs, null) for null in (0, -0.3, 0.3))
    assert fit.p_difference * 120 == pytest.approx(np.sum(np.abs(zero) >= abs(zero[0]) - 1e-9))
    assert fit.p_above * 120 == pytest.approx(np.sum(above >= above[0] - 1e-9))
    assert fit.p_below * 120 == pytest.approx(np.sum(below <= below[0] + 1e-9))
    assert (fit.n_permutations, fit.exact, fit.smallest_p) == (120, True, 1 / 120)


def test_stacked_traits_with_one_similarity_give_the_difference_of_the_contrast_matrix():
    rng = np.random.default_rng(9)
    ys, xs = grids(rng, 7, {"a": 0.9, "b": 0.5, "c": 0.2})
    held = {"format": frame(rng.normal(size=(7, 7)))}
    for covariates in ({}, held):
        one = slope_contrast(contrast(ys), xs["a"], margin=0.2, covariates=covariates)
        other = stacked_contrast(ys, xs, "a", margin=0.2, covariates=covariates)
        assert other.difference == pytest.approx(one.difference)
        assert (other.low, other.high) == pytest.approx((one.low, one.high), abs=0.05)
        weights = slope_weights(xs, "a", covariates=covariates)
        total = sum((weights[t] * ys[t]).sum().sum() for t in ys)
        assert total == pytest.approx(one.difference)


def test_the_common_slope_of_stacked_controls_is_least_squares_with_effects_of_each_trait():
    ys, xs = grids(np.random.default_rng(3), 6, {"a": 0.4, "b": 0.6}, own=True)
    fit = stacked_slope(ys, xs)
    off = ~np.eye(6, dtype=bool)
    source, target = np.nonzero(off)
    effects = np.kron(np.eye(2), np.hstack([np.eye(6)[source], np.eye(6)[target]]))
    x, y = (np.concatenate([given[t].to_numpy()[off] for t in "ab"]) for given in (xs, ys))
    solved = np.linalg.lstsq(np.column_stack([effects, x]), y, rcond=None)[0]
    assert fit.slope == pytest.approx(solved[-1])
    assert fit.low < fit.slope < fit.high


def test_trait_specific_similarity_finds_a_planted_difference():
    rng = np.random.default_rng(5)
    ys, xs = grids(rng, 12, {"misaligned": 0.1, **dict.fromkeys(CONTROLS, 0.5)}, 0.3, own=True)
    given = {t: Similarity("trait-direction", x, trait=t) for t, x in xs.items()}
    found = compare_traits(with_home(ys, rng, 1.0), given, **FEW)
    assert (found.conclusion, found.predictor) == ("different", "trait-direction")
    assert found.primary.difference == pytest.approx(-0.4, abs=0.12)
    assert found.primary.method == "Freedman–Lane on stacked traits"
    slopes = {row.trait: row.slope for row in found.slopes}
    assert found.primary.controls_slope + found.primary.difference == pytest.approx(
        slopes["misaligned"]
    )
    assert found.intercepts[0].status == "ok"


def test_similarity_that_is_all_source_effects_is_refused_with_the_reason():
    ys, _ = grids(np.random.default_rng(3), 6, dict.fromkeys("abc", 0.5))
    flat = frame(np.tile(np.arange(6.0), (6, 1)).T)
    with pytest.raises(InputError, match="explained by source and target effects"):
        stacked_contrast(ys, dict.fromkeys("abc", flat), "a", margin=0.2)
    found = compare_traits(
        {t: y.where(~np.eye(6, dtype=bool)) for t, y in ys.items()}, flat, case="a"
    )
    assert (found.status, found.conclusion) == ("not_estimable", "not_estimable")
    assert "explained by source and target effects" in found.reason


@pytest.mark.slow
def test_stacked_traits_hold_their_level():
    rng, rejected = np.random.default_rng(12), 0
    for _ in range(600):
        ys, xs = grids(rng, 9, dict.fromkeys("abcd", 0.5), own=True)
        rejected += stacked_contrast(ys, xs, "a", margin=0.2, permutations=299).p_difference <= 0.05
    assert 0.03 <= rejected / 600 <= 0.075


# --- level, one more control, hold-out -----------------------------------------------------------


def test_the_intercept_is_the_mean_with_the_crossed_standard_error():
    y = frame(np.random.default_rng(0).normal(size=(6, 6)))
    fit = intercept(y, margin=0.5)
    cells = y.where(~np.eye(6, dtype=bool))
    rows, columns = cells.mean(axis=1), cells.mean(axis=0)
    apart = (rows.var() + columns.var()) / 6
    together = (rows + columns).var() / 6 * (5 / 4) ** 2
    assert fit.difference == pytest.approx(cells.stack().mean())
    assert fit.se == pytest.approx(math.sqrt(max(apart, together)))
    assert (fit.df, fit.high - fit.low) == (5, pytest.approx(2 * stats.t.ppf(0.95, 5) * fit.se))
    assert fit.p_difference == pytest.approx(2 * stats.t.sf(abs(fit.difference) / fit.se, 5))
    assert fit.p_below == pytest.approx(stats.t.cdf((fit.difference - 0.5) / fit.se, 5))


def test_the_intercept_of_a_rectangular_grid_has_the_smaller_side_as_its_degrees_of_freedom():
    y = pd.DataFrame(np.random.default_rng(0).normal(size=(4, 7)), list("abcd"), list("efghijk"))
    fit = intercept(y, margin=0.5)
    assert fit.df == 3
    assert fit.difference == pytest.approx(y.to_numpy().mean())


def test_an_intercept_without_any_spread_to_judge_it_by_is_refused():
    """Equal means leave an error of 0, or of rounding: no t-test may claim certainty from it."""
    flat = frame(np.full((6, 6), 0.1 + 0.2))
    with pytest.raises(InputError, match="the domains' means do not differ"):
        intercept(flat, margin=0.2)
    with pytest.raises(InputError, match="a single source or target"):
        intercept(pd.DataFrame(np.ones((1, 8)), ["a"], list("bcdefghi")), margin=0.2)


def test_the_intercept_is_told_from_the_slope():
    found = study(3, 16, 0.5)
    rng = np.random.default_rng(3)
    ys, xs = grids(rng, 16, {"misaligned": 0.5, **dict.fromkeys(CONTROLS, 0.5)}, 0.3)
    ys = with_home(ys, rng, 1.0)
    off = ~np.eye(16, dtype=bool)
    ys["misaligned"] = ys["misaligned"] + 0.6 * off
    raised = compare_traits(ys, xs["frugal"], **FEW)
    assert raised.primary.equivalent == "yes"
    assert raised.intercepts[0].equivalent == "no"
    assert raised.intercepts[0].difference == pytest.approx(0.6, abs=0.1)
    assert abs(found.intercepts[0].difference) < 0.15


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.0, 0.06])
@pytest.mark.parametrize("size", [8, 12])
def test_the_interval_of_the_intercept_covers(size, shared):
    """`shared`: covariance of a domain's source and target effects."""
    rng, covered = np.random.default_rng(size), 0
    root = np.linalg.cholesky([[0.12, shared], [shared, 0.08]])
    for _ in range(1_500):
        source, target = (rng.normal(size=(size, 2)) @ root.T).T
        y = source[:, None] + target + dyads(rng, size, 0.1)
        fit = intercept(frame(y + math.sqrt(0.1) * rng.normal(size=(size, size))), margin=0.5)
        covered += abs(fit.difference) <= stats.t.ppf(0.975, size - 1) * fit.se
    assert 0.94 <= covered / 1_500 <= 0.99


CROSSED = {f"d{k:02d}": (f"t{k // 2}", "code" if k % 2 else "prose") for k in range(12)}


def test_domains_of_a_topic_are_one_draw_for_the_intercept():
    """Doubling every topic into two formats that behave alike must not add evidence."""
    rng = np.random.default_rng(4)
    source, target = rng.normal(size=(6, 1)), rng.normal(size=6)
    wide = frame((source + target)[np.ix_(np.repeat(range(6), 2), np.repeat(range(6), 2))])
    apart, held = (intercept(wide, margin=0.5, topics=t) for t in (None, CROSSED))
    assert (apart.df, held.df) == (11, 5)
    assert held.se == pytest.approx(apart.se * math.sqrt(2 * (6 / 5) / (12 / 11)))
    assert held.difference == apart.difference
    own = {name: (name, "prose") for name in CROSSED}
    assert intercept(wide, margin=0.5, topics=own) == apart
    with pytest.raises(InputError, match="topics names no topic for d11"):
        intercept(wide, margin=0.5, topics={k: v for k, v in CROSSED.items() if k != "d11"})


def test_the_interval_of_the_intercept_covers_on_a_factorial_only_with_its_topics():
    rng, topic = np.random.default_rng(2), np.repeat(np.arange(6), 2)
    covered = {"topics": 0, "domains": 0}
    for _ in range(400):
        parts = [math.sqrt(0.1) * rng.normal(size=6) for _ in range(2)]
        y = parts[0][topic][:, None] + parts[1][topic] + 0.3 * rng.normal(size=(12, 12))
        for name, given in (("topics", CROSSED), ("domains", None)):
            fit = intercept(frame(y), margin=0.5, topics=given)
            covered[name] += abs(fit.difference) <= stats.t.ppf(0.975, fit.df) * fit.se
    assert covered["topics"] / 400 >= 0.92
    assert covered["domains"] / 400 < 0.90


def test_a_comparison_on_a_factorial_takes_topics_as_the_sample():
    rng = np.random.default_rng(3)
    ys, xs = grids(rng, 12, dict.fromkeys(("misaligned", "frugal", "sporty"), 0.5))
    found = compare_traits(with_home(ys, rng), xs["frugal"], topics=CROSSED, **FEW)
    assert found.intercepts[0].df == 5
    assert "joint relabelling of 6 topics × 2 formats" in found.primary.group


def test_one_against_many_follows_the_formula():
    controls = [0.40, 0.50, 0.60, 0.45, 0.55]  # mean .5, sd sqrt(.025 / 4) = .0790569
    fit = one_against_many(0.8, controls)
    assert fit.difference == pytest.approx(0.3)
    assert fit.spread == pytest.approx(0.0790569, abs=1e-7)
    assert fit.t == pytest.approx(0.3 / (0.0790569 * math.sqrt(1.2)), rel=1e-5)  # 3.4641
    assert fit.t == pytest.approx(3.4641016)
    assert fit.p == pytest.approx(0.025721, abs=1e-6)
    assert (fit.low, fit.high) == pytest.approx((0.5 - 2.776445 * 0.0866025, 0.7404472), abs=1e-5)
    assert fit.half_width == pytest.approx(2.131847 * 0.0866025, abs=1e-6)


@pytest.mark.parametrize(("count", "half_width"), [(3, 0.337), (4, 0.263), (8, 0.201), (15, 0.182)])
def test_the_half_width_is_that_of_the_design(count, half_width):
    spread = stats.zscore(np.arange(count), ddof=1) * 0.10
    assert one_against_many(0.0, list(spread)).half_width == pytest.approx(half_width, abs=6e-4)


def test_two_controls_are_too_few_to_judge_one_more_by():
    rng = np.random.default_rng(3)
    ys, xs = grids(rng, 6, dict.fromkeys(("misaligned", "frugal", "sporty"), 0.5))
    found = compare_traits(with_home(ys, rng), xs["frugal"], **FEW).against_many[0]
    assert (found.status, found.equivalent) == ("not_estimable", "not_estimable")
    assert "K = 2 controls" in found.reason


def test_controls_alike_but_for_rounding_show_no_spread():
    alike = [0.1 + 0.2, 0.3, 0.3, 0.3]  # .1 + .2 is not quite .3
    assert np.std(alike) > 0
    with pytest.raises(InputError, match="the 4 controls have the same slope"):
        one_against_many(0.3, alike)


def test_the_case_is_predicted_from_the_controls_without_being_looked_at():
    rng = np.random.default_rng(3)
    ys, xs = grids(rng, 10, dict.fromkeys("abc", 0.5), noise=0.0)
    controls = {t: ys[t] for t in "bc"}
    guess = predictions(controls, xs, "a")["effects and similarity"]
    off = ~np.eye(10, dtype=bool)
    fitted, cells = guess.to_numpy()[off], ys["b"].to_numpy()[off]
    source, target = np.nonzero(off)
    design = np.column_stack([np.eye(10)[source], np.eye(10)[target], xs["a"].to_numpy()[off]])
    assert fitted == pytest.approx(design @ np.linalg.lstsq(design, cells, rcond=None)[0])
    assert np.isnan(np.diag(guess)).all()


def test_hold_out_prediction_is_good_for_a_like_trait_and_poor_for_an_unlike_one():
    like, unlike = (study(3, 12, slope).hold_out for slope in (0.5, -0.5))
    assert [row.predicted_from for row in like] == [
        "mean and similarity",
        "source and target effects",
        "effects and similarity",
    ]
    assert like[2].r2 > like[1].r2 + 0.1 > 0.6
    assert like[2].calibration == pytest.approx(1, abs=0.25)
    assert like[2].p == 1 / 500
    assert unlike[0].r < 0
    assert unlike[0].r2 < 0


@pytest.mark.parametrize("back", [0.4, 0.9])
def test_two_domains_predict_nothing_from_similarity_and_say_why(back):
    """Effects leave nothing of similarity: 0 / 0 must be NaN with its reason and no warning."""
    x, rng = frame([[1.0, 0.4], [back, 1.0]]), np.random.default_rng(3)
    xs, ys = dict.fromkeys("abc", x), {t: frame(rng.normal(size=(2, 2))) for t in "abc"}
    guesses = predictions({t: ys[t] for t in "bc"}, xs, "a")
    reason = "similarity is explained by source and target effects"
    for name in ("mean and similarity", "effects and similarity"):
        assert guesses[name].isna().all(axis=None)
        assert guesses[name].attrs["note"].startswith(reason)
        with pytest.raises(InputError, match=reason):
            judge_prediction(ys["a"], guesses[name])
    effects = guesses["source and target effects"]
    assert "note" not in effects.attrs
    assert effects.loc["d00", "d01"] == pytest.approx((ys["b"] + ys["c"]).loc["d00", "d01"] / 2)
    with pytest.raises(InputError, match="no off-diagonal cell"):
        predictions({"b": frame([[1.0]])}, {"a": frame([[1.0]]), "b": frame([[1.0]])}, "a")
    found = compare_traits({t: diagonal(y, np.nan) for t, y in ys.items()}, x, case="a")
    assert [row.status for row in found.hold_out] == ["not_estimable"] * 3
    assert found.hold_out[0].reason.startswith(reason)
    assert "2 domains are too few" in found.hold_out[1].reason


def test_similarity_that_effects_explain_predicts_nothing_from_rounding():
    """With 8 domains the remainder is rounding, whose slope would be any number."""
    ys, _ = grids(np.random.default_rng(3), 8, dict.fromkeys("abc", 0.5))
    flat = frame(np.sqrt(np.arange(8.0))[:, None] + np.arange(8.0) / 7)
    found = compare_traits({t: diagonal(y, np.nan) for t, y in ys.items()}, flat, case="a")
    by_name = {row.predicted_from: row for row in found.hold_out}
    assert by_name["source and target effects"].status == "ok"
    for name in ("mean and similarity", "effects and similarity"):
        assert by_name[name].status == "not_estimable"
        assert "explained by source and target effects" in by_name[name].reason
        assert math.isnan(by_name[name].r2)


# --- items ---------------------------------------------------------------------------------------


def scores(rng, replicates=(1, 2), size=5, n_items=6, training=0.0, item=0.3, traits=("a", "b")):
    """A scores table: probe items and training samples move the organisms, all traits alike."""
    domains, answers = names(size), ["neutral", *traits]
    rows = []
    probe = {t: item * rng.normal(size=(len(answers), n_items)) for t in domains}
    sampled = {
        (s, r): training * rng.normal(size=(len(answers), size))
        for s in domains
        for r in replicates
    }
    organisms = [("base", None, None, None)] + [
        (f"{t}-{s}-{r}", t, s, r) for t in answers for s in domains for r in replicates
    ]
    for organism, trait, source, replicate in organisms:
        for column, target in enumerate(domains):
            for number in range(n_items):
                for place, answer in enumerate(answers):
                    value = 0.0
                    if trait is not None and answer == trait != "neutral":
                        moved = probe[target][place, number]
                        moved += sampled[source, replicate][place, column]
                        value = (2.0 if source == target else 1.0) + moved
                    rows.append(
                        (organism, trait, source, "r", replicate, target, f"{target}-{number}",
                         answer, "all", 10, 10 * value, "ok")
                    )  # fmt: skip
    columns = ["organism", "trait", "source", "recipe", "replicate", "target", "item",
               "answer_trait", "part", "n_tokens", "logprob", "status"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def drawn(table, *, replicate=None, scale="net", weights=None, traits=("a", "b"), **options):
    transfer = transfer_table(table)
    given = {t: matrix(transfer, t, scale=scale, replicate=replicate) for t in traits}
    first = given[traits[0]].values
    weights = weights or {"mean": {"a": first * 0 + 1 / first.size}}
    return item_intervals(item_effects(table), given, weights, **options), given


def test_the_interval_over_probe_items_has_the_spread_of_a_mean_over_items():
    table = scores(np.random.default_rng(0), n_items=40, replicates=(1,))
    found, given = drawn(table, in_domain=False, resamples=2_000)
    cells = item_effects(table).query("trait == 'a' and answer_trait == 'a'")
    per_target = cells.groupby(["target", "item"])["net"].mean().groupby("target")
    se = math.sqrt((per_target.var(ddof=0) / 40).sum()) / 5  # shared by all sources of a target
    one = found["mean"]
    assert (one.high - one.low) / 2 == pytest.approx(1.645 * se, rel=0.06)
    assert (one.high + one.low) / 2 == pytest.approx(
        given["a"].values.to_numpy().mean(), abs=se / 4
    )
    assert "one replicate only" in one.reason


def test_two_replicates_add_the_spread_between_training_samples():
    table = scores(np.random.default_rng(1), training=0.5, item=0.0, size=6)
    found, _ = drawn(table, in_domain=False, resamples=3_000)
    two = [matrix(transfer_table(table), "a", scale="net", replicate=r).values for r in (1, 2)]
    half = ((two[0] - two[1]) / 2).mean(axis=1)  # of a source's mean over targets
    se = math.sqrt((half**2).sum()) / 6
    one = found["mean"]
    assert (one.high - one.low) / 2 == pytest.approx(1.645 * se, rel=0.06)
    assert one.reason == ""


def test_one_replicate_alone_is_wider_than_the_mean_of_two_when_both_are_known():
    table = scores(np.random.default_rng(1), training=0.5, item=0.0)
    both, single = (drawn(table, in_domain=False, replicate=r)[0]["mean"] for r in (None, 1))
    assert (single.high - single.low) / (both.high - both.low) == pytest.approx(
        math.sqrt(2), rel=0.02
    )


def test_the_constant_is_drawn_along():
    """Items that move all cells alike, at home too, move the mean but hardly the mean in units."""
    table = scores(np.random.default_rng(2), item=0.0, n_items=8)
    strength = np.random.default_rng(3).uniform(0.5, 1.5, 8)
    table["logprob"] *= strength[table["item"].str[-1].astype(int)]
    free, held = (drawn(table, in_domain=flag)[0]["mean"] for flag in (False, True))
    assert (held.high - held.low) / held.high < 0.25 * (free.high - free.low) / free.high


def test_traits_share_the_drawn_items():
    """The same trait under two names: a draw moves both alike, so their difference stays 0."""
    table = scores(np.random.default_rng(2), training=0.3)
    own = item_effects(table).query("trait == 'a' and answer_trait == 'a'")
    items = pd.concat([own, own.assign(trait="twin", answer_trait="twin")])
    given = dict.fromkeys(("a", "twin"), matrix(transfer_table(table), "a", scale="net"))
    flat = given["a"].values * 0 + 1
    weights = {"apart": {"a": flat, "twin": -flat}, "alone": {"a": flat}}
    found = item_intervals(items, given, weights)
    assert found["apart"][:2] == pytest.approx((0, 0), abs=1e-12)
    assert found["alone"].high - found["alone"].low > 0.1


@pytest.mark.parametrize("from_training", [False, True])
def test_the_control_organism_is_carried_along(from_training):
    """Only the neutral organisms move: what they do to net transfer must be in the interval."""
    rng, size, n_items = np.random.default_rng(6), 6, 30
    table = scores(rng, size=size, n_items=n_items, item=0.0, replicates=(1, 2))
    still, _ = drawn(table, in_domain=False)
    assert still["mean"].high - still["mean"].low < 1e-9
    moved = (table["trait"] == "neutral") & (table["answer_trait"] == "a")
    keys = ["source", "replicate"] if from_training else ["target", "item"]
    noise = pd.Series(
        {key: 0.4 * rng.normal() for key in table.loc[moved, keys].itertuples(index=False)}
    )
    where = [tuple(row) for row in table.loc[moved, keys].itertuples(index=False)]
    table.loc[moved, "logprob"] += 10 * np.array([noise[key] for key in where])  # 10 tokens
    one = drawn(table, in_domain=False, resamples=3_000)[0]["mean"]
    if from_training:
        half = noise.to_numpy().reshape(size, 2) @ [0.5, -0.5]
        se = math.sqrt((half**2).sum()) / size
    else:
        spread = noise.to_numpy().reshape(size, n_items).var(axis=1)
        se = math.sqrt((spread / n_items).sum()) / size
    assert (one.high - one.low) / 2 == pytest.approx(1.645 * se, rel=0.08)


def test_items_that_are_not_behind_the_matrices_give_no_interval():
    table = scores(np.random.default_rng(2))
    found, given = drawn(table)
    assert math.isfinite(found["mean"].low)
    other = {t: found.values * 1.01 for t, found in given.items()}
    weights = {"mean": {"a": other["a"] * 0 + 1}}
    one = item_intervals(item_effects(table), other, weights)["mean"]
    assert math.isnan(one.low)
    assert "do not average to the transfer of a" in one.reason
    with pytest.raises(InputError, match="the items lack columns"):
        item_intervals(item_effects(table).drop(columns="item"), given, weights)


def test_a_comparison_carries_the_interval_over_items():
    table = scores(np.random.default_rng(4), size=6, training=0.2, traits=("a", "b", "c"))
    transfer = transfer_table(table)
    given = {t: matrix(transfer, t, scale="net") for t in "abc"}
    x = frame(alike(np.random.default_rng(4), 6))
    found = compare_traits(given, x, case="a", items=item_effects(table), resamples=300)
    one = found.primary
    assert one.bootstrap_low < one.difference < one.bootstrap_high
    assert one.bootstrap_reason == ""
    assert f"; over items {one.bootstrap_low:+.2f}, " in str(found)


# --- who takes part, what is said ----------------------------------------------------------------


def test_controls_are_compared_by_kind_and_the_reference_never_enters():
    rng = np.random.default_rng(3)
    ys, xs = grids(rng, 9, dict.fromkeys(("misaligned", *CONTROLS, "neutral"), 0.5))
    found = compare_traits(with_home(ys, rng), xs["frugal"], **FEW)
    assert [one.against for one in found.contrasts] == ["all", "substance", "manner"]
    assert [set(one.controls) for one in found.contrasts] == [
        set(CONTROLS), set(SUBSTANCE), set(MANNER)
    ]  # fmt: skip
    assert [row.kind for row in found.slopes] == ["case", *["substance"] * 3, *["manner"] * 2]
    own = compare_traits(with_home(ys, rng), xs["frugal"], kinds={"x": ["poetic"]}, **FEW)
    assert [one.against for one in own.contrasts] == ["all", "x"]


def test_a_control_without_an_in_domain_effect_is_left_out_and_named():
    rng = np.random.default_rng(3)
    ys, xs = grids(rng, 9, dict.fromkeys(("misaligned", *CONTROLS), 0.5))
    ys = with_home(ys, rng)
    ys["frugal"] = diagonal(ys["frugal"], rng.normal(size=9))
    ys["sporty"].iloc[0, 1] = np.nan
    found = compare_traits(ys, xs["frugal"], **FEW)
    assert set(found.primary.controls) == {"sycophantic", "self_reliant", "poetic"}
    assert any("frugal is left out: its mean in-domain effect" in note for note in found.notes)
    assert any("sporty is left out: 1 of its 72 off-diagonal" in note for note in found.notes)
    assert {row.trait: row.status for row in found.slopes}["frugal"] == "not_estimable"


def test_a_case_that_is_left_out_is_not_estimable_with_the_reason():
    rng = np.random.default_rng(3)
    ys, xs = grids(rng, 9, dict.fromkeys(("misaligned", *CONTROLS), 0.5))
    ys = with_home(ys, rng)
    ys["misaligned"] = diagonal(ys["misaligned"], rng.normal(size=9))
    found = compare_traits(ys, xs["frugal"], **FEW)
    assert (found.status, found.conclusion) == ("not_estimable", "not_estimable")
    assert "misaligned is left out: its mean in-domain effect" in found.reason
    assert "is not_estimable: misaligned is left out" in str(found)
    assert {row.trait: row.status for row in found.slopes}["frugal"] == "ok"
    assert {row.status for row in found.hold_out} == {"not_estimable"}


def test_four_domains_are_not_estimable():
    found = study(3, 4, 0.5)
    assert found.status == "not_estimable"
    assert "4 domains are too few" in found.reason
    assert math.isnan(found.intercepts[0].difference)


@pytest.mark.parametrize(("size", "warned"), [(5, True), (7, True), (8, False)])
def test_fewer_than_eight_domains_are_warned_of(size, warned):
    found = study(3, size, 0.5)
    assert found.status == "ok"
    assert any(f"{size} domains are few" in note for note in found.notes) == warned


def test_a_rectangular_grid_is_compared_with_its_own_group():
    """Domains trained on and domains measured in may differ: nothing may need a square."""
    rng = np.random.default_rng(9)
    rows, columns = list("abcde"), list("uvwxyz")

    def rectangle(values) -> pd.DataFrame:
        return pd.DataFrame(values, rows, columns)

    x = rectangle(rng.normal(size=(5, 6)))
    slopes = {"misaligned": 0.9, **dict.fromkeys(CONTROLS, 0.4)}
    common = rng.normal(size=6)
    ys = {t: s * x + 0.01 * rng.normal(size=(5, 6)) + common for t, s in slopes.items()}
    found = compare_traits(ys, x.iloc[::-1, ::-1], **FEW)
    spread = float(x.to_numpy().std())
    assert found.primary.difference == pytest.approx(0.5 * spread, abs=0.02)
    assert found.primary.controls_slope == pytest.approx(0.4 * spread, abs=0.02)
    assert "5! × 6! = 86,400" in found.primary.group
    assert (found.primary.n_domains, found.primary.n_permutations) == (11, 499)
    assert found.intercepts[0].df == 4
    assert found.hold_out[2].r > 0.8


def test_a_similarity_with_a_hole_says_which_cell_is_lacking():
    rng = np.random.default_rng(3)
    ys, xs = grids(rng, 6, dict.fromkeys(("misaligned", *CONTROLS), 0.5))
    xs["frugal"].iloc[0, 1] = np.nan
    for similarity in (xs["frugal"], xs):
        found = compare_traits(with_home(ys, rng), similarity, **FEW)
        assert found.status == "not_estimable"
        assert "lacks 1 of 30 off-diagonal cells, the first d00 → d01" in found.reason
        assert {row.status for row in found.hold_out} == {"not_estimable"}
    one = found.intercepts[0]
    assert (one.status, one.reason) == (
        "not_estimable",
        "no slope of frugal leads to equal similarity",
    )
    assert {row.trait for row in found.slopes if row.status == "ok"} == {
        "misaligned",
        *CONTROLS,
    } - {"frugal"}
    constant = compare_traits(with_home(ys, rng), frame(np.full((6, 6), 0.3)), **FEW)
    assert "constant off the diagonal" in constant.reason


def test_units_cancel_and_without_a_diagonal_the_tables_unit_stays():
    rng = np.random.default_rng(3)
    ys, xs = grids(rng, 9, dict.fromkeys(("misaligned", *CONTROLS), 0.5))
    ys = with_home(ys, rng, 1.0)
    scaled = {trait: y * k for k, (trait, y) in enumerate(ys.items(), 1)}
    one, other = (compare_traits(given, xs["frugal"], **FEW) for given in (ys, scaled))
    assert other.primary.difference == pytest.approx(one.primary.difference)
    assert [row.unit for row in other.slopes] == pytest.approx([1, 2, 3, 4, 5, 6])
    bare = {t: y.where(~np.eye(9, dtype=bool)) for t, y in ys.items()}
    own = compare_traits(bare, xs["frugal"], **FEW)
    assert any("own unit" in note for note in own.notes)
    assert "units of the table per SD" in str(own)
    assert "in-domain units" not in str(own)
    assert own.primary.difference == pytest.approx(one.primary.difference)


def test_every_fault_in_the_names_is_told_at_once():
    ys, xs = grids(np.random.default_rng(3), 6, dict.fromkeys(("misaligned", "frugal"), 0.5))
    with pytest.raises(InputError) as caught:
        compare_traits(ys, {"frugal": xs["frugal"]}, controls=["frugl", "misaligned"])
    text = str(caught.value)
    assert "no trait 'frugl' (did you mean 'frugal'?)" in text
    assert "cannot be its own control" in text
    assert "no similarity for misaligned, frugl" in text
    with pytest.raises(InputError, match="no control to compare"):
        compare_traits({"misaligned": ys["misaligned"]}, xs["frugal"])
    with pytest.raises(InputError, match="margins must be above 0"):
        compare_traits(ys, xs["frugal"], margin=0)
    with pytest.raises(InputError, match="lacks row labels"):
        compare_traits(ys, xs["frugal"].iloc[1:])


def test_a_comparison_survives_json():
    found = study(3, 6, 0.5, controls=["frugal", "sporty"])
    again = Comparison.from_json(found.to_json())
    assert again.to_json() == found.to_json()
    assert str(again) == str(found)
    assert again.contrasts[0].controls == ("frugal", "sporty")
    assert math.isnan(again.against_many[0].t)
    assert again.primary.exact is True


def test_the_paragraph_has_the_margin_beside_the_slope():
    found = study(3, 16, 0.5)
    text = found.sentences()[1]
    share = found.primary.margin / found.primary.controls_slope
    assert f"±0.20 ({share:.0%} of the controls' slope)" in text
    assert "in the mean transfer of 5 controls" in found.sentences()[0]
