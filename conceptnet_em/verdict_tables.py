"""Lay a verdict out for a reader: the paragraphs to quote first, then what stands behind them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from conceptnet_em.comparison import Comparison
from conceptnet_em.records import Slope, format_p
from conceptnet_em.verdicts import AVERAGE, PRIMARY, Ceiling, Compared, MixedSlopes, Verdict

MOST_SHOWN = 4  # predictors of which every trait is shown; of more, the primaries only
CAUTION = (
    "Teacher-forced margins are not behaviour: they say how much more likely the trait's answers "
    "became, not what the model would say."
)
SLOPES = (
    "In-domain units (a trait's mean effect at home is 1) per SD of similarity, source and target "
    "effects held fixed. Intervals invert the test. *Holm* corrects over the registered "
    "primaries, *search* for having looked at all predictors. *R²* is the share of what the "
    "effects leave; *R² left out* is for the cells of a domain that the fit has not seen."
)
COMPARED = (
    "The case's slope minus the mean slope of the controls: all of them, those that change what is "
    "said (substance), those that change how (manner). *Equivalent* is yes where two one-sided "
    "tests put the difference within the margin, no where the 90% interval lies beyond it. *Of "
    "slope* is the margin as a share of the controls' slope; *80% margin* is what such data reach "
    "with 80% power if the slopes are truly equal. *Over items* holds these domains and draws "
    "probe items anew."
)
MIXED = (
    "The same slopes from a crossed mixed model (REML, Satterthwaite's degrees of freedom), one "
    "replicate at a time: a check that rests on other assumptions than relabelling."
)
CEILINGS = (
    "Correlations over off-diagonal cells without source and target effects. The ceiling is what a "
    "perfect predictor would be expected to reach given the noise of transfer and similarity; the "
    "corrected r (r / ceiling) means nothing without the two."
)


def verdict_sections(verdict: Verdict) -> list[str]:
    """Return the Markdown sections of a verdict; those with nothing in them are left out."""
    found = ["## Verdict", *(f"> {paragraph}" for paragraph in verdict.sentences()), CAUTION]
    if verdict.slopes:
        found += ["## Slopes", SLOPES, table_of(lead_table(verdict)), *_by_trait(verdict)]
    found += _comparisons(verdict)
    if verdict.mixed:
        found += ["## Mixed model", MIXED, table_of(mixed_table(verdict.mixed))]
    if verdict.ceilings:
        found += ["## Noise ceiling", CEILINGS, table_of(ceiling_table(verdict.ceilings))]
    found += _notes(verdict)
    return found


def lead_table(verdict: Verdict) -> pd.DataFrame:
    """Return every predictor's main slope, and the same by replicate and without some cells."""
    traits = {name: row.trait for name in verdict.predictors if (row := verdict.lead(name))}
    return slope_table([s for s in verdict.slopes if traits.get(s.predictor) == s.trait])


def _by_trait(verdict: Verdict) -> list[str]:
    """Return the slopes of single traits, of all replicates together."""
    leads = {name: row for name in verdict.predictors if (row := verdict.lead(name))}
    few = len(leads) <= MOST_SHOWN
    rows = [
        row
        for row in verdict.slopes
        if row.trait != AVERAGE
        and row.replicate == leads[row.predictor].replicate
        and (few or leads[row.predictor].role == PRIMARY)
    ]
    if not rows:
        return []
    rest = [] if few else ["Single traits on the other predictors stand in `verdict.json`."]
    if verdict.units:
        units = ", ".join(f"{trait} {unit:+.3f}" for trait, unit in verdict.units.items())
        rest.append(f"Mean in-domain effect, which each trait is divided by: {units}.")
    return ["### Trait by trait", table_of(slope_table(rows)), *rest]


def slope_table(slopes: Sequence[Slope]) -> pd.DataFrame:
    """Return one row per slope, ready to print; columns in which nothing stands are left out."""
    rows = [
        {
            "predictor": s.predictor,
            "role": s.role,
            "replicate": "all" if s.replicate is None else s.replicate,
            "trait": s.trait,
            "cells": s.cells,
            "slope": _signed(s.slope) + " per unit" * (s.per == "unit"),
            "95% CI": _range(s.low, s.high) if s.status == "ok" else s.status,
            "CI over pairs": _range(s.pairs_low, s.pairs_high),
            "p": _p(s.p),
            "Holm": _p(s.p_holm),
            "search": _p(s.p_search),
            "r": _signed(s.r),
            "R²": _signed(s.r2_over_effects),
            "R² left out": _signed(s.lodo_r2),
            "why not": s.reason,
        }
        for s in slopes
    ]
    return _telling(pd.DataFrame(rows), keep=("replicate",))


def _telling(table: pd.DataFrame, keep: Sequence[str] = ()) -> pd.DataFrame:
    """Leave out columns in which nothing stands."""
    silent = {"–", "", "all"}
    return table.drop(columns=[c for c in table if c not in keep and set(table[c]) <= silent])


