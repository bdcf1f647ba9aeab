"""What a study says, in one record: it prints as a paragraph to quote, and comes back from JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from conceptnet_em.comparison import LEVEL, Comparison
from conceptnet_em.records import Slope, format_p, nulls, revived

NAN = float("nan")
WORDS = "trait-words"
"""The standing control: words that a trait uses, which its own predictors could be reading."""
GIVEN_WORDS = f"all; {WORDS} held"
"""Cells and control of the slopes that hold it fixed."""
AVERAGE = "average"
FORMAT = "format mismatch"
MOST_NAMED = 4  # exploratory predictors that are listed by name
NOTHING_PLANNED = "None of these numbers was registered: all are exploratory."
PRIMARY, SENSITIVITY, EXPLORATORY = "primary", "sensitivity", "exploratory"


@dataclass(frozen=True)
class Compared:
    """The case compared with the controls on one predictor."""

    role: str
    """``primary`` or ``exploratory``."""
    replicate: int | None
    """The replicate, or none where several are stacked, each with its own similarity."""
    found: Comparison


@dataclass(frozen=True)
class MixedSlopes:
    """The same question asked of a mixed model with crossed random effects."""

    predictor: str
    replicate: int
    case: str
    """The trait compared; empty: one slope for all."""
    margin: float
    role: str = SENSITIVITY
    status: str = "ok"
    reason: str = ""
    slope: float = NAN
    """Of the controls, or of all traits without a case; in-domain units per SD of similarity."""
    low: float = NAN
    """Lower end of the 95% interval, Satterthwaite's degrees of freedom."""
    high: float = NAN
    p: float = NAN
    """H0: the slope is 0, effects of source, target, dyad and trait being random."""
    difference: float = NAN
    """The case's slope minus the controls'."""
    difference_low: float = NAN
    """Lower end of the 90% interval."""
    difference_high: float = NAN
    df: float = NAN
    """Of the difference, or of the slope without a case."""
    p_difference: float = NAN
    p_above: float = NAN
    """H0: the difference is -margin or less."""
    p_below: float = NAN
    """H0: the difference is +margin or more."""
    notes: tuple[str, ...] = ()

    @property
    def equivalent(self) -> str:
        """``yes``, ``no``, ``cannot tell`` as in a comparison, or ``not_estimable``."""
        if math.isnan(self.p_above + self.p_below):
            return "not_estimable"
        if max(self.p_above, self.p_below) <= LEVEL:
            return "yes"
        beyond = self.difference_low >= self.margin or self.difference_high <= -self.margin
        return "no" if beyond else "cannot tell"


