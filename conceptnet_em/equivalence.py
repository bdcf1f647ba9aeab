"""Ask whether one trait's transfer follows similarity as the others' does, or differently.

A difference that is not significant proves nothing; equivalence has its own test, two one-sided
ones against a margin. All slopes are in in-domain units per SD of similarity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from conceptnet_em.bootstrap import item_intervals
from conceptnet_em.comparison import (
    Comparison,
    HoldOut,
    Intercept,
    OneAgainstMany,
    SlopeContrast,
    TraitSlope,
)
from conceptnet_em.contrasts import (
    ROUNDING,
    ContrastFit,
    intercept,
    judge_prediction,
    one_against_many,
    predictions,
    slope_contrast,
)
from conceptnet_em.errors import InputError, raise_all, unknown
from conceptnet_em.freedman_lane import slope_weights, stacked_contrast, stacked_slope
from conceptnet_em.grid import Grid, align
from conceptnet_em.panels import unfit
from conceptnet_em.qap import qap
from conceptnet_em.records import Similarity, TransferMatrix
from conceptnet_em.relabelling import Topics
from conceptnet_em.transfer import REFERENCE, in_domain_constant

Matrix = TransferMatrix | pd.DataFrame
Likeness = Similarity | pd.DataFrame | Mapping[str, Similarity | pd.DataFrame]
Groups = Mapping[str, list[str]]
Options = Mapping[str, Any]
KINDS = {
    "substance": ("sycophantic", "frugal", "self_reliant"),
    "manner": ("sporty", "fonzi", "poetic", "bureaucratic", "anxious"),
}
"""What a control changes: what is said, as misalignment does, or how it is said."""
ALL = "all"
FEW_DOMAINS = 8


def compare_traits(
    transfers: Mapping[str, Matrix],
    similarity: Likeness,
    *,
    case: str = "misaligned",
    margin: float = 0.2,
    intercept_margin: float = 0.2,
    controls: Sequence[str] | None = None,
    kinds: Mapping[str, Sequence[str]] | None = None,
    items: pd.DataFrame | None = None,
    covariates: Mapping[str, pd.DataFrame] = {},
    topics: Topics | None = None,
    permutations: int = 9_999,
    resamples: int = 1_000,
    seed: int = 0,
) -> Comparison:
    """Compare the slope of one trait with those of the controls.

    Transfer is divided by each trait's mean in-domain effect; similarity is z-scored once over all
    off-diagonal cells, pooled over traits where it is trait-specific. A trait whose in-domain
    effect has t < 3 over domains is left out with a note, as is a control with missing cells.

    Slope: the contrast, case minus mean of controls, by FE-QAP. Its tests have the nulls difference
    0, ≤ -margin and ≥ +margin, each with exchangeable domain labels, each at 5%; the 90% interval
    inverts the last two, so it lies within the margin exactly when both reject. With trait-specific
    similarity traits are stacked (`freedman_lane.stacked_contrast`).

    Intercept: the mean of the contrast over off-diagonal cells, at equal similarity, by t-tests
    with random sources and targets, or topics of them where several domains share one. Relabelling
    cannot test it: it leaves every mean as it is.

    Beside them: the case as one more control (Crawford–Howell, for "like every other trait"), and
    the case's cells predicted from the controls alone.

    Args:
        transfers: trait to (sources, targets), the diagonal included; without any diagonal,
            transfer is taken in its own unit. The reference trait never enters.
        similarity: one matrix, or one per trait.
        case: the trait in question.
        margin: of equivalence of slopes, in-domain units per SD of similarity.
        intercept_margin: of equivalence at equal similarity, in-domain units.
        controls: traits compared with; all others when none.
        kinds: kind to traits, for comparison kind by kind; `KINDS` when none.
        items: what `transfer.item_effects` returned, for the interval over items.
        covariates: matrices held fixed, by name.
        topics: domain to (topic, format), which decides the group of relabellings.
        permutations: relabellings drawn when the group is too large to list.
        resamples: draws of items.
        seed: of both.

    Returns:
        A comparison. What cannot be estimated has status ``not_estimable`` and a reason: under 5
        domains, the case left out, no controls, under 3 controls for the Crawford–Howell test.

    Raises:
        InputError: an unknown trait, labels that do not match, a margin that is not positive.
    """
    wanted = _controls(transfers, similarity, case, controls)
    raise_all([] if min(margin, intercept_margin) > 0 else ["margins must be above 0"])
    table = _table(transfers, similarity, [case, *wanted], covariates)
    options: dict[str, Any] = {"covariates": dict(covariates), "topics": topics}
    options |= {"permutations": permutations, "seed": seed}
    groups = _groups(wanted, KINDS if kinds is None else kinds)
    slopes = _slopes(table, case, groups, options)
    contrasts = [_contrast(table, case, groups, name, margin, options) for name in groups]
    contrasts = _with_items(contrasts, table, case, items, covariates, resamples, seed)
    apart = {slope.trait: slope.slope for slope in slopes if slope.status == "ok"}
    return Comparison(
        case=case,
        predictor=_predictor(similarity),
        contrasts=tuple(contrasts),
        slopes=tuple(slopes),
        intercepts=tuple(
            _intercept(table, case, groups, name, intercept_margin, apart, topics)
            for name in groups
        ),
        against_many=tuple(_many(apart, case, groups, name, margin) for name in groups),
        hold_out=tuple(_hold_out(table, case, options)),
        unit="in-domain units" if table.in_domain else "units of the table",
        notes=tuple([*table.notes, *_cautions(contrasts[0])]),
    )


def _controls(
    transfers: Mapping[str, Matrix], similarity: Likeness, case: str, controls: Sequence[str] | None
) -> list[str]:
    """Return the controls asked for; raise every fault in the names."""
    known = [trait for trait in transfers if trait != REFERENCE]
    others = [trait for trait in known if trait != case]
    chosen = others if controls is None else list(dict.fromkeys(controls))
    faults = [unknown("trait", trait, known) for trait in [case, *chosen] if trait not in known]
    if case in chosen:
        faults.append(f"'{case}' is the case and cannot be its own control")
    if not chosen:
        faults.append(f"there is no control to compare '{case}' with; there is {', '.join(known)}")
    if isinstance(similarity, Mapping):
        lost = [trait for trait in [case, *chosen] if trait not in similarity]
        faults += [f"no similarity for {', '.join(lost)}"] if lost else []
    raise_all(faults)
    return chosen


def _groups(wanted: Sequence[str], kinds: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return all controls and, where it differs, each kind of them."""
    found = {ALL: list(wanted)}
    for kind, members in kinds.items():
        own = [trait for trait in wanted if trait in members]
        if own and len(own) < len(wanted):
            found[kind] = own
    return found


