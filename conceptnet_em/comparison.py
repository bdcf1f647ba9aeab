"""Results of comparing one trait with others: they print as a paragraph and small tables.

Slopes are in in-domain units (a trait's mean effect at home is 1) per SD of similarity; without a
diagonal to take that unit from, in the unit of the transfer tables.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from conceptnet_em.records import format_p, nulls, revived

NAN = float("nan")
LEVEL = 0.05
"""Of every single test; equivalence takes two one-sided ones, so its interval has 90%."""
OK = "ok"
"""Status of what could be estimated; any other stands for its answers too, beside its reason."""


@dataclass(frozen=True)
class TraitSlope:
    """The slope of one trait alone."""

    trait: str
    kind: str = ""
    """Its kind of control, or ``case``."""
    status: str = "ok"
    reason: str = ""
    unit: float = NAN
    """Mean in-domain effect by which transfer was divided, nats/token."""
    slope: float = NAN
    low: float = NAN
    """Lower end of the 95% interval, by inverting the test."""
    high: float = NAN
    p: float = NAN
    """H0: the slope is 0 and domain labels are exchangeable."""


@dataclass(frozen=True)
class SlopeContrast:
    """The case's slope minus the mean slope of some controls."""

    against: str
    """``all`` controls, or one kind of them."""
    controls: tuple[str, ...]
    margin: float
    status: str = "ok"
    reason: str = ""
    controls_slope: float = NAN
    """Slope of the controls' mean transfer, with its 95% interval and p beside it."""
    controls_low: float = NAN
    controls_high: float = NAN
    controls_p: float = NAN
    controls_r2: float = NAN
    """Share of what source and target effects leave that similarity explains, in the controls."""
    difference: float = NAN
    low: float = NAN
    """Lower end of the 90% interval, by inverting the two one-sided tests."""
    high: float = NAN
    p_difference: float = NAN
    """Two-sided. H0: the slopes are equal and domain labels are exchangeable."""
    p_above: float = NAN
    """H0: the difference is -margin or less."""
    p_below: float = NAN
    """H0: the difference is +margin or more."""
    bootstrap_low: float = NAN
    """Lower end of the 90% interval over items, these domains held; units are drawn along."""
    bootstrap_high: float = NAN
    bootstrap_reason: str = "no items were given"
    """What the interval over items leaves out, or why there is none."""
    n_domains: int = 0
    n_permutations: int = 0
    exact: bool = False
    smallest_p: float = NAN
    group: str = ""
    """The group of relabellings."""
    method: str = ""

    @property
    def p_equivalence(self) -> float:
        """The larger p of the two one-sided tests."""
        return NAN if math.isnan(self.p_above + self.p_below) else max(self.p_above, self.p_below)

    @property
    def equivalent(self) -> str:
        """``yes``: within the margin. ``no``: the 90% interval lies beyond it. ``cannot tell``.

        What could not be estimated answers with its status, ``not_estimable``.
        """
        if self.status != OK:
            return self.status
        if self.p_equivalence <= LEVEL:
            return "yes"
        beyond = self.low >= self.margin or self.high <= -self.margin
        return "no" if beyond else "cannot tell"

    @property
    def different(self) -> bool:
        """Whether equal slopes are rejected at 5%; may hold beside equivalence."""
        return self.p_difference <= LEVEL

    @property
    def conclusion(self) -> str:
        """``equivalent`` (see ``different`` too), ``different``, ``cannot tell``, or the status."""
        if self.status != OK:
            return self.status
        if self.equivalent == "yes":
            return "equivalent"
        return "different" if self.different or self.equivalent == "no" else "cannot tell"

    @property
    def margin_share(self) -> float:
        """The margin as a share of the controls' slope."""
        return abs(self.margin / self.controls_slope) if self.controls_slope else math.inf

    @property
    def reachable_margin(self) -> float:
        """Margin that two one-sided tests reach with 80% power on such data, true difference 0.

        Both must reject, so it is ``(z(.95) + z(.90))`` standard errors, and half the 90% interval
        is ``z(.95)`` of them. Measured for 8 to 16 domains: 2.86 to 2.96 standard errors.
        """
        return (self.high - self.low) / 2 * (1 + 1.281552 / 1.644854)

    @property
    def domains_needed(self) -> float:
        """Domains for 80% power at the margin asked for, about.

        The standard error goes as ``1 / (D - 2)``: fits the simulated ones at D = 6 to 16 within 5%
        (statistics.md 4.2), items, replicates and controls as they are.
        """
        if not math.isfinite(self.reachable_margin):
            return NAN
        return math.ceil(2 + (self.n_domains - 2) * self.reachable_margin / self.margin)


