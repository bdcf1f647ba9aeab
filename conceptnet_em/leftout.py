"""Predict the cells of a source domain that was left out, and say how well; no model, no torch.

A calibration is only as good as its predictions for data of a domain it never saw. So the unit that
is left out is the source domain, with all its organisms; the layer of the features is chosen anew
on what is left each time; and intervals are checked on domains that had no part in their width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.spatial import cKDTree

from conceptnet_em.errors import raise_all

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
Flags = NDArray[np.bool_]

LEVEL = 0.9
"""Of the intervals."""
PENALTY = 0.01
"""Ridge on standardised features, as a share of the cells; fixed, it only keeps them apart."""
LEAST_SHARE = 0.25
"""Of the mean absolute error: what an error is expected to be at least, wherever."""
FOLDS = 3
"""Source domains without which nothing can be left out twice, so that all of validation is NaN."""
LEAST_R2, LEAST_DOMAINS, LEAST_COVERAGE = 0.25, 5, 0.8
"""Below any of these a calibration gives no numbers."""


@dataclass(frozen=True)
class Cells:
    """Measured cells: one row an organism × target × answer trait."""

    features: Floats
    """``(n_layers, n, p)``: the same features taken at several layers, one of which is chosen."""
    response: Floats
    """``(n,)`` measured transfer, nats/token."""
    domain: Indices
    """``(n,)`` number of the source domain, from 0."""
    taught: Indices
    """``(n,)`` number of the trait trained, which the model is not told."""
    kind: Indices
    """``(n,)`` number of the trait measured, which it is not told either; same numbers."""
    home: Flags
    """``(n,)`` whether the target is the source domain itself."""

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together.

        Raises:
            InputError: wrong shapes, numbers that are not finite, or no cell.
        """
        raise_all(_faults(self))

    @property
    def n_domains(self) -> int:
        """Source domains."""
        return int(self.domain.max()) + 1

    @property
    def own(self) -> Flags:
        """``(n,)``: whether the trait measured is the one trained."""
        return cast("Flags", self.taught == self.kind)


def _faults(cells: Cells) -> list[str]:
    n = len(cells.response)
    if n == 0:
        return ["no measured cell to calibrate on"]
    if cells.features.ndim != 3 or cells.features.shape[1] != n:
        return [f"features are {cells.features.shape}; they must be (n_layers, {n}, p)"]
    parts: dict[str, np.ndarray] = {
        "domain": cells.domain,
        "taught": cells.taught,
        "kind": cells.kind,
    }
    parts["home"] = cells.home
    faults = [
        f"{k} has {len(part)} entries, not {n}" for k, part in parts.items() if len(part) != n
    ]
    if not (np.isfinite(cells.features).all() and np.isfinite(cells.response).all()):
        faults.append("a feature or a response is not finite; leave such cells out")
    if len(missing := np.setdiff1d(np.arange(cells.domain.max() + 1), cells.domain)):
        faults.append(f"source domains {missing.tolist()} have no cell")
    return faults


