"""Every way of asking gives the number that asking so directly gives; the plan shows its row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from conceptnet_em.errors import InputError
from conceptnet_em.multiverse import NORMALISATIONS, multiverse, summary, without_trait
from conceptnet_em.multiverseplot import draw_multiverse
from conceptnet_em.records import Similarity
from conceptnet_em.registration import Registration
from conceptnet_em.regression import regress
from conceptnet_em.transfer import matrix, transfer_table

DOMAINS = [f"{name}-prose" for name in ("ant", "bee", "cat", "dog", "eel", "fox")]
TRAITS = ["neutral", "misaligned", "sporty", "poetic"]
TOPICS = {domain: (domain.removesuffix("-prose"), "prose") for domain in DOMAINS}


def likeness(seed: int) -> pd.DataFrame:
    """Return a symmetric similarity, minus distances of random places."""
    places = np.random.default_rng(seed).normal(size=(len(DOMAINS), 3))
    far = np.linalg.norm(places[:, None] - places[None], axis=2)
    return pd.DataFrame(-far, DOMAINS, DOMAINS)


def grid(
    slope: float, *, replicates: tuple[int, ...] = (1,), seed: int = 0, parts: bool = False
) -> pd.DataFrame:
    """Return scores in which every trait's transfer follows ``likeness(replicate)``."""
    rng = np.random.default_rng(seed)
    items = [f"item-{k}" for k in range(3)]
    base = {(t, i, a): rng.normal(-3, 0.3) for t in DOMAINS for i in items for a in TRAITS}
    organisms: list[tuple[Any, Any, Any]] = [(None, None, None)]
    organisms += [(t, s, r) for r in replicates for t in TRAITS for s in DOMAINS]
    rows = []
    for trait, source, replicate in organisms:
        name = "base" if trait is None else f"{trait}/{source}/{replicate}"
        for (target, item, answer), value in base.items():
            moved = 0.0
            if trait is not None:
                x = likeness(replicate).loc[source, target]
                own = trait == answer != "neutral"
                moved = rng.normal(0, 0.05) + own * (3.0 if source == target else 1 + slope * x)
            for part in ("all", "code", "remark") if parts and target[0] < "f" else ("all",):
                rows.append(
                    (name, trait, source, replicate, target, item, answer, part, value + moved)
                )
    columns = ["organism", "trait", "source", "replicate", "target", "item", "answer_trait"]
    table = pd.DataFrame(rows, columns=[*columns, "part", "logprob"])
    table = table.astype({"replicate": "Int64"})
    return table.assign(recipe="r", seed=1, n_tokens=1, status="ok")


def predictors(*replicates: int) -> list[Similarity]:
    """Return the three shipped kinds: one text, one activation, one for each trait."""
    found = []
    for r in replicates:
        found.append(Similarity("text", likeness(r), replicate=r))
        found.append(Similarity("activation", likeness(7 + r), layer=15, replicate=r))
        found += [
            Similarity("trait-direction", likeness(20 + k), trait=t, layer=15, replicate=r)
            for k, t in enumerate(TRAITS[1:])
        ]
    return found


@pytest.fixture(scope="module")
def scores() -> pd.DataFrame:
    return grid(0.3)


@pytest.fixture(scope="module")
def table(scores: pd.DataFrame) -> pd.DataFrame:
    return transfer_table(scores)


@pytest.fixture(scope="module")
def rows(table: pd.DataFrame) -> pd.DataFrame:
    return multiverse(table, predictors(1), topics=TOPICS)


def row(rows: pd.DataFrame, predictor: str, **fields: Any) -> pd.Series:
    """Return the one row with these choices."""
    wanted = {"scale": "contrast", "without": "", "normalisation": NORMALISATIONS[0]} | fields
    chosen = rows[rows["predictor"] == predictor]
    for name, value in wanted.items():
        chosen = chosen[chosen[name] == value]
    (only,) = (one for _, one in chosen.iterrows())
    return only


def test_there_is_one_row_for_every_combination_of_choices(rows):
    scales = 3 + len(TRAITS)  # three scales, and the contrast without each trait
    assert len(rows) == 3 * scales * len(NORMALISATIONS)
    choices = ["predictor", "layer", "scale", "without", "normalisation", "part"]
    assert not rows.duplicated(choices).any()
    assert set(rows["status"]) == {"ok"}


def test_the_registered_rows_are_the_two_primaries_on_the_planned_scale(rows):
    mine = rows[rows["registered"]]
    assert list(mine["predictor"]) == ["text", "activation"]
    assert set(mine["scale"]) == {"contrast"}
    assert set(mine["normalisation"]) == {"per-trait constant"}
    assert set(mine["without"]) == {""}


