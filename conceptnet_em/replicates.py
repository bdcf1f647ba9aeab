"""Keep replicates apart: each has its own transfer, its own unit and its own similarity.

A replicate's transfer is predicted from the items of the other training sample. Averaging
replicates first would put the noise of the same items on both sides, so they are stacked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from conceptnet_em.errors import InputError, raise_all
from conceptnet_em.grid import Grid
from conceptnet_em.panels import unfit
from conceptnet_em.records import Similarity, TransferMatrix
from conceptnet_em.relabelling import Topics
from conceptnet_em.transfer import REFERENCE, in_domain_constant, matrix, traits_trained

Key = tuple[str, int]  # trait, replicate
Frames = dict[Key, pd.DataFrame]


@dataclass(frozen=True)
class Measured:
    """The transfer of a study, in in-domain units; what cannot be used is lost with a reason."""

    given: dict[Key, TransferMatrix]
    scaled: Frames
    """(sources, targets) of what can be used, divided by its unit."""
    units: dict[Key, float]
    lost: dict[Key, str]
    in_domain: bool
    """Whether transfer is in in-domain units."""

    @property
    def traits(self) -> list[str]:
        """All traits, usable or not."""
        return list(dict.fromkeys(trait for trait, _ in self.given))

    @property
    def replicates(self) -> list[int]:
        """All replicates, in order."""
        return sorted({replicate for _, replicate in self.given})

    def notes(self) -> list[str]:
        """Say which traits are left out, and which unit holds where it is not the usual one."""
        several = len(self.replicates) > 1
        found = [
            f"{trait} is left out{f' of replicate {replicate}' if several else ''}: {reason}."
            for (trait, replicate), reason in self.lost.items()
        ]
        if self.given and not self.in_domain:
            found.append("No matrix has in-domain values: transfer is in the table's own unit.")
        return found

    def shown_units(self) -> dict[str, float]:
        """Return units by trait, or by ``trait/replicate`` where there are several replicates."""
        several = len(self.replicates) > 1
        return {named(key) if several else key[0]: unit for key, unit in self.units.items()}

    def average(self, keys: Sequence[Key]) -> dict[str, pd.DataFrame]:
        """Return the mean over traits, for every replicate among the keys."""
        found = {}
        for replicate in sorted({replicate for _, replicate in keys}):
            mine = [self.scaled[key] for key in keys if key[1] == replicate]
            found[f"replicate {replicate}"] = mean_of(mine)
        return found


def named(key: Key) -> str:
    """Return ``trait/replicate``."""
    return f"{key[0]}/{key[1]}"


def mean_of(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Average matrices, matched by label."""
    first = frames[0]
    total: pd.DataFrame = sum((f.reindex_like(first) for f in frames[1:]), first)
    return total / len(frames)


def measured(table: pd.DataFrame, *, scale: str = "contrast", part: str = "all") -> Measured:
    """Take every trait's own matrix from a transfer table, replicate by replicate.

    A trait whose mean in-domain effect has t < 3 over domains, or whose off-diagonal cells are not
    all there, is lost for that replicate. The reference never enters.
    """
    own = table[(table["trait"] == table["answer_trait"]) & (table["trait"] != REFERENCE)]
    own = own[(own["scale"] == scale) & (own["part"] == part)]
    pairs = own[["trait", "replicate"]].drop_duplicates().itertuples(index=False)
    there = {(str(trait), int(replicate)) for trait, replicate in pairs}
    given = {
        key: matrix(own, key[0], scale=scale, part=part, replicate=key[1])
        for trait in traits_trained(own)
        for key in sorted(there)
        if key[0] == trait
    }
    constants = {key: in_domain_constant(found.values) for key, found in given.items()}
    in_domain = any(np.isfinite(constant) for constant, _ in constants.values())
    lost = {
        key: reason
        for key, found in given.items()
        if (reason := unfit(found.values, *constants[key], in_domain))
    }
    units = {key: constants[key][0] if in_domain else 1.0 for key in given if key not in lost}
    scaled = {key: given[key].values / unit for key, unit in units.items()}
    return Measured(given, scaled, units, lost, in_domain)


