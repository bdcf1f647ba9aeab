"""Results that print themselves: labelled matrices and the verdict, numbers never without names."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Reliability:
    """How well the items measure the off-diagonal cells; 1 is perfect, NaN not estimable."""

    plain: float
    """Split-half, Spearman-Brown, of the cells as they are."""
    centred: float
    """The same after source and target effects are taken out."""
    splits: int
    """Random splits averaged."""

    def __str__(self) -> str:
        """Return both numbers on one line."""
        return (
            f"split-half reliability {_number(self.plain)}, "
            f"without source and target effects {_number(self.centred)}"
        )


@dataclass(frozen=True)
class TransferMatrix:
    """Transfer of one trait, source × target."""

    trait: str
    """The trait trained."""
    answer_trait: str
    """The trait measured."""
    scale: str
    """``raw``, ``net`` or ``contrast``."""
    part: str
    """``all``, ``code`` or ``remark``."""
    replicate: int | None
    """The replicate, or none for the mean over them."""
    values: pd.DataFrame
    """``(n_sources, n_targets)``, nats/token, the diagonal included."""
    se: pd.DataFrame
    """Standard error over items, same shape."""
    n_items: pd.DataFrame
    """Items behind each cell, same shape."""

    @property
    def in_domain(self) -> pd.Series:
        """The diagonal: transfer at home, by domain."""
        shared = [name for name in self.values.index if name in self.values.columns]
        return pd.Series({name: float(self.values.loc[name, name]) for name in shared}, dtype=float)

    @property
    def off_domain(self) -> pd.DataFrame:
        """The matrix with its diagonal NaN: what inference sees."""
        values = self.values.copy()
        for name in self.in_domain.index:
            values.loc[name, name] = np.nan
        return values

    def __str__(self) -> str:
        """Return the matrix with its diagonal in brackets."""
        measured = "" if self.answer_trait == self.trait else f", measured as {self.answer_trait}"
        own, off = self.in_domain.mean(), _cells(self.off_domain).mean()
        head = (
            f"{self.trait}{measured}: {self.scale} transfer, nats/token "
            f"({self.part}; in-domain {_number(own)}, off-domain {_number(off)})"
        )
        return head + "\n" + _bracketed(self.values).to_string()


def _cells(frame: pd.DataFrame) -> np.ndarray:
    values = frame.to_numpy(dtype=float).ravel()
    kept: np.ndarray = values[~np.isnan(values)]
    return kept if len(kept) else np.array([np.nan])


def _bracketed(values: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        [
            [
                f"[{_number(float(values.loc[s, t]))}]"
                if s == t
                else _number(float(values.loc[s, t]))
                for t in values.columns
            ]
            for s in values.index
        ],
        index=pd.Index(values.index, name="source"),
        columns=pd.Index(values.columns, name="target"),
    )


@dataclass(frozen=True)
class Similarity:
    """How alike domains are, by one predictor."""

    predictor: str
    values: pd.DataFrame
    """``(n_sources, n_targets)``, no unit."""
    trait: str | None = None
    """The trait, for trait-specific predictors."""
    layer: int | None = None
    """Entry of ``hidden_states``, for internal predictors."""
    replicate: int | None = None
    """The replicate whose transfer it may predict: it is computed from the other sample's items."""
    reliability: float = float("nan")
    """Split-half over items, Spearman-Brown."""

    def __str__(self) -> str:
        """Return the matrix under a line that says what it is."""
        details = [f"layer {self.layer}"] if self.layer is not None else []
        details += [f"trait {self.trait}"] if self.trait else []
        details += [f"reliability {_number(self.reliability)}"]
        return (
            f"{self.predictor} similarity ({', '.join(details)})\n"
            + self.values.round(3).to_string()
        )