@dataclass(frozen=True)
class Ceiling:
    """How high the correlation with one predictor could be at best, effects taken out.

    With several replicates, or a predictor of its own for every trait, the mean over them: each
    transfer is correlated with the similarity that may predict it.
    """

    predictor: str
    role: str
    r: float = NAN
    """Raw."""
    ceiling: float = NAN
    """sqrt(reliability of transfer · reliability of similarity)."""
    r_disattenuated: float = NAN
    """r / ceiling; never to be quoted without both."""
    transfer_reliability: float = NAN
    """Of one replicate, by split halves over probe items."""
    similarity_reliability: float = NAN
    replicate_reliability: float = NAN
    """Of the mean over replicates, from their agreement."""
    lower: float = NAN
    """Mean correlation of a replicate with the mean of the others."""
    upper: float = NAN
    """Mean correlation of a replicate with the mean of all."""
    n_replicates: int = 1
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What the regression says, and what it cannot say."""

    slopes: tuple[Slope, ...]
    units: dict[str, float]
    """Trait (with several replicates ``trait/replicate``) to its in-domain constant, nats/token."""
    notes: tuple[str, ...]
    """Traits left out and other things a reader must know, one sentence each."""
    group: str = ""
    """The group of relabellings."""
    comparisons: tuple[Compared, ...] = ()
    """The case against the controls, one for each predictor."""
    mixed: tuple[MixedSlopes, ...] = ()
    """The mixed model, for the primaries, replicate by replicate."""
    ceilings: tuple[Ceiling, ...] = ()
    """One for each predictor."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What it was made with: ``scale, part, case, margin, primaries, covariates, …``."""
    registration: dict[str, str] = field(default_factory=dict)
    """Name of a number to its status: registered, exploratory, or registered and changed."""

    def select(self, **fields: object) -> list[Slope]:
        """Return the slopes whose fields equal ``fields``."""
        return [s for s in self.slopes if all(getattr(s, k) == v for k, v in fields.items())]

    def lead(self, predictor: str) -> Slope | None:
        """Return a predictor's main slope: of the trait average, all replicates, all cells."""
        return lead_of(self.select(predictor=predictor))

    def comparison(self, predictor: str) -> Comparison | None:
        """Return the comparison of the case with the controls on one predictor."""
        named = (one.found for one in self.comparisons if one.found.predictor == predictor)
        return next(named, None)

    def ceiling(self, predictor: str) -> Ceiling | None:
        """Return the noise ceiling of one predictor."""
        return next((one for one in self.ceilings if one.predictor == predictor), None)

    @property
    def predictors(self) -> list[str]:
        """The predictors, in the order given."""
        return list(dict.fromkeys(slope.predictor for slope in self.slopes))

    def to_json(self) -> str:
        """Return the verdict as JSON; NaN becomes null."""
        return json.dumps(nulls(dataclasses.asdict(self)), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Verdict:
        """Read what :meth:`to_json` wrote, of this version or an earlier one."""
        found: Verdict = revived(cls, json.loads(text))
        return found

    def sentences(self) -> list[str]:
        """Return the verdict: a paragraph for each primary, and one for what was explored."""
        about = [name for name in self.predictors if name != FORMAT]
        leads = [row for name in about if (row := self.lead(name))]
        first = [row for row in leads if row.role == PRIMARY]
        rest = [row for row in leads if row.role != PRIMARY]
        told = [self._primary(row) for row in first]
        if first and rest:
            told.append(_explored(rest, len(leads), self.select(cells=GIVEN_WORDS)))
        told = told or list(dict.fromkeys(_sentence(row, None) for row in leads))
        return [*told, *map(_mismatch, self.select(predictor=FORMAT))]

    def _primary(self, slope: Slope) -> str:
        """Return the paragraph of one primary: slope, comparison, mixed model."""
        told = [_sentence(slope, self.ceiling(slope.predictor))]
        told += map(_elsewhere, self.select(predictor=slope.predictor, cells="other topics"))
        if found := self.comparison(slope.predictor):
            told += found.sentences()
        mine = [one for one in self.mixed if one.predictor == slope.predictor]
        return " ".join([*told, *_checked(mine)])

    def __str__(self) -> str:
        """Return the paragraphs, the notes, and how the p-values were made."""
        lines = [*self.sentences(), *self.notes]
        if self.group:
            lines.append(f"p-values: {self.group}, applied to sources and targets jointly.")
        return "\n".join([*lines, *self.planned()])

    def planned(self) -> list[str]:
        """Return which numbers were registered, one line for each status with its differences."""
        if not set(self.registration.values()) - {EXPLORATORY}:
            return [NOTHING_PLANNED] * bool(self.registration)
        by_status: dict[str, list[str]] = {}
        for name, status in self.registration.items():
            by_status.setdefault(status, []).append(name)
        return [f"{', '.join(names)}: {status}." for status, names in by_status.items()]


def lead_of(rows: Sequence[Slope]) -> Slope | None:
    """Return the main one of a predictor's slopes: the average, or the only trait that has one."""
    whole = [row for row in rows if row.cells == "all"]
    averages = [row for row in whole if row.trait == AVERAGE]
    fine = [row for row in whole if row.status == "ok"]
    return next(iter(averages or fine or whole), None)


def _sentence(slope: Slope, ceiling: Ceiling | None) -> str:
    if slope.status != "ok":
        return f"{slope.predictor}: not_estimable: {slope.reason}."
    which = "all replicates" if slope.replicate is None else f"replicate {slope.replicate}"
    effects = _listed(["source effects", "target effects", *slope.held])
    lodo = f", R² for a domain left out {_signed(slope.lodo_r2)}" if _known(slope.lodo_r2) else ""
    return (
        f"{slope.predictor} similarity {_finding(slope)} {_whose(slope)} transfer ({which}): "
        f"slope {_signed(slope.slope)} in-domain units per {slope.per} "
        f"[95% CI {_signed(slope.low)}, {_signed(slope.high)}], p = {format_p(slope.p)} "
        f"({_how(slope)}); it explains {slope.r2_over_effects:.0%} of what {effects} leave "
        f"(plain r = {_signed(slope.r)}{_of_ceiling(ceiling)}{lodo})."
    )


def _elsewhere(slope: Slope) -> str:
    """Say what the slope is without cells of the same topic."""
    if slope.status != "ok":
        return f"Without cells of the same topic it is not_estimable: {slope.reason}."
    return (
        f"Without cells of the same topic the slope is {_signed(slope.slope)} "
        f"[95% CI {_signed(slope.low)}, {_signed(slope.high)}], p = {format_p(slope.p)}."
    )


def _finding(slope: Slope) -> str:
    """A primary counts by Holm's p, another by the p that allows for the search."""
    known = [p for p in (slope.p_holm, slope.p_search, slope.p) if _known(p)]
    return "predicts" if known[0] <= LEVEL else "is not shown to predict"


def _whose(slope: Slope) -> str:
    return "trait-averaged" if slope.trait == AVERAGE else f"{slope.trait}'s"


def _how(slope: Slope) -> str:
    holm = f"Holm over the primaries {format_p(slope.p_holm)}, " if _known(slope.p_holm) else ""
    count = f"{'all ' * slope.exact}{slope.n_permutations:,} relabellings"
    return f"{holm}{count}, smallest attainable {format_p(slope.smallest_p)}"


def _of_ceiling(ceiling: Ceiling | None) -> str:
    if ceiling is None or not _known(ceiling.r):
        return ""
    raw = f"; without source and target effects {_signed(ceiling.r)}"
    if not _known(ceiling.ceiling):
        return f"{raw}, its ceiling not estimable"
    corrected = _signed(ceiling.r_disattenuated)
    return f"{raw} of a ceiling of {ceiling.ceiling:.2f}, disattenuated {corrected}"


def _explored(rows: Sequence[Slope], looked_at: int, held: Sequence[Slope]) -> str:
    """Say which of the exploratory predictors stands out, allowing for the search."""
    fine = [row for row in rows if row.status == "ok"]
    if not fine:
        return f"Exploratory: {_sentence(rows[0], None)}"
    best = min(fine, key=lambda row: (_or_one(row.p_search), _or_one(row.p)))
    search = f"; allowing for the {looked_at} predictors looked at p = {format_p(best.p_search)}"
    names = f": {_listed([row.predictor for row in rows])}" * (len(rows) <= MOST_NAMED)
    others = f" (the most striking of {len(rows)}{names})" * (len(rows) > 1)
    told = _sentence(best, None).removesuffix(".")
    beside = "".join(_beside(row) for row in held if row.predictor == best.predictor)
    return f"Exploratory{others}: {told}{search * _known(best.p_search)}.{beside}"


def _beside(slope: Slope) -> str:
    """Say what a trait-specific slope is with the overlap of trait words held fixed."""
    if slope.status != "ok":
        return f" With the overlap of trait words held fixed it is not_estimable: {slope.reason}."
    return (
        f" With the overlap of trait words held fixed it is {_signed(slope.slope)} "
        f"[95% CI {_signed(slope.low)}, {_signed(slope.high)}], p = {format_p(slope.p)}."
    )


def _mismatch(slope: Slope) -> str:
    """Say what a mismatch of formats does by itself."""
    if slope.status != "ok":
        return f"Format: the effect of a mismatch is not_estimable: {slope.reason}."
    shown = "changes" if slope.p <= LEVEL else "is not shown to change"
    return (
        f"Format: a mismatch of source and target {shown} trait-averaged transfer: "
        f"{_signed(slope.slope)} in-domain units [95% CI {_signed(slope.low)}, "
        f"{_signed(slope.high)}], p = {format_p(slope.p)} ({_how(slope)})."
    )


def _checked(rows: Iterable[MixedSlopes]) -> list[str]:
    """Say what the mixed model makes of the difference."""
    told = [
        f"{_signed(one.difference)} [90% CI {_signed(one.difference_low)}, "
        f"{_signed(one.difference_high)}] in replicate {one.replicate}, equivalent within "
        f"±{one.margin:.2f}: {one.equivalent}"
        for one in rows
        if one.status == "ok" and one.case
    ]
    if not told:
        return []
    return [f"A mixed model, as a check, puts the difference of slopes at {'; '.join(told)}."]


def _listed(words: Sequence[str]) -> str:
    """Join words as a sentence does."""
    if words[:2] == ["source effects", "target effects"]:
        words = ["source and target effects", *words[2:]]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _known(value: float) -> bool:
    return not math.isnan(value)


def _or_one(p: float) -> float:
    return p if _known(p) else 1.0


def _signed(value: float) -> str:
    if math.isinf(value):
        return "unbounded"
    return f"{value:+.2f}" if _known(value) else "–"