def _predictor(similarity: Likeness) -> str:
    first = next(iter(similarity.values()), None) if isinstance(similarity, Mapping) else similarity
    return first.predictor if isinstance(first, Similarity) else "similarity"


@dataclass(frozen=True)
class _Table:
    """What is compared, in the unit of the slopes; traits that cannot be are lost with a reason."""

    given: dict[str, Matrix]
    scaled: dict[str, pd.DataFrame]
    alike: dict[str, pd.DataFrame]
    units: dict[str, float]
    lost: dict[str, str]
    shared: bool
    """Whether one similarity serves all traits."""
    in_domain: bool
    """Whether transfer is in in-domain units."""

    @property
    def notes(self) -> list[str]:
        """Traits left out, and the unit where it is not the usual one."""
        found = [f"{trait} is left out: {reason}." for trait, reason in self.lost.items()]
        if not self.in_domain:
            found.append("No matrix has in-domain values: transfer is in the tables' own unit.")
        return found

    def staying(self, traits: Sequence[str]) -> list[str]:
        return [trait for trait in traits if trait in self.scaled]

    def contrast(self, case: str, controls: Sequence[str]) -> pd.DataFrame:
        return self.scaled[case] - _mean([self.scaled[trait] for trait in controls])


def _table(
    transfers: Mapping[str, Matrix],
    similarity: Likeness,
    traits: Sequence[str],
    covariates: Mapping[str, pd.DataFrame],
) -> _Table:
    values = {trait: _frame(transfers[trait]) for trait in traits}
    shared = not isinstance(similarity, Mapping)
    alike = {
        t: _frame(similarity[t] if isinstance(similarity, Mapping) else similarity) for t in traits
    }
    full = [trait for trait in traits if values[trait].notna().any(axis=None)]
    like = values[full[0]] if full else values[traits[0]]
    align(like, *(values[t] for t in full), *alike.values(), *covariates.values())
    values = {trait: _ordered(frame, like) for trait, frame in values.items()}
    constants = {trait: in_domain_constant(frame) for trait, frame in values.items()}
    in_domain = any(np.isfinite(constant) for constant, _ in constants.values())
    lost = {t: r for t in traits if (r := unfit(values[t], *constants[t], in_domain))}
    units = {t: constants[t][0] if in_domain else 1.0 for t in traits if t not in lost}
    return _Table(
        given={trait: transfers[trait] for trait in units},
        scaled={trait: values[trait] / unit for trait, unit in units.items()},
        alike=_standardised({trait: _ordered(alike[trait], like) for trait in units}),
        units=units,
        lost=lost,
        shared=shared,
        in_domain=in_domain,
    )


