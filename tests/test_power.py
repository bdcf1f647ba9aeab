"""Power: simulated as it will be tested, with known answers and a pilot's variances recovered."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf, sqrt

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from conceptnet_em import cli_power
from conceptnet_em.contrasts import slope_contrast
from conceptnet_em.errors import InputError
from conceptnet_em.pilot import Estimated, estimate_components, known_components, tables
from conceptnet_em.power import _draw, _Layout, _places, _products, _Setup, _test, power
from conceptnet_em.powerplot import draw_power
from conceptnet_em.qap import qap
from conceptnet_em.records import Similarity
from conceptnet_em.relabelling import relabellings
from conceptnet_em.similarity import to_table
from conceptnet_em.simulated import Components, dyads, geometry

QUICK = {"domains": [8], "controls": [3], "replicates": [1], "grids": 40}
TOPICS = {f"{topic}-{form}": (topic, form) for topic in "abcd" for form in ("prose", "code")}


def cell(found, domains: int, controls: int, replicates: float) -> pd.Series:
    """The row of one design."""
    rows = found.table.set_index(["domains", "controls", "replicates"])
    return rows.loc[(domains, controls, replicates)]


def agrees(share: float, told: float, grids: int, others: int) -> bool:
    """Whether two simulated shares differ by less than 4 standard errors."""
    near = (share * grids + told * others + 2) / (grids + others + 4)
    return abs(share - told) < 4 * sqrt(near * (1 - near) * (1 / grids + 1 / others))


def slope_of(r: float) -> float:
    """The slope at which a trait of variance .75 besides correlates so with similarity."""
    return r * sqrt(0.75 / (1 - r * r))


# --- the design document's tables ----------------------------------------------------------------

H1 = {  # statistics.md 4.1, FE-QAP, 500 grids: (r, controls, replicates) to power by domains
    (0.5, 0, 1): {5: 0.26, 6: 0.48, 8: 0.78, 10: 0.95, 12: 0.99},
    (0.5, 0, 3): {5: 0.31, 6: 0.61, 8: 0.90, 10: 0.99, 12: 1.0},
    (0.3, 0, 3): {5: 0.14, 6: 0.23, 8: 0.51, 10: 0.74, 12: 0.89},
    (0.5, 3, 1): {5: 0.39, 6: 0.75, 8: 0.96, 10: 1.0, 12: 1.0},
    (0.5, 3, 3): {5: 0.46, 6: 0.78, 8: 0.99, 10: 1.0, 12: 1.0},
    (0.3, 3, 3): {5: 0.19, 6: 0.39, 8: 0.73, 10: 0.91, 12: 0.98},
}
H2 = {  # 4.2, 600 grids: (replicates, domains) to power at .15, .2, .3, SD and normal margin
    (1, 8): (0.00, 0.01, 0.23, 0.168, 0.49),
    (1, 12): (0.04, 0.30, 0.79, 0.102, 0.30),
    (1, 16): (0.32, 0.70, 0.97, 0.074, 0.22),
    (3, 6): (0.00, 0.04, 0.21, 0.195, 0.57),
    (3, 8): (0.02, 0.15, 0.57, 0.130, 0.38),
    (3, 10): (0.12, 0.41, 0.84, 0.092, 0.27),
    (3, 12): (0.29, 0.65, 0.95, 0.076, 0.22),
    (3, 14): (0.55, 0.84, 0.99, 0.063, 0.18),
    (3, 16): (0.72, 0.95, 1.0, 0.054, 0.16),
    (5, 8): (0.05, 0.20, 0.68, 0.109, 0.32),
    (5, 10): (0.18, 0.50, 0.90, 0.089, 0.26),
    (5, 12): (0.40, 0.75, 0.98, 0.072, 0.21),
    (5, 14): (0.63, 0.90, 1.0, 0.059, 0.17),
}

NORMAL = 1.6449 + 1.2816
"""The document's margins are so many SD: what 80% power takes if the SD were known and normal."""