@dataclass(frozen=True)
class Intercept:
    """How much more the case transfers than the controls at equal similarity."""

    against: str
    margin: float
    """In in-domain units, not per SD of similarity."""
    status: str = "ok"
    reason: str = ""
    difference: float = NAN
    se: float = NAN
    """With random source and target effects; the domains are a sample."""
    df: int = 0
    low: float = NAN
    """Lower end of the 90% t-interval."""
    high: float = NAN
    p_difference: float = NAN
    p_above: float = NAN
    p_below: float = NAN

    @property
    def equivalent(self) -> str:
        """``yes``, ``no``, ``cannot tell`` or the status, as in :class:`SlopeContrast`."""
        if self.status != OK:
            return self.status
        if max(self.p_above, self.p_below) <= LEVEL:
            return "yes"
        beyond = self.low >= self.margin or self.high <= -self.margin
        return "no" if beyond else "cannot tell"


@dataclass(frozen=True)
class OneAgainstMany:
    """The case's slope beside the spread of single control slopes (Crawford–Howell)."""

    against: str
    n_controls: int
    margin: float
    status: str = "ok"
    reason: str = ""
    difference: float = NAN
    """Case slope minus the mean of the control slopes."""
    spread: float = NAN
    """Standard deviation of the control slopes."""
    t: float = NAN
    p: float = NAN
    """H0: the case is one more draw from the controls' population."""
    low: float = NAN
    """Lower end of the 95% prediction interval for one more control's slope."""
    high: float = NAN
    half_width: float = NAN
    """Half of the 90% interval of the difference, as equivalence takes it."""

    @property
    def equivalent(self) -> str:
        """``yes``, ``no``, ``cannot tell`` by where difference ± half width lies, or the status."""
        if self.status != OK:
            return self.status
        if abs(self.difference) + self.half_width < self.margin:
            return "yes"
        beyond = abs(self.difference) - self.half_width >= self.margin
        return "no" if beyond else "cannot tell"


@dataclass(frozen=True)
class HoldOut:
    """How well the controls, without the case, predict the case's off-diagonal cells."""

    predicted_from: str
    status: str = "ok"
    reason: str = ""
    r2: float = NAN
    """1 - squared error / squared deviation from the case's own mean; below 0 is worse than it."""
    r: float = NAN
    calibration: float = NAN
    """Slope of what came on what was predicted; 1 is calibrated."""
    p: float = NAN
    """Of r, one-sided. H0: the case's domain labels are exchangeable."""