def _ordered(frame: pd.DataFrame, like: pd.DataFrame) -> pd.DataFrame:
    return frame.reindex(index=like.index, columns=like.columns)


def _frame(found: TransferMatrix | Similarity | pd.DataFrame) -> pd.DataFrame:
    return found if isinstance(found, pd.DataFrame) else found.values


def _standardised(alike: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Z-score over all off-diagonal cells of all traits; what does not vary stays as it is."""
    cells = [Grid.of(frame).cells(frame) for frame in alike.values()]
    pooled = np.concatenate([*cells, np.empty(0)])
    pooled = pooled[np.isfinite(pooled)]
    mean, sd = (float(pooled.mean()), float(pooled.std())) if pooled.size else (0.0, 0.0)
    if not sd > ROUNDING * abs(mean):
        return dict(alike)
    return {trait: (frame - mean) / sd for trait, frame in alike.items()}


def _mean(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    total: pd.DataFrame = sum(frames[1:], frames[0])
    return total / len(frames)


def _tried(blank: Any, make: Callable[[], Any]) -> Any:
    """Return what `make` gives; a refusal becomes the reason why it is not estimable."""
    try:
        return make()
    except InputError as error:
        return replace(blank, status="not_estimable", reason=" ".join(str(error).split()))


def _present(table: _Table, case: str, groups: Groups, name: str) -> list[str]:
    """Return the controls of a group that stay; refuse when the case or all of them are lost."""
    staying = table.staying(groups[name])
    faults = [f"{case} is left out: {table.lost[case]}"] if case in table.lost else []
    if not staying:
        faults.append("no control is left" if name == ALL else f"no {name} control is left")
    raise_all(faults)
    return staying


def _slopes(table: _Table, case: str, groups: Groups, options: Options) -> list[TraitSlope]:
    """Fit each trait alone."""
    kinds = {trait: kind for kind in groups if kind != ALL for trait in groups[kind]}
    found = []
    for trait in [case, *groups[ALL]]:
        blank = TraitSlope(trait, "case" if trait == case else kinds.get(trait, ""))
        found.append(_tried(blank, partial(_slope, blank, table, options)))
    return found


def _slope(blank: TraitSlope, table: _Table, options: Options) -> TraitSlope:
    if blank.trait in table.lost:
        raise InputError(table.lost[blank.trait])
    fit = qap(table.scaled[blank.trait], table.alike[blank.trait], **options)
    low, high = fit.interval
    unit = table.units[blank.trait]
    return replace(blank, unit=unit, slope=fit.slope, low=low, high=high, p=fit.p)


def _contrast(
    table: _Table, case: str, groups: Groups, name: str, margin: float, options: Options
) -> SlopeContrast:
    """Compare the case with one group of controls."""
    blank = SlopeContrast(name, tuple(table.staying(groups[name])), margin)

    def made() -> SlopeContrast:
        controls = _present(table, case, groups, name)
        one = _on_one if table.shared else _on_several
        fit, whole = one(table, case, controls, margin, options)
        return replace(blank, **fit._asdict(), **whole)

    found: SlopeContrast = _tried(blank, made)
    return found


def _on_one(
    table: _Table, case: str, controls: list[str], margin: float, options: Options
) -> tuple[ContrastFit, dict[str, Any]]:
    """One similarity for all: test the contrast matrix."""
    alike = table.alike[case]
    fit = slope_contrast(table.contrast(case, controls), alike, margin=margin, **options)
    whole = qap(_mean([table.scaled[trait] for trait in controls]), alike, **options)
    return fit, {
        "controls_slope": whole.slope,
        "controls_low": whole.interval[0],
        "controls_high": whole.interval[1],
        "controls_p": whole.p,
        "controls_r2": whole.r2_over_effects,
        "method": "FE-QAP on the contrast matrix",
    }


def _on_several(
    table: _Table, case: str, controls: list[str], margin: float, options: Options
) -> tuple[ContrastFit, dict[str, Any]]:
    """A similarity for each trait: stack the traits."""
    alike = {trait: table.alike[trait] for trait in [case, *controls]}
    fit = stacked_contrast(table.scaled, alike, case, margin=margin, **options)
    whole = stacked_slope(table.scaled, {t: alike[t] for t in controls}, **options)
    return fit, {
        "controls_slope": whole.slope,
        "controls_low": whole.low,
        "controls_high": whole.high,
        "controls_p": whole.p,
        "controls_r2": whole.r2_over_effects,
        "method": "Freedman–Lane on stacked traits",
    }


def _with_items(
    contrasts: list[SlopeContrast],
    table: _Table,
    case: str,
    items: pd.DataFrame | None,
    covariates: Mapping[str, pd.DataFrame],
    resamples: int,
    seed: int,
) -> list[SlopeContrast]:
    """Put the interval over items beside every contrast that could be estimated."""
    weights = {}
    for one in contrasts:
        if one.status == "ok":
            alike = {trait: table.alike[trait] for trait in [case, *one.controls]}
            weights[one.against] = slope_weights(alike, case, covariates=covariates)
    found = item_intervals(
        items, table.given, weights, in_domain=table.in_domain, resamples=resamples, seed=seed
    )
    return [
        replace(
            one,
            bootstrap_low=found[one.against].low,
            bootstrap_high=found[one.against].high,
            bootstrap_reason=found[one.against].reason,
        )
        if one.against in found
        else one
        for one in contrasts
    ]


def _intercept(
    table: _Table,
    case: str,
    groups: Groups,
    name: str,
    margin: float,
    slopes: Mapping[str, float],
    topics: Topics | None,
) -> Intercept:
    """Compare means at the average similarity; own slopes lead there where similarities differ."""
    blank = Intercept(name, margin)

    def made() -> Intercept:
        controls = _present(table, case, groups, name)
        if table.shared:
            contrast = table.contrast(case, controls)
        else:
            contrast = _at_equal_similarity(table, case, controls, slopes)
        fit = intercept(contrast, margin=margin, topics=topics)
        return replace(blank, **fit._asdict())

    found: Intercept = _tried(blank, made)
    return found


def _at_equal_similarity(
    table: _Table, case: str, controls: list[str], slopes: Mapping[str, float]
) -> pd.DataFrame:
    """Lead every trait along its own slope to similarity 0, the mean; case minus controls there."""
    lost = [trait for trait in [case, *controls] if trait not in slopes]
    raise_all([f"no slope of {', '.join(lost)} leads to equal similarity"] if lost else [])
    level = {t: table.scaled[t] - slopes[t] * table.alike[t] for t in [case, *controls]}
    return level[case] - _mean([level[trait] for trait in controls])


def _many(
    slopes: Mapping[str, float], case: str, groups: Groups, name: str, margin: float
) -> OneAgainstMany:
    """Compare the case's slope with the spread of single controls."""
    others = [slopes[trait] for trait in groups[name] if trait in slopes]
    blank = OneAgainstMany(name, len(others), margin)

    def made() -> OneAgainstMany:
        if case not in slopes:
            raise InputError(f"{case} has no slope")
        return replace(blank, **one_against_many(slopes[case], others)._asdict())

    found: OneAgainstMany = _tried(blank, made)
    return found


def _hold_out(table: _Table, case: str, options: Options) -> list[HoldOut]:
    """Predict the case from all controls that stay, in three ways."""
    controls = {trait: frame for trait, frame in table.scaled.items() if trait != case}
    if case in table.lost or not controls:
        reason = f"{case} or every control is left out"
        return [HoldOut("controls", "not_estimable", reason)]
    free = {key: value for key, value in options.items() if key != "covariates"}
    held = options["covariates"]
    guesses = _tried(
        HoldOut("controls"), lambda: predictions(controls, table.alike, case, covariates=held)
    )
    if isinstance(guesses, HoldOut):
        return [guesses]
    found = []
    for name, guess in guesses.items():
        blank = HoldOut(name)
        found.append(_tried(blank, partial(_judged, blank, table.scaled[case], guess, free)))
    return found


def _judged(blank: HoldOut, case: pd.DataFrame, guess: pd.DataFrame, options: Options) -> HoldOut:
    return replace(blank, **judge_prediction(case, guess, **options)._asdict())


def _cautions(one: SlopeContrast) -> list[str]:
    """Say what a reader of the numbers must know."""
    found = []
    if one.status == "ok" and one.n_domains < FEW_DOMAINS:
        found.append(f"{one.n_domains} domains are few: only large differences can be told.")
    if one.status == "ok" and one.bootstrap_reason:
        found.append(f"Interval over items: {one.bootstrap_reason}.")
    return found
