"""What is known of one predictor at every layer: results that print themselves."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from textwrap import fill

import pandas as pd

from conceptnet_em.records import format_p, nulls
from conceptnet_em.verdicts import AVERAGE

CONTROLS = "controls"
"""The average over all traits but the case."""
WIDTH = 100  # characters of a line


@dataclass(frozen=True)
class LayerTest:
    """One layer's similarity, tested on one trait or average."""

    trait: str
    """A trait, ``average`` over all of them or ``controls``: the average over all but the case."""
    layer: int
    """Entry of ``hidden_states``; 0 is the embedding."""
    slope: float = nan
    """Units of transfer per SD of this layer's similarity over all its off-diagonal cells."""
    t: float = nan
    p: float = nan
    """As if this had been the only layer."""
    p_corrected: float = nan
    """H0: no layer is related to this trait's transfer. Compared with the largest |t| of all."""
    pointwise: float = nan
    """``p`` is at most the level just where |t| is above this."""
    simultaneous: float = nan
    """``p_corrected`` is at most the level just where |t| is above this; one for all layers."""
    reliability: float = nan
    """Split-half over items, the mean over the replicates and traits that enter."""
    status: str = "ok"
    reason: str = ""


@dataclass(frozen=True)
class Nested:
    """A trait tested at the layer that the other traits chose."""

    trait: str
    chosen_on: tuple[str, ...] = ()
    """The traits whose average has its largest |t| at this layer."""
    layer: int | None = None
    slope: float = nan
    t: float = nan
    p: float = nan
    """H0: given the other traits' transfer, domain labels are exchangeable for this trait's."""
    p_redone: float = nan
    """H0: domain labels are exchangeable for all traits jointly; the layer is chosen anew in every
    relabelling, so noise that traits share is allowed for."""
    status: str = "ok"
    reason: str = ""


@dataclass(frozen=True)
class LayerProfile:
    """How well similarity at each layer explains transfer, with what chance would do."""

    predictor: str
    case: str
    scale: str
    part: str
    unit: str
    """Of transfer: ``in-domain units``, or ``the table's own unit`` where there are none."""
    layers: tuple[int, ...]
    rows: tuple[LayerTest, ...]
    """Average, case, controls' average, then each control; layer by layer."""
    nested: tuple[Nested, ...]
    """Every trait left out of the choice in turn, the case first."""
    group: str
    """The relabelling group, in words; nothing where there is none."""
    n_permutations: int
    exact: bool
    level: float
    notes: tuple[str, ...]

    @property
    def chosen(self) -> Nested:
        """The case at the layer that the controls chose."""
        return self.nested[0]

    @property
    def traits(self) -> list[str]:
        """Traits and averages that have rows, in order."""
        return list(dict.fromkeys(row.trait for row in self.rows))

    def of(self, trait: str) -> tuple[LayerTest, ...]:
        """Return the rows of a trait or average, the lowest layer first; none where it has none."""
        return tuple(row for row in self.rows if row.trait == trait)

    def best(self, trait: str) -> LayerTest | None:
        """Return the layer with the largest |t|, whose honest p is the corrected one."""
        fine = [row for row in self.of(trait) if row.status == "ok"]
        return min(fine, key=lambda row: (row.p_corrected, -abs(row.t)), default=None)

    def to_table(self) -> pd.DataFrame:
        """Return one row per trait or average and layer."""
        names = [entry.name for entry in dataclasses.fields(LayerTest)]
        return pd.DataFrame([dataclasses.asdict(row) for row in self.rows], columns=names)

    def nested_table(self) -> pd.DataFrame:
        """Return one row per trait, tested at the layer that the others chose."""
        table = pd.DataFrame([dataclasses.asdict(row) for row in self.nested])
        return table.astype({"layer": "Int64"})

    def to_json(self) -> str:
        """Return everything as JSON; NaN becomes null."""
        return json.dumps(nulls(dataclasses.asdict(self)), indent=2)

    def __str__(self) -> str:
        """Return findings, a line per layer and the notes, at most 100 characters wide."""
        return layers_text(self)


def layers_text(profile: LayerProfile) -> str:
    """Return a profile in words and tables, at most 100 characters wide."""
    first, last = profile.layers[0], profile.layers[-1]
    span = (
        f"{len(profile.layers)} layers ({first} to {last})" if first != last else f"layer {first}"
    )
    leads = [name for name in (AVERAGE, profile.case) if profile.of(name)]
    leads = leads or profile.traits[:1]
    told = [
        f"{profile.predictor} at {span}: slopes of {profile.scale} transfer "
        f"(part: {profile.part}), in {profile.unit} per SD of a layer's similarity.",
        *(_finding(profile, name) for name in leads),
        _choice(profile),
    ]
    group = f"p-values: {profile.group}, the same for all layers and traits."
    return "\n".join(
        [
            *(fill(sentence, WIDTH) for sentence in told),
            "",
            *_by_layer(profile, leads),
            "",
            *_left_out(profile),
            *([fill(group, WIDTH)] if profile.group else []),
            *(fill(note, WIDTH) for note in profile.notes),
        ]
    )


