"""Ask at which layer similarity explains transfer, without being fooled by the best of many."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan

import numpy as np
import pandas as pd

from conceptnet_em.errors import InputError, raise_all
from conceptnet_em.layerprofile import CONTROLS, LayerProfile, LayerTest, Nested
from conceptnet_em.multiplicity import Search, max_stat
from conceptnet_em.records import Similarity
from conceptnet_em.regression import FEW_DOMAINS, check_options
from conceptnet_em.relabelling import Topics
from conceptnet_em.replicates import Key, Measured, Predictor, measured, predictors
from conceptnet_em.slopes import How, how_for
from conceptnet_em.verdicts import AVERAGE

SHOWN = 6  # reasons for layers that are not estimable
TIE = 1e-9  # of an observed |t|: relabellings that come nearer to it reach it


def layer_profile(
    table: pd.DataFrame,
    similarities: Iterable[Similarity],
    *,
    case: str = "misaligned",
    scale: str = "contrast",
    part: str = "all",
    topics: Topics | None = None,
    covariates: Mapping[str, pd.DataFrame] | None = None,
    permutations: int = 1_999,
    seed: int = 0,
    level: float = 0.05,
) -> LayerProfile:
    """Regress transfer on one predictor at every layer, and choose a layer without peeking.

    Transfer is scaled, and replicates and formats are treated, as in ``inference.verdict``. Every
    relabelling is applied to all layers and traits. Of each trait and average, ``p_corrected``
    compares a layer's |t| with the largest over the layers (max-|t|).

    The nested choice takes the layer with the largest |t| on the average of the *other* traits, and
    tests the trait in question there. Its ``p`` needs no correction: the choice is a function of
    similarities and of the other traits' transfer. Given those the layer is fixed, and if the
    trait's own labels are exchangeable given those, relabelling it at that layer is a test like any
    other. The limit: traits share domains, and on the ``net`` and ``contrast`` scales they share
    control organisms. Where noise of a cell is in several traits, the choice has seen part of the
    trait's own noise and ``p`` is too small: in null grids with 6 unrelated layers p ≤ .05 came in
    5% where traits shared 30% of their noise, 10% at 60%, 23% at 95%.

    ``p_redone`` held its level in all of these: traits are relabelled jointly and each relabelling
    chooses its layer anew, as the data did. Its H0 is that no trait's transfer is related to
    similarity at any layer; where only the others' is, it errs on the safe side. Report the larger
    of the two.

    Args:
        table: the ``transfer`` table.
        similarities: one predictor at every layer, for every replicate and, where specific, trait.
        case: the trait in question; where it is not in the table, only the others are looked at.
        scale: of the transfer table.
        part: of the transfer table.
        topics: domain to (topic, format), which decides the group of relabellings.
        covariates: matrices held fixed besides format, by name.
        permutations: relabellings drawn where the group is too large to list.
        seed: of that draw.
        level: of the bands.

    Returns:
        A profile. What cannot be estimated says why and stops nothing else.

    Raises:
        InputError: several predictors, a similarity without a layer or twice the same, labels that
            do not match, or no transfer of that scale and part.

    Source: Westfall & Young 1993; Nichols & Holmes 2002, doi:10.1002/hbm.1058.
    """
    alike = list(similarities)
    raise_all(_faults(alike, level))
    check_options("two-sided", None, permutations, None)
    found = measured(table, scale=scale, part=part)
    if not found.given:
        raise InputError(f"the table holds no {scale} transfer ({part}) of any trait to explain")
    known = _by_layer(alike, found)
    how, notes = how_for(
        found, topics, permutations=permutations, seed=seed, scale=scale, covariates=covariates
    )
    moved = how.moved
    usable = [trait for trait in found.traits if any(key[0] == trait for key in found.scaled)]
    profiled = _Searches(found, known, how, level, {})
    controls = [trait for trait in usable if trait != case]
    families = {AVERAGE: usable} if len(usable) > 1 else {}
    families |= {case: [case]} if case in found.traits else {}
    families |= {CONTROLS: controls} if len(controls) > 1 and len(controls) < len(usable) else {}
    families |= {trait: [trait] for trait in found.traits if trait != case}
    rows = [row for name, traits in families.items() for row in profiled.rows(name, traits)]
    asked = [case, *(trait for trait in found.traits if trait != case)]
    return LayerProfile(
        predictor=alike[0].predictor,
        case=case,
        scale=scale,
        part=part,
        unit="in-domain units" if found.in_domain else "the table's own unit",
        layers=tuple(known),
        rows=tuple(rows),
        nested=tuple(profiled.nested(trait, usable) for trait in asked),
        group=moved.group if moved else "",
        n_permutations=len(moved.orders) if moved else 0,
        exact=bool(moved and moved.exact),
        level=level,
        notes=tuple([*found.notes(), *notes, *_notes(found, known, how, level), *_lost(rows)]),
    )


def _faults(alike: Sequence[Similarity], level: float) -> list[str]:
    wrong = [] if 0 < level < 1 else [f"level {level} is none; give one between 0 and 1"]
    names = sorted({one.predictor for one in alike})
    if not alike:
        wrong.append("there is no similarity to look at")
    if len(names) > 1:
        wrong.append(f"a profile is of one predictor; {len(names)} came: {', '.join(names)}")
    if without := sorted({one.predictor for one in alike if one.layer is None}):
        wrong.append(f"similarities of {', '.join(without)} name no layer (layer=)")
    return wrong


def _by_layer(alike: Sequence[Similarity], found: Measured) -> dict[int, Predictor]:
    """Standardise every layer on its own, the lowest first."""
    ordered = sorted(alike, key=lambda one: one.layer or 0)
    named = [replace(one, predictor=f"layer {one.layer}", layer=None) for one in ordered]
    layers = dict.fromkeys(one.layer or 0 for one in ordered)
    return dict(zip(layers, predictors(named, found), strict=True))


@dataclass(frozen=True)
class _Searches:
    """Every search over the layers, each made once; all share their relabellings."""

    found: Measured
    known: Mapping[int, Predictor]
    how: How
    level: float
    made: dict[tuple[str, ...], tuple[Search | None, dict[int, str]]]

    def rows(self, name: str, traits: Sequence[str]) -> list[LayerTest]:
        """Test every layer on the average over some traits."""
        search, reasons = self.search(traits)
        rows = []
        for layer, one in self.known.items():
            row = LayerTest(name, layer, reliability=self._reliability(one, traits))
            entry = None if search is None or layer in reasons else search[one.name]
            if search is None or entry is None or entry.status != "ok":
                why = entry.reason if entry else reasons[layer]
                rows.append(replace(row, status="not_estimable", reason=why))
                continue
            row = replace(row, slope=entry.slope, t=entry.t, p=entry.p, pointwise=entry.threshold)
            whole = search.threshold
            rows.append(replace(row, p_corrected=entry.p_corrected, simultaneous=whole))
        return rows

    def search(self, traits: Sequence[str]) -> tuple[Search | None, dict[int, str]]:
        """Return a search over the layers that all of the traits have, and why others lack."""
        wanted = tuple(traits)
        if wanted not in self.made:
            self.made[wanted] = self._search(wanted)
        return self.made[wanted]

    def _search(self, traits: Sequence[str]) -> tuple[Search | None, dict[int, str]]:
        keys = [key for key in self.found.scaled if key[0] in traits]
        if not keys:
            lost = [why for key, why in self.found.lost.items() if key[0] in traits]
            return None, dict.fromkeys(self.known, next(iter(lost), "no trait can be used"))
        reasons = {n: why for n, one in self.known.items() if (why := _lacks(one, keys))}
        whole = {one.name: one for n, one in self.known.items() if n not in reasons}
        if not whole:
            return None, reasons
        if len(traits) == 1 or any(one.specific for one in whole.values()):
            y = {f"{trait}/{r}": self.found.scaled[trait, r] for trait, r in keys}
            x = {name: one.stacked(keys) for name, one in whole.items()}
        else:
            y = self.found.average(keys)
            x = {name: one.by_replicate(keys) for name, one in whole.items()}
        options = self.how.options | {"covariates": dict(self.how.covariates), "keep": True}
        return max_stat(y, x, level=self.level, **options), reasons

    def _reliability(self, one: Predictor, traits: Sequence[str]) -> float:
        mine = [value for key, value in one.reliability.items() if key[0] in traits]
        return float(np.mean(mine)) if mine else nan

    def nested(self, trait: str, usable: Sequence[str]) -> Nested:
        """Test a trait at the layer where the others' average has its largest |t|."""
        others = tuple(one for one in usable if one != trait)
        blank = Nested(trait, others, status="not_estimable")
        if trait not in self.found.traits:
            there = ", ".join(self.found.traits)
            return replace(blank, reason=f"{trait} is not among the traits ({there})")
        if not others:
            why = f"there is no other trait to choose a layer on without looking at {trait}"
            return replace(blank, reason=why)
        (mine, reasons), (theirs, _) = self.search([trait]), self.search(others)
        if mine is None:
            return replace(blank, reason=next(iter(reasons.values())))
        nulls = [one.null for one in (theirs, mine) if one is not None]
        both = [n for n, one in self.known.items() if all(one.name in null for null in nulls)]
        if theirs is None or not both:
            why = f"no layer is estimable for {trait} and for the average of the other traits"
            return replace(blank, reason=why)
        names = [self.known[n].name for n in both]
        place, p = _redone(*(np.stack([null[name] for name in names]) for null in nulls))
        entry = mine[names[place]]
        return Nested(trait, others, both[place], entry.slope, entry.t, entry.p, p)


