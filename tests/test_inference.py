"""The verdict: a planted slope comes back in in-domain units; what cannot be had has a reason."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pandas as pd
import pytest

from conceptnet_em.errors import ConceptNetError, InputError
from conceptnet_em.inference import merge, regress, verdict
from conceptnet_em.records import Similarity, TransferMatrix, Verdict

NAMES = ["diet", "law", "cars", "money", "sleep", "garden"]


def frame(values, names=None) -> pd.DataFrame:
    names = names or NAMES[: len(values)]
    return pd.DataFrame(values, names, names)


def likeness(seed: int, size: int = 6) -> pd.DataFrame:
    """A symmetric similarity of latent places, far from mean 0 and SD 1."""
    place = np.random.default_rng(seed).normal(size=(size, 3))
    return frame(0.6 - 0.05 * np.linalg.norm(place[:, None] - place[None], axis=2))


def z_score(*frames: pd.DataFrame) -> list[pd.DataFrame]:
    """Standardise over the off-diagonal cells of all frames together."""
    off = ~np.eye(len(frames[0]), dtype=bool)
    cells = np.concatenate([f.to_numpy()[off] for f in frames])
    return [(f - cells.mean()) / cells.std() for f in frames]


def planted(z: pd.DataFrame, *, slope: float, unit: float, noise: float = 0.0, seed: int = 0):
    """unit × (slope·z + source + target effect + noise), with `unit` as mean at home."""
    rng = np.random.default_rng(seed)
    n = len(z)
    cells = slope * z.to_numpy() + rng.normal(size=(n, 1)) + rng.normal(size=n)
    cells = unit * (cells + noise * rng.normal(size=(n, n)))
    np.fill_diagonal(cells, unit * (1 + 0.1 * np.linspace(-1, 1, n)))
    return frame(cells, list(z.index))


def shuffled(found: pd.DataFrame, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return found.loc[rng.permutation(found.index), rng.permutation(found.columns)]


def the(found: Verdict, **fields):
    (slope,) = found.select(**fields)
    return slope


@pytest.fixture(scope="module")
def x() -> pd.DataFrame:
    return likeness(1)


@pytest.fixture(scope="module")
def noisy(x) -> pd.DataFrame:
    return planted(z_score(x)[0], slope=0.4, unit=0.5, noise=0.3, seed=2)


# --- what was planted comes back ---


@pytest.mark.parametrize("unit", [0.25, 4.0])
def test_regress_recovers_a_planted_slope_in_in_domain_units_per_sd(x, unit):
    found = regress(planted(z_score(x)[0], slope=0.3, unit=unit), x)
    slope = the(found)
    assert slope.slope == pytest.approx(0.3)
    assert slope.r2_over_effects == pytest.approx(1)
    assert found.units == {"transfer": pytest.approx(unit)}
    assert (slope.status, slope.n_domains, slope.n_cells) == ("ok", 6, 30)


def test_a_shift_or_stretch_of_the_similarity_changes_nothing(x, noisy):
    first, second = the(regress(noisy, x)), the(regress(noisy, 7 * x - 3))
    assert second.slope == pytest.approx(first.slope)
    assert (second.p, second.n_permutations) == (first.p, first.n_permutations)


def test_the_in_domain_cells_give_the_unit_and_nothing_else(x, noisy):
    home = noisy.copy()
    for k, name in enumerate(NAMES):
        home.loc[name, name] = 1.0 + 0.01 * k
    first, second = regress(noisy, x), regress(home, x)
    scale = first.units["transfer"] / second.units["transfer"]
    assert the(second).slope == pytest.approx(the(first).slope * scale)
    assert the(second).p == the(first).p


def test_similarity_at_home_never_counts(x, noisy):
    other = x.copy()
    for name in NAMES:
        other.loc[name, name] = -9.0
    assert regress(noisy, other).to_json() == regress(noisy, x).to_json()


def test_shuffled_labels_give_the_same_verdict(x, noisy):
    found = the(regress(shuffled(noisy, 3), shuffled(x, 4)))
    plain = the(regress(noisy, x))
    for field in ("slope", "low", "high", "t", "p", "r", "r2_over_effects"):
        assert getattr(found, field) == pytest.approx(getattr(plain, field))


def test_source_and_target_effects_are_held_fixed(x, noisy):
    tilted = noisy + 5 * pd.Series(range(6), NAMES) + 3 * np.arange(6)[:, None]
    for name in NAMES:
        tilted.loc[name, name] = noisy.loc[name, name]
    found, plain = the(regress(tilted, x)), the(regress(noisy, x))
    assert found.slope == pytest.approx(plain.slope)
    assert found.p == plain.p
    assert found.r != pytest.approx(plain.r, abs=0.05)


def test_r_is_the_plain_correlation_over_off_diagonal_cells(x, noisy):
    off = ~np.eye(6, dtype=bool)
    expected = np.corrcoef(noisy.to_numpy()[off], x.to_numpy()[off])[0, 1]
    assert the(regress(noisy, shuffled(x, 5))).r == pytest.approx(expected)


def test_six_domains_are_relabelled_in_all_720_ways(x, noisy):
    found = regress(noisy, x)
    slope = the(found)
    assert slope.p * 720 == pytest.approx(round(slope.p * 720))
    assert slope.smallest_p == pytest.approx(1 / 720)
    assert (slope.n_permutations, slope.exact) == (720, True)
    assert found.group == "free relabelling of 6 domains (6! = 720)"
    assert "6! = 720" in str(found)


def test_a_noiseless_slope_has_the_smallest_p_and_a_narrow_interval(x):
    slope = the(regress(planted(z_score(x)[0], slope=0.3, unit=1.0), x))
    assert slope.p == pytest.approx(1 / 720)
    assert (slope.low, slope.high) == pytest.approx((0.3, 0.3))


def test_transfer_that_knows_nothing_of_similarity_is_rarely_significant(x):
    found = [the(regress(planted(0 * x, slope=0, unit=1, noise=0.3, seed=k), x)) for k in range(40)]
    assert sum(slope.p <= 0.05 for slope in found) <= 6  # binomial(40, 0.05) passes 6 in 0.3%
    assert sum(slope.low <= 0 <= slope.high for slope in found) >= 34


def test_the_interval_holds_zero_just_when_p_is_above_five_percent(x):
    for k in range(12):
        slope = the(regress(planted(z_score(x)[0], slope=0.15, unit=1, noise=0.3, seed=k), x))
        assert (slope.p > 0.05) == (slope.low <= 0 <= slope.high)


def test_topics_in_two_formats_move_whole():
    names = [f"{topic}-{form}" for topic in ("diet", "law", "cars") for form in ("prose", "code")]
    topics = {name: tuple(name.split("-")) for name in names}
    z = likeness(3).set_axis(names).set_axis(names, axis=1)
    found = regress(planted(z, slope=1.0, unit=1.0, noise=0.3), z, topics=topics)
    assert the(found).n_permutations == 12  # 3! × 2!
    assert "3 topics × 2 formats" in found.group


# --- several traits ---


def traits(x: pd.DataFrame, **slopes: float) -> dict[str, pd.DataFrame]:
    (z,) = z_score(x)
    return {
        name: planted(z, slope=slope, unit=k + 0.5, seed=k)
        for k, (name, slope) in enumerate(slopes.items())
    }


def test_the_average_weighs_every_trait_by_its_own_unit(x):
    found = regress(traits(x, sporty=0.5, fonzi=0.1), x)
    slopes = {s.trait: s.slope for s in found.slopes}
    assert slopes == pytest.approx({"sporty": 0.5, "fonzi": 0.1, "average": 0.3})
    assert found.units == pytest.approx({"sporty": 0.5, "fonzi": 1.5})


def test_traits_with_shuffled_labels_are_averaged_by_label(x):
    found = traits(x, sporty=0.5, fonzi=0.1)
    found["fonzi"] = shuffled(found["fonzi"], 6)
    assert the(regress(found, shuffled(x, 7)), trait="average").slope == pytest.approx(0.3)


def test_one_trait_has_no_average(x, noisy):
    assert [s.trait for s in regress({"sporty": noisy}, x).slopes] == ["sporty"]


def test_a_trait_that_is_weak_at_home_is_left_out_and_said(x):
    found = traits(x, sporty=0.5, fonzi=0.1, weak=0.9)
    for k, name in enumerate(NAMES):  # mean 0.15, sd 0.187: t = 1.96
        found["weak"].loc[name, name] = 0.1 * k - 0.1
    result = regress(found, x)
    assert [s.trait for s in result.slopes] == ["sporty", "fonzi", "average"]
    assert the(result, trait="average").slope == pytest.approx(0.3)
    assert set(result.units) == {"sporty", "fonzi"}
    (note,) = result.notes
    assert note.startswith("weak is left out: its mean in-domain effect +0.150 has t 2.0, below 3")


@pytest.mark.parametrize("diagonal", [0.0, -1.0])
def test_a_trait_that_moved_nothing_or_backwards_at_home_has_no_unit(x, noisy, diagonal):
    for name in NAMES:
        noisy = noisy.copy()
        noisy.loc[name, name] = diagonal
    result = regress(noisy, x)
    assert result.slopes == ()
    assert "is left out" in result.notes[0]
    assert "is left out" in str(result)


def test_a_table_without_in_domain_cells_keeps_its_own_unit(x):
    y = planted(z_score(x)[0], slope=0.3, unit=2.0)
    for name in NAMES:
        y.loc[name, name] = np.nan
    result = regress(y, x)
    assert the(result).slope == pytest.approx(0.6)  # 2 × 0.3
    assert result.notes == (
        "transfer has no in-domain values: its slope is in the table's own unit.",
    )


def test_trait_specific_similarities_are_standardised_together():
    alike = {"sporty": likeness(1), "fonzi": 3 * likeness(2) - 1}
    z = dict(zip(alike, z_score(*alike.values()), strict=True))
    y = {
        "sporty": planted(z["sporty"], slope=0.5, unit=1.0, seed=1),
        "fonzi": planted(z["fonzi"], slope=0.2, unit=2.0, seed=2),
    }
    slopes = {s.trait: s.slope for s in regress(y, alike).slopes}
    assert slopes["sporty"] == pytest.approx(0.5)
    assert slopes["fonzi"] == pytest.approx(0.2)


def test_a_trait_without_its_similarity_is_refused_with_what_there_is(x):
    with pytest.raises(InputError, match="no similarity for fonzi; there is one for sporty"):
        regress(traits(x, sporty=0.5, fonzi=0.1), {"sporty": x})


def test_nothing_to_regress_is_refused(x):
    with pytest.raises(InputError, match="no transfer matrix"):
        regress({}, x)


def test_labels_that_do_not_match_are_refused(x, noisy):
    with pytest.raises(InputError, match=r"garden"):
        regress(noisy, x.rename(index={"garden": "pond"}, columns={"garden": "pond"}))


# --- what is not estimable ---


def test_four_domains_are_not_estimable_and_the_reason_says_so():
    x = likeness(1, 4)
    slope = the(regress(planted(z_score(x)[0], slope=0.3, unit=1.0), x))
    assert slope.status == "not_estimable"
    assert slope.reason.startswith("4 domains are too few")
    assert math.isnan(slope.slope)
    assert math.isnan(slope.p)


def test_missing_cells_are_counted_and_spoil_only_their_trait_and_the_average(x):
    found = traits(x, sporty=0.5, fonzi=0.1)
    found["fonzi"].loc["law", "diet"] = np.nan
    found["fonzi"].loc["law", "cars"] = np.nan
    result = regress(found, x)
    assert the(result, trait="sporty").slope == pytest.approx(0.5)
    assert the(result, trait="fonzi").reason == "2 transfer cells are missing"
    assert the(result, trait="average").status == "not_estimable"
    assert "not_estimable: 2 transfer cells are missing" in str(result)


def test_a_constant_similarity_is_not_estimable(noisy):
    slope = the(regress(noisy, frame(np.full((6, 6), 0.5))))
    assert slope.status == "not_estimable"
    assert slope.reason == "the similarity is constant or has missing cells"


def test_a_similarity_with_a_hole_is_not_estimable(x, noisy):
    x = x.copy()
    x.loc["law", "cars"] = np.nan
    assert the(regress(noisy, x)).reason == "the similarity is constant or has missing cells"


@pytest.mark.parametrize(
    ("case", "words"), [("y", "y is explained by"), ("x", "predictor 'x' is explained by")]
)
def test_what_source_and_target_effects_explain_is_not_estimable(x, noisy, case, words):
    additive = frame(np.arange(6.0)[:, None] + np.arange(6.0) ** 2)
    additive += frame(np.diag(np.full(6, 20.0)))
    slope = the(regress(additive, x) if case == "y" else regress(noisy, additive))
    assert slope.status == "not_estimable"
    assert words in slope.reason


def test_domains_that_are_no_complete_factorial_are_not_estimable_with_the_way_out(x, noisy):
    topics = {name: (name, "prose") for name in NAMES} | {"garden": ("diet", "code")}
    slope = the(regress(noisy, x, topics=topics))
    assert slope.status == "not_estimable"
    assert "drop the odd ones or complete it" in slope.reason


# --- whole tables ---


def transfer_rows(trait: str, replicate: int, values: pd.DataFrame, scale="contrast"):
    return [
        (trait, s, replicate, t, trait, "all", scale, values.loc[s, t], 0.1, 12, "ok")
        for s in values.index
        for t in values.columns
    ]


def table(*parts) -> pd.DataFrame:
    columns = "trait source replicate target answer_trait part scale value se n_items status"
    rows = [row for part in parts for row in transfer_rows(*part)]
    return pd.DataFrame(rows, columns=columns.split())


@pytest.fixture(scope="module")
def two_replicates() -> tuple[pd.DataFrame, list[Similarity]]:
    alike = [Similarity("text", likeness(k), replicate=k) for k in (1, 2)]
    own = [planted(z_score(s.values)[0], slope=0.1 * s.replicate, unit=1.0) for s in alike]
    reference = frame(np.full((6, 6), np.nan))
    parts = [("sporty", k, own[k - 1]) for k in (1, 2)] + [("neutral", 1, reference)]
    return table(*parts), alike


def test_each_replicate_is_regressed_on_its_own_similarity(two_replicates):
    transfer, alike = two_replicates
    found = verdict(transfer, alike)
    assert [(s.trait, s.replicate) for s in found.slopes] == [("sporty", 1), ("sporty", 2)]
    assert [s.slope for s in found.slopes] == pytest.approx([0.1, 0.2])
    assert [s.r2_over_effects for s in found.slopes] == pytest.approx([1, 1])


def test_the_other_replicates_similarity_changes_nothing(two_replicates):
    transfer, alike = two_replicates
    other = [alike[0], Similarity("text", likeness(9), replicate=2)]
    plain, found = (verdict(transfer, given) for given in (alike, other))
    assert found.slopes[0] == plain.slopes[0]
    assert found.slopes[1] != plain.slopes[1]


def test_predictors_and_scales_are_told_apart(two_replicates):
    transfer, (alike, _) = two_replicates
    net = transfer.assign(scale="net", value=transfer["value"] * 2)
    both = pd.concat([transfer, net])
    similarities = [alike, Similarity("mine", likeness(5), trait="sporty", replicate=1)]
    found = verdict(both, similarities, scale="net")
    assert [(s.predictor, s.scale) for s in found.slopes] == [("text", "net"), ("mine", "net")]
    assert found.slopes[0].slope == pytest.approx(0.1)
    assert found.units["sporty"] == pytest.approx(2.0)


def test_a_table_of_the_reference_alone_says_that_there_is_nothing_to_regress(two_replicates):
    transfer, alike = two_replicates
    found = verdict(transfer[transfer["trait"] == "neutral"], alike[:1])
    assert found.slopes == ()
    assert found.notes == ("Only the reference was trained: nothing to regress.",)


def test_a_transfer_matrix_brings_its_trait_and_scale(x, noisy):
    given = TransferMatrix("sporty", "sporty", "net", "all", 1, noisy, noisy, noisy)
    found = the(regress(given, Similarity("text", x), predictor="text", replicate=1))
    assert (found.trait, found.scale, found.predictor) == ("sporty", "net", "text")
    assert found.slope == pytest.approx(the(regress(noisy, x)).slope)


def test_verdicts_are_merged_with_every_note_once(x, noisy):
    first = regress(noisy, x, predictor="text")
    second = regress(noisy, x, predictor="mine")
    notes = ("A note.",)
    parts = [Verdict(v.slopes, v.units, notes, v.group) for v in (first, second)]
    whole = merge([Verdict((), {}, ()), *parts])
    assert [s.predictor for s in whole.slopes] == ["text", "mine"]
    assert whole.notes == notes
    assert whole.group == first.group


def test_no_similarity_is_refused():
    with pytest.raises(ConceptNetError, match="no similarity to regress on"):
        merge([])


def test_a_verdict_with_and_without_estimates_comes_back_from_json(two_replicates):
    transfer, alike = two_replicates
    hole = transfer["value"].mask((transfer["replicate"] == 2) & (transfer["source"] == "law"))
    found = verdict(transfer.assign(value=hole), alike)
    assert [s.status for s in found.slopes] == ["ok", "not_estimable"]
    back = Verdict.from_json(found.to_json())
    assert back.to_json() == found.to_json()
    assert str(back) == str(found)
    assert re.search(r"\bNaN\b", found.to_json()) is None
    assert json.loads(found.to_json())["slopes"][1]["p"] is None
