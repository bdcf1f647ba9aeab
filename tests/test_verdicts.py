"""What a verdict says: sentences that hold when quoted, and never more than was shown."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest

from conceptnet_em.comparison import (
    Comparison,
    HoldOut,
    Intercept,
    OneAgainstMany,
    SlopeContrast,
    TraitSlope,
)
from conceptnet_em.records import Slope
from conceptnet_em.verdict_tables import (
    ceiling_table,
    comparison_table,
    lead_table,
    mixed_table,
    slope_table,
    table_of,
    verdict_sections,
)
from conceptnet_em.verdicts import Ceiling, Compared, MixedSlopes, Verdict, lead_of

NAN = float("nan")
FULL = Slope(
    *("average", "text", 1, "contrast", "ok", ""),
    slope=0.25,
    low=-0.125,
    high=0.5,
    t=2.5,
    p=0.0125,
    smallest_p=1 / 720,
    n_permutations=720,
    exact=True,
    n_domains=6,
    n_cells=30,
    r=0.5,
    r2_over_effects=0.375,
    role="primary",
    p_holm=0.025,
    p_search=0.03,
    lodo_r2=0.125,
)
CONTRAST = SlopeContrast(
    *("all", ("sporty", "sycophantic"), 0.2),
    controls_slope=0.3,
    controls_low=0.1,
    controls_high=0.5,
    controls_p=0.01,
    controls_r2=0.4,
    difference=0.05,
    low=-0.15,
    high=0.25,
    p_difference=0.6,
    p_above=0.02,
    p_below=0.09,
    n_domains=6,
)
MIXED = MixedSlopes(
    *("text", 1, "misaligned", 0.2),
    slope=0.3,
    low=0.2,
    high=0.4,
    p=0.001,
    difference=0.05,
    difference_low=-0.05,
    difference_high=0.15,
    df=40.0,
    p_difference=0.4,
    p_above=0.001,
    p_below=0.02,
)
CEILING = Ceiling("text", "primary", 0.375, 0.75, 0.5, 0.8, 0.7, NAN, NAN, NAN, 1)


def changed(record=FULL, **fields):
    return dataclasses.replace(record, **fields)


def compared(predictor="text", role="primary", **fields) -> Compared:
    found = Comparison(
        case="misaligned",
        predictor=predictor,
        contrasts=(changed(CONTRAST, **fields),),
        slopes=(TraitSlope("misaligned", "case"),),
        intercepts=(Intercept("all", 0.2, "not_estimable", "too few"),),
        against_many=(OneAgainstMany("all", 2, 0.2, "not_estimable", "K = 2 are too few"),),
        hold_out=(HoldOut("mean and similarity", r2=0.5, r=0.7, calibration=1.0, p=0.01),),
    )
    return Compared(role, 1, found)


def verdict(*slopes: Slope, **fields) -> Verdict:
    return Verdict(slopes or (FULL,), {}, (), **fields)


# --- sentences ---


def test_the_sentence_of_a_primary_gives_interval_corrected_p_and_what_is_explained():
    (sentence,) = verdict().sentences()
    assert sentence == (
        "text similarity predicts trait-averaged transfer (replicate 1): slope +0.25 in-domain "
        "units per SD [95% CI -0.12, +0.50], p = 0.013 (Holm over the primaries 0.025, all 720 "
        "relabellings, smallest attainable 0.0014); it explains 38% of what source and target "
        "effects leave (plain r = +0.50, R² for a domain left out +0.12)."
    )


def test_the_raw_correlation_stands_beside_its_ceiling_and_the_corrected_one():
    (sentence,) = verdict(ceilings=(CEILING,)).sentences()
    words = "without source and target effects +0.38 of a ceiling of 0.75, disattenuated +0.50"
    assert words in sentence
    unknown = changed(CEILING, ceiling=NAN, r_disattenuated=NAN)
    (sentence,) = verdict(ceilings=(unknown,)).sentences()
    assert "without source and target effects +0.38, its ceiling not estimable" in sentence
    assert "disattenuated" not in sentence


def test_what_is_held_fixed_is_named():
    (sentence,) = verdict(changed(held=("format mismatch", "same topic"))).sentences()
    assert "of what source and target effects, format mismatch and same topic leave" in sentence


def test_the_slope_without_cells_of_the_same_topic_stands_beside_it():
    (paragraph,) = verdict(FULL, changed(cells="other topics", slope=0.2)).sentences()
    assert paragraph.endswith(
        "Without cells of the same topic the slope is +0.20 [95% CI -0.12, +0.50], p = 0.013."
    )


def test_stacked_replicates_are_said_to_be_all():
    assert "transfer (all replicates): slope" in str(verdict(changed(replicate=None)))


def test_a_primary_counts_by_holm_not_by_its_own_p():
    (sentence,) = verdict(changed(p=0.03, p_holm=0.06)).sentences()
    assert sentence.startswith("text similarity is not shown to predict")
    (at,) = verdict(changed(p_holm=0.05)).sentences()
    assert "similarity predicts" in at


def test_a_large_p_is_never_said_to_show_no_effect():
    words = re.compile(r"\bno (difference|effect|relation|link|generalization)|does not|equal")
    for p in (0.051, 0.3, 0.9999, 1.0):
        (sentence,) = verdict(changed(p=p, p_holm=p, slope=0.0)).sentences()
        assert "is not shown to predict" in sentence
        assert not words.search(sentence)


def test_the_paragraph_goes_on_with_the_comparison_and_the_mixed_model():
    (paragraph,) = verdict(comparisons=(compared(),), mixed=(MIXED,)).sentences()
    assert (
        "misaligned's slope differs from the controls' by +0.05 [90% CI -0.15, +0.25], equivalent "
        "within ±0.20 (67% of the controls' slope): cannot tell (p = 0.090)."
    ) in paragraph
    assert "That a difference was not found does not show that there is none." in paragraph
    assert "What it would take" in paragraph
    assert paragraph.endswith(
        "A mixed model, as a check, puts the difference of slopes at +0.05 [90% CI -0.05, +0.15] "
        "in replicate 1, equivalent within ±0.20: yes."
    )


def test_a_mixed_model_that_could_not_be_fitted_is_not_quoted():
    bare = MixedSlopes("text", 1, "misaligned", 0.2, status="not_estimable", reason="why")
    assert "mixed model" not in str(verdict(mixed=(bare,)))
    assert bare.equivalent == "not_estimable"


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({}, "yes"),
        ({"p_below": 0.06, "difference_high": 0.21}, "cannot tell"),
        ({"p_below": 0.9, "difference_low": 0.2, "difference_high": 0.5}, "no"),
        ({"p_below": NAN}, "not_estimable"),
    ],
)
def test_the_mixed_model_is_equivalent_within_the_margin_or_beyond_it_or_neither(fields, word):
    assert changed(MIXED, **fields).equivalent == word


def test_of_what_was_explored_the_most_striking_is_told_with_the_p_that_allows_for_it():
    found = verdict(
        FULL,
        changed(predictor="own", role="exploratory", p_holm=NAN, p=0.001, p_search=0.06),
        changed(predictor="graph", role="exploratory", p_holm=NAN, p=0.4, p_search=0.9),
    )
    first, second = found.sentences()
    assert first.startswith("text similarity predicts")
    assert second.startswith(
        "Exploratory (the most striking of 2: own and graph): own similarity is not shown to "
        "predict"
    )
    assert second.endswith("; allowing for the 3 predictors looked at p = 0.060.")


def test_many_explored_predictors_are_counted_not_listed():
    rest = [changed(predictor=f"x{k}", role="exploratory", p_holm=NAN) for k in range(9)]
    assert "(the most striking of 9): x0" in str(verdict(FULL, *rest))


def test_without_primaries_every_predictor_has_its_sentence():
    rows = [changed(predictor=name, role="exploratory", p_holm=NAN) for name in ("a", "b")]
    assert [s.split()[0] for s in verdict(*rows).sentences()] == ["a", "b"]


def test_a_slope_that_is_not_estimable_gives_its_reason():
    bare = Slope("average", "text", 1, "contrast", "not_estimable", "4 domains are too few")
    assert verdict(bare).sentences() == ["text: not_estimable: 4 domains are too few."]


def test_a_mismatch_of_formats_has_a_sentence_of_its_own():
    row = changed(predictor="format mismatch", role="exploratory", per="unit", slope=-0.4)
    found = verdict(FULL, row)
    assert found.sentences()[1].startswith(
        "Format: a mismatch of source and target changes trait-averaged transfer: -0.40 in-domain "
        "units [95% CI"
    )
    assert "is not shown to change" in str(verdict(FULL, changed(row, p=0.2)))


def test_a_printed_verdict_ends_with_its_notes_its_group_and_what_was_registered():
    found = Verdict(
        (FULL,),
        {},
        ("fonzi is left out.",),
        "free relabelling (6! = 720)",
        registration={"H1 text": "registered"},
    )
    assert str(found).splitlines()[1:] == [
        "fonzi is left out.",
        "p-values: free relabelling (6! = 720), applied to sources and targets jointly.",
        "H1 text: registered.",
    ]


# --- finding and keeping ---


def test_the_lead_is_the_stacked_average_over_all_cells():
    rows = [
        changed(trait="sporty", replicate=None),
        changed(replicate=None, cells="other topics"),
        changed(replicate=None),
        changed(replicate=1),
    ]
    assert lead_of(rows) is rows[2]
    assert lead_of([]) is None
    lost = changed(trait="sporty", status="not_estimable")
    assert lead_of([lost, changed(trait="fonzi")]).trait == "fonzi"
    assert verdict(*rows).lead("text") is rows[2]
    assert verdict(*rows).lead("none") is None


def test_slopes_are_selected_by_their_fields():
    found = verdict(FULL, changed(trait="sporty"), changed(replicate=2))
    assert found.select(trait="sporty") == [found.slopes[1]]
    assert found.select(trait="average", replicate=2) == [found.slopes[2]]
    assert found.select(predictor="none") == []


def test_a_whole_verdict_comes_back_from_json():
    found = Verdict(
        (FULL, changed(replicate=None, low=-math.inf, held=("format mismatch",))),
        {"sporty": 0.75},
        ("A note.",),
        "free relabelling",
        (compared(), compared("own", "exploratory", p_difference=NAN)),
        (MIXED, changed(MIXED, notes=("Singular fit.",))),
        (CEILING,),
        {"margin": 0.2, "primaries": ["text"], "controls": None},
        {"H1 text": "registered"},
    )
    back = Verdict.from_json(found.to_json())
    assert back.to_json() == found.to_json()
    assert str(back) == str(found)
    assert str(back.comparisons[0].found) == str(found.comparisons[0].found)
    assert back.mixed == found.mixed
    assert (back.settings, back.registration) == (found.settings, found.registration)
    assert back.slopes[1].low == -math.inf
    assert back.slopes[1].held == ("format mismatch",)


def test_a_verdict_of_an_earlier_version_is_read():
    text = '{"slopes": [], "units": {"sporty": 0.5}, "notes": ["A note."], "group": "all"}'
    found = Verdict.from_json(text)
    assert (found.units, found.notes, found.comparisons) == ({"sporty": 0.5}, ("A note.",), ())


# --- tables ---


def test_the_slope_table_drops_columns_in_which_nothing_stands():
    table = slope_table([changed(p_holm=NAN, p_search=NAN)])
    assert "Holm" not in table
    assert "cells" not in table
    assert "why not" not in table
    (row,) = table.to_dict("records")
    assert (row["slope"], row["95% CI"], row["R² left out"]) == ("+0.25", "-0.12 … +0.50", "+0.12")
    whole = slope_table([FULL, changed(replicate=None, cells="other topics")])
    assert whole["replicate"].tolist() == [1, "all"]
    assert whole["cells"].tolist() == ["all", "other topics"]


def test_a_slope_without_numbers_shows_its_reason():
    bare = Slope("sporty", "text", 1, "contrast", "not_estimable", "4 domains are too few")
    (row,) = slope_table([bare]).to_dict("records")
    assert (row["95% CI"], row["why not"]) == ("not_estimable", "4 domains are too few")
    assert "nan" not in str(row).lower()


def test_the_lead_table_has_averages_and_no_single_trait():
    table = lead_table(verdict(FULL, changed(trait="sporty"), changed(replicate=2)))
    assert table["trait"].tolist() == ["average", "average"]


def test_the_small_tables_say_their_numbers():
    (row,) = comparison_table([compared("own", "exploratory")]).to_dict("records")
    assert (row["difference"], row["90% CI"], row["equivalent"]) == (
        "+0.05",
        "-0.15 … +0.25",
        "cannot tell",
    )
    (row,) = mixed_table([MIXED]).to_dict("records")
    assert (row["slope of"], row["equivalent"], row["90% CI"]) == (
        "controls",
        "yes",
        "-0.05 … +0.15",
    )
    (row,) = ceiling_table([CEILING]).to_dict("records")
    assert (row["r"], row["ceiling"], row["r / ceiling"]) == ("+0.38", "0.75", "+0.50")
    assert "bounds of one replicate" not in row
    several = changed(CEILING, lower=0.5, upper=0.75, n_replicates=2)
    assert ceiling_table([several])["bounds of one replicate"].tolist() == ["0.50 … 0.75"]


def test_the_sections_come_in_order_and_leave_out_what_is_not_there():
    found = Verdict(
        (FULL, changed(trait="sporty", role="exploratory")),
        {"sporty": 0.75},
        ("A note.",),
        "free relabelling",
        (compared(), compared("own", "exploratory")),
        (MIXED,),
        (CEILING,),
        registration={"H1 text": "registered and changed"},  # told by the report, with its plan
    )
    text = "\n\n".join(verdict_sections(found))
    heads = [line for line in text.splitlines() if line.startswith("#")]
    assert heads == [
        "## Verdict",
        "## Slopes",
        "### Trait by trait",
        "## misaligned against the controls",
        "### text (primary)",
        "### exploratory predictors, all controls",
        "## Mixed model",
        "## Noise ceiling",
        "## Notes",
    ]
    assert "sporty +0.750" in text
    assert "(Crawford–Howell)**: not_estimable: K = 2 are too few." in text
    assert "nan" not in text.lower()
    heads = [s for s in verdict_sections(Verdict((), {}, ())) if s.startswith("#")]
    assert heads == ["## Verdict"]


def test_of_many_predictors_only_the_primaries_are_shown_trait_by_trait():
    rows = [
        changed(predictor=name, trait=trait, role=role)
        for name, role in [("text", "primary"), *((f"x{k}", "exploratory") for k in range(5))]
        for trait in ("average", "sporty")
    ]
    text = "\n\n".join(verdict_sections(verdict(*rows)))
    assert "| text | primary | 1 | sporty |" in text
    assert "| x0 | exploratory | 1 | sporty |" not in text
    assert "stand in `verdict.json`" in text


def test_a_markdown_table_has_a_head_a_rule_and_its_rows():
    assert table_of(slope_table([])) == "(nothing)"
    lines = table_of(ceiling_table([CEILING])).splitlines()
    assert lines[0].startswith("| predictor | role | r |")
    assert set(lines[1]) == {"|", "-"}
    assert len(lines) == 3
