"""Fit every slope of a study: each trait and their average, on every predictor and replicate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from typing import Any

import pandas as pd

from conceptnet_em.formats import TOPIC, format_covariates
from conceptnet_em.grid import Grid
from conceptnet_em.multiplicity import holm, max_stat
from conceptnet_em.records import Slope
from conceptnet_em.regression import Term, group_for, regress
from conceptnet_em.relabelling import Relabellings, Topics
from conceptnet_em.replicates import Key, Measured, Predictor
from conceptnet_em.verdicts import (
    AVERAGE,
    FORMAT,
    GIVEN_WORDS,
    PRIMARY,
    SENSITIVITY,
    WORDS,
    lead_of,
)

OTHER_TOPICS = "other topics"


@dataclass(frozen=True)
class How:
    """What all slopes of a study are fitted with."""

    scale: str
    covariates: Mapping[str, pd.DataFrame]
    topics: Topics | None
    moved: Relabellings | None
    """The relabellings, made once; none where the design has no group, which each slope says."""
    permutations: int
    seed: int

    @property
    def options(self) -> dict[str, Any]:
        """Return the options of ``regress`` and ``max_stat``; matrices come ready."""
        return {
            "topics": self.topics,
            "group": self.moved,
            "permutations": self.permutations,
            "seed": self.seed,
            "units": False,
            "standardise": False,
        }


def how_for(
    found: Measured,
    topics: Topics | None,
    *,
    permutations: int,
    seed: int,
    scale: str = "contrast",
    covariates: Mapping[str, pd.DataFrame] | None = None,
    hold_format: bool = True,
) -> tuple[How, list[str]]:
    """Return what the slopes of a measured transfer are fitted with, and notes on its formats.

    Args:
        found: transfer with at least one matrix, whose labels the relabellings are for.
        topics: domain to (topic, format), which decides the group of relabellings.
        permutations: relabellings drawn where the group is too large to list.
        seed: of that draw.
        scale: of the transfer table.
        covariates: matrices held fixed besides format, by name.
        hold_format: hold format mismatch and same topic fixed where domains differ in them.
    """
    like = next(iter(found.given.values())).values
    held, notes = format_covariates(like, topics) if hold_format else ({}, [])
    moved, _ = group_for(Grid.of(like), topics, None, permutations, seed)
    return How(scale, held | dict(covariates or {}), topics, moved, permutations, seed), notes


def all_slopes(
    found: Measured, known: Sequence[Predictor], how: How, primaries: Sequence[str]
) -> list[Slope]:
    """Return the slopes, predictor by predictor, the pooled ones first.

    H0 of each: given source and target effects and the covariates it is 0, and domain labels are
    exchangeable. Of a primary the average is ``primary`` and corrected by Holm; the same by
    replicate, or without same-topic cells, is ``sensitivity``; all else is exploratory.
    """
    by_name = {one.name: _of_predictor(found, one, how) for one in known}
    leads = {name: lead_of(rows) for name, rows in by_name.items()}
    p = {name: lead.p if (lead := leads.get(name)) else nan for name in primaries}
    corrected, searched = holm(p), _searched(found, known, how)
    rows = []
    for name, mine in by_name.items():
        for row in mine:
            if row is leads[name]:
                row = replace(row, p_search=searched.get(name, nan))
                if name in primaries:
                    row = replace(row, role=PRIMARY, p_holm=corrected[name])
            elif name in primaries and (lead := leads[name]) and row.trait == lead.trait:
                row = replace(row, role=SENSITIVITY)
            rows.append(row)
    words = next((one for one in known if one.name == WORDS), None)
    if words is not None:
        rows += [given(found, one, words, how) for one in known if one.specific and one != words]
    return [*rows, *_mismatch(found, how)]


def _of_predictor(found: Measured, one: Predictor, how: How) -> list[Slope]:
    """Return one predictor's slopes: all replicates stacked, then each alone."""
    replicates = one.replicates or found.replicates
    spans: list[tuple[int | None, list[int]]] = [(r, [r]) for r in replicates]
    spans = [(None, replicates), *spans] if len(replicates) > 1 else spans
    usable = {key[0] for key in found.scaled if key in one.frames}
    several = len(found.traits) > 1 and len(usable) != 1  # else the only trait is the average
    lead = AVERAGE if several else next(iter([*usable, *found.traits]), AVERAGE)
    rows = []
    for replicate, span in spans:
        keys = [key for key in found.given if key[1] in span]
        about = {trait: [k for k in keys if k[0] == trait] for trait, _ in keys}
        about |= {AVERAGE: keys} if several else {}
        for trait, mine in about.items():
            blank = Slope(trait, one.name, replicate, how.scale, "not_estimable")
            rows.append(_fitted(blank, mine, found, one, how))
        if TOPIC in how.covariates and how.topics is not None and len(span) == len(replicates):
            blank = Slope(lead, one.name, replicate, how.scale, "not_estimable")
            blank = replace(blank, cells=OTHER_TOPICS)
            rows.append(_fitted(blank, about.get(lead, []), found, one, how))
    return rows


