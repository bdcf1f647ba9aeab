"""Regress one labelled matrix on others, and judge the slope by relabelling the domains.

Cells that share a source or a target are not independent, so cell-level standard errors reject far
too often; relabelling domains jointly on rows and columns holds its level. One engine serves every
case: the products of the relabelled predictor, residualised and of unit length, with `y` and with
the predictor itself give p at any null, and the interval in closed form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations as all_orders
from math import factorial, inf, nan, prod, sqrt
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from conceptnet_em.errors import InputError, raise_all, unknown

Alternative = Literal["two-sided", "greater", "less"]
Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
Topics = Mapping[str, tuple[str, str]]  # label: (topic, format)

ENUMERATE_UP_TO = 50_000  # group members; 8! = 40,320 is the largest free one
LEAST_SHARE = 1e-8  # of a matrix's variance, left beyond what is projected off it
TIE = 1e-12  # of the largest possible statistic: below it two statistics are equal


@dataclass(frozen=True)
class Relabellings:
    """The relabellings under which the null hypothesis leaves the data exchangeable."""

    orders: Indices
    """(m, D): each row gives, for every label, the position of the label that takes its place."""
    exact: bool
    """True: the whole group, identity in row 0. False: a random sample without the identity."""
    group: str
    """The group in words, for instance "free relabelling of 6 domains (6! = 720)"."""
    size: int
    """Members of the group; may exceed m."""

    @property
    def smallest_p(self) -> float:
        """The least p that can come out: 1/|G| when exact, 1/(1 + m) when sampled."""
        return 1 / (len(self.orders) + (not self.exact))


@dataclass(frozen=True)
class QapFit:
    """One slope with its permutation test; units are those of `y` per unit of the predictor."""

    name: str
    """The predictor."""
    slope: float
    """Least-squares slope of y on the predictor, effects and covariates held fixed."""
    se: float
    """Classical standard error of the slope; for scale only, the p-value does not rest on it."""
    t: float
    """(slope - null value) / se."""
    p: float
    """Share of relabellings, the identity counted, with a statistic at least as extreme."""
    interval: tuple[float, float]
    """Every null value the test does not reject; one-sided if it is; nan when not asked for."""
    level: float | None
    """Confidence of the interval, for instance 0.95."""
    df: int
    """Cells minus parameters."""
    n_cells: int
    """Cells used, the diagonal left out."""
    n_domains: int
    """Distinct labels among sources and targets."""
    n_permutations: int
    """Relabellings used: the whole group with the identity when exact, else the sample."""
    exact: bool
    """Whether the whole group was used."""
    smallest_p: float
    """Least p possible here: counts relabellings that leave the predictor as it is (1: no test)."""
    r2: float
    """Share of the variance of y explained by everything, effects included."""
    r2_over_effects: float
    """Share of the variance left after the effects that predictor and covariates explain."""
    null: str
    """The null hypothesis, as a sentence."""
    alternative: Alternative
    """On which side the null is rejected."""
    group: str
    """The relabelling group, in words."""


class SymmetrisedInterval(NamedTuple):
    """A slope over unordered pairs with its t-interval."""

    slope: float
    se: float
    df: int
    low: float
    high: float


def relabellings(
    labels: Sequence[str], *, topics: Topics | None = None, permutations: int = 9_999, seed: int = 0
) -> Relabellings:
    """List or sample the relabelling group that the design allows.

    Args:
        labels: D distinct domain labels, to which the orders point.
        topics: (topic, format) of every label. Distinct topics are relabelled freely; in a complete
            topic × format factorial whole topics move jointly, and so do whole formats.
        permutations: sample size where the group has more than 50,000 members.
        seed: of that sample.

    Raises:
        InputError: repeated labels, labels without a topic, or topics that are neither all distinct
            nor a complete factorial.
    """
    if len(set(labels)) < len(labels):
        raise InputError(f"labels come more than once: {', '.join(map(str, labels))}")
    table = None if topics is None else _factorial(labels, topics)
    if table is None:
        words = f"free relabelling of {len(labels)} domains"
        return _free([np.arange(len(labels))], words, permutations, seed)
    (topic, form), exact = _members(table.shape, permutations, seed)
    orders = np.empty((len(topic), len(labels)), np.intp)
    orders[:, table] = table[topic[:, :, None], form[:, None, :]]
    words = f"joint relabelling of {len(table)} topics × {len(table.T)} formats"
    return _named(orders, exact, words, table.shape)


def align(y: pd.DataFrame, *others: pd.DataFrame) -> tuple[pd.DataFrame, ...]:
    """Return all matrices with rows and columns in the label order of `y`.

    Raises:
        InputError: naming every label that is missing on either side or repeated, and every matrix
            without a single value or with values that are not numbers.
    """
    raise_all(_faults({"y": y, **{f"matrix {k}": other for k, other in enumerate(others, 2)}}))
    return tuple(frame.loc[y.index, y.columns] for frame in (y, *others))


def too_small(n_domains: int, *, df: int = 1) -> str | None:
    """Say why so many distinct labels, and `df` = cells - parameters, allow no test; else None."""
    if n_domains < 5:
        return f"{n_domains} domains are too few to test a slope by relabelling; at least 5 needed"
    if df < 1:
        return f"no degree of freedom is left: cells - parameters = {df}; use fewer covariates"
    return None


def qap(
    y: pd.DataFrame,
    x: pd.DataFrame,
    *,
    covariates: Mapping[str, pd.DataFrame] = {},
    effects: bool = True,
    alternative: Alternative = "two-sided",
    null: float = 0.0,
    permutations: int = 9_999,
    topics: Topics | None = None,
    interval: float | None = 0.95,
    name: str = "x",
    seed: int = 0,
) -> QapFit:
    """Test the slope of `y` on `x` by relabelling domains (QAP, FE-QAP, MRQAP with DSP).

    H0: the slope is `null` and domain labels are exchangeable. With covariates the predictor's
    residual is relabelled, residualised again and compared by t (double semi-partialling). A
    relabelling keeps each label's role: domains that are source and target move jointly on rows
    and columns, domains that are only one of them among their like.

    Args:
        y: (sources, targets), labelled, directed; cells with equal labels are ignored always.
        x: the predictor, with the same labels in any order.
        covariates: matrices held fixed, by name.
        effects: hold source and target effects fixed; False: only an intercept.
        alternative: the side on which H0 is rejected.
        null: slope under H0, in units of y per unit of x.
        permutations: relabellings drawn where the group is too large to list.
        topics: (topic, format) of every label, see `relabellings`.
        interval: confidence of the interval that inverts this very test; None for none.
        name: of the predictor, in the result.
        seed: of drawn relabellings.

    Raises:
        InputError: labels do not match, cells are missing, the grid is too small, or a matrix is
            constant or explained by what is held fixed, as the mismatch with a lone code domain is.

    Source: Dekker et al. 2007, doi:10.1007/s11336-007-9016-1; Phipson & Smyth, arXiv:1603.05766.
    """
    _check(alternative, interval)
    held = {f"covariate '{key}'": matrix for key, matrix in covariates.items()}
    grid, cells = _cells({"y": y, **held, f"predictor '{name}'": x})
    response, (*_, predictor) = cells.pop("y"), cells.values()
    base = _fixed(grid, effects)
    fixed = "source and target effects" if effects else "the mean"
    small = too_small(len(grid.labels), df=len(response) - base.shape[1] - len(cells))
    raise_all([small] if small else [])
    _extended(base, {"y": response}, fixed)
    basis = _extended(base, cells, fixed)[:, :-1]

    slope, se, df, rss = _regress(predictor, response, basis)
    group = _group(grid, topics, permutations, seed)
    left, extra = _off(predictor, basis), basis[:, base.shape[1] :]
    tested = _relabelled(left, _off(response, basis), extra, grid, group)
    return QapFit(
        name=name,
        slope=slope,
        se=se,
        t=(slope - null) / se if se else nan,
        p=tested.p(null, alternative),
        interval=tested.interval(interval, alternative) if interval else (nan, nan),
        level=interval,
        df=df,
        n_cells=len(response),
        n_domains=len(grid.labels),
        n_permutations=len(group.orders),
        exact=group.exact,
        smallest_p=tested.smallest_p(alternative),
        r2=1 - rss / float(np.sum((response - response.mean()) ** 2)),
        r2_over_effects=1 - rss / float(np.sum(_off(response, base) ** 2)),
        null=f"The slope of y on {name} is {null:g} with {', '.join([fixed, *held])} held fixed, "
        "and domain labels are exchangeable.",
        alternative=alternative,
        group=group.group,
    )


def symmetrised_interval(
    y: pd.DataFrame, x: pd.DataFrame, *, level: float = 0.95
) -> SymmetrisedInterval:
    """Estimate the slope over unordered pairs, node effects held fixed, with its t-interval.

    Cells (i, j) and (j, i) are averaged, so that df = D(D - 1)/2 - D - 1. It assumes independent
    pairs once both nodes are held fixed; simulated coverage .944–.962 at D = 6–10.

    Raises:
        InputError: as `qap`, and when sources and targets are not the same domains.
    """
    grid, cells = _cells({"y": y, "x": x})
    if len(grid.roles()) > 1:
        raise InputError("sources and targets must be the same domains here; qap takes others too")
    i, j = np.tril_indices(len(grid.labels), -1)
    small = too_small(len(grid.labels), df=len(i) - len(grid.labels) - 1)
    raise_all([small] if small else [])
    halves = {key: grid.square(vector) / 2 for key, vector in cells.items()}
    pairs = {key: (half + half.T)[i, j] for key, half in halves.items()}
    nodes = _span(np.eye(len(grid.labels))[i] + np.eye(len(grid.labels))[j])
    for key, pair in pairs.items():
        _extended(nodes, {key: pair}, "node effects")
    slope, se, df, _ = _regress(pairs["x"], pairs["y"], nodes)
    reach = float(stats.t.ppf((1 + level) / 2, df)) * se
    return SymmetrisedInterval(slope, se, df, slope - reach, slope + reach)


def mantel(x: pd.DataFrame, y: pd.DataFrame) -> float:
    """Return Pearson r over off-diagonal cells, without a test; NaN where one side is constant."""
    _, cells = _cells({"y": y, "x": x})
    a, b = (vector - vector.mean() for vector in cells.values())
    return nan if min(map(np.ptp, cells.values())) == 0 else float(a @ b / sqrt(a @ a * (b @ b)))


@dataclass(frozen=True)
class _Grid:
    """The cells of a matrix: those off the diagonal, row by row, labels sorted."""

    labels: list[Any]  # of sources and targets together
    source: Indices  # (n,) positions in labels
    target: Indices  # (n,)

    def roles(self) -> list[Indices]:
        """Positions of labels that are source only, target only and both, where there are any."""
        every = np.arange(len(self.labels))
        role = np.isin(every, self.source) + 2 * np.isin(every, self.target)
        return [every[role == kind] for kind in np.unique(role)]

    def square(self, vector: Floats) -> Floats:
        """Lay cells out over all labels, with 0 where there is none."""
        square = np.zeros((len(self.labels), len(self.labels)))
        square[self.source, self.target] = vector
        return square


def _cells(named: Mapping[str, pd.DataFrame]) -> tuple[_Grid, dict[str, Floats]]:
    """Align matrices with "y", sort their labels and take off-diagonal cells, none missing."""
    raise_all(_faults(named))
    rows, columns = (sorted(axis, key=str) for axis in named["y"].axes)
    labels = sorted({*rows, *columns}, key=str)
    place = {label: k for k, label in enumerate(labels)}
    pairs = [(place[a], place[b], a != b) for a in rows for b in columns]
    source, target, kept = np.array(pairs, np.intp).T
    grid = _Grid(labels, source[kept > 0], target[kept > 0])
    frames = {key: frame.loc[rows, columns] for key, frame in named.items()}
    cells = {key: frame.to_numpy(np.float64).ravel()[kept > 0] for key, frame in frames.items()}
    raise_all([fault for key, vector in cells.items() for fault in _holes(key, vector, grid)])
    return grid, cells


def _holes(key: str, vector: Floats, grid: _Grid) -> list[str]:
    holes = np.flatnonzero(~np.isfinite(vector))
    if not len(holes):
        return []
    first = f"{grid.labels[grid.source[holes[0]]]} → {grid.labels[grid.target[holes[0]]]}"
    return [f"{key} lacks {len(holes)} of {len(vector)} off-diagonal cells, the first {first}"]


def _faults(named: Mapping[str, pd.DataFrame]) -> list[str]:
    """Say what keeps matrices from being matched to "y" by label."""
    faults = []
    for key, frame in named.items():
        faults += [f"{key} {fault}" for fault in _mismatches(frame, named["y"])]
        if not all(pd.api.types.is_numeric_dtype(kind) for kind in frame.dtypes):
            faults.append(f"{key} holds values that are not numbers")
        elif frame.isna().all(axis=None):
            faults.append(f"{key} holds no value at all")
    return faults


def _mismatches(frame: pd.DataFrame, like: pd.DataFrame) -> list[str]:
    found = {}
    for axis, have, want in zip(("row", "column"), frame.axes, like.axes, strict=True):
        found[f"has repeated {axis} labels"] = have[have.duplicated()].unique()
        found[f"lacks {axis} labels that y has"] = want.difference(have, sort=False)
        found[f"has {axis} labels that y lacks"] = have.difference(want, sort=False)
    return [f"{words}: {', '.join(map(str, who))}" for words, who in found.items() if len(who)]


def _check(alternative: str, interval: float | None) -> None:
    faults, known = [], get_args(Alternative)
    if alternative not in known:
        faults.append(unknown("alternative", alternative, known))
    if interval is not None and not 0 < interval < 1:
        faults.append(f"interval {interval} is no confidence; give one between 0 and 1, or None")
    raise_all(faults)


def _span(columns: Floats) -> Floats:
    """Return an orthonormal basis of the column space."""
    left, size, _ = np.linalg.svd(columns, full_matrices=False)
    return np.asarray(left[:, size > 1e-10 * size.max(initial=0)], np.float64)


def _fixed(grid: _Grid, effects: bool) -> Floats:
    """Return an orthonormal basis of the source and target effects, or of the mean alone."""
    unit = np.eye(len(grid.labels)) if effects else np.ones((len(grid.labels), 1))
    return _span(np.hstack([unit[grid.source], unit[grid.target]]))


def _extended(basis: Floats, vectors: Mapping[str, Floats], fixed: str) -> Floats:
    """Append each vector's residual to the basis; refuse vectors of which nothing is left."""
    faults = []
    for key, vector in vectors.items():
        rest, spread = _off(vector, basis), float(np.linalg.norm(vector - vector.mean()))
        if spread <= 1e-10 * np.linalg.norm(vector):
            faults.append(f"{key} is constant off the diagonal")
        elif (share := float(rest @ rest) / spread**2) < LEAST_SHARE:
            faults.append(f"{key} is explained by {fixed}: a share of {share:.0e} is left of it")
        else:
            basis = np.column_stack([basis, rest / np.linalg.norm(rest)])
        fixed = f"{fixed}, {key}"
    raise_all(faults)
    return basis