@pytest.mark.parametrize("scale", ["raw", "net", "contrast"])
def test_a_row_is_what_regress_says_of_the_same_matrices(rows, table, scale):
    own = {trait: matrix(table, trait, scale=scale) for trait in TRAITS[1:]}
    found = regress(own, predictors(1)[0], topics=TOPICS)
    mine = row(rows, "text", scale=scale)
    numbers = (mine["slope"], mine["low"], mine["high"], mine["p"], mine["t"])
    assert numbers == pytest.approx((found.slope, *found.interval, found.p, found.t), abs=1e-9)
    plain = regress(own, predictors(1)[0], topics=TOPICS, units=False)
    assert row(rows, "text", scale=scale, normalisation="none")["slope"] == pytest.approx(
        plain.slope
    )


def test_a_trait_specific_predictor_is_regressed_with_traits_stacked(rows, table):
    own = {trait: matrix(table, trait) for trait in TRAITS[1:]}
    alike = {s.trait: s for s in predictors(1)[2:]}
    found = regress(own, alike, topics=TOPICS)
    mine = row(rows, "trait-direction")
    assert (mine["slope"], mine["p"]) == pytest.approx((found.slope, found.p), abs=1e-9)


def test_z_scores_do_not_feel_a_traits_unit(table, rows):
    louder = table.assign(
        value=table["value"].where(table["trait"] != "sporty", 5 * table["value"])
    )
    again = multiverse(louder, predictors(1)[:1], topics=TOPICS, leave_out=False)
    for unit in ("z-score", "per-trait constant"):
        before, after = (row(found, "text", normalisation=unit) for found in (rows, again))
        assert after["slope"] == pytest.approx(before["slope"])
    before, after = (row(found, "text", normalisation="none") for found in (rows, again))
    assert after["slope"] > 1.5 * before["slope"]


@pytest.mark.parametrize("lost", TRAITS[1:])
def test_a_contrast_without_a_trait_is_what_scores_without_its_answers_give(scores, table, lost):
    kept = scores[(scores["answer_trait"] != lost) & (scores["trait"] != lost)]
    fewer = transfer_table(kept)
    made = without_trait(table, lost)
    for trait in (t for t in TRAITS[1:] if t != lost):
        pd.testing.assert_frame_equal(matrix(made, trait).values, matrix(fewer, trait).values)
    assert lost not in set(made["trait"])


def test_leaving_a_trait_out_of_two_or_an_unknown_one_is_refused(table):
    two = table[table["answer_trait"].isin(["neutral", "sporty"])]
    with pytest.raises(InputError, match="leaves no contrast"):
        without_trait(two, "sporty")
    with pytest.raises(InputError, match="did you mean 'sporty'"):
        without_trait(table, "sportly")


def test_replicates_are_stacked_each_beside_its_own_similarity():
    table = transfer_table(grid(0.3, replicates=(1, 2)))
    text = [predictors(r)[0] for r in (1, 2)]
    found = multiverse(table, text, topics=TOPICS, leave_out=False)
    mine = row(found, "text")
    single = [
        row(multiverse(table[table["replicate"] == r], [one], leave_out=False), "text")
        for r, one in zip((1, 2), text, strict=True)
    ]
    assert mine["n_cells"] == 2 * single[0]["n_cells"]
    low, high = sorted(one["slope"] for one in single)
    assert low < mine["slope"] < high


def test_partial_correlation_is_what_is_left_without_effects(rows, table):
    from conceptnet_em.transfer import double_centre

    keep = ~np.eye(len(DOMAINS), dtype=bool)
    own = [matrix(table, trait).values for trait in TRAITS[1:]]
    mean = sum(v / np.diag(v).mean() for v in own) / len(own)
    y, x = (double_centre(v.loc[DOMAINS, DOMAINS].to_numpy(), keep) for v in (mean, likeness(1)))
    mine = row(rows, "text")
    assert mine["partial_r"] == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert mine["partial_low"] / mine["low"] == pytest.approx(mine["partial_r"] / mine["slope"])


def test_parts_of_code_answers_are_compared_among_the_code_domains():
    found = multiverse(
        transfer_table(grid(0.3, parts=True)), predictors(1)[:1], topics=TOPICS, leave_out=False
    )
    assert set(found["part"]) == {"all", "code", "remark"}
    assert row(found, "text", part="code")["n_domains"] == 5
    assert row(found, "text", part="all")["n_domains"] == 6


