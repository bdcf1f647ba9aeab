"""Ask the same again in other ways: a mixed model, and how high a correlation could be at best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import nan, sqrt
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from conceptnet_em.ceiling import noise_ceiling
from conceptnet_em.comparison import LEVEL
from conceptnet_em.errors import InputError, raise_all
from conceptnet_em.mixed import Contrast, MixedFit, mixed_slopes
from conceptnet_em.replicates import Key, Measured, Predictor, Question
from conceptnet_em.verdicts import Ceiling, MixedSlopes


def mixed_by_replicate(found: Measured, predictor: Predictor, ask: Question) -> list[MixedSlopes]:
    """Fit the mixed model to every replicate with its own similarity.

    Stacked replicates would need an effect for every run: thousands of rows and hundreds of levels
    more for what is a check. H0 of the rows: equal slopes, effects being independent normal draws.

    Args:
        found: transfer.
        predictor: similarities, z-scored.
        ask: the case, its controls, margin and covariates; where a replicate lacks the case or
            every control, one slope is fitted to all its traits.
    """
    rows = []
    for replicate in predictor.replicates:
        keys = [k for k in found.scaled if k[1] == replicate and k in predictor.frames]
        traits = [trait for trait, _ in keys]
        controls = [t for t in traits if ask.controls is None or t in ask.controls]
        own = ask.case if ask.case in traits and set(controls) - {ask.case} else ""
        traits = [t for t in traits if t in (own, *controls)] if own else traits
        shared = _shared_topics(ask)
        blank = MixedSlopes(predictor.name, replicate, own, ask.margin)
        try:
            raise_all([*([] if keys else ["no trait can be used"]), *shared])
            fit = mixed_slopes(
                {trait: found.scaled[trait, replicate] for trait in traits},
                {trait: predictor.frames[trait, replicate] for trait in traits},
                case=own or None,
                covariates=dict(ask.covariates),
            )
            rows.append(_row(blank, fit))
        except (InputError, np.linalg.LinAlgError) as error:
            rows.append(_failed(blank, " ".join(str(error).split())))
    return rows


def _shared_topics(ask: Question) -> list[str]:
    """Say why domains are no independent draws, where topics come in several formats.

    With 6 topics × 2 formats the 95% intervals of this model covered .75 (60 grids).
    """
    topics = [topic for topic, _ in (ask.topics or {}).values()]
    if len(set(topics)) == len(topics):
        return []
    return ["domains share topics: their effects are not independent draws, as the model assumes"]


def _failed(blank: MixedSlopes, reason: str) -> MixedSlopes:
    return replace(blank, status="not_estimable", reason=reason)


def _row(blank: MixedSlopes, fit: MixedFit) -> MixedSlopes:
    """Take the slopes from a fit; without degrees of freedom their tests are NaN."""
    slope = fit.contrast({"s": 1.0})
    apart = fit.contrast({"s:case": 1.0}) if blank.case else None
    tests: dict[str, Any] = _differences(apart, blank.margin) if apart else {"df": slope.df}
    return replace(
        blank,
        slope=slope.estimate,
        low=slope.low,
        high=slope.high,
        p=slope.p,
        notes=fit.notes,
        **tests,
    )


def _differences(apart: Contrast, margin: float) -> dict[str, float]:
    """Test a difference two-sided and against both margins, with its 90% interval."""
    reach = float(stats.t.ppf(1 - LEVEL, apart.df)) * apart.se
    return {
        "difference": apart.estimate,
        "difference_low": apart.estimate - reach,
        "difference_high": apart.estimate + reach,
        "df": apart.df,
        "p_difference": apart.p,
        "p_above": float(stats.t.sf((apart.estimate + margin) / apart.se, apart.df)),
        "p_below": float(stats.t.cdf((apart.estimate - margin) / apart.se, apart.df)),
    }


class Ceilings:
    """Noise ceilings of several predictors; the reliability of transfer is computed once."""

    def __init__(
        self, found: Measured, items: pd.DataFrame | None, *, scale: str, part: str, seed: int
    ) -> None:
        """Take what transfer was measured with.

        Args:
            found: transfer.
            items: item effects of the traits' own answers; none: reliability needs replicates.
            scale: of the items.
            part: of the items.
            seed: of the random halves.
        """
        self.found, self.items = found, items
        self.options: dict[str, Any] = {"scale": scale, "part": part, "seed": seed}
        self.known: dict[tuple[Key, ...], float] = {}
        self.whole = self._over_replicates()

    def of(self, predictor: Predictor, role: str) -> Ceiling:
        """Return one predictor's ceiling; what is unknown is NaN, with a note."""
        keys = [key for key in self.found.scaled if key in predictor.frames]
        cases = [[key] for key in keys]
        if not predictor.specific:
            cases = [[k for k in keys if k[1] == r] for r in predictor.replicates]
        cases = [case for case in cases if case]
        agreement, lower, upper = self.whole
        if not cases:
            return Ceiling(predictor.name, role, notes=("No trait can be used.",))
        try:
            r = _mean([self._r(case, predictor) for case in cases])
            mine = [self.reliability(tuple(case)) for case in cases]
        except InputError as error:
            return Ceiling(predictor.name, role, notes=(" ".join(str(error).split()),))
        theirs = [predictor.reliability[case[0]] for case in cases]
        ceiling = _mean([_root(a, b) for a, b in zip(mine, theirs, strict=True)])
        return Ceiling(
            predictor=predictor.name,
            role=role,
            r=r,
            ceiling=ceiling,
            r_disattenuated=r / ceiling,
            transfer_reliability=_mean(mine),
            similarity_reliability=_mean(theirs),
            replicate_reliability=agreement,
            lower=lower,
            upper=upper,
            n_replicates=len({key[1] for key in keys}),
            notes=tuple(_remarks(_mean(mine), _mean(theirs), self.items is None)),
        )

    def _r(self, keys: Sequence[Key], predictor: Predictor) -> float:
        """Correlate the mean of some traits of one replicate with their similarity."""
        mean = {trait: self.found.scaled[trait, replicate] for trait, replicate in keys}
        return noise_ceiling([mean], predictor.frames[keys[0]], units=False).r

    def reliability(self, keys: tuple[Key, ...]) -> float:
        """Return the reliability of the mean of some traits of one replicate."""
        if keys not in self.known:
            self.known[keys] = self._by_items(keys)
        return self.known[keys]

    def _by_items(self, keys: Sequence[Key]) -> float:
        agreement, count = self.whole[0], len(self.found.replicates)
        if self.items is None:  # one replicate's, from the agreement of all
            return agreement / (count - (count - 1) * agreement)
        own = self.items[self.items["replicate"] == keys[0][1]]
        traits = [trait for trait, _ in keys]
        return noise_ceiling(own, traits=traits, **self.options).transfer_reliability

    def _over_replicates(self) -> tuple[float, float, float]:
        """Return the reliability of the replicates' mean, and the bounds of one replicate."""
        found = self.found
        traits = [t for t in found.traits if all((t, r) in found.scaled for r in found.replicates)]
        given = [{trait: found.scaled[trait, r] for trait in traits} for r in found.replicates]
        if len(given) < 2 or not traits:
            return nan, nan, nan
        try:
            one = noise_ceiling(given, units=False)
        except InputError:
            return nan, nan, nan
        return one.replicate_reliability, one.lower, one.upper


def _root(transfer: float, similarity: float) -> float:
    return sqrt(transfer * similarity) if transfer > 0 and similarity > 0 else nan


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _remarks(mine: float, theirs: float, no_items: bool) -> list[str]:
    """Say which reliabilities are missing, and what they rest on."""
    found = []
    if no_items and mine == mine:
        found.append("Reliability of transfer is that of the replicates: there are no items.")
    for name, value in (("transfer", mine), ("similarity", theirs)):
        if value != value:
            found.append(f"No ceiling: the reliability of {name} is unknown.")
        elif value <= 0:
            found.append(f"No ceiling: the reliability of {name} is {value:+.2f}, not above 0.")
    return found