@dataclass(frozen=True)
class Validation:
    """How well left-out source domains were predicted; targets other than the source only."""

    r2: float
    """1 minus squared errors over squares around the mean, all traits measured."""
    r2_own: float
    """The same for cells in which the trained trait itself is measured."""
    r2_new: float
    """R² where the trained trait was left out with the domain: for data that answer in a way that
    no organism was taught. NaN with fewer than 2 traits."""
    naive: float
    """R² of the mean per answer trait over the other domains: what it takes no similarity for."""
    labelled: float
    """R² of the mean per trained × answer trait over the other domains: what somebody can say
    without similarity who is told which trait the data teach, as the model is not."""
    labelled_own: float
    """The same for cells in which the trained trait itself is measured."""
    coverage: float
    """Share of cells inside intervals whose width their domain had no part in; 0.9 is meant."""
    coverage_own: float
    """The same for cells in which the trained trait itself is measured."""
    r2_home: float
    """R² for the source domains' own cells (left out too), to which no interval is fitted."""
    half_width: float
    """Half of the 90% interval, nats/token, mean over the cells: the larger what is predicted, the
    wider it is."""
    n_domains: int
    n_cells: int
    """Cells predicted: targets other than the source."""

    def __str__(self) -> str:
        """Return the figures, one a line."""
        r2, own, half = _shown(self.r2), "the trained trait alone", _shown(self.half_width)
        held, held_own = (_shown(v, ".0%") for v in (self.coverage, self.coverage_own))
        lines = {
            "R² of the forecast": f"{r2} ({own} {_shown(self.r2_own)})",
            "  with the trained trait left out too": _shown(self.r2_new),
            "R² of the mean per answer trait": _shown(self.naive),
            "  when told which trait is trained": f"{_shown(self.labelled)} ({own} "
            f"{_shown(self.labelled_own)})",
            "R² in the source's own domain": f"{_shown(self.r2_home)}, no interval validated",
            f"{LEVEL:.0%} intervals hold": f"{held} ({own} {held_own}), ±{half} nats/token on "
            "average",
        }
        head = f"each of {self.n_domains} source domains left out, {self.n_cells} cells elsewhere"
        return "\n".join([head, *(f"  {name:<38}{words}" for name, words in lines.items())])

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why no forecast should be made from it; empty when it may."""
        r2, coverage = f"R² for left-out domains is {self.r2:.2f}", f"{self.coverage:.0%}"
        few = f"{self.n_domains} source domains with finished organisms, fewer than {LEAST_DOMAINS}"
        if self.n_domains < FOLDS:
            return (few,)
        low = {
            few: self.n_domains < LEAST_DOMAINS,
            f"{r2}, below {LEAST_R2}": not self.r2 >= LEAST_R2,
            f"{r2}, not above that of the mean per answer trait, {self.naive:.2f}": (
                not self.r2 > self.naive
            ),
            f"intervals meant to hold {LEVEL:.0%} hold {coverage} of the left-out cells, below "
            f"{LEAST_COVERAGE:.0%}": not self.coverage >= LEAST_COVERAGE,
        }
        return tuple(words for words, is_low in low.items() if is_low)


def _shown(value: float, how: str = ".2f") -> str:
    return "–" if value != value else format(value, how)


@dataclass(frozen=True)
class Width:
    """Half the width of an interval, wider where more is predicted."""

    base: float
    """Nats/token where 0 is predicted."""
    slope: float
    """Nats/token per nat/token predicted, whatever its sign."""

    def __call__(self, predicted: Floats) -> Floats:
        """Return half widths, nats/token."""
        found: Floats = self.base + self.slope * np.abs(predicted)
        return found


@dataclass(frozen=True)
class Fit:
    """A calibration's model: what a new data set's features are turned into numbers with."""

    layer: int
    """Which of the features' layers was chosen, from 0."""
    intercept: float
    slopes: Floats
    """``(p,)``, nats/token per unit of the feature."""
    validation: Validation
    width: Width
    """Of the 90% intervals."""
    centre: Floats
    """``(p,)`` mean of the calibration's features."""
    scale: Floats
    """``(p,)`` their standard deviation."""
    known: Floats
    """``(n, p)`` standardised features of the calibration's cells."""
    radius: float
    """The largest distance from one of them to the nearest of another source domain."""

    def predict(self, features: Floats) -> tuple[Floats, Flags]:
        """Return predictions, nats/token, and which of them lie outside the calibration's support.

        Args:
            features: ``(m, p)`` at the chosen layer.
        """
        predicted = self.intercept + features @ self.slopes
        distance, _ = cKDTree(self.known).query((features - self.centre) / self.scale)
        return predicted, np.asarray(distance) > self.radius


def fit(cells: Cells) -> Fit:
    """Fit the model on all cells and validate it by leaving source domains out.

    The model is a ridge regression of transfer on the features, the same for all traits. Layer,
    slopes and intercept that predict a domain are had from the others; so is the interval's width
    whose coverage is counted.
    """
    folds = _Folds(cells)
    layer, weights = folds.solved(())
    x = cells.features[layer]
    centre, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    known = (x - centre) / scale
    radius = _radius(known, cells.domain)
    checked, width = _validate(cells, folds)
    return Fit(layer, weights[0], weights[1:], checked, width, centre, scale, known, radius)


class _Folds:
    """Fits without some source domains, from sums that are taken once."""

    def __init__(self, cells: Cells) -> None:
        ones = np.ones((*cells.features.shape[:2], 1))
        y = np.broadcast_to(cells.response[None, :, None], ones.shape)
        self.cells = cells
        rows = np.concatenate([ones, cells.features, y], axis=2)
        self.every = _moments(rows, cells.domain, np.ones_like(cells.home), cells.n_domains)
        self.away = _moments(rows, cells.domain, ~cells.home, cells.n_domains)
        self._known: dict[tuple[int, ...], tuple[int, Floats]] = {}

    def solved(self, out: tuple[int, ...]) -> tuple[int, Floats]:
        """Return layer and ``(1 + p,)`` coefficients from all domains but ``out``."""
        key = tuple(sorted(out))
        if key not in self._known:
            kept = np.setdiff1d(np.arange(self.cells.n_domains), key)
            layer = self._best(kept)
            self._known[key] = layer, _solve(self.every[layer, kept].sum(axis=0))
        return self._known[key]

    def _best(self, kept: Indices) -> int:
        """Return the layer that predicts left-out domains of ``kept`` best."""
        if len(kept) < 2:
            return len(self.every) // 2
        some = self.every[:, kept]
        weights = _solve(some.sum(axis=1, keepdims=True) - some)
        signed = np.concatenate([-weights, np.ones((*weights.shape[:-1], 1))], axis=-1)
        loss = np.einsum("lki,lkij,lkj->l", signed, self.away[:, kept], signed)
        return int(np.argmin(loss))

    def predicted(self, domain: int, out: tuple[int, ...]) -> Floats:
        """Return predictions for a domain's cells; neither it nor ``out`` had a part in them."""
        layer, weights = self.solved((domain, *out))
        mine = self.cells.domain == domain
        return cast("Floats", weights[0] + self.cells.features[layer, mine] @ weights[1:])

    def width(self, out: tuple[int, ...]) -> Width:
        """Return the intervals' width from how wrong each domain but ``out`` is predicted."""
        pairs = []
        for k in np.setdiff1d(np.arange(self.cells.n_domains), out):
            mine = self.cells.domain == k
            predicted, away = self.predicted(int(k), out), ~self.cells.home[mine]
            pairs.append((predicted[away], (self.cells.response[mine] - predicted)[away]))
        return interval_width([p for p, _ in pairs], [e for _, e in pairs])