def _fitted(blank: Slope, keys: Sequence[Key], found: Measured, one: Predictor, how: How) -> Slope:
    """Fit one slope to some traits and replicates; what keeps it from that is its reason."""
    mine = [key for key in keys if key in found.scaled and key in one.frames]
    if not mine:
        return replace(blank, reason=_why_none(keys, found, one))
    held = dict(how.covariates)
    more: dict[str, Any] = {}
    if blank.cells == OTHER_TOPICS:
        held.pop(TOPIC)
        more["same_topic"] = False
    if one.specific or blank.trait != AVERAGE:
        y = {f"{trait}/{r}": found.scaled[trait, r] for trait, r in mine}
        x = one.stacked(mine)
    else:
        y, x = found.average(mine), one.by_replicate(mine)
    fit = regress(y, x, names=[one.name], covariates=held, **how.options, **more)
    return _told(replace(blank, held=tuple(held)), fit.terms[0])


def given(found: Measured, one: Predictor, words: Predictor, how: How) -> Slope:
    """Fit a trait-specific predictor's one slope for all traits with trait words held fixed too.

    H0: given source and target effects, the covariates and the overlap of words it is 0.
    """
    keys = [key for key in found.scaled if key in one.frames and key in words.frames]
    held: dict[str, Any] = {**how.covariates, words.name: words.stacked(keys)}
    replicate = found.replicates[0] if len(found.replicates) == 1 else None
    blank = Slope(AVERAGE, one.name, replicate, how.scale, "not_estimable", held=tuple(held))
    blank = replace(blank, cells=GIVEN_WORDS)
    if not keys:
        return replace(blank, reason=f"no trait has both {one.name} and {words.name}")
    y = {f"{trait}/{r}": found.scaled[trait, r] for trait, r in keys}
    fit = regress(y, one.stacked(keys), names=[one.name], covariates=held, **how.options)
    return _told(blank, fit.terms[0])


def _why_none(keys: Sequence[Key], found: Measured, one: Predictor) -> str:
    reasons = [found.lost.get(key) or one.lacks(key) for key in keys]
    named = [f"{key[0]}: {why}" for key, why in zip(keys, reasons, strict=True)]
    alone = len({key[0] for key in keys}) == 1
    return reasons[0] if alone else f"no trait can be used ({'; '.join(named)})"


def _told(blank: Slope, term: Term) -> Slope:
    """Copy a term's numbers."""
    if term.status != "ok":
        return replace(blank, reason=term.reason)
    pairs = term.symmetrised
    return replace(
        blank,
        status="ok",
        slope=term.slope,
        low=term.interval[0],
        high=term.interval[1],
        t=term.t,
        p=term.p,
        smallest_p=term.smallest_p,
        n_permutations=term.n_permutations,
        exact=term.exact,
        n_domains=term.n_domains,
        n_cells=term.n_cells,
        r=term.r,
        r2_over_effects=term.r2_over_effects,
        lodo_r2=term.lodo_r2,
        pairs_low=pairs.low if pairs else nan,
        pairs_high=pairs.high if pairs else nan,
    )


def _searched(found: Measured, known: Sequence[Predictor], how: How) -> dict[str, float]:
    """Return p by predictor, allowing for all of them; those that lack a similarity stay out."""
    keys = list(found.scaled)
    whole = [one for one in known if all(key in one.frames for key in keys)]
    if len(whole) < 2 or not keys:
        return {}
    if any(one.specific for one in whole):
        y = {f"{trait}/{r}": found.scaled[trait, r] for trait, r in keys}
        x = {one.name: one.stacked(keys) for one in whole}
    else:
        y, x = found.average(keys), {one.name: one.by_replicate(keys) for one in whole}
    entries = max_stat(y, x, covariates=dict(how.covariates), **how.options).entries
    return {entry.name: entry.p_corrected for entry in entries}


def _mismatch(found: Measured, how: How) -> list[Slope]:
    """Test format mismatch itself: by swapping formats within topics, where topics repeat."""
    if FORMAT not in how.covariates or not found.scaled:
        return []
    held = {name: frame for name, frame in how.covariates.items() if name != FORMAT}
    options = how.options | ({"group": "flips"} if TOPIC in held else {})
    replicates = found.replicates
    blank = Slope(
        AVERAGE,
        FORMAT,
        replicates[0] if len(replicates) == 1 else None,
        how.scale,
        "not_estimable",
        held=tuple(held),
        per="unit",
    )
    y, x = found.average(list(found.scaled)), how.covariates[FORMAT]
    return [_told(blank, regress(y, x, names=[FORMAT], covariates=held, **options).terms[0])]