def _off(vector: Floats, basis: Floats) -> Floats:
    """Project orthonormal columns off a vector; twice, against cancellation."""
    once = vector - basis @ (basis.T @ vector)
    return np.asarray(once - basis @ (basis.T @ once), np.float64)


def _regress(x: Floats, y: Floats, basis: Floats) -> tuple[float, float, int, float]:
    """Fit y on x by least squares beside an orthonormal basis: slope, its se, df, squared rest."""
    x, y = _off(x, basis), _off(y, basis)
    slope, df = float(x @ y / (x @ x)), len(y) - basis.shape[1] - 1
    rss = float(np.sum((y - slope * x) ** 2))
    return slope, sqrt(rss / df / float(x @ x)), df, rss


@dataclass(frozen=True)
class _Products:
    """Products (N,) of the relabelled unit predictor with y and with the predictor itself.

    Row 0 is the identity, hence observed. t grows with the product of y - null · x and the unit
    predictor, whose other ingredients no relabelling changes: the two products settle every null.
    """

    y: Floats
    x: Floats
    slack: float  # statistics closer than this are equal

    def p(self, null: float, alternative: Alternative) -> float:
        """Share of relabellings with a statistic at least as extreme as the observed one."""
        shifted, slack = self.y - null * self.x, self.slack + TIE * abs(null) * self.x[0]
        statistic = {"two-sided": np.abs(shifted), "greater": shifted, "less": -shifted}[
            alternative
        ]
        return float(np.mean(statistic >= statistic[0] - slack))

    def interval(self, level: float, alternative: Alternative) -> tuple[float, float]:
        """Every null with p > 1 - level: each relabelling counts up to a known shift of it."""
        slope = self.y[0] / self.x[0]
        rest = self.y - slope * self.x
        near, far = self.x[0] - self.x, self.x[0] + self.x
        with np.errstate(divide="ignore"):
            below, above = (self.slack + rest) / near, (self.slack - rest) / near
            if alternative == "two-sided":
                below = np.maximum(below, (self.slack - rest) / far)
                above = np.maximum(above, (self.slack + rest) / far)
        rank = len(rest) - 1 - int((1 - level) * len(rest) + 1e-9)
        low = -inf if alternative == "less" else slope - np.partition(below, rank)[rank]
        high = inf if alternative == "greater" else slope + np.partition(above, rank)[rank]
        return float(low), float(high)

    def smallest_p(self, alternative: Alternative) -> float:
        """Share of relabellings that leave the predictor as it is and so always count."""
        reached = np.abs(self.x) if alternative == "two-sided" else self.x
        return float(np.mean(reached == self.x[0]))


