"""What the inference claims of itself, tried claim by claim where no other test does."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from conceptnet_em.equivalence import compare_traits
from conceptnet_em.errors import InputError
from conceptnet_em.grid import Grid
from conceptnet_em.qap import design, intercept, mantel, qap
from conceptnet_em.regression import Regression, regress
from conceptnet_em.relabelling import relabellings

ANSWERS = json.loads((Path(__file__).parent / "fixtures" / "known_answers.json").read_text("utf-8"))
TOY = ANSWERS["A_6x6_directed"]
NAMES = ["law", "diet", "cars", "money", "sleep", "garden"]
Y, X1, X2 = (pd.DataFrame(TOY[key], NAMES, NAMES, float) for key in ("Y", "X1", "X2"))
OWN = {"standardise": False, "units": False}
PER_PREDICTOR = [
    *("slope", "interval", "t", "p", "n_cells", "n_domains", "n_permutations", "exact"),
    *("smallest_p", "r2", "r2_over_effects", "null"),
]


def noise(seed: int, size: int = 6, count: int = 2) -> list[pd.DataFrame]:
    rng, names = np.random.default_rng(seed), [f"d{k:02d}" for k in range(size)]
    return [pd.DataFrame(rng.normal(size=(size, size)), names, names) for _ in range(count)]


def shuffled(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return frame.loc[rng.permutation(frame.index), rng.permutation(frame.columns)]


def numbers(found: Regression) -> list[float]:
    return [v for term in found.terms for v in (term.slope, *term.interval, term.t, term.p)]


# --- what a result holds -------------------------------------------------------------------------


def test_every_predictor_has_each_promised_field_and_prints_its_numbers():
    found = regress(Y, X1, X2, names=["near", "far"], **OWN)
    for term in found.terms:
        held = {name: getattr(term, name) for name in PER_PREDICTOR}
        assert all(value is not None and value != "" for value in held.values())
        assert np.isfinite([term.slope, *term.interval, term.t, term.p, term.r2]).all()
        assert (term.n_cells, term.n_domains, term.n_permutations, term.exact) == (30, 6, 720, True)
        assert 0 < term.smallest_p <= term.p <= 1
        assert 0 <= term.r2_over_effects <= term.r2 <= 1
        assert f"slope on {term.name} is 0" in term.null
        assert f"{term.name} " in str(found)
        assert f"slope {term.slope:+.3f}" in str(found)
        assert f"[95% CI {term.interval[0]:+.3f}, {term.interval[1]:+.3f}" in str(found)
    alone = regress(Y, X1, **OWN)
    assert {name: getattr(alone, name) for name in PER_PREDICTOR} == {
        name: asdict(alone.terms[0])[name] for name in PER_PREDICTOR
    }


def test_every_trait_has_a_row_among_the_slopes_of_a_comparison():
    traits = [f"t{k}" for k in range(4)]
    given_ = dict(zip(traits, noise(1, 6, 4), strict=True))
    given_["t3"] = given_["t3"] * np.nan
    found = compare_traits(given_, noise(2)[0], case="t0", permutations=99)
    table = next(iter(found.tables().values()))
    assert list(table.index) == traits
    assert table.loc["t3", "slope"] == "–"
    assert "off-diagonal cells are missing" in table.loc["t3", ""]


# --- published numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("draws", "printed"),
    [(20_000, "sna_netlm_qapspp_20000_seed1_pgreqabs"), (5_000, "asnipe_dsp_5000_seed2")],
)
def test_sampled_p_values_of_r_packages_lie_around_the_exact_ones(draws, printed):
    exact = [
        intercept(Y, X1, X2).p,
        qap(Y, X1, covariates={"x2": X2}, effects=False).p,
        qap(Y, X2, covariates={"x1": X1}, effects=False).p,
    ]
    for ours, theirs in zip(exact, TOY[printed], strict=True):
        assert abs(ours - theirs) < 4 * math.sqrt(ours * (1 - ours) / draws)


def test_mantel_of_ranks_is_scikit_bios_spearman():
    """The document prints Pearson and Spearman; ranking the cells first gives the second."""
    known = ANSWERS["skbio_min_3x3"]
    off = ~np.eye(3, dtype=bool)

    def ranked(values) -> pd.DataFrame:
        cells = np.array(values, float)
        cells[off] = stats.rankdata(cells[off])
        return pd.DataFrame(cells, list("abc"), list("abc"))

    assert mantel(ranked(known["x"]), ranked(known["y"])) == pytest.approx(known["spearman"])


def test_the_twoway_clustered_errors_of_the_fixture_are_those_of_statsmodels():
    """6.1 prints them as a method not to use; the library has none, so the fixture is checked."""
    import statsmodels.api as sm

    grid = Grid.of(Y)
    x = np.column_stack([np.ones(30), grid.cells(X1), grid.cells(X2)])
    fit = sm.OLS(grid.cells(Y), x).fit()
    both = np.column_stack([grid.source, grid.target])
    options = {"groups": both, "use_correction": False, "df_correction": False}
    robust = fit.get_robustcov_results("cluster", **options)
    assert robust.bse == pytest.approx(TOY["twoway_cluster_SE_ols_nodof"], abs=1e-6)


@pytest.mark.parametrize("alternative", ["greater", "less"])
@pytest.mark.parametrize("null", [-0.5, 0.3])
def test_plain_qap_with_a_covariate_at_any_null_is_brute_force(alternative, null):
    y, x, w = noise(3, 5, 3)
    off = ~np.eye(5, dtype=bool)
    cells, other = (y - null * x).to_numpy()[off], w.to_numpy()[off]
    held = np.column_stack([np.ones(20), other])
    residual = np.zeros((5, 5))
    own = x.to_numpy()[off]
    residual[off] = own - held @ np.linalg.lstsq(held, own)[0]
    t = []
    for order in permutations(range(5)):
        full = np.column_stack([held, residual[np.ix_(order, order)][off]])
        coef = np.linalg.lstsq(full, cells)[0]
        rest = cells - full @ coef
        t.append(coef[-1] / math.sqrt(rest @ rest / 17 * np.linalg.inv(full.T @ full)[-1, -1]))
    side = np.array(t) if alternative == "greater" else -np.array(t)
    options = {"effects": False, "null": null, "alternative": alternative}
    found = regress(y, x, covariates={"w": w}, **options, **OWN)
    assert found.t == pytest.approx(t[0])
    assert found.p == pytest.approx(np.mean(side >= side[0] - 1e-9))


# --- labels --------------------------------------------------------------------------------------


def test_frames_by_trait_are_matched_by_label_whatever_order_each_comes_in():
    y, x = ({t: noise(10 * k + j)[0] for j, t in enumerate("abc")} for k in (1, 2))
    w = noise(5)[0]
    plain = regress(y, x, covariates={"w": w}, **OWN)
    mixed = regress(
        {t: shuffled(frame, k) for k, (t, frame) in enumerate(y.items())},
        {t: shuffled(x[t], 7 + ord(t)) for t in "cab"},
        covariates={"w": shuffled(w, 3)},
        **OWN,
    )
    assert plain.stacked
    assert numbers(mixed) == pytest.approx(numbers(plain), rel=1e-12)


def test_wrong_labels_anywhere_in_a_mapping_are_named_with_their_trait():
    y, x = (dict(zip("ab", noise(k), strict=True)) for k in (1, 2))
    w = noise(3)[0]
    wrong = {
        "transfer of b lacks row labels": (y | {"b": y["b"].rename(index={"d00": "x"})}, x, w),
        "similarity 'similarity' of a lacks column labels": (
            y,
            x | {"a": x["a"].drop(columns="d01")},
            w,
        ),
        "covariate 'w' has row labels": (y, x, w.rename(index={"d02": "x"})),
        "transfer of a has repeated row labels: d00": (
            {t: f.rename(index={"d01": "d00"}) for t, f in y.items()},
            x,
            w,
        ),
    }
    for words, (transfer, alike, held) in wrong.items():
        with pytest.raises(InputError, match=re.escape(words)):
            regress(transfer, alike, covariates={"w": held}, **OWN)


def test_labels_may_be_numbers():
    y, x = noise(4, 11)
    found = regress(y, x, permutations=99, **OWN)
    bare = [frame.set_axis(range(11), axis=0).set_axis(range(11), axis=1) for frame in (y, x)]
    assert regress(*bare, permutations=99, **OWN).slope == pytest.approx(found.slope)
    assert regress(bare[0], shuffled(bare[1], 1), permutations=99, **OWN).slope == pytest.approx(
        found.slope
    )


# --- the group -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topics", "members", "exact"),
    [(7, 5_040 * 2, True), (8, 40_320 * 2, False)],
)
def test_a_factorial_is_listed_up_to_fifty_thousand_members(topics, members, exact):
    pairs = {f"{t}-{f}": (str(t), f) for t in range(topics) for f in ("prose", "code")}
    found = relabellings(list(pairs), topics=pairs, permutations=50)
    assert (found.size, found.exact) == (members, exact)
    assert len(found.orders) == (members if exact else 50)


@pytest.mark.parametrize(("columns", "members"), [(6, 24 * 720), (7, 24 * 5_040)])
def test_a_rectangle_is_listed_up_to_fifty_thousand_members(columns, members):
    rng = np.random.default_rng(1)
    names = list("abcd"), [f"t{k}" for k in range(columns)]
    y, x = (pd.DataFrame(rng.normal(size=(4, columns)), *names) for _ in range(2))
    found = regress(y, x, permutations=99, **OWN)
    assert found.exact == (members <= 50_000)
    assert found.n_permutations == (members if found.exact else 99)


# --- the case against the controls ---------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100))
@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
def test_one_matrix_added_to_all_traits_changes_no_difference(seed, scale):
    """6.12, at any size of the common part; one similarity serves all traits."""
    x, common, *ys = noise(seed, 5, 5)
    off = ~np.eye(5, dtype=bool)
    transfers = dict(zip("abc", (y.where(off) for y in ys), strict=True))
    added = {trait: y + scale * common for trait, y in transfers.items()}
    one, other = (compare_traits(given_, x, case="a").primary for given_ in (transfers, added))
    fields = ("difference", "low", "high", "p_difference", "p_above", "p_below")
    assert [getattr(other, f) for f in fields] == pytest.approx(
        [getattr(one, f) for f in fields], abs=1e-9 * (1 + scale)
    )


def test_a_difference_over_stacked_replicates_and_traits_holds_its_level():
    """As `pooling` tests it: the case's slope beside the common one, 3 traits × 2 replicates."""
    rng, size, rejected, grids = np.random.default_rng(8), 8, 0, 400
    names = [f"d{k}" for k in range(size)]
    grid = Grid.of(pd.DataFrame(np.zeros((size, size)), names, names))
    group = relabellings(names, permutations=199, seed=1, enumerate_up_to=720)
    for _ in range(grids):
        base = rng.normal(size=(size, 4))
        shared = rng.normal(size=(size, 1)) + rng.normal(size=size)
        x, y = [], []
        for _trait in range(3):
            place = base + 0.6 * rng.normal(size=(size, 4))
            pair, run = rng.normal(size=(size, size)) / 3, rng.normal(size=size) / 3
            for _replicate in range(2):
                own = place + 0.2 * rng.normal(size=(size, 4))
                s = -np.linalg.norm(own[:, None] - own, axis=2)
                x.append(s)
                cell = rng.normal(size=(size, size)) / 3
                y.append(0.5 * s + shared + pair + pair.T + run + cell)
        cells = [np.stack([m[grid.source, grid.target] for m in ms], axis=1) for ms in (x, y)]
        case = cells[0] * (np.arange(6) < 2)
        model = design(cells[1], {"x": case, "common": cells[0]}, {}, grid)
        rejected += model.fit("x", group, interval=None).p <= 0.05
    assert 0.02 <= rejected / grids <= 0.085