@dataclass(frozen=True)
class Predictor:
    """One predictor's similarities, for each trait and replicate the one that may predict it."""

    name: str
    specific: bool
    """Whether each trait has its own."""
    frames: Frames
    """z-scored once over all off-diagonal cells, pooled over replicates and, where specific,
    traits; as they came where they do not vary."""
    reliability: dict[Key, float]

    @property
    def replicates(self) -> list[int]:
        """The replicates it may predict."""
        return sorted({replicate for _, replicate in self.frames})

    def lacks(self, key: Key) -> str:
        """Say that a trait or replicate has no such similarity; else nothing."""
        if key in self.frames:
            return ""
        return f"there is no {self.name} similarity for {key[0]} in replicate {key[1]}"

    def stacked(self, keys: Sequence[Key]) -> dict[str, pd.DataFrame]:
        """Return the similarities by ``trait/replicate``."""
        return {named(key): self.frames[key] for key in keys}

    def by_replicate(self, keys: Sequence[Key]) -> dict[str, pd.DataFrame]:
        """Return a shared predictor's similarity for every replicate among the keys."""
        return {
            f"replicate {replicate}": self.frames[trait, replicate] for trait, replicate in keys
        }


def predictors(similarities: Iterable[Similarity], found: Measured) -> list[Predictor]:
    """Sort similarities by predictor, and say for which trait and replicate each one is.

    A similarity without a replicate serves all of them, one without a trait all traits. Where one
    predictor comes from several layers, each layer is a predictor: ``activation (layer 15)``.

    Raises:
        InputError: a predictor comes twice for the same trait and replicate.
    """
    listed = list(similarities)
    layers: dict[str, set[int | None]] = {}
    for one in listed:
        layers.setdefault(one.predictor, set()).add(one.layer)
    sorted_out: dict[str, dict[Key, Similarity]] = {}
    twice = []
    for one in listed:
        name = one.predictor
        if len(layers[name]) > 1 and one.layer is not None:
            name = f"{name} (layer {one.layer})"
        own = sorted_out.setdefault(name, {})
        for key in found.given:
            if one.trait in (None, key[0]) and one.replicate in (None, key[1]):
                twice += [f"{name} comes twice for {named(key)}"] if key in own else []
                own[key] = one
    raise_all(twice, InputError)
    return [_predictor(name, own) for name, own in sorted_out.items()]


def _predictor(name: str, own: Mapping[Key, Similarity]) -> Predictor:
    distinct = {id(one): one for one in own.values()}
    return Predictor(
        name=name,
        specific=any(one.trait is not None for one in own.values()),
        frames=_standardised(own, list(distinct.values())),
        reliability={key: one.reliability for key, one in own.items()},
    )


def _standardised(own: Mapping[Key, Similarity], distinct: Sequence[Similarity]) -> Frames:
    """Subtract the mean and divide by the SD over all off-diagonal cells there are."""
    cells = [Grid.of(one.values).cells(one.values) for one in distinct]
    pooled = np.concatenate(cells) if cells else np.empty(0)
    pooled = pooled[np.isfinite(pooled)]
    mean, sd = (float(pooled.mean()), float(pooled.std())) if pooled.size else (0.0, 0.0)
    if not sd > 1e-10 * abs(mean):
        return {key: one.values for key, one in own.items()}
    return {key: (one.values - mean) / sd for key, one in own.items()}


@dataclass(frozen=True)
class Question:
    """What is asked of every predictor."""

    case: str
    margin: float = 0.2
    """Of equivalence of slopes, in-domain units per SD of similarity."""
    intercept_margin: float = 0.2
    """Of equivalence at equal similarity, in-domain units."""
    controls: tuple[str, ...] | None = None
    """All other traits when none."""
    kinds: Mapping[str, Sequence[str]] | None = None
    """Kind of control to its traits; `equivalence.KINDS` when none."""
    items: pd.DataFrame | None = None
    """What `transfer.item_effects` returned, for intervals over items."""
    covariates: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    topics: Topics | None = None
    permutations: int = 9_999
    seed: int = 0
