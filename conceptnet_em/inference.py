"""Put a whole study to the test: one verdict on whether similarity explains transfer.

Slopes of every trait and of their average on every predictor, the case against the controls, a
mixed model as the check, and how high a correlation could be at best. Which of these counts is
settled beforehand: two primaries, with Holm's correction; the rest is sensitivity or exploration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from conceptnet_em.comparison import LEVEL, Comparison
from conceptnet_em.errors import raise_all, unknown
from conceptnet_em.pooling import compare_replicates
from conceptnet_em.records import Similarity, Slope, format_p
from conceptnet_em.regression import FEW_DOMAINS
from conceptnet_em.relabelling import Topics
from conceptnet_em.replicates import Measured, Predictor, Question, measured, predictors
from conceptnet_em.sensitivity import Ceilings, mixed_by_replicate
from conceptnet_em.slopes import all_slopes, how_for
from conceptnet_em.transfer import own_items
from conceptnet_em.verdicts import (
    EXPLORATORY,
    PRIMARY,
    Compared,
    Verdict,
)

PRIMARIES = ("text", "activation")
"""The registered predictors: one external, one internal."""
FEWER = 200
"""Draws of items for what is not primary: enough for a rough interval."""


def verdict(
    table: pd.DataFrame,
    similarities: Sequence[Similarity],
    *,
    items: pd.DataFrame | None = None,
    case: str = "misaligned",
    margin: float = 0.2,
    intercept_margin: float = 0.2,
    controls: Sequence[str] | None = None,
    kinds: Mapping[str, Sequence[str]] | None = None,
    primaries: Sequence[str] = PRIMARIES,
    scale: str = "contrast",
    part: str = "all",
    topics: Topics | None = None,
    covariates: Mapping[str, pd.DataFrame] | None = None,
    hold_format: bool = True,
    permutations: int = 9_999,
    resamples: int = 1_000,
    seed: int = 0,
) -> Verdict:
    """Regress a whole transfer table on every similarity, and compare the case with the controls.

    Transfer is divided by each trait's mean in-domain effect, replicate by replicate; a trait with
    t < 3 there, or with missing cells, is left out of that replicate and said to be. Similarity is
    z-scored once over all off-diagonal cells of all replicates and, where specific, traits. Each
    replicate is regressed on the similarity that may predict it; several are stacked, with effects
    of their own, one common slope and one relabelling for all, and also shown one by one.

    Where domains come in several formats, format mismatch and same topic are held fixed, and the
    slope of the average is shown without same-topic cells too.

    H0 of a slope: given source and target effects and the covariates it is 0, and domain labels
    are exchangeable as the group says. The primaries' averages are corrected by Holm; all averages
    also by the largest |t| over the predictors.

    Args:
        table: the ``transfer`` table.
        similarities: of every predictor, for every replicate and, where specific, trait.
        items: what ``transfer.item_effects`` returned; without it there is no interval over items
            and, with one replicate, no noise ceiling.
        case: the trait in question; where it is not in the table, none is compared.
        margin: of equivalence of slopes, in-domain units per SD of similarity.
        intercept_margin: of equivalence at equal similarity, in-domain units.
        controls: traits the case is compared with; all others when none.
        kinds: kind of control to its traits; ``equivalence.KINDS`` when none.
        primaries: the registered predictors.
        scale: of the transfer table.
        part: of the transfer table.
        topics: domain to (topic, format), which decides the group of relabellings.
        covariates: matrices held fixed besides format, by name.
        hold_format: hold format mismatch and same topic fixed where domains differ in them.
        permutations: relabellings drawn where the group is too large to list.
        resamples: draws of items for the primaries; 200 for the others.
        seed: of all draws.

    Returns:
        A verdict. What cannot be estimated says why and stops nothing else.

    Raises:
        InputError: labels do not match, a predictor comes twice, a margin is not positive, or a
            control is not in the table.
    """
    found = measured(table, scale=scale, part=part)
    known = predictors(similarities, found)
    raise_all(_faults(found, case, controls, margin, intercept_margin))
    told = {"scale": scale, "part": part, "case": case, "margin": margin}
    told |= {"intercept_margin": intercept_margin, "primaries": list(primaries)}
    told |= {"controls": None if controls is None else list(controls)}
    told |= {"permutations": permutations, "resamples": resamples, "seed": seed}
    if not found.given or not known:
        what = "no similarity to regress on" if found.given else "no trait but the reference"
        return Verdict((), {}, (f"There is {what}: nothing to regress.",), settings=told)
    how, format_notes = how_for(
        found,
        topics,
        permutations=permutations,
        seed=seed,
        scale=scale,
        covariates=covariates,
        hold_format=hold_format,
    )
    own = None if items is None else own_items(items, part)
    slopes = all_slopes(found, known, how, primaries)
    wanted = None if controls is None else tuple(controls)
    ask = Question(case, margin, intercept_margin, wanted, kinds, own, how.covariates, topics)
    ask = replace(ask, permutations=permutations, seed=seed)
    draws = {one.name: _draws(one, primaries, resamples) for one in known}
    compared = [
        Compared(_role(one, primaries), _replicate(one), answer)
        for one in known
        if (answer := _compared(found, one, ask, slopes, draws[one.name]))
    ]
    ceilings = Ceilings(found, own, scale=scale, part=part, seed=seed)
    fine = [slope for slope in slopes if slope.status == "ok"]
    notes = [
        *found.notes(),
        *format_notes,
        *_on_predictors(found, known, primaries),
        *_on_slopes(fine),
        *_on_comparisons(found, compared, ask, draws),
        *(n for one in compared for n in one.found.notes if "domains are few" not in n),
    ]
    return Verdict(
        slopes=tuple(slopes),
        units=found.shown_units(),
        notes=tuple(dict.fromkeys(notes)),
        group=how.moved.group if how.moved and fine else "",
        comparisons=tuple(compared),
        mixed=tuple(
            row
            for one in known
            if one.name in primaries
            for row in mixed_by_replicate(found, one, ask)
        ),
        ceilings=tuple(ceilings.of(one, _role(one, primaries)) for one in known),
        settings=told | {"covariates": list(how.covariates)},
    )


def _faults(
    found: Measured, case: str, controls: Sequence[str] | None, *margins: float
) -> list[str]:
    faults = [] if min(margins) > 0 else ["margins must be above 0"]
    if controls is not None and case in controls:
        faults.append(f"'{case}' is the case and cannot be its own control")
    others = [trait for trait in found.traits if trait != case]
    lost = [trait for trait in controls or () if trait not in [case, *others]]
    return [*faults, *(unknown("control", trait, others) for trait in lost)]


def _role(one: Predictor, primaries: Sequence[str]) -> str:
    return PRIMARY if one.name in primaries else EXPLORATORY


def _draws(one: Predictor, primaries: Sequence[str], resamples: int) -> int:
    return resamples if one.name in primaries else min(resamples, FEWER)


def _replicate(one: Predictor) -> int | None:
    return one.replicates[0] if len(one.replicates) == 1 else None


def _compared(
    found: Measured, one: Predictor, ask: Question, slopes: Sequence[Slope], resamples: int
) -> Comparison | None:
    """Compare the case with the controls on one predictor, where both are there."""
    traits = {trait for trait, _ in one.frames}
    wanted = [t for t in traits if t != ask.case and (ask.controls is None or t in ask.controls)]
    if ask.case not in traits or not wanted:
        return None
    replicate = _replicate(one)
    rows = [s for s in slopes if s.predictor == one.name and s.replicate == replicate]
    return compare_replicates(found, one, ask, [s for s in rows if s.cells == "all"], resamples)


def _on_predictors(
    found: Measured, known: Sequence[Predictor], primaries: Sequence[str]
) -> list[str]:
    """Say what is particular about predictors: missing primaries, gaps, stacking."""
    names = [one.name for one in known]
    notes = [
        f"{name} is a primary but not among the predictors ({', '.join(names)}); it counts in "
        "Holm's correction as a test that was not passed."
        for name in primaries
        if name not in names
    ]
    for one in known:
        gaps = [one.lacks(key) for key in found.scaled if key not in one.frames]
        notes += [f"Left out where {gap}." for gap in gaps]
    if any(len(one.replicates) > 1 for one in known):
        notes.append(
            "Replicates are stacked, each beside the similarity that may predict it; one "
            "relabelling serves all of them."
        )
    if own := [one.name for one in known if one.specific]:
        notes.append(
            f"{', '.join(own)}: every trait has its own similarity, so its average is one slope "
            "common to the traits, which are stacked with effects of their own."
        )
    return notes


def _on_slopes(fine: Sequence[Slope]) -> list[str]:
    """Say how far the relabellings can speak."""
    notes = []
    if fine and fine[0].n_domains < FEW_DOMAINS:
        notes.append(
            f"Only {fine[0].n_domains} domains: a test holds its level but misses much; plan "
            f"{FEW_DOMAINS} or more."
        )
    if weak := [s for s in fine if s.smallest_p > LEVEL]:
        notes.append(
            f"The smallest p that the relabellings can give is {format_p(weak[0].smallest_p)} for "
            f"{', '.join(dict.fromkeys(s.predictor for s in weak))}: no slope can pass at 5%."
        )
    return notes


def _on_comparisons(
    found: Measured, compared: Sequence[Compared], ask: Question, draws: Mapping[str, int]
) -> list[str]:
    """Say what the comparisons rest on, or why there is none."""
    if not compared:
        if ask.case in found.traits:
            return [f"No trait is compared with others: {ask.case} has no control beside it."]
        there = ", ".join(found.traits)
        return [f"No trait is compared with others: {ask.case} is not among the traits ({there})."]
    if ask.items is None:
        return ["No items were given: there is no interval over items."]
    counts = {draws[one.found.predictor]: one.role for one in compared}
    told = [f"{count:,} draws of items for what is {role}" for count, role in counts.items()]
    return [f"Intervals over items rest on {', '.join(told)}."]