def _moments(rows: Floats, domain: Indices, kept: Flags, n_domains: int) -> Floats:
    """Return ``(n_layers, n_domains, q, q)`` sums of products over each domain's kept rows."""
    found = [rows[:, kept & (domain == k)] for k in range(n_domains)]
    return np.stack([np.swapaxes(part, 1, 2) @ part for part in found], axis=1)


def _solve(moments: Floats) -> Floats:
    """Return ``(…, 1 + p)`` ridge coefficients from ``(…, q, q)`` sums over (1, features, y)."""
    mean = moments[..., 0, :] / moments[..., :1, 0]
    spread = moments / moments[..., :1, :1] - mean[..., :, None] * mean[..., None, :]
    within = spread[..., 1:-1, 1:-1]
    scale = np.sqrt(np.clip(np.diagonal(within, axis1=-2, axis2=-1), 0, None))
    scale = np.where(scale > 1e-9, scale, np.inf)  # a constant feature gets no slope
    alike = within / (scale[..., :, None] * scale[..., None, :])
    ridge = alike + PENALTY * np.eye(alike.shape[-1])
    slopes = np.linalg.solve(ridge, (spread[..., 1:-1, -1] / scale)[..., None])[..., 0] / scale
    intercept = mean[..., -1] - (slopes * mean[..., 1:-1]).sum(axis=-1)
    return np.concatenate([intercept[..., None], slopes], axis=-1)


def _radius(known: Floats, domain: Indices) -> float:
    if domain.max() < 1:
        return 0.0
    distances = [
        cKDTree(known[domain != k]).query(known[domain == k])[0].max() for k in np.unique(domain)
    ]
    return float(max(distances))


# --- validation -----------------------------------------------------------------------------------

_ESTIMATES = tuple(f.name for f in fields(Validation) if not f.name.startswith("n_"))


def _validate(cells: Cells, folds: _Folds) -> tuple[Validation, Width]:
    off, own = ~cells.home, ~cells.home & cells.own
    if cells.n_domains < FOLDS:
        unknown = dict.fromkeys(_ESTIMATES, float("nan"))
        few = Validation(**unknown, n_domains=cells.n_domains, n_cells=int(off.sum()))
        return few, Width(float("nan"), float("nan"))
    y, width = cells.response, folds.width(())
    left, naive, labelled, halves = (np.empty_like(y) for _ in range(4))
    pair = cells.taught * (int(cells.kind.max()) + 1) + cells.kind
    for k in range(cells.n_domains):
        mine = cells.domain == k
        predicted = folds.predicted(k, ())
        left[mine], halves[mine] = y[mine] - predicted, folds.width((k,))(predicted)
        naive[mine] = _apart(y, cells.kind, off & ~mine)[mine]
        labelled[mine] = _apart(y, pair, off & ~mine)[mine]
    inside = np.abs(left) <= halves
    return Validation(
        r2=_r2(y[off], left[off]),
        r2_own=_r2(y[own], left[own]),
        r2_new=_r2(y[off], _as_new(cells)[off]),
        naive=_r2(y[off], naive[off]),
        labelled=_r2(y[off], labelled[off]),
        labelled_own=_r2(y[own], labelled[own]),
        coverage=_share(inside[off]),
        coverage_own=_share(inside[own]),
        r2_home=_r2(y[cells.home], left[cells.home]),
        half_width=float(width((y - left)[off]).mean()),
        n_domains=cells.n_domains,
        n_cells=int(off.sum()),
    ), width


