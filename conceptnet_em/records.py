"""Results that print themselves: labelled matrices and slopes, numbers never without names."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, get_args, get_origin, get_type_hints

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
    basis: str = ""
    """What it was computed from, and what was odd about it."""

    def __str__(self) -> str:
        """Return the matrix under a line that says what it is."""
        details = [f"layer {self.layer}"] if self.layer is not None else []
        details += [f"trait {self.trait}"] if self.trait else []
        details += [f"reliability {_number(self.reliability)}"]
        head = f"{self.predictor} similarity ({', '.join(details)})"
        lines = [head, *filter(None, [self.basis]), self.values.round(3).to_string()]
        return "\n".join(lines)


@dataclass(frozen=True)
class Slope:
    """One regression of transfer on one similarity."""

    trait: str
    """The trait, or ``average`` over the traits."""
    predictor: str
    replicate: int | None
    """The replicate, or none where several are stacked, each with its own similarity."""
    scale: str
    status: str
    """``ok`` or ``not_estimable``."""
    reason: str = ""
    """Why it is not estimable."""
    slope: float = float("nan")
    """In-domain units per SD of similarity (see ``per``)."""
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
    role: str = "exploratory"
    """``primary``, ``sensitivity`` or ``exploratory``."""
    cells: str = "all"
    """``all`` off-diagonal cells; ``other topics``: without those of the same topic; or
    ``all; trait-words held``: all of them, with the overlap of trait words held fixed too."""
    held: tuple[str, ...] = ()
    """Covariates held fixed beside source and target effects."""
    per: str = "SD"
    """What the slope is per: an ``SD`` or a ``unit`` of the predictor."""
    p_holm: float = float("nan")
    """Holm's p over the registered primaries."""
    p_search: float = float("nan")
    """p that allows for all predictors looked at: compared with the largest abs(t) over them."""
    lodo_r2: float = float("nan")
    """R² for the cells of a domain left out, from this predictor alone; no test."""
    pairs_low: float = float("nan")
    """Lower end of the 95% t-interval over unordered pairs, node effects held fixed."""
    pairs_high: float = float("nan")
    """Upper end."""


def format_p(p: float) -> str:
    """Return a p-value with as many digits as it needs; ``not estimable`` for NaN."""
    if p != p:
        return "not estimable"
    return f"{p:.3f}" if p >= 0.01 else f"{p:.2g}"


def _number(value: float) -> str:
    return "–" if value != value else f"{value:+.2f}"


def nulls(value: Any) -> Any:
    """Make a tree fit for JSON: NaN becomes null, infinity its name, tuples lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else (None if value != value else str(value))
    if isinstance(value, dict):
        return {key: nulls(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [nulls(entry) for entry in value]
    return value


def revived(kind: Any, value: Any) -> Any:
    """Undo :func:`nulls` by the types that records declare; fields that are lacking keep defaults.

    Args:
        kind: the type: a dataclass, ``tuple[kind, ...]``, ``float`` or anything JSON has itself.
        value: what ``json.loads`` returned.
    """
    if kind is float:
        return float("nan" if value is None else value)
    if get_origin(kind) is tuple:
        return tuple(revived(get_args(kind)[0], entry) for entry in value)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        known = {key: entry for key, entry in value.items() if key in hints}
        return kind(**{key: revived(hints[key], entry) for key, entry in known.items()})
    return value