def test_a_few_powers_of_h1_agree_with_the_design_document():
    found = power(domains=[6, 8], controls=[0, 3], replicates=[1, 3], grids=250)
    for (r, controls, replicates), row in H1.items():
        for domains in (6, 8) if r == 0.5 else ():
            share = cell(found, domains, controls, replicates)["h1"]
            assert agrees(share, row[domains], 250, 500), (controls, replicates, domains, share)


def test_a_few_powers_of_equivalence_agree_with_the_design_document():
    found = power(domains=[8, 14], controls=[3], replicates=[3], grids=250)
    for domains in (8, 14):
        row = cell(found, domains, 3, 3)
        _, told, _, sd, margin = H2[3, domains]
        assert agrees(row["equivalence"], told, 250, 600)
        assert row["sd"] == pytest.approx(sd, rel=0.2)
        assert NORMAL * row["sd"] == pytest.approx(margin, rel=0.2)
        assert 0.95 < row["reach"] / (NORMAL * row["sd"]) < 1.2


@pytest.mark.slow
@pytest.mark.parametrize("r", [0.3, 0.5])
def test_all_powers_of_h1_agree_with_the_design_document(r):
    found = power(
        domains=[5, 6, 8, 10, 12], controls=[0, 3], replicates=[1, 3], grids=800, slope=slope_of(r)
    )
    for (its, controls, replicates), row in H1.items():
        for domains, told in row.items() if its == r else ():
            share = cell(found, domains, controls, replicates)["h1"]
            assert agrees(share, told, 800, 500), (controls, replicates, domains, share)


@pytest.mark.slow
@pytest.mark.parametrize(("column", "margin"), [(0, 0.15), (1, 0.2), (2, 0.3)])
def test_all_powers_of_equivalence_agree_with_the_design_document(column, margin):
    found = power(controls=[3], replicates=[1, 3, 5], grids=500, margin=margin)
    for (replicates, domains), told in H2.items():
        row = cell(found, domains, 3, replicates)
        assert agrees(row["equivalence"], told[column], 500, 600), (replicates, domains)
        assert row["sd"] == pytest.approx(told[3], rel=0.12)
        assert NORMAL * row["sd"] == pytest.approx(told[4], rel=0.12)
        assert 0.95 < row["reach"] / (NORMAL * row["sd"]) < (1.25 if domains < 8 else 1.15)


@pytest.mark.slow
def test_more_controls_help_as_the_design_document_says():
    found = power(domains=[8, 10, 12], controls=[6, 9], replicates=[3], grids=600)
    told = {6: (0.20, 0.47, 0.76), 9: (0.21, 0.55, 0.77)}
    for controls, row in told.items():
        for domains, share in zip((8, 10, 12), row, strict=True):
            assert agrees(cell(found, domains, controls, 3)["equivalence"], share, 600, 600)


# --- the tests are the library's ------------------------------------------------------------------


def drawn(formats: int, size: int) -> tuple:
    """One grid with its tests, as the simulation makes them."""
    setup = _Setup(known_components(None), 0.3, 0.1, [3], [2, inf], 499, 0)
    layout = _Layout(size, formats)
    group = relabellings(**layout.group, permutations=499)
    x, averages, contrasts = _draw(layout, setup, np.random.default_rng(1))
    products = _products(layout, _places(layout, group), x, np.vstack([averages, contrasts]))
    return layout, x, averages[0], contrasts[0], _test(products[0], products[2])


def framed(layout, cells, *, added: float = 0.0) -> pd.DataFrame:
    """Cells as a labelled matrix; with source and target effects added."""
    square = layout.grid.square(cells).reshape(layout.size, layout.size)
    rng = np.random.default_rng(5)
    square = square + added * (rng.normal(size=(layout.size, 1)) + rng.normal(size=layout.size))
    return pd.DataFrame(square, layout.labels, layout.labels)