def _comparisons(verdict: Verdict) -> list[str]:
    """Return the tables of the primaries in full, and one row for each other predictor."""
    if not verdict.comparisons:
        return []
    found = [f"## {verdict.comparisons[0].found.case} against the controls", COMPARED]
    full = [one for one in verdict.comparisons if one.role == PRIMARY]
    for one in full:
        found += [f"### {one.found.predictor} ({one.role})", *_in_full(one.found)]
    if rest := [one for one in verdict.comparisons if one not in full]:
        found += ["### exploratory predictors, all controls", table_of(comparison_table(rest))]
    return found


def _in_full(one: Comparison) -> list[str]:
    """Return the comparison's own tables; slopes of single traits stand above already."""
    if one.status != "ok":
        return [f"not_estimable: {one.reason}."]
    rows: list[Sequence[Any]] = [one.contrasts, one.intercepts, one.against_many, one.hold_out]
    titled = list(one.tables().items())[-len(rows) :]
    return [
        f"**{title}**: {_nothing(own)}"
        if all(row.status != "ok" for row in own)
        else f"**{title}**\n\n{table_of(table.reset_index().rename(columns={'': 'why not'}))}"
        for (title, table), own in zip(titled, rows, strict=True)
    ]


def _nothing(rows: Sequence[Any]) -> str:
    return f"not_estimable: {rows[0].reason}."


def comparison_table(rows: Sequence[Compared]) -> pd.DataFrame:
    """Return one row per predictor: the case against all controls."""
    table = pd.DataFrame(
        {
            "predictor": one.found.predictor,
            "controls' slope": _signed(one.found.primary.controls_slope),
            "difference": _signed(one.found.primary.difference),
            "90% CI": _range(one.found.primary.low, one.found.primary.high),
            "p differ": _p(one.found.primary.p_difference),
            "margin": f"±{one.found.primary.margin:.2f}",
            "p equivalent": _p(one.found.primary.p_equivalence),
            "equivalent": one.found.primary.equivalent,
            "80% margin": _size(one.found.primary.reachable_margin),
            "why not": one.found.reason,
        }
        for one in rows
    )
    return _telling(table)


def mixed_table(rows: Sequence[MixedSlopes]) -> pd.DataFrame:
    """Return one row per predictor and replicate."""
    table = pd.DataFrame(
        {
            "predictor": one.predictor,
            "role": one.role,
            "replicate": one.replicate,
            "slope of": "controls" if one.case else "all traits",
            "slope": _signed(one.slope),
            "95% CI": _range(one.low, one.high),
            "p": _p(one.p),
            "difference": _signed(one.difference),
            "90% CI": _range(one.difference_low, one.difference_high),
            "p differ": _p(one.p_difference),
            "equivalent": one.equivalent if one.case else "–",
            "notes": " ".join([one.reason, *one.notes]).strip(),
        }
        for one in rows
    )
    return _telling(table)


def ceiling_table(rows: Sequence[Ceiling]) -> pd.DataFrame:
    """Return one row per predictor; bounds only where there are several replicates."""
    table = pd.DataFrame(
        {
            "predictor": one.predictor,
            "role": one.role,
            "r": _signed(one.r),
            "ceiling": _size(one.ceiling),
            "r / ceiling": _signed(one.r_disattenuated),
            "reliability of transfer": _size(one.transfer_reliability),
            "of similarity": _size(one.similarity_reliability),
            "of the replicates' mean": _size(one.replicate_reliability),
            "bounds of one replicate": "–"
            if math.isnan(one.lower + one.upper)
            else f"{_size(one.lower)} … {_size(one.upper)}",
            "notes": " ".join(one.notes),
        }
        for one in rows
    )
    return _telling(table)


def _notes(verdict: Verdict) -> list[str]:
    """Return what a reader must know."""
    lines = list(verdict.notes)
    if verdict.group:
        lines.append(f"p-values: {verdict.group}, applied to sources and targets jointly.")
    return ["## Notes", "\n".join(f"- {line}" for line in lines)] if lines else []


def table_of(frame: pd.DataFrame) -> str:
    """Return a frame as a Markdown table, without its index."""
    if frame.empty:
        return "(nothing)"
    head = "| " + " | ".join(map(str, frame.columns)) + " |"
    rule = "|" + "---|" * len(frame.columns)
    rows = ["| " + " | ".join(map(str, row)) + " |" for row in frame.itertuples(index=False)]
    return "\n".join([head, rule, *rows])


def _range(low: float, high: float) -> str:
    return "–" if math.isnan(low + high) else f"{_signed(low)} … {_signed(high)}"


def _p(p: float) -> str:
    return "–" if math.isnan(p) else format_p(p)


def _size(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "–"


def _signed(value: float) -> str:
    if math.isinf(value):
        return "unbounded"
    return "–" if math.isnan(value) else f"{value:+.2f}"