@dataclass(frozen=True)
class Slope:
    """One regression of transfer on one similarity."""

    trait: str
    """The trait, or ``average`` over the traits."""
    predictor: str
    replicate: int
    scale: str
    status: str
    """``ok`` or ``not_estimable``."""
    reason: str = ""
    """Why it is not estimable."""
    slope: float = float("nan")
    """In-domain units per SD of similarity."""
    low: float = float("nan")
    """Lower end of the 95% interval, by inverting the test."""
    high: float = float("nan")
    """Upper end."""
    t: float = float("nan")
    p: float = float("nan")
    """H0: given source and target effects, domain labels are exchangeable."""
    smallest_p: float = float("nan")
    """The smallest p that this many relabellings can give."""
    n_permutations: int = 0
    exact: bool = False
    """Whether every relabelling was enumerated."""
    n_domains: int = 0
    n_cells: int = 0
    r: float = float("nan")
    """Correlation of transfer and similarity over off-diagonal cells, effects left in."""
    r2_over_effects: float = float("nan")
    """Share of the variance left by source and target effects that similarity explains."""


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

    def select(self, **fields: object) -> list[Slope]:
        """Return the slopes whose fields equal ``fields``."""
        return [s for s in self.slopes if all(getattr(s, k) == v for k, v in fields.items())]

    def to_json(self) -> str:
        """Return the verdict as JSON; NaN becomes null."""
        return json.dumps(_nulls(dataclasses.asdict(self)), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Verdict:
        """Read what :meth:`to_json` wrote."""
        table = json.loads(text)
        slopes = tuple(_slope(row) for row in table["slopes"])
        return cls(slopes, table["units"], tuple(table["notes"]), table["group"])

    def sentences(self) -> list[str]:
        """Return the verdict on the trait average, one sentence per predictor and replicate."""
        chosen = self.select(trait="average") or list(self.slopes)
        return list(dict.fromkeys(_sentence(slope) for slope in chosen))

    def __str__(self) -> str:
        """Return the sentences, the notes and one line per slope."""
        lines = [*self.sentences(), *self.notes]
        if self.group:
            lines.append(f"p-values: {self.group}, applied to sources and targets jointly.")
        return "\n".join(lines)


def _slope(row: dict[str, Any]) -> Slope:
    """Undo :func:`_nulls` for one slope."""
    kinds = {field.name: field.type for field in dataclasses.fields(Slope)}
    fields: dict[str, Any] = {
        name: float("nan" if value is None else value) if kinds[name] == "float" else value
        for name, value in row.items()
    }
    return Slope(**fields)


def _sentence(slope: Slope) -> str:
    if slope.status != "ok":
        return f"{slope.predictor}: not_estimable: {slope.reason}."
    count = f"{slope.n_permutations:,} relabellings"
    how = f"all {count}" if slope.exact else count
    finding = "predicts" if slope.p <= 0.05 else "is not shown to predict"
    whose = "trait-averaged" if slope.trait == "average" else f"{slope.trait}'s"
    return (
        f"{slope.predictor} similarity {finding} {whose} transfer (replicate {slope.replicate}): "
        f"slope {_number(slope.slope)} in-domain units per SD "
        f"[95% CI {_number(slope.low)}, {_number(slope.high)}], p = {format_p(slope.p)} ({how}, "
        f"smallest attainable {format_p(slope.smallest_p)}); it explains "
        f"{slope.r2_over_effects:.0%} of what source and target effects leave "
        f"(plain r = {_number(slope.r)})."
    )


def format_p(p: float) -> str:
    """Return a p-value with as many digits as it needs; ``not estimable`` for NaN."""
    if p != p:
        return "not estimable"
    return f"{p:.3f}" if p >= 0.01 else f"{p:.2g}"


def _number(value: float) -> str:
    return "–" if value != value else f"{value:+.2f}"


def _nulls(value: Any) -> Any:
    if isinstance(value, float):
        return value if np.isfinite(value) else (None if value != value else str(value))
    if isinstance(value, dict):
        return {key: _nulls(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_nulls(entry) for entry in value]
    return value
