"""Correct for having looked at several predictors or layers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import nan

import numpy as np
import pandas as pd

from conceptnet_em.errors import InputError
from conceptnet_em.grid import Floats
from conceptnet_em.panels import Alike, Covariates, Transfers, panel
from conceptnet_em.qap import Alternative, Design
from conceptnet_em.records import format_p, nulls
from conceptnet_em.regression import check_options, design_of, group_for
from conceptnet_em.relabelling import Kind, Relabellings, Topics


@dataclass(frozen=True)
class Searched:
    """One of several predictors that were looked at."""

    name: str
    slope: float
    """In the unit of ``regress``; covariates held fixed, the other predictors not."""
    t: float
    p: float
    """As if it had been the only one."""
    p_corrected: float
    """H0: no predictor of the search is related to transfer. Compared with the largest |t|."""
    status: str = "ok"
    reason: str = ""
    threshold: float = nan
    """``p`` is at most ``level`` just where |t| is above this (one-sided: t, or -t, is)."""


@dataclass(frozen=True)
class Search:
    """Several predictors, tested one by one, with p-values that allow for the search."""

    entries: tuple[Searched, ...]
    """In the order given."""
    group: str
    """The relabelling group, in words."""
    n_permutations: int
    exact: bool
    notes: tuple[str, ...]
    level: float = 0.05
    """Of the thresholds."""
    threshold: float = nan
    """``p_corrected`` is at most ``level`` just where |t| (or t, or -t) is above this."""
    null: Mapping[str, Floats] = field(default_factory=dict, repr=False, compare=False)
    """(N,) |t| (or t, or -t) of every estimable predictor under each relabelling, the observed
    first; only when asked for, and not in the JSON."""

    def __getitem__(self, name: str) -> Searched:
        """Return one predictor's entry."""
        found = {entry.name: entry for entry in self.entries}
        if name not in found:
            raise InputError(f"no predictor '{name}'; there is {', '.join(found)}")
        return found[name]

    @property
    def best(self) -> Searched:
        """The entry with the smallest corrected p, the larger |t| among equals."""
        fine = [entry for entry in self.entries if entry.status == "ok"]
        return min(fine or self.entries, key=lambda entry: (entry.p_corrected, -abs(entry.t)))

    def table(self) -> pd.DataFrame:
        """Return one row per predictor, the smallest corrected p first."""
        rows = pd.DataFrame([dataclasses.asdict(entry) for entry in self.entries])
        return rows.set_index("name").sort_values(["p_corrected", "p"])

    def to_json(self) -> str:
        """Return everything as JSON; NaN becomes null."""
        told = dataclasses.asdict(replace(self, null={}))
        told.pop("null")
        return json.dumps(nulls(told), indent=2)

    def __str__(self) -> str:
        """Return one sentence about the best, the notes, and a line per predictor."""
        best, count = self.best, len(self.entries)
        if best.status != "ok":
            return f"None of {count} predictors is estimable: {best.reason}."
        lines = [
            f"Of {count} predictors {best.name} stands out most (t = {best.t:.2f}); corrected for "
            f"the search p = {format_p(best.p_corrected)} (alone it would be {format_p(best.p)}).",
            *self.notes,
            f"p-values: {self.group}, the same for all predictors.",
            self.table()[["slope", "t", "p", "p_corrected", "status"]].round(4).to_string(),
        ]
        return "\n".join(lines)


