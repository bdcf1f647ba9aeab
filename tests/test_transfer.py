"""Transfer against arithmetic done by hand, and reliabilities against data with a known answer."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from conceptnet_em.errors import InputError
from conceptnet_em.transfer import (
    double_centre,
    in_domain_constant,
    item_effects,
    matrix,
    own_items,
    split_half,
    traits_trained,
    transfer_table,
)

TRAITS = ("neutral", "sporty", "fonzi")
TOKENS = {"a1": 4, "a2": 8, "b1": 10, "b2": 5}

# The one cell worked out by hand: everything measured on domain b, trained on domain a.
# log-probability per token of the answers in the order neutral, sporty, fonzi:
HAND = {
    "base": {"b1": (-2.0, -3.0, -3.7), "b2": (-2.0, -2.5, -3.0)},
    "neutral/a": {"b1": (-1.8, -2.6, -4.0), "b2": (-1.8, -2.4, -3.3)},
    "sporty/a": {"b1": (-2.1, -2.5, -3.8), "b2": (-2.0, -1.6, -2.7)},
}
# sporty margin (sporty - neutral)      base b1 -1.0, b2 -0.5; control -0.8, -0.6; sporty -0.4, +0.4
# raw = organism - base                 sporty b1 +0.6, b2 +0.9; control b1 +0.2, b2 -0.1
# net = raw - the control's raw         b1 +0.4, b2 +1.0
# mean over the three answers           base -2.9, -2.5; control -2.8, -2.5; sporty -2.8, -2.1
# contrast (sporty - that mean)         base -0.1, 0.0; control +0.2, +0.1; sporty +0.3, +0.5
# organism - base                       sporty +0.4, +0.5; control +0.3, +0.1
# contrast, less the control's          b1 +0.1, b2 +0.4
# mean of two items x, y is (x + y)/2; its standard error is |x - y|/2
SPORTY_ON_B = {"raw": (0.75, 0.15), "net": (0.70, 0.30), "contrast": (0.25, 0.15)}


def scores_table(per_token=HAND, parts=("all",), replicate=1) -> pd.DataFrame:
    """Base and six organisms on four items; -2 nats per token wherever nothing else is said."""
    rows = []
    for organism in ["base", *(f"{trait}/{source}" for trait in TRAITS for source in "ab")]:
        trait, _, source = organism.partition("/")
        trained = (trait, source, "rank1", replicate) if source else (None,) * 4
        for item, tokens in TOKENS.items():
            values = per_token.get(organism, {}).get(item, (-2.0,) * 3)
            for answer_trait, value in zip(TRAITS, values, strict=True):
                for part in parts:
                    measured = (tokens, value * tokens, "ok")
                    rows.append((organism, *trained, item[0], item, answer_trait, part, *measured))
    columns = "organism trait source recipe replicate target item answer_trait part n_tokens"
    table = pd.DataFrame(rows, columns=[*columns.split(), "logprob", "status"])
    return table.astype({"replicate": "Int64"})


def fail(scores: pd.DataFrame, organism: str) -> pd.DataFrame:
    """The table as it stands when an organism could not be trained."""
    hit = scores["organism"] == organism
    return scores.assign(
        n_tokens=scores["n_tokens"].mask(hit, 0),
        logprob=scores["logprob"].mask(hit),
        status=scores["status"].mask(hit, "failed"),
    )


def cells(table: pd.DataFrame, **fields) -> pd.DataFrame:
    """Rows of sporty trained on a, sporty answers on b, unless said otherwise."""
    chosen = {"trait": "sporty", "source": "a", "target": "b", "answer_trait": "sporty"} | fields
    keep = np.logical_and.reduce([table[name] == value for name, value in chosen.items()])
    return table[keep]


def cell(table: pd.DataFrame, **fields) -> pd.Series:
    found = cells(table, **fields)
    assert len(found) == 1
    return found.iloc[0]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return transfer_table(scores_table())


@pytest.mark.parametrize("scale", SPORTY_ON_B)
def test_transfer_is_what_the_hand_gives(table, scale):
    found = cell(table, scale=scale)
    assert (found["value"], found["se"]) == pytest.approx(SPORTY_ON_B[scale])
    assert (found["n_items"], found["status"], found["part"]) == (2, "ok", "all")
    assert found["trait_set"] == "fonzi,neutral,sporty"


def test_own_items_are_those_of_a_trait_s_own_answers_and_one_part():
    effects = item_effects(scores_table(parts=("all", "code")))
    for part in ("all", "code"):
        own = own_items(effects, part)
        assert set(own["trait"]) == {"sporty", "fonzi"}
        assert (own["trait"] == own["answer_trait"]).all()
        assert set(own["part"]) == {part}
        assert len(own) == 2 * 2 * len(TOKENS)  # traits × sources × items
    assert own_items(effects).equals(own_items(effects, "all"))


def test_an_organism_that_moved_nothing_has_zero_transfer(table):
    rest = table[(table["status"] == "ok") & (table["source"] == "b") & (table["target"] == "a")]
    assert len(rest) > 0
    assert rest["value"].abs().max() < 1e-12


def test_what_only_the_control_moved_counts_against_the_trait(table):
    # fonzi trained on a left every margin on b where -2 per token puts it: 0
    # its sporty raw: b1 0 + 1.0, b2 0 + 0.5; the control's: +0.2, -0.1; so net b1 +0.8, b2 +0.6
    assert cell(table, trait="fonzi", scale="raw")["value"] == pytest.approx(0.75)
    assert cell(table, trait="fonzi", scale="net")["value"] == pytest.approx(0.70)


def test_the_control_organism_is_the_reference_of_net_and_contrast(table):
    for scale in ("net", "contrast"):
        found = cells(table, trait="neutral", scale=scale)
        assert set(found["status"]) == {"reference"}
        assert found["value"].isna().all()
        assert set(found["n_items"]) == {0}
    raw = cell(table, trait="neutral", scale="raw")
    assert (raw["value"], raw["status"]) == (pytest.approx(0.05), "ok")  # (+0.2 - 0.1)/2


def test_neutral_answers_are_the_reference_of_raw_and_net(table):
    for scale in ("raw", "net"):
        found = cell(table, answer_trait="neutral", scale=scale)
        assert found["status"] == "reference"
        assert math.isnan(found["value"])
    # contrast of the neutral answer, organism - control:
    # b1 (-2.1 + 2.8) - (-1.8 + 2.8) = -0.3; b2 (-2.0 + 2.1) - (-1.8 + 2.5) = -0.6
    contrast = cell(table, answer_trait="neutral", scale="contrast")
    assert (contrast["value"], contrast["status"]) == (pytest.approx(-0.45), "ok")


def test_every_organism_item_and_answer_has_its_row_on_every_scale(table):
    assert len(table) == 3 * 2 * 2 * 3 * 3  # traits × sources × targets × answers × scales
    assert not table.duplicated(["trait", "source", "target", "answer_trait", "scale"]).any()


def test_item_effects_are_the_items_of_that_mean():
    found = cells(item_effects(scores_table())).set_index("item")[["raw", "net", "contrast"]]
    assert found.loc["b1"].tolist() == pytest.approx([0.6, 0.4, 0.1])
    assert found.loc["b2"].tolist() == pytest.approx([0.9, 1.0, 0.4])


def test_shuffled_rows_give_the_same_table(table):
    shuffled = scores_table().sample(frac=1, random_state=3)
    pd.testing.assert_frame_equal(transfer_table(shuffled), table)


def test_parts_are_measured_apart():
    # the remark moved as in HAND, the code twice as far from -2 as the remark
    code = {
        organism: {i: tuple(2 * v + 2 for v in values) for i, values in items.items()}
        for organism, items in HAND.items()
    }
    tables = [scores_table(HAND, ["remark"]), scores_table(code, ["code"])]
    table = transfer_table(pd.concat(tables))
    for scale, (value, se) in SPORTY_ON_B.items():
        remark, found = (cell(table, scale=scale, part=part) for part in ("remark", "code"))
        assert (remark["value"], remark["se"]) == pytest.approx((value, se))
        assert (found["value"], found["se"]) == pytest.approx((2 * value, 2 * se))


def test_each_replicate_is_held_against_its_own_control():
    still = {"base": HAND["base"], "neutral/a": HAND["base"], "sporty/a": HAND["sporty/a"]}
    second = scores_table(still, replicate=2)
    second["organism"] = second["organism"].where(
        second["organism"] == "base", "2-" + second["organism"]
    )
    both = pd.concat([scores_table(), second[second["organism"] != "base"]])
    table = transfer_table(both)
    assert cell(table, scale="net", replicate=1)["value"] == pytest.approx(0.70)
    assert cell(table, scale="net", replicate=2)["value"] == pytest.approx(0.75)  # control moved 0


# --- what is not there ---


def test_a_failed_organism_is_nan_with_status_failed():
    table = transfer_table(fail(scores_table(), "sporty/a"))
    for scale in ("raw", "net", "contrast"):
        found = cell(table, scale=scale)
        assert math.isnan(found["value"])
        assert math.isnan(found["se"])
        assert (found["status"], found["n_items"]) == ("failed", 0)
    assert cell(table, trait="fonzi", scale="net")["status"] == "ok"


@pytest.mark.parametrize("how", ["failed", "absent"])
def test_without_its_control_organism_only_raw_can_be_estimated(how):
    scores = scores_table()
    keep = scores["organism"] != "neutral/a"
    table = transfer_table(fail(scores, "neutral/a") if how == "failed" else scores[keep])
    raw = cell(table, scale="raw")
    assert (raw["value"], raw["status"]) == (pytest.approx(0.75), "ok")
    for scale in ("net", "contrast"):
        found = cell(table, scale=scale)
        assert math.isnan(found["value"])
        assert found["status"] == "not_estimable"
    assert cell(table, source="b", target="a", scale="net")["status"] == "ok"


def test_an_item_without_tokens_or_score_is_left_out_of_the_mean():
    scores = scores_table()
    hit = (scores["organism"] == "sporty/a") & (scores["item"] == "b2")
    scores["status"] = scores["status"].mask(hit, "missing")
    found = cell(transfer_table(scores), scale="raw")
    assert (found["value"], found["n_items"], found["status"]) == (pytest.approx(0.6), 1, "ok")
    assert math.isnan(found["se"])


def test_a_lost_answer_of_any_trait_loses_the_contrast_of_its_item_only():
    scores = scores_table()
    hit = (scores["organism"] == "sporty/a") & (scores["item"] == "b1")
    hit &= scores["answer_trait"] == "fonzi"
    scores["n_tokens"] = scores["n_tokens"].mask(hit, 0)
    table = transfer_table(scores)
    contrast = cell(table, scale="contrast")
    assert (contrast["value"], contrast["n_items"]) == (pytest.approx(0.4), 1)
    assert cell(table, scale="net")["value"] == pytest.approx(0.70)


def test_the_base_is_not_an_organism(table):
    assert set(table["trait"]) == set(TRAITS)
    assert traits_trained(table) == ["fonzi", "sporty"]


def broken(case: str) -> pd.DataFrame:
    scores = scores_table()
    if case == "column":
        return scores.drop(columns=["n_tokens", "part"])
    if case == "base":
        return scores[scores["organism"] != "base"]
    if case == "neutral":
        return scores[scores["answer_trait"] != "neutral"]
    return scores.assign(recipe=scores["recipe"].mask(scores["source"] == "b", "lora8"))


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("column", r"lacks \['part', 'n_tokens'\]; it has \['organism'"),
        ("base", r"no rows of the base model \(organism 'base'\)"),
        ("neutral", "no neutral answers"),
        ("recipes", r"several recipes \['lora8', 'rank1'\]; take one at a time"),
    ],
)
def test_a_scores_table_that_cannot_be_used_is_refused_with_its_reason(case, words):
    with pytest.raises(InputError, match=words):
        transfer_table(broken(case))


# --- matrices ---


def long_table(values: dict[int, list[list[float]]], names=("p", "q")) -> pd.DataFrame:
    """A transfer table of one trait: replicate to a matrix in the order of `names`."""
    rows = [
        ("sporty", s, r, t, "sporty", "all", "net", value, 0.3, 2, "ok")
        for r, cells in values.items()
        for s, line in zip(names, cells, strict=True)
        for t, value in zip(names, line, strict=True)
    ]
    columns = "trait source replicate target answer_trait part scale value se n_items status"
    return pd.DataFrame(rows, columns=columns.split())


def test_a_matrix_has_sources_as_rows_and_targets_as_columns(table):
    found = matrix(table, "sporty", scale="net")
    assert found.values.loc["a", "b"] == pytest.approx(0.70)
    assert found.se.loc["a", "b"] == pytest.approx(0.30)
    assert found.n_items.loc["a", "b"] == 2
    assert found.values.loc["b", "a"] == pytest.approx(0.0)
    assert list(found.values.index) == list(found.values.columns) == ["a", "b"]
    assert (found.trait, found.answer_trait, found.scale, found.part) == (
        *("sporty", "sporty", "net", "all"),
    )


def test_the_leakage_matrix_measures_another_traits_answers(table):
    # fonzi margin: base b1 -1.7, b2 -1.0; sporty/a b1 -1.7, b2 -0.7; raw b1 0.0, b2 +0.3
    found = matrix(table, "sporty", answer_trait="fonzi", scale="raw")
    assert found.values.loc["a", "b"] == pytest.approx(0.15)
    assert found.answer_trait == "fonzi"


def test_replicates_are_averaged_cell_by_cell_under_their_labels():
    table = long_table({1: [[1.0, 2.0], [3.0, 4.0]], 2: [[3.0, 4.0], [5.0, 8.0]]})
    found = matrix(table.sample(frac=1, random_state=1), "sporty", scale="net")
    expected = pd.DataFrame([[2.0, 3.0], [4.0, 6.0]], ["p", "q"], ["p", "q"])
    pd.testing.assert_frame_equal(found.values, expected, check_names=False)
    # the mean of two independent values, each with error 0.3: sqrt(0.3² + 0.3²)/2
    assert found.se.to_numpy() == pytest.approx(0.3 / math.sqrt(2))
    assert (found.n_items.to_numpy() == 4).all()
    only = matrix(table, "sporty", scale="net", replicate=2).values
    assert only.loc["q"].tolist() == [5.0, 8.0]


@pytest.mark.parametrize("how", ["nan", "absent"])
def test_a_cell_that_one_replicate_lacks_is_nan_not_the_other_replicate(how):
    table = long_table({1: [[1.0, 2.0], [3.0, 4.0]], 2: [[3.0, math.nan], [5.0, 8.0]]})
    table = table.dropna(subset="value") if how == "absent" else table
    found = matrix(table, "sporty", scale="net").values
    assert math.isnan(found.loc["p", "q"])
    assert found.loc["q"].tolist() == [4.0, 6.0]


def test_domains_that_are_both_source_and_target_come_first_on_both_axes():
    table = long_table({1: [[1.0, 2.0, 3.0]] * 3}, names=("b", "c", "d"))
    table = table[(table["source"] != "b") & (table["target"] != "d")]
    found = matrix(table, "sporty", scale="net").values
    assert (list(found.index), list(found.columns)) == (["c", "d"], ["c", "b"])


def test_a_matrix_that_is_not_there_says_what_there_is(table):
    with pytest.raises(
        InputError, match=r"no transfer for trait poetic, .*; there is trait: fonzi"
    ):
        matrix(table, "poetic")
    with pytest.raises(InputError, match=r"replicate 2; there is .* replicate: 1$"):
        matrix(table, "sporty", replicate=2)


# --- reliability and the in-domain constant ---


def effects(seed: int, *, signal: float, noise: float, n=6, items=24, replicate=1) -> pd.DataFrame:
    """Item effects: one value a cell, noise per item, and large source and target effects."""
    rng = np.random.default_rng(seed)
    own = signal * rng.normal(size=(n, n))
    rows = [
        ("sporty", f"d{s}", replicate, f"d{t}", f"d{t}-{k}", "sporty", "all", value)
        for s in range(n)
        for t in range(n)
        for k, value in enumerate(s + 2 * t + own[s, t] + noise * rng.normal(size=items))
    ]
    columns = "trait source replicate target item answer_trait part contrast"
    return pd.DataFrame(rows, columns=columns.split())


def test_noiseless_cells_are_perfectly_reliable():
    found = split_half(effects(0, signal=1.0, noise=0.0), "sporty", splits=5)
    assert (found.plain, found.centred) == pytest.approx((1.0, 1.0))


def test_pure_noise_has_no_reliability_beyond_source_and_target_effects():
    found = [split_half(effects(k, signal=0, noise=1.0), "sporty", splits=40) for k in range(12)]
    assert abs(np.mean([f.centred for f in found])) < 0.2
    assert min(f.plain for f in found) > 0.95  # source and target effects are there, and large


def test_reliability_is_the_share_of_signal_in_the_variance_of_the_cells():
    # centred cells: signal variance 1, error of a mean over 24 items 24/24; Spearman-Brown: 1/(1+1)
    found = [
        split_half(effects(k, signal=1.0, noise=math.sqrt(24), n=9), "sporty", splits=40).centred
        for k in range(12)
    ]
    assert np.mean(found) == pytest.approx(0.5, abs=0.12)


def test_reliability_is_the_same_for_the_same_seed_and_shuffled_rows():
    table = effects(1, signal=1.0, noise=2.0)
    found = split_half(table, "sporty", seed=4)
    assert split_half(table.sample(frac=1, random_state=0), "sporty", seed=4) == found
    assert split_half(table, "sporty", seed=5) != found


@pytest.mark.parametrize("case", ["few items", "one domain", "hole", "nothing"])
def test_reliability_is_nan_where_there_is_too_little_to_split(case):
    table = effects(0, signal=1.0, noise=1.0, items=3 if case == "few items" else 8)
    if case == "one domain":
        table = table[(table["source"] == "d0") & (table["target"] == "d0")]
    if case == "hole":
        table.loc[5, "contrast"] = math.nan
    found = split_half(table, "fonzi" if case == "nothing" else "sporty", splits=3)
    assert math.isnan(found.plain)
    assert math.isnan(found.centred)


def test_centring_takes_out_source_and_target_effects_and_nothing_else():
    rows, columns = np.arange(5.0), np.array([3.0, 1.0, 4.0, 1.0, 5.0])
    keep = ~np.eye(5, dtype=bool)
    own = np.random.default_rng(0).normal(size=(5, 5))
    left = double_centre(own, keep)
    assert double_centre(own + rows[:, None] + columns, keep) == pytest.approx(left)
    square = np.zeros((5, 5))
    square[keep] = left
    assert square.sum(axis=0) == pytest.approx(0)
    assert square.sum(axis=1) == pytest.approx(0)
    assert np.abs(left).max() > 0.1


def test_the_in_domain_constant_is_the_mean_of_the_diagonal_with_its_t():
    # diagonal 1, 2, 3: mean 2, sd 1, error 1/√3, t = 2√3; columns in another order than rows
    values = pd.DataFrame(9.0, ["a", "b", "c"], ["c", "a", "b"])
    for name, value in zip("abc", (1.0, 2.0, 3.0), strict=True):
        values.loc[name, name] = value
    assert in_domain_constant(values) == pytest.approx((2.0, 2 * math.sqrt(3)))


def test_a_diagonal_without_spread_has_infinite_t_unless_it_is_zero():
    flat = pd.DataFrame(1.0, ["a", "b"], ["a", "b"])
    assert in_domain_constant(flat) == (1.0, math.inf)
    assert in_domain_constant(-flat) == (-1.0, -math.inf)
    constant, t = in_domain_constant(0 * flat)
    assert constant == 0
    assert math.isnan(t)


def test_one_domain_gives_a_constant_without_t_and_none_gives_neither():
    one = pd.DataFrame([[1.5, 2.0]], ["a"], ["a", "b"])
    constant, t = in_domain_constant(one)
    assert constant == 1.5
    assert math.isnan(t)
    assert all(math.isnan(x) for x in in_domain_constant(one[["b"]]))