def _as_new(cells: Cells) -> Floats:
    """Return ``(n,)`` errors where neither a cell's domain nor its trained trait had a part."""
    errors = np.full_like(cells.response, np.nan)
    for trait in np.unique(cells.taught):
        kept = cells.taught != trait
        if len(np.unique(cells.domain[kept])) < cells.n_domains:
            continue
        parts = ("response", "domain", "taught", "kind", "home")
        arrays = {name: getattr(cells, name)[kept] for name in parts}
        folds = _Folds(Cells(features=cells.features[:, kept], **arrays))
        for k in range(cells.n_domains):
            layer, weights = folds.solved((k,))
            mine = ~kept & (cells.domain == k)
            predicted = weights[0] + cells.features[layer, mine] @ weights[1:]
            errors[mine] = cells.response[mine] - predicted
    return errors


def _apart(response: Floats, group: Indices, kept: Flags) -> Floats:
    """Return ``(n,)`` responses minus the mean of their group's kept ones, or of all kept ones."""
    size = int(group.max()) + 1
    count = np.bincount(group[kept], minlength=size)
    total = np.bincount(group[kept], weights=response[kept], minlength=size)
    overall = response[kept].mean() if kept.any() else 0.0
    means = np.where(count > 0, total / np.maximum(count, 1), overall)
    apart: Floats = response - means[group]
    return apart


def _r2(measured: Floats, errors: Floats) -> float:
    """Return 1 minus squared errors over squares around the mean; NaN without variance."""
    if len(measured) < 2 or (around := float(((measured - measured.mean()) ** 2).sum())) <= 0:
        return float("nan")
    return 1 - float((errors**2).sum()) / around


def _share(flags: Flags) -> float:
    return float(flags.mean()) if len(flags) else float("nan")


def interval_width(
    predicted: Sequence[Floats], errors: Sequence[Floats], level: float = LEVEL
) -> Width:
    """Return the half width that holds a share ``level`` of a new domain's cells.

    A split-conformal quantile of absolute errors over their expected size, every domain with the
    same weight, at the level ``(1 + 1/m) * level``. The expected size is a line in the absolute
    prediction, as large transfer is predicted less well than none. Cells of a domain share its
    error, so m is not the number of cells but the number of independent cells that they are worth:
    cells over the design effect ``1 + (cells per domain - 1) * ICC`` of the scaled errors. With
    wholly shared errors m is the number of domains, and with fewer than 9 of them the largest error
    is taken: no distribution-free interval is that narrow with that few.

    Args:
        predicted: one array a source domain.
        errors: measured minus predicted, as many.
        level: share to hold.

    Source: Lei et al. 2018 (split conformal, locally weighted); Dunn, Wasserman & Ramdas 2023
    (domains as units); Kish 1965 (design effect).
    """
    filled = [(np.abs(p), np.abs(e)) for p, e in zip(predicted, errors, strict=True) if len(e)]
    weights = np.concatenate([np.full(len(e), 1 / (len(e) * len(filled))) for _, e in filled])
    sizes, wrong = (np.concatenate(part) for part in zip(*filled, strict=True))
    expected = _expected(sizes, wrong, weights)
    scaled = [e / expected(p) for p, e in filled]
    pooled, wanted = np.concatenate(scaled), min(level * (1 + 1 / _worth(scaled)), 1.0)
    order = np.argsort(pooled)
    at = int(np.searchsorted(np.cumsum(weights[order]), wanted - 1e-9))
    times = float(pooled[order][min(at, len(pooled) - 1)])
    return Width(times * expected.base, times * expected.slope)


def _expected(predicted: Floats, errors: Floats, weights: Floats) -> Width:
    """Return the line of absolute errors in absolute predictions, nowhere next to 0."""
    root = np.sqrt(weights)
    line = np.stack([np.ones_like(predicted), predicted], axis=1) * root[:, None]
    (base, slope), _ = nnls(line, errors * root)
    least = LEAST_SHARE * float((errors * weights).sum()) + 1e-12
    return Width(max(float(base), least), float(slope))


def _worth(groups: Sequence[Floats]) -> float:
    """Return how many independent values grouped ones are worth, by their ANOVA ICC."""
    sizes = np.array([len(group) for group in groups], dtype=float)
    n, k = sizes.sum(), len(groups)
    if k < 2 or n <= k:
        return float(n)
    means = np.array([group.mean() for group in groups])
    grand = float((sizes * means).sum() / n)
    between = float((sizes * (means - grand) ** 2).sum() / (k - 1))
    within = float(sum(((g - m) ** 2).sum() for g, m in zip(groups, means, strict=True)) / (n - k))
    typical = (n - (sizes**2).sum() / n) / (k - 1)
    total = between + (typical - 1) * within
    icc = np.clip((between - within) / total, 0, 1) if total > 0 else 0.0
    return float(n / (1 + (typical - 1) * icc))