def _redone(choosing: np.ndarray, tested: np.ndarray) -> tuple[int, float]:
    """Choose a layer by the first (L, N) and judge the second there, in every relabelling anew.

    Returns:
        The layer that the data chose (column 0), and the share of relabellings whose |t| at the
        layer of their own choice reaches the observed one.
    """
    best = choosing.argmax(axis=0)
    reached = tested[best, np.arange(len(best))]
    return int(best[0]), float(np.mean(reached >= (1 - TIE) * reached[0]))


def _lacks(one: Predictor, keys: Sequence[Key]) -> str:
    lost = next((key for key in keys if one.lacks(key)), None)
    return f"{lost[0]} has no similarity there in replicate {lost[1]}" if lost else ""


def _notes(found: Measured, known: Mapping[int, Predictor], how: How, level: float) -> list[str]:
    """Say what is stacked, and how far the relabellings can speak."""
    notes, ones = [], list(known.values())
    if len(found.replicates) > 1:
        notes.append("Replicates are stacked; one relabelling serves all of them.")
    if any(one.specific for one in ones) and len(found.traits) > 1:
        notes.append("Every trait has its own similarity: averages are slopes common to traits.")
    if how.moved is None:
        return notes
    if (count := len(how.moved.labels)) < FEW_DOMAINS:
        notes.append(f"Only {count} domains: tests miss much; plan {FEW_DOMAINS} or more.")
    if (least := how.moved.smallest_p) > level:
        notes.append(f"The smallest p that the relabellings can give is {least:.3f}.")
    return notes


def _lost(rows: Sequence[LayerTest]) -> list[str]:
    """Say which layers of which traits cannot be estimated, once for every reason."""
    where: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        if row.status != "ok":
            where.setdefault((row.reason, row.trait), []).append(row.layer)
    whose: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for (reason, trait), layers in where.items():
        whose.setdefault((reason, tuple(layers)), []).append(trait)
    notes = [
        f"Not estimable at layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))} for "
        f"{', '.join(traits)}: {reason}."
        for (reason, layers), traits in whose.items()
    ]
    more = [f"{len(notes) - SHOWN} more reasons are in the table."] if len(notes) > SHOWN else []
    return notes[:SHOWN] + more