@pytest.mark.parametrize(("formats", "size"), [(1, 6), (2, 8), (2, 10), (3, 9)])
def test_a_grid_is_tested_as_the_library_tests_a_real_one_whatever_effects_are_added(formats, size):
    layout, x, average, contrast, tests = drawn(formats, size)
    s = framed(layout, x)
    covariates = {}
    if formats > 1:
        form = np.arange(size) % formats
        topic = np.arange(size) // formats
        covariates = {
            "mismatch": framed(layout, x) * 0 + (form[:, None] != form),
            "same topic": framed(layout, x) * 0 + (topic[:, None] == topic),
        }
    options = {"topics": layout.group["topics"], "covariates": covariates}
    fit = qap(framed(layout, average, added=3.0), s, **options)
    assert fit.exact
    assert tests.p == pytest.approx(fit.p)
    assert tests.smallest_p == pytest.approx(fit.smallest_p)
    other = slope_contrast(framed(layout, contrast, added=3.0), s, margin=0.2, **options)
    assert tests.p_difference == pytest.approx(other.p_difference)
    assert (tests.low, tests.high) == pytest.approx((other.low, other.high))
    assert tests.difference == pytest.approx(other.difference)


def test_the_reachable_margin_is_the_one_at_which_equivalence_has_80_percent_power():
    found = cell(power(domains=[10], controls=[3], replicates=[2], grids=100), 10, 3, 2)
    again = power(
        domains=[10], controls=[3], replicates=[2], grids=100, margin=found["reach"] + 1e-9
    )
    assert cell(again, 10, 3, 2)["equivalence"] == pytest.approx(0.8, abs=0.011)


@pytest.mark.slow
@pytest.mark.parametrize("design", ["free", "joint"])
def test_the_tests_hold_their_level_where_there_is_nothing_to_find(design):
    found = power(design, domains=[8, 12], controls=[3], replicates=[2], grids=1000, slope=0.0)
    assert found.table["h1"].between(0.03, 0.07).all()
    assert found.table["difference"].between(0.03, 0.07).all()


@pytest.mark.slow
def test_equivalence_holds_its_level_where_the_difference_is_the_margin():
    found = power(
        domains=[8, 10, 12], controls=[3], replicates=[3], grids=1000, true_difference=0.2
    )
    assert found.table["equivalence"].between(0.005, 0.065).all()


# --- what the simulation must do -----------------------------------------------------------------