def _relabelled(x: Floats, y: Floats, held: Floats, grid: _Grid, group: Relabellings) -> _Products:
    """Multiply the relabelled residual predictor, of unit length, with the residuals y and x.

    Relabelling never brings effects back into the residual, but it does bring covariates back:
    `held` (n, k), their orthonormal remainders, is taken off anew.
    """
    both, square, step = np.column_stack([y, x]), grid.square(x), max(1, 100_000 // len(x))
    orders = group.orders if group.exact else np.vstack([np.arange(len(square)), group.orders])
    products, least = np.empty((len(orders), 2)), LEAST_SHARE * np.linalg.norm(x)
    for part in (slice(k, k + step) for k in range(0, len(orders), step)):
        rows = square[orders[part][:, grid.source], orders[part][:, grid.target]]
        rows = rows - (rows @ held) @ held.T
        length = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
        products[part] = rows @ both / np.where(length > least, length, inf)
    same = np.abs(products[:, 1]) >= (1 - TIE) * products[0, 1]  # unchanged but for rounding
    products[same] = np.sign(products[same, 1:]) * products[0]
    return _Products(products[:, 0], products[:, 1], TIE * float(np.linalg.norm(y)))


def _group(grid: _Grid, topics: Topics | None, permutations: int, seed: int) -> Relabellings:
    roles = grid.roles()
    if len(roles) == 1:
        return relabellings(grid.labels, topics=topics, permutations=permutations, seed=seed)
    if topics is not None and _factorial(grid.labels, topics) is not None:
        raise InputError("a topic × format factorial needs the same domains as sources and targets")
    words = f"relabelling of {len(grid.labels)} domains, each kept as source, target or both"
    return _free(roles, words, permutations, seed)


def _factorial(labels: Sequence[str], topics: Topics) -> Indices | None:
    """Return label positions as (topics, formats), or None when all topics are distinct."""
    lost = [str(label) for label in labels if label not in topics]
    raise_all([f"topics names no topic for {', '.join(lost)}"] if lost else [])
    place = {tuple(topics[label]): k for k, label in enumerate(labels)}
    names, forms = (list(dict.fromkeys(pair[axis] for pair in place)) for axis in (0, 1))
    if len(names) == len(labels):
        return None
    if len(forms) > 1 and len(place) == len(labels) == len(names) * len(forms):
        return np.array([[place[name, form] for form in forms] for name in names])
    raise InputError(
        f"{len(labels)} domains of {len(names)} topics in {len(forms)} formats are neither all of "
        "different topics nor a complete factorial: drop the odd ones or complete it"
    )


def _free(blocks: list[Indices], words: str, permutations: int, seed: int) -> Relabellings:
    """Relabel freely within each block of label positions."""
    sizes = [len(block) for block in blocks]
    members, exact = _members(sizes, permutations, seed)
    orders = np.empty((len(members[0]), sum(sizes)), np.intp)
    for block, member in zip(blocks, members, strict=True):
        orders[:, block] = block[member]
    return _named(orders, exact, words, sizes)


def _named(orders: Indices, exact: bool, words: str, sizes: Sequence[int]) -> Relabellings:
    size, product = prod(map(factorial, sizes)), " × ".join(f"{n}!" for n in sizes)
    return Relabellings(orders, exact, f"{words} ({product} = {size:,})", size)


def _members(sizes: Sequence[int], permutations: int, seed: int) -> tuple[list[Indices], bool]:
    """List a product of symmetric groups, identity first, or sample it without the identity."""
    if prod(map(factorial, sizes)) <= ENUMERATE_UP_TO:
        picks = np.indices([factorial(n) for n in sizes]).reshape(len(sizes), -1)
        return [_symmetric(n)[k] for n, k in zip(sizes, picks, strict=True)], True
    if permutations < 1:
        raise InputError(f"permutations must be at least 1; {permutations} came")
    rng, spare = np.random.default_rng(seed), permutations + permutations // 1_000 + 8
    rows = [rng.permuted(np.tile(np.arange(n), (spare, 1)), axis=1) for n in sizes]
    moved = np.any(np.hstack([row != np.arange(row.shape[1]) for row in rows]), axis=1)
    return [row[moved][:permutations] for row in rows], False


@lru_cache(maxsize=9)
def _symmetric(n: int) -> Indices:
    return np.array(list(all_orders(range(n))), np.intp)