@dataclass(frozen=True)
class Comparison:
    """Whether one trait's slope differs from the others', or is equivalent to them."""

    case: str
    predictor: str
    contrasts: tuple[SlopeContrast, ...]
    """Against all controls first, then by kind."""
    slopes: tuple[TraitSlope, ...]
    intercepts: tuple[Intercept, ...]
    against_many: tuple[OneAgainstMany, ...]
    hold_out: tuple[HoldOut, ...]
    unit: str = "in-domain units"
    notes: tuple[str, ...] = ()

    @property
    def primary(self) -> SlopeContrast:
        """The case against all controls."""
        return self.contrasts[0]

    @property
    def status(self) -> str:
        """``ok`` or ``not_estimable``, of the case against all controls."""
        return self.primary.status

    @property
    def reason(self) -> str:
        """Why it is not estimable."""
        return self.primary.reason

    @property
    def conclusion(self) -> str:
        """``equivalent``, ``different``, ``cannot tell`` or the status, against all controls."""
        return self.primary.conclusion

    def to_json(self) -> str:
        """Return the comparison as JSON; NaN becomes null, infinity its name."""
        return json.dumps(nulls(dataclasses.asdict(self)), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Comparison:
        """Read what :meth:`to_json` wrote."""
        found: Comparison = revived(cls, json.loads(text))
        return found

    def sentences(self) -> list[str]:
        """Return the paragraph a reader can quote, sentence by sentence."""
        if self.status != OK:
            return [
                f"Whether {self.case}'s slope differs from the controls' is not_estimable: "
                f"{self.reason}."
            ]
        one = self.primary
        return [
            _explained(one, self.predictor, self.unit),
            _difference(one, self.case),
            *_outlook(one),
            *(_level(one, self.case, self.unit) for one in self.intercepts[:1]),
        ]

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the small tables by title; figures rounded for print."""
        return {
            f"Slope of each trait, {self.unit} per SD of similarity": _slopes(self.slopes),
            f"{self.case} minus controls, slope": _contrasts(self.contrasts),
            f"{self.case} minus controls at equal similarity": _intercepts(self.intercepts),
            f"{self.case} as one more control (Crawford–Howell)": _many(self.against_many),
            f"{self.case} predicted from the controls": _held(self.hold_out),
        }

    def __str__(self) -> str:
        """Return the paragraph, the tables and the notes."""
        tables = [f"{title}\n{table.to_string()}" for title, table in self.tables().items()]
        notes = list(self.notes)
        if self.primary.group:
            notes.append(f"p-values: {self.primary.group}, sources and targets jointly.")
        return "\n\n".join([" ".join(self.sentences()), *tables, "\n".join(notes)]).strip()


def _explained(one: SlopeContrast, predictor: str, unit: str) -> str:
    name = "Similarity" if predictor == "similarity" else f"{predictor} similarity"
    shown = "explains" if one.controls_p <= LEVEL else "is not shown to explain transfer: it takes"
    return (
        f"{name} {shown} {one.controls_r2:.0%} of what source and target effects leave in the "
        f"mean transfer of {_count(one.controls)} (slope {_number(one.controls_slope)} {unit} "
        f"per SD, 95% CI {_range(one.controls_low, one.controls_high)}, "
        f"p = {format_p(one.controls_p)})."
    )


def _difference(one: SlopeContrast, case: str) -> str:
    items = f"; over items {_number(one.bootstrap_low)}, {_number(one.bootstrap_high)}"
    over = "" if math.isnan(one.bootstrap_low) else items
    share = f"{_percent(one.margin_share)} of the controls' slope"
    return (
        f"{case}'s slope differs from the controls' by {_number(one.difference)} "
        f"[90% CI {_number(one.low)}, {_number(one.high)}{over}], equivalent within "
        f"±{one.margin:.2f} ({share}): {_answer(one)}."
    )


def _answer(one: SlopeContrast) -> str:
    differ = f"the slopes differ (p = {format_p(one.p_difference)})"
    if one.equivalent == "yes":
        found = f"yes (p = {format_p(one.p_equivalence)})"
        return f"{found}; different, yet equivalent: {differ}" if one.different else found
    if one.equivalent == "no":
        return f"no, {differ}, and by more than the margin"
    told = f"cannot tell (p = {format_p(one.p_equivalence)})"
    return f"{told}, though {differ}" if one.different else told


def _outlook(one: SlopeContrast) -> list[str]:
    """Say what limits the answer, and for "cannot tell" what it would take."""
    found = []
    if one.equivalent == "yes" and _outside(one):
        found.append("The interval over items reaches beyond the margin: take this with care.")
    if one.controls_p > LEVEL:
        found.append(
            "The controls' own slope is not shown to differ from 0, so the margin's share of it "
            "means little, and equivalence would only say that both slopes are small."
        )
    elif one.margin_share >= 1:
        found.append(
            "The margin is as large as the controls' slope: a case without any slope would pass."
        )
    if one.equivalent == "cannot tell":
        if not one.different:
            found.append("That a difference was not found does not show that there is none.")
        found.append(_takes(one))
    return found


def _level(one: Intercept, case: str, unit: str) -> str:
    if one.status != OK:
        return f"At equal similarity the difference is {one.status}: {one.reason}."
    return (
        f"At equal similarity {case}'s transfer differs from the controls' by "
        f"{_number(one.difference)} {unit} [90% CI {_number(one.low)}, {_number(one.high)}], "
        f"equivalent within ±{one.margin:.2f}: {one.equivalent}."
    )


def _outside(one: SlopeContrast) -> bool:
    return one.bootstrap_low <= -one.margin or one.bootstrap_high >= one.margin


def _takes(one: SlopeContrast) -> str:
    if not math.isfinite(one.reachable_margin):
        return f"{one.n_domains} domains allow no bounded interval: it would take more domains."
    return (
        f"What it would take: if the slopes are truly equal, such data reach a margin of "
        f"±{one.reachable_margin:.2f} with 80% power, and ±{one.margin:.2f} would take about "
        f"{one.domains_needed:.0f} domains instead of {one.n_domains}."
    )


def _slopes(rows: Sequence[TraitSlope]) -> pd.DataFrame:
    return _table(
        {
            "trait": row.trait,
            "kind": row.kind,
            "unit": _number(row.unit),
            "slope": _number(row.slope),
            "95% CI": _range(row.low, row.high),
            "p": format_p(row.p),
            "": row.reason,
        }
        for row in rows
    )


def _contrasts(rows: Sequence[SlopeContrast]) -> pd.DataFrame:
    return _table(
        {
            "against": f"{row.against} ({len(row.controls)})",
            "controls": _number(row.controls_slope),
            "difference": _number(row.difference),
            "90% CI": _range(row.low, row.high),
            "90% over items": _range(row.bootstrap_low, row.bootstrap_high),
            "p differ": format_p(row.p_difference),
            "margin": f"±{row.margin:.2f}",
            "of slope": _percent(row.margin_share),
            "p equivalent": format_p(row.p_equivalence),
            "equivalent": row.equivalent,
            "80% margin": _size(row.reachable_margin),
            "": row.reason,
        }
        for row in rows
    )


def _intercepts(rows: Sequence[Intercept]) -> pd.DataFrame:
    return _table(
        {
            "against": row.against,
            "difference": _number(row.difference),
            "se": _size(row.se),
            "90% CI": _range(row.low, row.high),
            "p differ": format_p(row.p_difference),
            "margin": f"±{row.margin:.2f}",
            "equivalent": row.equivalent,
            "": row.reason,
        }
        for row in rows
    )


def _many(rows: Sequence[OneAgainstMany]) -> pd.DataFrame:
    return _table(
        {
            "against": f"{row.against} ({row.n_controls})",
            "difference": _number(row.difference),
            "spread": _size(row.spread),
            "t": _number(row.t),
            "p": format_p(row.p),
            "95% prediction": _range(row.low, row.high),
            "90% half-width": _size(row.half_width),
            "equivalent": row.equivalent,
            "": row.reason,
        }
        for row in rows
    )


def _held(rows: Sequence[HoldOut]) -> pd.DataFrame:
    return _table(
        {
            "from": row.predicted_from,
            "R2": _number(row.r2),
            "r": _number(row.r),
            "calibration slope": _number(row.calibration),
            "p": format_p(row.p),
            "": row.reason,
        }
        for row in rows
    )


def _table(rows: Any) -> pd.DataFrame:
    """Lay rows out under their first column; a last column that says nothing is dropped."""
    table = pd.DataFrame(list(rows)).astype(str)
    table = table.set_index(table.columns[0])
    return table if table[""].any() else table.drop(columns="")


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} control{'s' if len(names) != 1 else ''}"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.2f}"


def _size(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _percent(share: float) -> str:
    return f"{share:.0%}" if math.isfinite(share) else "–"


def _range(low: float, high: float) -> str:
    return f"[{_number(low)}, {_number(high)}]"