def test_the_same_seed_gives_the_same_table_and_another_seed_another():
    first, again, other = (power(**QUICK, seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first.table, again.table)
    assert not first.table["reach"].equals(other.table["reach"])


def test_domains_controls_and_replicates_each_narrow_the_margin_and_the_ceiling_is_narrowest():
    found = power(domains=[8, 14], controls=[3, 8], replicates=[1, 3], grids=100)
    reach = found.table.set_index(["domains", "controls", "replicates"])["reach"].unstack()
    assert (reach.diff(axis=1).iloc[:, 1:] < 0).all(axis=None)
    assert (reach.loc[14] < reach.loc[8]).all(axis=None)
    assert (reach.xs(8, level="controls") < reach.xs(3, level="controls")).all(axis=None)
    ceiling = found.table[found.table["replicates"] == inf]
    assert (ceiling["equivalence"] < 1).all()  # more replicates never replace domains


def test_without_cell_noise_replicates_change_nothing():
    found = power(components=Components(cell=0.0), **QUICK | {"replicates": [1, 4]}).table
    assert found.groupby("domains")["reach"].nunique().eq(1).all()


def test_noise_that_traits_share_harms_h1_and_leaves_the_contrast_as_it_is():
    plain = Estimated(cell=0.0, dyad=0.0, trait_dyad=0.2, slope=0.15)
    options = QUICK | {"grids": 100}
    calm = power(components=plain, **options)
    noisy = power(components=replace(plain, shared=2.0), **options)
    assert cell(noisy, 8, 3, 1)["h1"] < cell(calm, 8, 3, 1)["h1"] - 0.2
    assert cell(noisy, 8, 3, 1)["reach"] == pytest.approx(cell(calm, 8, 3, 1)["reach"])
    assert cell(noisy, 8, 3, inf)["h1"] == cell(calm, 8, 3, inf)["h1"]


def test_a_true_difference_is_seen_and_stands_in_the_way_of_equivalence():
    same, apart = (power(**QUICK, true_difference=d, margin=0.5) for d in (0.0, 0.6))
    assert cell(apart, 8, 3, 1)["difference"] > cell(same, 8, 3, 1)["difference"] + 0.4
    assert cell(apart, 8, 3, 1)["equivalence"] < 0.1 < cell(same, 8, 3, 1)["equivalence"]
    assert "power to see a difference of 0.6" in str(apart)


def test_similarity_that_effects_explain_for_the_most_part_leaves_less_power():
    shy = Estimated(left=0.1)
    assert cell(power(components=shy, **QUICK), 8, 3, 1)["reach"] == pytest.approx(
        cell(power(**QUICK), 8, 3, 1)["reach"] / sqrt(0.1)
    )


def test_a_group_too_small_for_any_p_below_5_percent_has_no_power_and_says_so():
    found = power("joint", **QUICK | {"domains": [6, 8]})
    row = cell(found, 6, 3, 1)
    assert (row["h1"], row["equivalence"], row["status"]) == (0, 0, "not_estimable")
    assert np.isnan(row["reach"])
    assert "6 domains: no p below 5% can come out; the smallest is 0.083." in str(found)
    assert cell(found, 8, 3, 1)["h1"] > 0.3


def test_without_controls_there_is_h1_alone():
    row = cell(power(**QUICK | {"controls": [0]}), 8, 0, 1)
    assert row["h1"] > 0.5
    assert row[["difference", "equivalence", "reach", "sd"]].isna().all()
    assert row["reason"] == "without controls there is no difference to test"


def test_organisms_are_counted_with_the_case_and_the_neutral_ones():
    row = cell(power(**QUICK | {"replicates": [2]}), 8, 3, 2)
    assert row["organisms"] == 2 * 8 * (3 + 1 + 1)


def test_a_study_s_topics_decide_the_group_and_add_their_own_size():
    found = power(TOPICS, **QUICK | {"domains": [10]})
    assert sorted(found.table["domains"].unique()) == [8, 10]
    assert found.claim == "topics are exchangeable as wholes, and so are formats"
    assert any("an assumption" in note for note in found.notes)
    free = power({name: (name, "prose") for name in "abcdefg"}, **QUICK | {"domains": [6]})
    assert sorted(free.table["domains"].unique()) == [6, 7]
    assert free.claim == "domain labels are exchangeable"


def test_topics_that_are_no_design_are_refused():
    odd = {name: place for name, place in TOPICS.items() if name != "a-code"}
    with pytest.raises(InputError, match="neither all of different topics nor a complete"):
        power(odd, **QUICK)
    with pytest.raises(InputError, match="no design 'factorial'; there is free, joint"):
        power("factorial", **QUICK)


def test_every_fault_is_named_at_once():
    with pytest.raises(InputError) as caught:
        power("joint", domains=[4, 9], controls=[-1], replicates=[0], margin=0, grids=3)
    for words in (
        "4 domains are too few",
        "[9] domains cannot be topics in 2 formats each",
        "controls must be 0 or more",
        "replicates must be 1 or more",
        "margin must be above 0; 0 came",
        "grids must be at least 20; 3 came",
    ):
        assert words in str(caught.value)
    with pytest.raises(InputError, match="no number of domains"):
        power(domains=[])
    with pytest.raises(InputError, match="components and pilot both came"):
        power(components=Components(), pilot=({}, pd.DataFrame()), **QUICK)


# --- what comes out ------------------------------------------------------------------------------


def test_the_table_prints_its_assumptions_its_errors_and_the_size_that_is_needed():
    found = power(domains=[6, 14], controls=[3], replicates=[3], grids=60)
    text = str(found)
    assert "No pilot: these are guesses" in text
    assert "H1, similarity explains transfer: power at a slope of 0.5" in text
    assert "within ±0.2 of the controls'" in text
    row = cell(found, 14, 3, 3)
    assert f"{row['equivalence']:.2f} ±{row['equivalence_error']:.2f}".replace("0.", ".") in text
    assert found.needed().loc[3, 3] == (14 if row["equivalence"] >= 0.8 else np.nan)
    assert found.needed("equivalence", at=0.5).loc[3, 3] == 14
    assert np.isnan(found.needed("equivalence", at=1.01).loc[3, 3])
    assert text.count("80% from") == 2


def test_a_share_of_0_or_1_has_an_error_above_0():
    row = cell(power(**QUICK | {"domains": [6]}), 6, 3, 1)
    assert row["equivalence"] == 0
    assert row["equivalence_error"] > 0.01


def test_json_holds_everything_and_no_number_that_json_has_not():
    found = json.loads(power("joint", **QUICK | {"domains": [6]}).to_json())
    first, ceiling = found["rows"]
    assert (first["reach"], first["replicates"], ceiling["replicates"]) == (None, 1, "inf")
    assert first["organisms"] == 30
    assert found["components"]["trait_dyad"] == 0.10
    assert found["components"]["slope_se"] is None


@pytest.mark.parametrize(
    ("options", "panels"), [({}, 3), ({"controls": [0]}, 1), ({"true_difference": 0.1}, 3)]
)
def test_the_picture_shows_a_panel_per_claim(tmp_path, options, panels):
    from matplotlib.image import imread

    draw_power(power(**QUICK | {"domains": [6, 8]} | options), tmp_path / "power.png")
    pixels = imread(tmp_path / "power.png")[..., :3]
    assert pixels.shape[1] > 450 * panels
    assert 0.01 < (pixels < 0.95).any(axis=2).mean() < 0.3


def test_a_picture_of_too_many_lines_is_refused(tmp_path):
    found = power(**QUICK | {"controls": range(1, 8)})
    with pytest.raises(InputError, match="7 numbers of controls"):
        draw_power(found, tmp_path / "power.png")


# --- pilots --------------------------------------------------------------------------------------


def a_pilot(seed: int, truth: Estimated, *, traits: int, size: int, replicates: int):
    """Draw the table of a pilot with every kind of effect, its diagonal empty."""
    rng, labels = np.random.default_rng(seed), [f"d{k}" for k in range(size)]
    s = geometry(rng, size)
    main = sqrt(truth.source) * rng.normal(size=(size, 1)) + sqrt(truth.target) * rng.normal(
        size=size
    )
    lasting = main + dyads(rng, size, truth.dyad, truth.reciprocity) + truth.slope * s
    common = sqrt(truth.shared) * rng.normal(size=(replicates, size, size))
    frames = {}
    for k in range(traits):
        own = dyads(rng, size, truth.trait_dyad, truth.trait_reciprocity)
        own += sqrt(truth.trait_source) * rng.normal(size=(size, 1))
        own += sqrt(truth.trait_target) * rng.normal(size=size)
        noise = common + sqrt(truth.run) * rng.normal(size=(replicates, size, 1))
        noise = noise + sqrt(truth.cell) * rng.normal(size=noise.shape)
        whole = np.where(np.eye(size, dtype=bool), np.nan, lasting + own + noise)
        frames[f"t{k}"] = [pd.DataFrame(one, labels, labels) for one in whole]
    return frames, pd.DataFrame(s, labels, labels)


TRUTH = Estimated(shared=0.15, slope=0.4)


def test_the_variances_of_a_pilot_are_those_it_was_drawn_with():
    found = [
        estimate_components(*a_pilot(seed, TRUTH, traits=4, size=8, replicates=2))
        for seed in range(8)
    ]
    mean = {
        key: np.mean([vars(one)[key] for one in found])
        for key in vars(TRUTH)
        if key != "unit" and isinstance(vars(TRUTH)[key], float)
    }
    for key, share in {
        "trait_dyad": 0.35,
        "cell": 0.15,
        "shared": 0.35,
        "run": 0.35,
        "trait_source": 0.6,
        "trait_target": 0.6,
        "left": 0.15,
        "slope": 0.35,
        "dyad": 0.6,
        "target": 0.7,
    }.items():
        assert mean[key] == pytest.approx(vars(TRUTH)[key], rel=share), key
    assert found[0].about == "estimated from 4 traits × 8 domains × 2 replicates"


def test_one_replicate_promises_nothing_of_more_and_says_so():
    one = estimate_components(*a_pilot(1, TRUTH, traits=3, size=6, replicates=1))
    assert (one.cell, one.run, one.shared) == (0, 0, 0)
    assert one.trait_dyad > 0.2  # the noise of cells is in it
    assert any("lower bounds" in note for note in one.notes)
    found = power(components=one, **QUICK | {"replicates": [1, 3]})
    assert found.table["reach"].nunique() == 1
    assert "in-domain" not in one.unit


def test_a_pilot_may_be_handed_to_power_itself_and_its_slope_comes_with_its_error():
    pilot = a_pilot(1, TRUTH, traits=3, size=6, replicates=2)
    found = power(pilot=pilot, **QUICK)
    known = estimate_components(*pilot)
    assert found.components == known
    assert found.slope == known.slope
    assert f"{known.slope:.3g} ± {known.slope_se:.2g}" in str(found)
    assert "guesses" not in str(found)
    assert power(pilot=pilot, slope=0.2, **QUICK).slope == 0.2


def test_a_change_of_unit_changes_the_variances_by_its_square_and_power_not_at_all():
    frames, s = a_pilot(2, TRUTH, traits=3, size=6, replicates=2)
    wide = {trait: [10 * one for one in both] for trait, both in frames.items()}
    first, ten = estimate_components(frames, s), estimate_components(wide, 5 + 3 * s)
    for name, value in first.variances().items():
        assert ten.variances()[name] == pytest.approx(100 * value, rel=1e-3, abs=1e-4), name
    assert ten.slope == pytest.approx(10 * first.slope, rel=1e-4)
    assert ten.left == pytest.approx(first.left)
    near, far = (power(components=c, margin=m, **QUICK) for c, m in ((first, 0.4), (ten, 4.0)))
    assert cell(far, 8, 3, 1)["reach"] == pytest.approx(10 * cell(near, 8, 3, 1)["reach"], rel=1e-3)


def test_transfer_is_taken_in_in_domain_units_and_a_weak_trait_is_left_out_and_named():
    frames, s = a_pilot(3, TRUTH, traits=4, size=6, replicates=1)
    rng, home = np.random.default_rng(0), {}
    for number, (trait, (frame,)) in enumerate(frames.items()):
        effect = rng.normal(2, 0.1, 6) if number else rng.normal(0, 1, 6)
        home[trait] = frame.where(~np.eye(6, dtype=bool), np.diag(effect))
    found = estimate_components(home, s)
    assert found.unit == "in-domain units"
    assert found.about.startswith("estimated from 3 traits")
    assert any(note.startswith("t0 is left out") for note in found.notes)
    half = estimate_components({t: frames[t] for t in ("t1", "t2", "t3")}, s)
    assert found.trait_dyad == pytest.approx(half.trait_dyad / 4, rel=0.1)


def test_a_trait_s_own_similarity_is_used_and_said_to_be_shared_in_the_simulation():
    frames, s = a_pilot(4, Estimated(slope=0.0), traits=3, size=8, replicates=1)
    rng, alike = np.random.default_rng(0), {}
    for k, trait in enumerate(frames):
        own = pd.DataFrame(geometry(rng, 8), s.index, s.columns)
        frames[trait] = [frames[trait][0] + (k + 1) * own]
        alike[trait] = own
    own, wrong = estimate_components(frames, alike), estimate_components(frames, s)
    assert own.trait_dyad < 0.6 < wrong.trait_dyad
    assert any("simulated traits share one" in note for note in own.notes)
    same = estimate_components(frames, dict.fromkeys(frames, s))
    assert same.variances() == pytest.approx(wrong.variances(), abs=1e-6)


def test_variances_below_0_are_0_and_named():
    calm = Estimated(source=0.0, trait_source=0.0, dyad=0.0, run=0.0, shared=0.0)
    found = estimate_components(*a_pilot(0, calm, traits=3, size=6, replicates=2))
    low = next(note for note in found.notes if note.startswith("Estimated as 0 or below"))
    assert all(value >= 0 for value in found.variances().values())
    assert 0 in found.variances().values()
    named = [name for name in ("source", "target", "run", "dyad") if found.variances()[name] == 0]
    assert all(name in low for name in named)
    assert 0 <= found.reciprocity <= 1
    assert 0 <= found.trait_reciprocity <= 1


def test_domains_that_are_only_source_or_only_target_are_left_out_and_uneven_replicates_cut():
    frames, s = a_pilot(5, TRUTH, traits=2, size=7, replicates=2)
    frames["t0"] = [frames["t0"][0].drop(index="d3")]
    found = estimate_components(frames, s.loc[[*s.index[::-1]]])
    assert "6 domains × 1 replicate" in found.about
    assert "Left out, being not source and target throughout: d3." in found.notes
    assert any("Only the first replicate counts" in note for note in found.notes)


def test_tables_that_are_no_pilot_are_refused():
    frames, s = a_pilot(6, TRUTH, traits=2, size=6, replicates=1)
    with pytest.raises(InputError, match="1 trait cannot tell"):
        estimate_components({"t0": frames["t0"]}, s)
    with pytest.raises(InputError, match="no transfer"):
        estimate_components({}, s)
    with pytest.raises(InputError, match="t1 has no matrix"):
        estimate_components(frames | {"t1": []}, s)
    holed = frames["t1"][0].copy()
    holed.iloc[0, 1] = np.nan
    with pytest.raises(InputError, match="d0 → d1"):
        estimate_components(frames | {"t1": holed}, s)
    with pytest.raises(InputError, match="d5"):
        estimate_components(frames, s.drop(index="d5", columns="d5"))
    flat = pd.DataFrame(np.arange(6.0)[:, None] + np.arange(6.0), s.index, s.columns)
    with pytest.raises(InputError, match="explained by source and target effects"):
        estimate_components(frames, flat)
    small = {t: [f.iloc[:4, :4] for f in both] for t, both in frames.items()}
    with pytest.raises(InputError, match="4 domains are too few"):
        estimate_components(small, s.iloc[:4, :4])


# --- pilots from run folders, and the command -----------------------------------------------------


def a_run(specific: bool = False) -> tuple[pd.DataFrame, list[Similarity]]:
    """The transfer table and similarities of a run with 2 traits, 2 replicates and a reference."""
    frames, s = a_pilot(7, TRUTH, traits=2, size=6, replicates=2)
    frames |= {"neutral": frames["t0"]}
    rows = [
        {"trait": trait, "answer_trait": trait, "source": a, "target": b, "replicate": number}
        | {"part": "all", "scale": "contrast", "value": one.loc[a, b], "se": 0.1, "n_items": 12}
        for trait, both in frames.items()
        for number, one in enumerate(both, 1)
        for a in one.index
        for b in one.columns
    ]
    alike = [Similarity("activation", s, None, 15, n, 0.9) for n in (1, 2)]
    alike += [Similarity("text", s + n, None, None, n, 0.9) for n in (1, 3)]
    if specific:
        alike = [Similarity("own", k * s, f"t{k}", 15, 1, 0.9) for k in (0, 1)]
    return pd.DataFrame(rows), alike


def test_a_run_s_tables_become_a_pilot_replicate_by_replicate():
    transfer, alike = a_run()
    transfers, similarity = tables(transfer, alike)
    assert list(transfers) == ["t0", "t1"]
    assert [len(both) for both in transfers.values()] == [2, 2]
    assert isinstance(similarity, pd.DataFrame)
    pd.testing.assert_frame_equal(similarity, alike[0].values + 2)
    other = tables(transfer, alike, predictor="activation")[1]
    pd.testing.assert_frame_equal(other, alike[0].values)
    own = tables(*a_run(specific=True))[1]
    assert list(own) == ["t0", "t1"]
    one = transfer[(transfer["trait"] != "t1") | (transfer["replicate"] == 2)]
    assert [len(both) for both in tables(one, alike)[0].values()] == [1, 1]


def test_tables_without_what_was_asked_for_are_refused():
    transfer, alike = a_run()
    with pytest.raises(InputError, match="no predictor 'texts'"):
        tables(transfer, alike, predictor="texts")
    with pytest.raises(InputError, match="no replicate on the scale raw"):
        tables(transfer, alike, scale="raw")


@pytest.fixture
def command():
    app = typer.Typer()
    cli_power.register(app)
    return lambda *words: CliRunner().invoke(app, [*map(str, words)])


FEW = ("--domains", "8", "--controls", "3", "--replicates", "1", "--grids", "30")


def test_the_command_prints_the_table_and_draws_the_picture(command, tmp_path):
    told = command(*FEW, "--out", tmp_path / "power.png", "--design", "joint", "--margin", "0.3")
    assert told.exit_code == 0, told.output
    assert "±0.3 of the controls'" in told.stdout
    assert "topics are exchangeable as wholes" in told.stdout
    assert "drawn to" in told.stderr
    assert (tmp_path / "power.png").read_bytes()[:4] == b"\x89PNG"


def test_the_command_reads_a_run_and_prints_json_alone_on_stdout(command, tmp_path):
    transfer, alike = a_run()
    transfer.to_parquet(tmp_path / "transfer.parquet")
    to_table(alike).to_parquet(tmp_path / "similarities.parquet")
    told = command(tmp_path, *FEW, "--design", "free", "--json", "--predictor", "activation")
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert found["components"]["about"] == "estimated from 2 traits × 6 domains × 2 replicates"
    assert [row["domains"] for row in found["rows"]] == [8, 8]


def test_the_command_takes_the_group_from_the_run_s_own_domains(command, tmp_path):
    transfer, alike = a_run()
    transfer.to_parquet(tmp_path / "transfer.parquet")
    to_table(alike).to_parquet(tmp_path / "similarities.parquet")
    names = [f"{t}-{f}" for t in ("medical", "finance", "security") for f in ("prose", "code")]
    (tmp_path / "study.toml").write_text(f'name = "p"\ndomains = {json.dumps(names)}\n', "utf-8")
    told = command(tmp_path, *FEW, "--json")
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert found["claim"] == "topics are exchangeable as wholes, and so are formats"
    assert [row["domains"] for row in found["rows"]] == [6, 6, 8, 8]


def test_the_command_refuses_what_it_cannot_read(command, tmp_path):
    told = command("--domains", "six", "--controls", "3,")
    assert isinstance(told.exception, InputError)
    assert "--domains takes whole numbers" in str(told.exception)
    assert "--controls takes whole numbers" in str(told.exception)
    told = command(tmp_path, "--design", "free")
    assert "no transfer.parquet and no similarities.parquet" in str(told.exception)
