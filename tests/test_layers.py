"""The layer profile: a planted layer is found, and the best of many layers fools nobody."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from conceptnet_em.errors import InputError
from conceptnet_em.inference import verdict
from conceptnet_em.layers import layer_profile
from conceptnet_em.multiplicity import max_stat
from conceptnet_em.records import Similarity, TransferMatrix
from conceptnet_em.regression import regress
from conceptnet_em.relabelling import relabellings
from conceptnet_em.replicates import Measured
from conceptnet_em.transfer import matrix

NAMES = ["cars", "diet", "garden", "law", "money", "sleep"]
TRAITS = ("misaligned", "sporty", "sycophantic")
FACTORIAL = {f"{topic}-{form}": (topic, form) for topic in "abcde" for form in ("prose", "code")}


def frame(values, names: Sequence[str] = NAMES) -> pd.DataFrame:
    return pd.DataFrame(np.asarray(values, float), list(names), list(names))


def at_home(cells, unit: float = 1.0) -> np.ndarray:
    """Transfer whose in-domain effect is `unit` on average, and surely not 0."""
    home = np.diag(1 + 0.1 * np.linspace(-1, 1, len(cells)))
    return unit * np.where(np.eye(len(cells), dtype=bool), home, cells)


def table_of(matrices: Mapping[tuple[str, int], np.ndarray], names=NAMES) -> pd.DataFrame:
    """A transfer table with `(trait, replicate)` matrices."""
    rows = [
        (trait, trait, source, target, replicate, cells[i, j])
        for (trait, replicate), cells in matrices.items()
        for i, source in enumerate(names)
        for j, target in enumerate(names)
    ]
    keys = ["trait", "answer_trait", "source", "target", "replicate", "value"]
    table = pd.DataFrame(rows, columns=keys)
    return table.assign(part="all", scale="contrast", se=0.1, n_items=6, status="ok")


def layers_of(values: Sequence[np.ndarray], names=NAMES, **fields) -> list[Similarity]:
    return [
        Similarity("activation", frame(cells, names), layer=n, reliability=0.9, **fields)
        for n, cells in enumerate(values)
    ]


def drawn(rng, count: int, size: int = 6) -> list[np.ndarray]:
    return [rng.normal(size=(size, size)) for _ in range(count)]


@pytest.fixture(scope="module")
def planted():
    """Four layers; transfer of every trait follows layer 2, each with a unit of its own."""
    rng = np.random.default_rng(0)
    cells = drawn(rng, 4)
    off = ~np.eye(6, dtype=bool)
    z = (cells[2] - cells[2][off].mean()) / cells[2][off].std()
    slopes = dict(zip(TRAITS, (0.3, 0.5, 0.7), strict=True))
    matrices = {
        (trait, 1): at_home(slope * z + 0.1 * rng.normal(size=z.shape), unit=0.5 + k)
        for k, (trait, slope) in enumerate(slopes.items())
    }
    return table_of(matrices), layers_of(cells)


@pytest.fixture(scope="module")
def told(planted):
    return layer_profile(*planted)


# --- what is found ---


def test_a_planted_layer_is_found_by_the_average_the_case_and_every_choice(told):
    assert [told.best(name).layer for name in ("average", "misaligned", "controls")] == [2, 2, 2]
    assert told.best("average").slope == pytest.approx(0.5, abs=0.05)
    assert told.best("average").p_corrected == pytest.approx(1 / 720)
    assert [one.trait for one in told.nested] == list(TRAITS)
    assert [one.layer for one in told.nested] == [2, 2, 2]
    assert told.chosen.slope == pytest.approx(0.3, abs=0.05)
    assert told.chosen.p == told.chosen.p_redone == pytest.approx(1 / 720)
    assert told.chosen.chosen_on == ("sporty", "sycophantic")


def test_rows_are_what_regress_and_max_stat_give(planted, told):
    table, alike = planted
    matrices = {trait: matrix(table, trait) for trait in TRAITS}
    for n, row in enumerate(told.of("average")):
        fit = regress(matrices, alike[n])
        assert (row.slope, row.t, row.p) == pytest.approx((fit.slope, fit.t, fit.p))
    search = max_stat(matrices["sporty"], {str(n): one for n, one in enumerate(alike)})
    for n, row in enumerate(told.of("sporty")):
        assert row.p_corrected == search[str(n)].p_corrected
        assert (row.pointwise, row.simultaneous) == pytest.approx(
            (search[str(n)].threshold, search.threshold)
        )
    assert told.n_permutations == 720
    assert told.exact


def test_outside_a_band_is_where_its_p_reaches_the_level(told):
    for row in told.rows:
        assert (abs(row.t) > row.pointwise + 1e-9) == (row.p <= 0.05)
        assert (abs(row.t) > row.simultaneous + 1e-9) == (row.p_corrected <= 0.05)
    wide = [row.simultaneous for row in told.of("average")]
    assert len(set(wide)) == 1
    assert wide[0] > max(row.pointwise for row in told.of("average"))


def test_the_verdict_has_the_same_slopes_with_replicates_formats_and_covariates():
    rng, names = np.random.default_rng(1), list(FACTORIAL)
    matrices = {(t, r): at_home(drawn(rng, 1, 10)[0]) for t in TRAITS for r in (1, 2)}
    alike = [one for r in (1, 2) for one in layers_of(drawn(rng, 2, 10), names, replicate=r)]
    held = {"length": frame(drawn(rng, 1, 10)[0], names)}
    options = {"topics": FACTORIAL, "covariates": held}
    found = layer_profile(table_of(matrices, names), alike, **options)
    mine = [one for one in alike if one.layer == 1]
    whole = verdict(table_of(matrices, names), mine, primaries=(), **options).slopes
    for trait in ("average", *TRAITS):
        expected = next(
            one
            for one in whole
            if (one.trait, one.replicate, one.cells, one.predictor)
            == (trait, None, "all", "activation")
        )
        row = found.of(trait)[1]
        assert (row.slope, row.t, row.p) == pytest.approx((expected.slope, expected.t, expected.p))
    assert "joint relabelling of 5 topics × 2 formats" in found.group


# --- the choice ---


def test_the_choice_does_not_see_the_case(planted, told):
    table, alike = planted
    other = table.copy()
    mine = (other["trait"] == "misaligned") & (other["source"] != other["target"])
    other.loc[mine, "value"] = np.random.default_rng(5).normal(size=int(mine.sum()))
    found = layer_profile(other, alike)
    assert found.chosen.layer == told.chosen.layer == 2
    assert found.chosen.p != told.chosen.p
    assert found.chosen.p == found.of("misaligned")[2].p


def test_a_choice_made_anew_in_every_relabelling_counts_what_it_reaches():
    """All 120 relabellings of 5 domains, by least squares on dummies."""
    rng, names = np.random.default_rng(2), NAMES[:5]
    case, control = drawn(rng, 2, 5)
    cells = drawn(rng, 3, 5)
    matrices = {("misaligned", 1): at_home(case), ("sporty", 1): at_home(control)}
    found = layer_profile(table_of(matrices, names), layers_of(cells, names)).chosen
    kept = ~np.eye(5, dtype=bool)
    source, target = np.nonzero(kept)
    effects = np.column_stack([np.eye(5)[source], np.eye(5)[target]])

    def off(v):
        return v - effects @ np.linalg.lstsq(effects, v, rcond=None)[0]

    reached = []
    for order in relabellings(names).orders:
        left = [off(layer[np.ix_(order, order)][kept]) for layer in cells]
        left = [v / np.linalg.norm(v) for v in left]
        choice = int(np.argmax([abs(v @ off(control[kept])) for v in left]))
        reached.append((choice, abs(left[choice] @ off(case[kept]))))
    assert found.layer == reached[0][0]
    assert len({choice for choice, _ in reached}) == 3
    expected = np.mean([value >= reached[0][1] - 1e-9 for _, value in reached])
    assert found.p_redone == pytest.approx(expected)
    assert found.p_redone != found.p


@pytest.fixture
def null_grids(monkeypatch):
    """Profiles of grids in which similarity explains nothing, without the way through a table."""
    monkeypatch.setattr("conceptnet_em.layers.measured", lambda given, **_: given)
    return _null_grids


def as_measured(matrices: Mapping[tuple[str, int], pd.DataFrame]) -> Measured:
    given = {
        key: TransferMatrix(key[0], key[0], "contrast", "all", key[1], values, values, values)
        for key, values in matrices.items()
    }
    return Measured(given, dict(matrices), dict.fromkeys(matrices, 1.0), {}, True)


def _null_grids(count: int, *, shared: float, layers: int = 6, size: int = 9) -> pd.Series:
    """Return the shares of p-values that are .05 or less.

    Args:
        count: grids.
        shared: of a trait's variance, the share that both traits have.
        layers: unrelated ones.
        size: domains; 9 are too many to list their relabellings.
    """
    rng, names, rows = np.random.default_rng(7), list("abcdefghijkl"[:size]), []
    for k in range(count):
        common, *own = drawn(rng, 3, size)
        cells = [frame((1 - shared) ** 0.5 * one + shared**0.5 * common, names) for one in own]
        given = as_measured({("misaligned", 1): cells[0], ("sporty", 1): cells[1]})
        alike = layers_of(drawn(rng, layers, size), names)
        found = layer_profile(given, alike, permutations=99, seed=k)
        average = found.of("average")
        rows.append(
            {
                "corrected": min(row.p_corrected for row in average),
                "best alone": min(row.p for row in average),
                "nested": found.chosen.p,
                "anew": found.chosen.p_redone,
            }
        )
    return (pd.DataFrame(rows) <= 0.05).mean()


HONEST = ["corrected", "nested", "anew"]


def test_by_chance_a_layer_stands_out_only_where_the_search_is_not_corrected(null_grids):
    found = null_grids(200, shared=0)
    assert found["best alone"] >= 0.15
    assert found[HONEST].between(0.02, 0.08).all()


@pytest.mark.slow
@pytest.mark.parametrize("layers", [6, 20])
def test_over_many_null_grids_every_honest_p_keeps_its_level(null_grids, layers):
    found = null_grids(1_000, shared=0, layers=layers)
    assert found["best alone"] >= 0.2
    assert found[HONEST].between(0.03, 0.07).all()


def test_noise_that_traits_share_fools_the_nested_p_but_not_the_choice_made_anew(null_grids):
    found = null_grids(100, shared=0.95)
    assert found["nested"] >= 0.15
    assert 0 < found["anew"] <= 0.1


# --- gaps and small studies ---


def test_a_layer_that_one_trait_lacks_is_left_out_of_what_needs_it():
    rng = np.random.default_rng(3)
    matrices = {(trait, 1): at_home(drawn(rng, 1)[0]) for trait in TRAITS}
    alike = [one for t in TRAITS for one in layers_of(drawn(rng, 3), trait=t)]
    whole = layer_profile(table_of(matrices), alike)
    gone = [one for one in alike if (one.trait, one.layer) != ("sporty", 1)]
    found = layer_profile(table_of(matrices), gone)
    status = {
        name: [row.status == "ok" for row in found.of(name)]
        for name in ("average", "misaligned", "controls", "sporty", "sycophantic")
    }
    assert [name for name, fine in status.items() if fine == [True, False, True]] == [
        "average",
        "controls",
        "sporty",
    ]
    assert status["misaligned"] == status["sycophantic"] == [True] * 3
    reason = "sporty has no similarity there in replicate 1"
    assert found.of("average")[1].reason == reason
    assert np.isnan(found.of("average")[1].t)
    assert f"Not estimable at layer 1 for average, controls, sporty: {reason}." in found.notes
    for now, then in zip(found.of("misaligned"), whole.of("misaligned"), strict=True):
        assert (now.t, now.p) == pytest.approx((then.t, then.p))
    assert found.chosen.layer != 1
    assert {one.trait: one.layer for one in found.nested}["sporty"] != 1
    assert found.of("average")[0].t == pytest.approx(whole.of("average")[0].t)


def test_an_all_equal_layer_has_no_t_and_does_not_disturb_the_others(planted, told):
    table, alike = planted
    flat = Similarity("activation", frame(np.full((6, 6), 0.7)), layer=4)
    found = layer_profile(table, [flat, *alike])
    assert found.layers == (0, 1, 2, 3, 4)
    for name in ("average", "misaligned"):
        row = found.of(name)[4]
        assert row.status == "not_estimable"
        assert "constant" in row.reason
        assert np.isnan([row.slope, row.t, row.p, row.p_corrected, row.pointwise]).all()
    assert found.of("average")[:4] == told.of("average")
    assert found.nested == told.nested
    assert any(note.startswith("Not estimable at layer 4 for average, mis") for note in found.notes)


def test_when_all_layers_are_equal_nothing_is_chosen_and_it_says_why(planted):
    flat = layers_of([np.full((6, 6), 0.7)] * 2)
    found = layer_profile(planted[0], flat)
    assert found.best("average") is None
    assert found.chosen.status == "not_estimable"
    assert "no layer is estimable for misaligned" in found.chosen.reason
    assert "no layer is estimable" in str(found)


def test_a_single_layer_needs_no_correction(planted):
    table, alike = planted
    found = layer_profile(table, alike[1:2])
    assert found.layers == (1,)
    for row in found.rows:
        assert row.p == row.p_corrected
        assert row.pointwise == pytest.approx(row.simultaneous)
    assert found.chosen.p == found.chosen.p_redone
    assert "corrected for" not in str(found)
    assert "For the average over traits layer 1 has slope" in str(found)


def test_one_trait_alone_has_a_profile_but_no_choice(planted):
    table, alike = planted
    found = layer_profile(table[table["trait"] == "misaligned"], alike)
    assert found.traits == ["misaligned"]
    assert found.best("misaligned").layer == 2
    assert found.chosen.reason == (
        "there is no other trait to choose a layer on without looking at misaligned"
    )
    assert "No layer is chosen for misaligned" in str(found)


def test_without_the_case_the_others_are_still_profiled(planted):
    table, alike = planted
    found = layer_profile(table, alike, case="spiteful")
    assert found.chosen.reason == (
        "spiteful is not among the traits (misaligned, sporty, sycophantic)"
    )
    assert found.traits == ["average", *TRAITS]
    assert [one.layer for one in found.nested] == [None, 2, 2, 2]


def test_a_trait_without_an_effect_at_home_is_left_out_and_said_to_be(planted):
    table, alike = planted
    weak = table.copy()
    home = (weak["trait"] == "misaligned") & (weak["source"] == weak["target"])
    weak.loc[home, "value"] = [1.0, -1.0, 1.0, -1.0, 1.0, -1.0]
    found = layer_profile(weak, alike)
    assert found.of("misaligned")[0].status == "not_estimable"
    assert "has t" in found.chosen.reason
    assert found.of("average")[2].t == pytest.approx(
        layer_profile(table[table["trait"] != "misaligned"], alike).of("average")[2].t
    )
    assert found.notes[0].startswith("misaligned is left out: its mean in-domain effect")


def test_four_domains_are_too_few_and_it_says_so():
    rng, names = np.random.default_rng(4), NAMES[:4]
    table = table_of({(t, 1): at_home(drawn(rng, 1, 4)[0]) for t in TRAITS}, names)
    found = layer_profile(table, layers_of(drawn(rng, 2, 4), names))
    assert {row.status for row in found.rows} == {"not_estimable"}
    assert "4 domains are too few" in str(found)


# --- what comes out and what is refused ---


def test_tables_and_json_hold_every_row_and_no_nan(told, planted):
    flat = replace(planted[1][0], values=frame(np.ones((6, 6))), layer=9)
    found = layer_profile(planted[0], [*planted[1], flat])
    table = found.to_table()
    assert len(table) == 5 * 5  # average, case, controls and two controls, at five layers
    assert list(table["layer"].unique()) == [0, 1, 2, 3, 9]
    nested = found.nested_table().set_index("trait")
    assert nested.loc["misaligned", "layer"] == 2
    back = json.loads(found.to_json(), parse_constant=lambda word: pytest.fail(word))
    assert back["rows"][4]["p"] is None
    assert back["rows"][2]["layer"] == 2
    assert back["predictor"] == "activation"


def test_the_text_fits_a_terminal_and_names_what_it_found(planted):
    table, alike = planted
    long = {
        trait: f"{trait} with a name that is far too long to be put in a column" for trait in TRAITS
    }
    named = table.assign(trait=table["trait"].map(long), answer_trait=table["trait"].map(long))
    text = str(layer_profile(named, alike, case=long["misaligned"]))
    assert max(map(len, text.splitlines())) <= 100
    short = str(layer_profile(table, alike))
    assert "activation at 4 layers (0 to 3): slopes of contrast transfer (part: all)" in short
    assert "For the average over traits layer 2 stands out most" in short
    assert "sporty, sycophantic choose layer 2" in " ".join(short.split())
    (line,) = (line for line in short.splitlines() if line.endswith("chosen"))
    assert line.split()[0] == "2"
    assert "free relabelling of 6 domains (6! = 720)" in short


def test_impossible_profiles_are_refused(planted):
    table, alike = planted
    other = replace(alike[0], predictor="text", layer=None)
    with pytest.raises(
        InputError, match=r"(?s)level 1.5.*2 came: activation, text.*text name no layer"
    ):
        layer_profile(table, [*alike, other], level=1.5)
    with pytest.raises(InputError, match="no similarity to look at"):
        layer_profile(table, [])
    with pytest.raises(InputError, match="layer 3 comes twice for misaligned/1"):
        layer_profile(table, [*alike, alike[3]])
    with pytest.raises(InputError, match="no raw transfer"):
        layer_profile(table, alike, scale="raw")
    with pytest.raises(InputError, match="lacks row labels that transfer"):
        layer_profile(table, [replace(one, values=one.values.iloc[1:]) for one in alike])
    with pytest.raises(InputError, match="permutations must be at least 1"):
        layer_profile(table, alike, permutations=0)