def _called(name: str) -> str:
    return "the average over traits" if name == AVERAGE else name


def _finding(profile: LayerProfile, name: str) -> str:
    """Say which layer stands out on a trait, and what is left of it after the search."""
    best, count = profile.best(name), len(profile.of(name))
    if best is None:
        return f"For {_called(name)} no layer is estimable: {profile.of(name)[0].reason}."
    numbers = f"slope {best.slope:+.3f}, t = {best.t:.2f}"
    if count == 1:
        return f"For {_called(name)} layer {best.layer} has {numbers}, p = {format_p(best.p)}."
    return (
        f"For {_called(name)} layer {best.layer} stands out most ({numbers}): corrected for "
        f"{count} layers p = {format_p(best.p_corrected)} (alone it would be {format_p(best.p)})."
    )


def _choice(profile: LayerProfile) -> str:
    """Say which layer the controls chose, and what the case is there."""
    case = profile.chosen
    if case.status != "ok":
        return f"No layer is chosen for {case.trait}: {case.reason}."
    return (
        f"Without a look at {case.trait}, {', '.join(case.chosen_on)} choose layer {case.layer}; "
        f"there {case.trait} has slope {case.slope:+.3f}, t = {case.t:.2f}, p = "
        f"{format_p(case.p)}, and {format_p(case.p_redone)} where every relabelling chooses anew."
    )


def _by_layer(profile: LayerProfile, leads: Sequence[str]) -> list[str]:
    """Return a line per layer: slopes of the average and of the case, t of the controls."""
    aside = [CONTROLS] if profile.of(CONTROLS) else []
    over = "".join(f"  {_short(name, 32):^32}" for name in leads)
    over += "".join(f"  {name:>8}" for name in aside)
    columns = f"{'slope':>8}{'t':>8}{'p':>7}{'p corr.':>9}"
    under = "".join(f"  {columns}" for _ in leads) + "".join(f"  {'t':>8}" for _ in aside)
    lines = [" " * 10 + over.rstrip(), f"{'layer':>5}{'rel.':>5}" + under]
    found = {name: {row.layer: row for row in profile.of(name)} for name in (*leads, *aside)}
    for layer in profile.layers:
        rows = [found[name][layer] for name in leads]
        cells = "".join(f"  {_cells(row, profile.level)}" for row in rows)
        cells += "".join(f"  {_figure(found[name][layer].t, 8)}" for name in aside)
        mark = "  chosen" if profile.chosen.layer == layer else ""
        lines.append(f"{layer:>5}{_figure(rows[0].reliability, 5)}{cells}{mark}".rstrip())
    return [*lines, f"* p ≤ {profile.level:g}; ** p corr., which allows for all layers, too"]


def _short(name: str, width: int) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"


def _cells(row: LayerTest, level: float) -> str:
    stars = ("*" * (row.p <= level) + "*" * (row.p_corrected <= level)).ljust(2)
    numbers = f"{_figure(row.slope, 8, 3)}{_figure(row.t, 8)}"
    return numbers + f"{_figure(row.p, 7, 3)}{_figure(row.p_corrected, 7, 3)}{stars}"


def _figure(value: float, width: int, digits: int = 2) -> str:
    return f"{'–' if value != value else f'{value:.{digits}f}':>{width}}"


def _left_out(profile: LayerProfile) -> list[str]:
    """Return a line per trait, tested at the layer that the others chose, where there are some."""
    if len(profile.nested) == 1:
        return []
    wide = min(max(len(one.trait) for one in profile.nested), 28)
    head = f"{'left out':<{wide}}  layer   slope       t      p  p, chosen anew"
    lines = ["Every trait at the layer that the average of the others chooses:", head]
    for one in profile.nested:
        name = f"{_short(one.trait, wide):<{wide}}"
        if one.status != "ok":
            lines.append(fill(f"{name}  not estimable: {one.reason}", WIDTH))
            continue
        figures = f"{_figure(one.slope, 8, 3)}{_figure(one.t, 8)}{_figure(one.p, 7, 3)}"
        lines.append(f"{name}  {one.layer:>5}{figures}{_figure(one.p_redone, 16, 3)}")
    return [*lines, ""]