def max_stat(
    transfer: Transfers,
    similarities: Mapping[str, Alike],
    *,
    covariates: Covariates = (),
    permutations: int = 9_999,
    seed: int = 0,
    alternative: Alternative = "two-sided",
    effects: bool = True,
    topics: Topics | None = None,
    group: Kind | Relabellings | None = None,
    standardise: bool = True,
    units: bool = True,
    level: float = 0.05,
    keep: bool = False,
) -> Search:
    """Test predictors or layers one by one, with p-values corrected for the search (max-|t|).

    Every relabelling is applied to all predictors; its largest |t| over them is what each observed
    |t| is compared with. H0: given what is held fixed, no predictor is related to transfer, and
    domain labels are exchangeable. Where one similarity is trait-specific, traits are stacked for
    all of them, so that every t has the same degrees of freedom.

    Args:
        transfer: as in ``regress``.
        similarities: matrices by name, each as in ``regress``.
        covariates: held fixed in every test.
        permutations: relabellings drawn where the group is too large to list.
        seed: of those draws.
        alternative: two-sided compares |t|; ``greater`` and ``less`` compare t.
        effects: hold source and target effects fixed.
        topics: domain to (topic, format).
        group: as in ``regress``.
        standardise: as in ``regress``.
        units: as in ``regress``.
        level: of the thresholds that p-values are read off against.
        keep: return every predictor's t under each relabelling too.

    Raises:
        InputError: as ``regress``, or a level that is none.

    Source: Westfall & Young 1993; Nichols & Holmes 2002, doi:10.1002/hbm.1058.
    """
    wrong = [] if similarities else ["there is no similarity to look at"]
    wrong += [] if 0 < level < 1 else [f"level {level} is none; give one between 0 and 1"]
    check_options(alternative, None, permutations, group, wrong)
    given = panel(
        transfer,
        list(similarities.values()),
        covariates=covariates,
        names=list(similarities),
        units=units,
        standardise=standardise,
    )
    moved, reason = group_for(given.grid, topics, group, permutations, seed)
    if moved is None or given.reason:
        why = given.reason or reason
        blank = [_blank(name, why) for name in similarities]
        return Search(tuple(blank), "", 0, False, given.notes)
    model = design_of(given, effects=effects, together=False)
    reasons = {**model.reasons, **given.lacking}
    usable = [name for name in similarities if name not in reasons]
    products = {name: model.products(name, moved, alone=True) for name in usable}
    statistics = {name: tested.statistic(0, alternative) for name, tested in products.items()}
    largest = np.max([*statistics.values()], axis=0) if usable else np.empty(0)
    entries = []
    for name in similarities:
        if name in reasons:
            entries.append(_blank(name, reasons[name]))
            continue
        tested, statistic = products[name], statistics[name]
        fit = model.fit(
            name, moved, alternative=alternative, interval=None, alone=True, tested=tested
        )
        corrected = float(np.mean(largest >= statistic[0] - tested.slack))
        limit = _as_t(_threshold(statistic, level), model, name)
        entry = Searched(name, fit.slope, fit.t, fit.p, corrected, threshold=float(limit))
        entries.append(entry)
    jointly = _as_t(_threshold(largest, level), model, usable[0]) if usable else nan
    return Search(
        tuple(entries),
        moved.group,
        len(moved.orders),
        moved.exact,
        given.notes,
        level,
        float(jointly),
        {name: _as_t(found, model, name) for name, found in statistics.items()} if keep else {},
    )


def _threshold(statistic: Floats, level: float) -> float:
    """Return the largest value that is reached too often for a p of at most `level`."""
    rank = len(statistic) - 1 - int(level * len(statistic) + 1e-9)
    return float(np.partition(statistic, rank)[rank])


def _as_t(statistic: Floats | float, model: Design, name: str) -> Floats:
    """Turn products of response and unit predictor into t; the response is the same for all."""
    _, y, held = model.residuals(name, alone=True)
    rest = np.maximum(float(y @ y) - np.square(statistic), 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(statistic * np.sqrt(model.df(held) / rest), np.float64)


def _blank(name: str, reason: str) -> Searched:
    return Searched(name, nan, nan, nan, nan, "not_estimable", reason)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Return Holm's adjusted p-values, in the order given.

    A NaN stays NaN but counts as a test: a registered primary that could not be tested does not
    make the others easier to pass.

    Raises:
        InputError: a value that is no p-value.

    Source: Holm 1979, Scandinavian Journal of Statistics 6:65–70.
    """
    if wrong := {
        name: value for name, value in p.items() if not (value != value or 0 <= value <= 1)
    }:
        raise InputError(f"no p-value: {', '.join(f'{k} = {v}' for k, v in wrong.items())}")
    tested = sorted((name for name in p if p[name] == p[name]), key=lambda name: p[name])
    adjusted, least = dict.fromkeys(p, nan), 0.0
    for rank, name in enumerate(tested):
        least = max(least, min(1.0, (len(p) - rank) * p[name]))
        adjusted[name] = least
    return adjusted
