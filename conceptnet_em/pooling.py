"""Compare one trait with the others over replicates that have a similarity each.

With one replicate this is ``equivalence.compare_traits``. With several, the contrast matrices of
the replicates are stacked, each beside its own similarity, and one relabelling serves all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import nan
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from conceptnet_em.bootstrap import ItemInterval, item_intervals
from conceptnet_em.comparison import (
    Comparison,
    HoldOut,
    Intercept,
    OneAgainstMany,
    SlopeContrast,
    TraitSlope,
)
from conceptnet_em.contrasts import intercept, judge_prediction, one_against_many, predictions
from conceptnet_em.equivalence import ALL, FEW_DOMAINS, KINDS, compare_traits
from conceptnet_em.errors import InputError, raise_all
from conceptnet_em.freedman_lane import slope_weights
from conceptnet_em.panels import panel
from conceptnet_em.records import Slope, TransferMatrix
from conceptnet_em.regression import design_of, group_for
from conceptnet_em.replicates import (
    Frames,
    Key,
    Measured,
    Predictor,
    Question,
    mean_of,
    named,
)
from conceptnet_em.transfer import in_domain_constant
from conceptnet_em.verdicts import AVERAGE

ONE_SIDED = 0.95  # level of each bound: two of them make the 90% interval
Kept = dict[int, list[Key]]  # replicate: the case and its controls


def compare_replicates(
    found: Measured, predictor: Predictor, ask: Question, slopes: Sequence[Slope], resamples: int
) -> Comparison:
    """Compare the case's slope with those of the controls, see ``equivalence.compare_traits``.

    With several replicates a shared similarity is z-scored over all of them and the difference is
    the common slope of the replicates' contrast matrices, case minus mean of the controls. Where
    traits have similarities of their own, all traits of all replicates are stacked, with a common
    slope and the case's own beside it (double semi-partialling). The mean over replicates gives
    intercept and hold-out; the interval over items weighs cells as the replicates do on average.

    Args:
        found: transfer.
        predictor: similarities.
        ask: what is compared.
        slopes: of every trait alone, all replicates.
        resamples: draws of items.

    Raises:
        InputError: the case or a control is not there, or labels do not match.
    """
    if len(predictor.replicates) > 1:
        return _Pooled(found, predictor, ask, tuple(slopes)).comparison(resamples)
    keys = [key for key in found.given if key in predictor.frames]
    alike = {trait: predictor.frames[trait, replicate] for trait, replicate in keys}
    one = compare_traits(
        {trait: found.given[trait, replicate] for trait, replicate in keys},
        alike if predictor.specific else next(iter(alike.values())),
        case=ask.case,
        margin=ask.margin,
        intercept_margin=ask.intercept_margin,
        controls=ask.controls,
        kinds=ask.kinds,
        items=ask.items if _any_contrast(slopes, ask.case) else None,
        covariates=ask.covariates,
        topics=ask.topics,
        permutations=ask.permutations,
        resamples=resamples,
        seed=ask.seed,
    )
    return replace(one, predictor=predictor.name)


def _any_contrast(slopes: Sequence[Slope], case: str) -> bool:
    """Say whether the case and a control have slopes: without a contrast items say nothing."""
    fine = {row.trait for row in slopes if row.status == "ok" and row.trait != AVERAGE}
    return case in fine and len(fine) > 1


class _Test(NamedTuple):
    """One slope, tested two-sided and against both margins."""

    slope: float
    interval: tuple[float, float]
    p: float
    r2: float
    against: dict[str, Any]
    """Fields of a slope contrast that the slope as a difference fills."""


@dataclass(frozen=True)
class _Pooled:
    """One comparison over several replicates."""

    found: Measured
    predictor: Predictor
    ask: Question
    slopes: tuple[Slope, ...]

    def comparison(self, resamples: int) -> Comparison:
        """Put the parts together; what cannot be estimated keeps its reason."""
        groups = self.groups()
        kept = {name: self.usable(controls) for name, controls in groups.items()}
        contrasts = [self.contrast(name, groups[name], kept[name]) for name in groups]
        contrasts = self.with_items(contrasts, kept, resamples)
        apart = {row.trait: row.slope for row in self.slopes if row.status == "ok"}
        return Comparison(
            case=self.ask.case,
            predictor=self.predictor.name,
            contrasts=tuple(contrasts),
            slopes=tuple(self.alone(groups)),
            intercepts=tuple(self.level(name, kept[name], apart) for name in groups),
            against_many=tuple(self.many(name, groups[name], apart) for name in groups),
            hold_out=tuple(self.hold_out(kept[ALL], contrasts[0].reason)),
            unit="in-domain units" if self.found.in_domain else "units of the table",
            notes=tuple(self.notes(contrasts[0])),
        )

    def groups(self) -> dict[str, list[str]]:
        """Return all controls and, where it differs, each kind of them."""
        others = [trait for trait in self.found.traits if trait != self.ask.case]
        wanted = [t for t in others if self.ask.controls is None or t in self.ask.controls]
        found = {ALL: wanted}
        for kind, members in (KINDS if self.ask.kinds is None else self.ask.kinds).items():
            own = [trait for trait in wanted if trait in members]
            if own and len(own) < len(wanted):
                found[kind] = own
        return found

    def usable(self, controls: Sequence[str]) -> Kept:
        """Return, for each replicate that has the case and a control, the keys of both."""
        kept = {}
        for replicate in self.predictor.replicates:
            keys = [(trait, replicate) for trait in (self.ask.case, *controls)]
            mine = [k for k in keys if k in self.found.scaled and k in self.predictor.frames]
            if len(mine) > 1 and mine[0][0] == self.ask.case:
                kept[replicate] = mine
        return kept

    def refused(self, kept: Kept) -> str:
        """Say why there is nothing to compare; else nothing."""
        if kept:
            return ""
        why = [reason for key, reason in self.found.lost.items() if key[0] == self.ask.case]
        if why:
            return f"{self.ask.case} is left out: {why[0]}"
        return f"no replicate has {self.ask.case} and a control beside it"

    def contrast(self, name: str, controls: Sequence[str], kept: Kept) -> SlopeContrast:
        """Compare the case with one group of controls."""
        there = {trait for keys in kept.values() for trait, _ in keys}
        mine = tuple(trait for trait in controls if trait in there)
        blank = SlopeContrast(name, mine, self.ask.margin)

        def made() -> SlopeContrast:
            fit = self.stacked(kept) if self.predictor.specific else self.shared(kept)
            return replace(blank, **fit)

        found: SlopeContrast = self.tried(blank, kept, made)
        return found

    def tried(self, blank: Any, kept: Kept, make: Callable[[], Any]) -> Any:
        """Return what `make` gives; a refusal becomes the reason why it is not estimable."""
        try:
            raise_all([why] if (why := self.refused(kept)) else [])
            return make()
        except InputError as error:
            return replace(blank, status="not_estimable", reason=" ".join(str(error).split()))

    def shared(self, kept: Kept) -> dict[str, Any]:
        """One similarity per replicate for all traits: stack the contrast matrices."""
        alike, case, mean = {}, {}, {}
        for replicate, keys in kept.items():
            alike[str(replicate)] = self.predictor.frames[keys[0]]
            case[str(replicate)], mean[str(replicate)] = self.apart(keys, self.found.scaled)
        method = "FE-QAP on the replicates' contrast matrices, stacked"
        test, whole = self.tested(case, {"x": alike}), self.tested(mean, {"x": alike})
        return test.against | _controls(whole) | {"method": method}

    def stacked(self, kept: Kept) -> dict[str, Any]:
        """A similarity for each trait: stack traits and replicates, the case's slope beside."""
        keys = [key for mine in kept.values() for key in mine]
        y = {named(key): self.found.scaled[key] for key in keys}
        common = self.predictor.stacked(keys)
        controls = [named(key) for key in keys if key[0] != self.ask.case]
        only = {key: frame * float(key not in controls) for key, frame in common.items()}
        held = {
            f"{name} in the case": {key: frame * float(key not in controls) for key in y}
            for name, frame in self.ask.covariates.items()
        }
        whole = self.tested(
            {key: y[key] for key in controls}, {"x": {key: common[key] for key in controls}}
        )
        method = "double semi-partialling on stacked traits and replicates"
        test = self.tested(y, {"x": only, "common": common}, held)
        return test.against | _controls(whole) | {"method": method}

    def apart(self, keys: Sequence[Key], frames: Frames) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the case minus the mean of its controls, and that mean, in one replicate."""
        mean = mean_of([frames[key] for key in keys[1:]])
        return frames[keys[0]] - mean.reindex_like(frames[keys[0]]), mean

    def tested(
        self, y: Mapping[str, pd.DataFrame], x: Mapping[str, Any], more: Mapping[str, Any] = {}
    ) -> _Test:
        """Test the slope on `x`, what else there is being held fixed."""
        ask = self.ask
        given = panel(
            dict(y),
            list(x.values()),
            covariates={**ask.covariates, **more},
            names=list(x),
            units=False,
            standardise=False,
        )
        moved, reason = group_for(given.grid, ask.topics, None, ask.permutations, ask.seed)
        model = design_of(given)
        why = reason or given.reason or given.lacking.get("x") or model.reasons.get("x")
        if why or moved is None:
            raise InputError(why or "no relabelling group fits these domains")
        products = model.products("x", moved)
        fit = model.fit("x", moved, tested=products)
        against = {
            "difference": fit.slope,
            "low": products.interval(ONE_SIDED, "greater")[0],
            "high": products.interval(ONE_SIDED, "less")[1],
            "p_difference": fit.p,
            "p_above": products.p(-ask.margin, "greater"),
            "p_below": products.p(ask.margin, "less"),
            "n_domains": fit.n_domains,
            "n_permutations": fit.n_permutations,
            "exact": fit.exact,
            "smallest_p": max(products.smallest_p("greater"), products.smallest_p("less")),
            "group": fit.group,
        }
        return _Test(fit.slope, fit.interval, fit.p, fit.r2_over_effects, against)

    def with_items(
        self, contrasts: list[SlopeContrast], kept: Mapping[str, Kept], resamples: int
    ) -> list[SlopeContrast]:
        """Put the interval over items beside every contrast that could be estimated."""
        fine = [one for one in contrasts if one.status == "ok"]
        if not fine or self.ask.items is None:
            return contrasts
        weights = {one.against: self.weights(kept[one.against]) for one in fine}
        means = self.means({trait for own in weights.values() for trait in own})
        found = item_intervals(
            self.own_items(means),
            means,
            weights,
            in_domain=self.found.in_domain,
            resamples=resamples,
            seed=self.ask.seed,
        )
        return [
            _shifted(one, found[one.against], self.about(weights[one.against], means))
            if one.against in found
            else one
            for one in contrasts
        ]

    def weights(self, kept: Kept) -> dict[str, pd.DataFrame]:
        """Return what the difference weighs each trait's cells with, the mean over replicates."""
        total: dict[str, pd.DataFrame] = {}
        for keys in kept.values():
            alike = {trait: self.predictor.frames[trait, r] for trait, r in keys}
            own = slope_weights(alike, self.ask.case, covariates=self.ask.covariates)
            for trait, frame in own.items():
                share = frame / len(kept)
                total[trait] = total[trait] + share if trait in total else share
        return total

    def means(self, traits: set[str]) -> dict[str, TransferMatrix]:
        """Return each trait's transfer, nats/token, averaged over its usable replicates."""
        found = {}
        for trait in sorted(traits):
            mine = [self.found.given[key] for key in self.found.scaled if key[0] == trait]
            mean = mean_of([one.values for one in mine])
            found[trait] = replace(mine[0], replicate=None, values=mean)
        return found

    def own_items(self, means: Mapping[str, TransferMatrix]) -> pd.DataFrame:
        """Return the items of the replicates that are averaged."""
        assert self.ask.items is not None
        pairs = pd.MultiIndex.from_frame(self.ask.items[["trait", "replicate"]])
        return self.ask.items[pairs.isin([key for key in self.found.scaled if key[0] in means])]

    def about(
        self, weights: Mapping[str, pd.DataFrame], means: Mapping[str, TransferMatrix]
    ) -> float:
        """Return the difference that the weights make of the mean transfer."""
        total = 0.0
        for trait, weight in weights.items():
            values = means[trait].values
            unit = in_domain_constant(values)[0] if self.found.in_domain else 1.0
            total += float((weight * values / unit).sum().sum())
        return total

    def alone(self, groups: Mapping[str, Sequence[str]]) -> list[TraitSlope]:
        """Return each trait's own slope, over all replicates."""
        kinds = {trait: kind for kind in groups if kind != ALL for trait in groups[kind]}
        kinds[self.ask.case] = "case"
        wanted = [self.ask.case, *groups[ALL]]
        rows = {row.trait: row for row in self.slopes}
        return [
            TraitSlope(
                trait=trait,
                kind=kinds.get(trait, ""),
                status=rows[trait].status,
                reason=rows[trait].reason,
                unit=self.unit(trait),
                slope=rows[trait].slope,
                low=rows[trait].low,
                high=rows[trait].high,
                p=rows[trait].p,
            )
            for trait in wanted
            if trait in rows
        ]

    def unit(self, trait: str) -> float:
        """Return a trait's mean in-domain effect over the replicates where it has one."""
        found = [unit for key, unit in self.found.units.items() if key[0] == trait]
        return float(np.mean(found)) if found else nan

    def level(self, name: str, kept: Kept, slopes: Mapping[str, float]) -> Intercept:
        """Compare means at the average similarity; own slopes lead there where it is not shared."""
        blank = Intercept(name, self.ask.intercept_margin)

        def made() -> Intercept:
            frames = self.found.scaled
            if self.predictor.specific:
                alike, own = self.predictor.frames, [k for keys in kept.values() for k in keys]
                frames = {k: frames[k] - slopes.get(k[0], nan) * alike[k] for k in own}
            mean = mean_of([self.apart(keys, frames)[0] for keys in kept.values()])
            margin, topics = self.ask.intercept_margin, self.ask.topics
            return replace(blank, **intercept(mean, margin=margin, topics=topics)._asdict())

        found: Intercept = self.tried(blank, kept, made)
        return found

    def many(
        self, name: str, controls: Sequence[str], slopes: Mapping[str, float]
    ) -> OneAgainstMany:
        """Compare the case's slope with the spread of single controls."""
        others = [slopes[trait] for trait in controls if trait in slopes]
        blank = OneAgainstMany(name, len(others), self.ask.margin)
        case = slopes.get(self.ask.case, nan)
        if case != case:
            return replace(blank, status="not_estimable", reason=f"{self.ask.case} has no slope")
        try:
            return replace(blank, **one_against_many(case, others)._asdict())
        except InputError as error:
            return replace(blank, status="not_estimable", reason=str(error))

    def hold_out(self, kept: Kept, why: str) -> list[HoldOut]:
        """Predict the case from its controls in each replicate; compare the means."""
        if why:
            return [HoldOut("controls", "not_estimable", why)]
        guesses: dict[str, list[pd.DataFrame]] = {}
        for keys in kept.values():
            others = {trait: self.found.scaled[trait, r] for trait, r in keys[1:]}
            alike = {trait: self.predictor.frames[trait, r] for trait, r in keys}
            own = predictions(others, alike, self.ask.case, covariates=self.ask.covariates)
            for name, guess in own.items():
                guesses.setdefault(name, []).append(guess)
        case = mean_of([self.found.scaled[keys[0]] for keys in kept.values()])
        return [
            self.tried(HoldOut(name), kept, partial(self.judged, name, case, mean_of(guess)))
            for name, guess in guesses.items()
        ]

    def judged(self, name: str, case: pd.DataFrame, guess: pd.DataFrame) -> HoldOut:
        options = {"topics": self.ask.topics, "permutations": self.ask.permutations}
        fit = judge_prediction(case, guess, seed=self.ask.seed, **options)
        return replace(HoldOut(name), **fit._asdict())

    def notes(self, one: SlopeContrast) -> list[str]:
        """Say what a reader of the numbers must know."""
        found = self.found.notes()
        if one.status == "ok" and one.n_domains < FEW_DOMAINS:
            found.append(f"{one.n_domains} domains are few: only large differences can be told.")
        if one.status == "ok" and one.bootstrap_reason:
            found.append(f"Interval over items: {one.bootstrap_reason}.")
        return found


def _controls(whole: _Test) -> dict[str, float]:
    """Name the controls' own slope as a slope contrast does."""
    return {
        "controls_slope": whole.slope,
        "controls_low": whole.interval[0],
        "controls_high": whole.interval[1],
        "controls_p": whole.p,
        "controls_r2": whole.r2,
    }


def _shifted(one: SlopeContrast, over: ItemInterval, about: float) -> SlopeContrast:
    """Centre an interval over items on the stacked difference; it was drawn about another."""
    shift = one.difference - about
    return replace(
        one,
        bootstrap_low=over.low + shift,
        bootstrap_high=over.high + shift,
        bootstrap_reason=over.reason,
    )