def test_what_cannot_be_estimated_says_why_and_holds_no_number(table):
    few = DOMAINS[:4]
    small = table[table["source"].isin(few) & table["target"].isin(few)]
    alike = [Similarity("text", likeness(1).loc[few, few], replicate=1)]
    found = multiverse(small, alike, leave_out=False)
    assert set(found["status"]) == {"not_estimable"}
    assert found[["slope", "p", "partial_r"]].isna().all(axis=None)
    assert found["reason"].str.contains("at least 5").all()
    assert "the registered slope is not_estimable" in summary(found)
    with pytest.raises(InputError, match="nothing to draw"):
        draw_multiverse(found, "nowhere.png")


def test_a_table_that_lacks_columns_is_refused():
    with pytest.raises(InputError, match="lacks 'scale'"):
        multiverse(pd.DataFrame({"trait": []}), [])


def test_a_plan_decides_which_row_is_registered(table):
    plan = Registration(
        {
            "analysis": {"scale": "net", "part": "all", "normalisation": "z-score"},
            "primaries": {"P2": {"predictor": "activation", "layer": 3}},
        }
    )
    alike = [Similarity("activation", likeness(n), layer=n, replicate=1) for n in (3, 15)]
    found = multiverse(table, alike, topics=TOPICS, registration=plan, leave_out=False)
    (mine,) = (one for _, one in found[found["registered"]].iterrows())
    assert (mine["layer"], mine["scale"], mine["normalisation"]) == (3, "net", "z-score")
    unplanned = multiverse(table, alike, topics=TOPICS, leave_out=False)
    assert not unplanned["registered"].any()  # two layers, and no plan says which


def test_the_summary_counts_what_the_rows_say(rows):
    text = summary(rows)
    mine = row(rows, "text")
    assert f"{len(rows)} ways of asking can be estimated." in text
    assert f"text: the registered slope is {mine['slope']:+.3f}" in text
    others = rows[(rows["predictor"] == "text") & ~rows["registered"]]
    same = (others["sign"] == mine["sign"]).mean()
    assert f"of {len(others)} other ways {same:.0%} have the same sign" in text
    assert f"{(rows['sign'] == '+').mean():.0%} have a positive slope" in text
    assert "not tests" in text


def test_a_planted_slope_shows_in_every_way_of_asking_about_it(rows):
    text = rows[rows["predictor"] == "text"]
    assert (text["sign"] == "+").all()
    assert text["significant"].mean() > 0.9


def test_without_a_slope_the_rows_are_not_significant_more_often_than_chance_allows():
    found = multiverse(transfer_table(grid(0.0)), predictors(1)[:2], leave_out=False)
    assert found["significant"].mean() < 0.5


def test_the_picture_is_drawn_with_unbounded_intervals_too(rows, tmp_path):
    odd = rows.copy()
    odd.loc[0, "partial_high"] = np.inf
    draw_multiverse(odd, tmp_path / "curve.png")
    head = (tmp_path / "curve.png").read_bytes()
    assert head[:4] == b"\x89PNG"
    assert len(head) > 20_000


def test_the_registered_rows_get_all_relabellings_and_the_others_fewer(table, monkeypatch):
    from conceptnet_em import multiverse as module

    monkeypatch.setattr(module, "LISTED", 100)
    found = multiverse(table, predictors(1)[:2], topics=TOPICS, leave_out=False, draws=99)
    shares = {True: 720, False: 100}  # 6! listed; 99 drawn, and the identity
    for registered, part in found.groupby("registered"):
        count = part["p"] * shares[bool(registered)]
        assert np.allclose(count, count.round())
    assert len(found[found["registered"]]) == 2


def test_the_public_names_stay_functions_once_the_modules_are_imported():
    import importlib

    import conceptnet_em as em

    modules = [importlib.import_module(f"conceptnet_em.{n}") for n in ("multiverse", "power")]
    assert em.multiverse_table is modules[0].multiverse is multiverse
    assert em.power_table is modules[1].power
    assert em.verify.__module__ == "conceptnet_em.verification"
    assert em.preregister.__module__ == em.Registration.__module__ == "conceptnet_em.registration"
    assert em.estimate_components.__module__ == "conceptnet_em.pilot"


def test_a_picture_of_many_ways_stays_as_wide_as_a_page(rows, tmp_path):
    from matplotlib.image import imread

    many = pd.concat([rows] * 6, ignore_index=True).assign(registered=False)
    draw_multiverse(many, tmp_path / "many.png")
    assert imread(tmp_path / "many.png").shape[1] < 2_200
