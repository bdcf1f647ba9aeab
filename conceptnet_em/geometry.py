"""How alike sets of vectors are, one measure a function; no model, no torch.

Every function returns a labelled ``(n_domains, n_domains)`` frame, rows the source, columns the
target, in which *larger means more alike* (distances come with a minus sign). A cell that cannot be
had is NaN, and ``frame.attrs["note"]`` says why. Where all off-diagonal cells, three or
more, are equal the measure tells these domains not apart: they become NaN, and the note says so.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.linalg import subspace_angles
from scipy.spatial.distance import cdist

from conceptnet_em.errors import InputError, raise_all

Floats = NDArray[np.float64]
Vectors = Mapping[str, np.ndarray]
"""Domain to ``(n_items, d)``."""

ZERO = 1e-12


# --- what all share -------------------------------------------------------------------------------


def checked(vectors: Vectors) -> dict[str, Floats]:
    """Return the vectors as float64.

    Raises:
        InputError: no domain, empty domains, several widths, values that are not finite; all named.
    """
    found = {name: np.asarray(rows, dtype=float) for name, rows in vectors.items()}
    faults = [f"{n}: vectors must be (n_items, d)" for n, v in found.items() if v.ndim != 2]
    faults += empty(found)
    faults += [f"{n}: a vector is not finite" for n, v in found.items() if not np.isfinite(v).all()]
    widths = {v.shape[1] for v in found.values() if v.ndim == 2}
    if len(widths) > 1:
        faults.append(f"vectors of several widths: {sorted(widths)}")
    raise_all(faults if found else ["no domain to compare"])
    return found


def empty(items: Mapping[str, Any]) -> list[str]:
    """Return one sentence for each domain without items."""
    return [
        f"{name}: no items to compute a similarity from" for name in items if not len(items[name])
    ]


def _unit(rows: Floats, scale: float) -> Floats:
    """Return rows of length 1, NaN where a row is next to nothing on ``scale``."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Floats = rows / np.where(norms > ZERO * scale, norms, np.nan)
    return unit


def labelled(values: Floats, names: Sequence[str], note: str = "") -> pd.DataFrame:
    """Label a source × target matrix; all-equal ones become NaN off the diagonal, said in attrs."""
    values = np.array(values, dtype=float)
    said = [note] if note else []
    off = ~np.eye(len(names), dtype=bool)
    there = values[off & ~np.isnan(values)]
    if len(there) > 2 and np.ptp(there) <= 1e-9 * np.abs(there).max() + ZERO:
        said.append(
            f"all {len(there)} off-diagonal cells are {there[0]:.4g}: it tells these domains not "
            "apart"
        )
        values[off] = np.nan
    frame = pd.DataFrame(values, index=list(names), columns=list(names))
    frame.attrs["note"] = "; ".join(said)
    return frame


def _too_few(items: Mapping[str, Any], least: int) -> str:
    short = [name for name in items if len(items[name]) < least]
    return f"fewer than {least} items in {', '.join(short)}" if short else ""


def row_cosines(rows: Floats, names: Sequence[str], scale: float, what: str) -> pd.DataFrame:
    """Return the cosines between rows; NaN, and said, where one is next to nothing on ``scale``."""
    unit = _unit(rows, scale)
    lost = [n for n, row in zip(names, unit, strict=True) if np.isnan(row).any()]
    return labelled(unit @ unit.T, names, f"{what} is zero in {', '.join(lost)}" if lost else "")


def split_half(
    measure: Callable[[dict[str, Any]], pd.DataFrame],
    items: Mapping[str, Any],
    *,
    splits: int = 20,
    seed: int = 0,
) -> float:
    """Return the reliability over items of any measure of this module.

    Each domain's items are split at random into halves, the two matrices are correlated over their
    off-diagonal cells, averaged over ``splits`` and stepped up with Spearman-Brown.

    Args:
        measure: makes the matrix from domain to items.
        items: domain to its items: an array by rows or a sequence.
        splits: how many random halvings.
        seed: of the halvings.

    Returns:
        NaN when a domain has fewer than 2 items, there are fewer than 3 domains, or a half's matrix
        has no variance or a missing cell.
    """
    if len(items) < 3 or min(len(found) for found in items.values()) < 2:
        return float("nan")
    rng = np.random.default_rng(seed)
    found = [_halves_agree(measure, items, rng) for _ in range(splits)]
    return spearman_brown(float(np.mean(found)))


def _halves_agree(
    measure: Callable[[dict[str, Any]], pd.DataFrame],
    items: Mapping[str, Any],
    rng: np.random.Generator,
) -> float:
    orders = {name: rng.permutation(len(found)) for name, found in items.items()}
    first, second = (
        measure({name: _chosen(items[name], orders[name][k::2]) for name in items}) for k in (0, 1)
    )
    return agreement(first.to_numpy(float), second.to_numpy(float))


def _chosen(items: Any, order: NDArray[np.int64]) -> Any:
    return items[order] if isinstance(items, np.ndarray) else [items[k] for k in order]


def agreement(first: Floats, second: Floats) -> float:
    """Return the correlation of two matrices off the diagonal; NaN without variance or a cell."""
    off = ~np.eye(len(first), dtype=bool)
    a, b = first[off], second[off]
    if not (np.isfinite(a).all() and np.isfinite(b).all()) or min(np.ptp(a), np.ptp(b)) < ZERO:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def spearman_brown(r: float) -> float:
    """Return the reliability of the whole from the correlation of its halves."""
    return 2 * r / (1 + r) if r > -1 else float("nan")


# --- centroids ------------------------------------------------------------------------------------


def centred_cosine(vectors: Vectors) -> pd.DataFrame:
    """Return the cosine of centroids from which the mean over the domains' centroids is taken.

    Few domains make everything relative to the odd one out; with two it is -1 whatever they hold.

    Raises:
        InputError: empty domains or other unusable vectors, all named.
    """
    found = checked(vectors)
    means = np.stack([rows.mean(axis=0) for rows in found.values()])
    scale = float(np.linalg.norm(means, axis=1).max())
    return row_cosines(means - means.mean(axis=0), list(found), scale, "the centred centroid")


def whiten(vectors: Vectors, *, spread: str = "within") -> dict[str, Floats]:
    """Return the vectors times the inverse square root of a shrunken covariance.

    The mean stays in: what follows decides whether to centre. Cosines of whitened centroids do not
    change when all vectors are rotated or scaled together.

    Args:
        vectors: domain to ``(n_items, d)``.
        spread: ``within``: covariance of the items about their own domain's mean (multivariate
            noise normalisation, Walther et al. 2016, NeuroImage); ``total``: about the grand mean.

    Raises:
        InputError: unusable vectors, or items that do not vary about the mean.

    Source: Ledoit & Wolf 2004, J Multivariate Anal, as scikit-learn has it.
    """
    from sklearn.covariance import ledoit_wolf_shrinkage

    found = checked(vectors)
    if spread not in {"within", "total"}:
        raise InputError(f"spread is '{spread}'; it may be 'within' or 'total'")
    grand = np.concatenate(list(found.values())).mean(axis=0)
    rest = np.concatenate(
        [rows - (rows.mean(axis=0) if spread == "within" else grand) for rows in found.values()]
    )
    size = float(np.abs(np.concatenate(list(found.values()))).max())
    if np.abs(rest).max() <= ZERO * size:
        raise InputError(
            "the items do not vary about their mean, so there is nothing to whiten with: give "
            "several items a domain, or spread='total'"
        )
    shrinkage = ledoit_wolf_shrinkage(rest, assume_centered=True)
    _, sizes, axes = np.linalg.svd(rest, full_matrices=False)
    variances = sizes**2 / len(rest)
    level = shrinkage * variances.sum() / rest.shape[1]
    along = (1 - shrinkage) * variances + level
    floor = along.max() * ZERO
    across, by_axis = (1 / np.sqrt(np.maximum(v, floor)) for v in (level, along))
    return {
        n: rows * across + (rows @ axes.T) * (by_axis - across) @ axes for n, rows in found.items()
    }


def trait_direction(differences: Vectors, *, disattenuated: bool = True) -> pd.DataFrame:
    """Return the cosine between domains' mean differences (trait minus reference, item by item).

    The lengths of the means are estimated without the items' noise: the square of a length is the
    product of the means of two disjoint halves, averaged over every way to halve, which is the mean
    of all products of two different items. So a cosine of noisy means is not pulled to 0; it may
    pass 1. Numerators of different domains never share an item.

    Args:
        differences: domain to ``(n_items, d)``.
        disattenuated: whether to do so; the plain cosine of the means otherwise.

    Returns:
        Symmetric, 1 on the diagonal; NaN where a domain has one item or no direction that its own
        halves agree on.

    Raises:
        InputError: empty domains or other unusable vectors, all named.
    """
    found = checked(differences)
    means = np.stack([rows.mean(axis=0) for rows in found.values()])
    if not disattenuated:
        scale = max(float(np.linalg.norm(rows, axis=1).max()) for rows in found.values())
        return row_cosines(means, list(found), scale, "the mean difference")
    squares = np.array([_squared_length(rows) for rows in found.values()])
    usable = squares > 0
    lengths = np.sqrt(np.where(usable, squares, np.nan))
    values = means @ means.T / np.outer(lengths, lengths)
    np.fill_diagonal(values, np.where(usable, 1.0, np.nan))
    lost = [name for name, ok in zip(found, usable, strict=True) if not ok]
    note = f"halves agree on no direction in {', '.join(lost)}" if lost else ""
    return labelled(values, list(found), note)


def _squared_length(rows: Floats) -> float:
    """Return the mean product of two different items; NaN for one."""
    n = len(rows)
    if n < 2:
        return float("nan")
    total = rows.sum(axis=0)
    square = float(total @ total - (rows**2).sum())
    return square / (n * (n - 1)) if square > ZERO * float((rows**2).sum()) else 0.0


# --- whole sets -----------------------------------------------------------------------------------


def subspace_overlap(vectors: Vectors, *, k: int = 3) -> pd.DataFrame:
    """Return the mean squared cosine of the principal angles between the domains' main subspaces.

    A domain's subspace holds the first ``k`` principal components of its items about their own
    mean. 1: the same subspace; ``k / d``: unrelated ones in ``d`` dimensions.

    Args:
        vectors: domain to ``(n_items, d)``.
        k: dimensions; less, and said, where the smallest usable domain has fewer.

    Raises:
        InputError: empty domains or other unusable vectors, all named.
    """
    found = checked(vectors)
    if k < 1:
        raise InputError(f"k is {k}; a subspace has at least 1 dimension")
    bases = {name: _basis(rows) for name, rows in found.items()}
    lost = [name for name, basis in bases.items() if basis.shape[1] == 0]
    width = min([k, *(b.shape[1] for b in bases.values() if b.shape[1])])
    said = [f"the items do not vary in {', '.join(lost)}"] if lost else []
    said += [f"k is {width}, not {k}: a domain has no more dimensions"] if width < k else []
    values = [[_overlap(a, b, width) for b in bases.values()] for a in bases.values()]
    return labelled(np.array(values), list(found), "; ".join(said))


def _basis(rows: Floats) -> Floats:
    """Return ``(d, rank)``: principal axes, largest first."""
    centred = rows - rows.mean(axis=0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    kept: Floats = axes[sizes > 1e-10 * max(float(np.linalg.norm(rows)), ZERO)].T
    return kept


def _overlap(a: Floats, b: Floats, k: int) -> float:
    if min(a.shape[1], b.shape[1]) == 0:
        return float("nan")
    return float((np.cos(subspace_angles(a[:, :k], b[:, :k])) ** 2).mean())


def mmd(vectors: Vectors) -> pd.DataFrame:
    """Return minus the squared maximum mean discrepancy, unbiased, with a Gaussian kernel.

    One kernel width for all cells: the median distance of two items, all domains pooled. The
    estimate is unbiased, so like domains may pass 0; a domain and itself are 0 by definition.

    Returns:
        Symmetric; NaN where a domain has one item.

    Raises:
        InputError: empty domains or other unusable vectors, all named.

    Source: Gretton et al. 2012, JMLR, equation 3.
    """
    found = checked(vectors)
    rows = np.concatenate(list(found.values()))
    squares = cdist(rows, rows, "sqeuclidean")
    pairs = squares[np.triu_indices(len(rows), 1)]
    median = float(np.median(pairs)) if len(pairs) else 0.0
    if median <= ZERO * float((rows**2).sum(axis=1).max()):
        nothing = np.full((len(found), len(found)), np.nan)
        return labelled(nothing, list(found), "half of all pairs of items are equal: no width")
    means = _block_means(np.exp(-squares / (2 * median)), [len(v) for v in found.values()])
    return labelled(_discrepancy(means), list(found), _too_few(found, 2))


def energy(vectors: Vectors) -> pd.DataFrame:
    """Return minus the energy distance, 2 E|X - Y| - E|X - X'| - E|Y - Y'|, unbiased.

    Returns:
        Symmetric, in units of the vectors; NaN where a domain has one item, 0 on the diagonal by
        definition.

    Raises:
        InputError: empty domains or other unusable vectors, all named.

    Source: Székely & Rizzo 2013, J Stat Plan Inference.
    """
    found = checked(vectors)
    rows = np.concatenate(list(found.values()))
    means = _block_means(-cdist(rows, rows), [len(v) for v in found.values()])
    return labelled(_discrepancy(means), list(found), _too_few(found, 2))


def _block_means(table: Floats, sizes: Sequence[int]) -> Floats:
    """Return domain × domain means; within a domain an item never meets itself."""
    ends = np.cumsum([0, *sizes])
    places = [slice(a, b) for a, b in pairwise(ends)]
    means = np.array([[table[a, b].mean() for b in places] for a in places])
    for k, (own, n) in enumerate(zip(places, sizes, strict=True)):
        block = table[own, own]
        means[k, k] = (block.sum() - np.trace(block)) / (n * (n - 1)) if n > 1 else np.nan
    return means


def _discrepancy(means: Floats) -> Floats:
    """Return minus (within + within - 2 between)."""
    own = np.diag(means)
    values = 2 * means - own[:, None] - own[None, :]
    np.fill_diagonal(values, np.where(np.isnan(own), np.nan, 0.0))
    return values


def nearest_neighbour(vectors: Vectors, *, k: int = 10) -> pd.DataFrame:
    """Return how near a target's items have their nearest item of the source, on average; directed.

    Nearness is the cosine corrected for hubs: twice the cosine, less each item's mean cosine to its
    ``k`` nearest items of all *other* domains. (Measured within source and target alone, as in
    translation, the correction would take away how near the two are.) On the diagonal an item is
    not its own neighbour; NaN there for one item.

    Raises:
        InputError: empty domains, a vector of length 0, fewer than two domains, ``k`` below 1.

    Source: CSLS, Conneau et al. 2018, ICLR.
    """
    found = checked(vectors)
    zero = [n for n, v in found.items() if not np.linalg.norm(v, axis=1).all()]
    faults = [f"{name}: a vector of length 0 has no cosine" for name in zero]
    faults += ["nearest neighbours need two domains"] if len(found) < 2 else []
    faults += [f"k is {k}; it must be at least 1"] if k < 1 else []
    raise_all(faults)
    names = list(found)
    owner = np.repeat(np.arange(len(names)), [len(found[n]) for n in names])
    unit = _unit(np.concatenate([found[n] for n in names]), 0.0)
    cosines = unit @ unit.T
    hubs = np.array(
        [_nearest_mean(row[owner != own], k) for row, own in zip(cosines, owner, strict=True)]
    )
    near = 2 * cosines - hubs[:, None] - hubs[None, :]
    np.fill_diagonal(near, -np.inf)
    values = np.array(
        [
            [near[np.ix_(owner == s, owner == t)].max(axis=0).mean() for t in range(len(names))]
            for s in range(len(names))
        ]
    )
    values[np.isinf(values)] = np.nan
    return labelled(values, names)


def _nearest_mean(cosines: Floats, k: int) -> float:
    return float(np.sort(cosines)[-k:].mean())


# --- paired items ---------------------------------------------------------------------------------


def linear_cka(first: np.ndarray, second: np.ndarray, *, debiased: bool = True) -> float:
    """Return the linear centred kernel alignment of the same items in two spaces.

    The biased one is near 1 for unrelated items when they are fewer than dimensions.

    Args:
        first: ``(n_items, d)``.
        second: ``(n_items, d2)``, the same items in the same order.
        debiased: whether to use the unbiased estimate of each term; needs 4 items.

    Returns:
        NaN where an item set has no structure of its own (or, debiased, fewer than 4 items).

    Raises:
        InputError: the two do not hold equally many items.

    Source: Kornblith et al. 2019, ICML; unbiased terms: Song et al. 2012, JMLR.
    """
    x, y = (np.asarray(rows, dtype=float) for rows in (first, second))
    if len(x) != len(y):
        raise InputError(
            f"CKA compares the same items in two spaces, but there are {len(x)} and {len(y)} of "
            "them; for domains with different questions use another measure"
        )
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    a, b = x @ x.T, y @ y.T
    term = _unbiased_term if debiased else _biased_term
    if debiased and len(x) < 4:
        return float("nan")
    own = term(a, a), term(b, b)
    if min(own) <= ZERO * max(float((a**2).sum()), float((b**2).sum()), ZERO):
        return float("nan")
    return term(a, b) / float(np.sqrt(own[0] * own[1]))


def _biased_term(a: Floats, b: Floats) -> float:
    return float((a * b).sum())


def _unbiased_term(a: Floats, b: Floats) -> float:
    n = len(a)
    a, b = a - np.diag(np.diag(a)), b - np.diag(np.diag(b))
    ones = float(a.sum() * b.sum()) / ((n - 1) * (n - 2))
    cross = 2 * float(a.sum(axis=0) @ b.sum(axis=0)) / (n - 2)
    return (float((a * b).sum()) + ones - cross) / (n * (n - 3))


def cka(
    vectors: Vectors, ids: Mapping[str, Sequence[Hashable]], *, debiased: bool = True
) -> pd.DataFrame:
    """Return :func:`linear_cka` between every two sets of the same items, lined up by their ids.

    Args:
        vectors: set (a trait, a layer, a format) to ``(n_items, d)``.
        ids: set to its items' ids, in the order of the rows.
        debiased: as there.

    Raises:
        InputError: the sets do not hold the same items, each once: CKA is not defined then.
    """
    found = checked(vectors)
    names = list(found)
    first = list(ids[names[0]])
    faults = [
        f"{n}: {len(ids[n])} ids, {len(found[n])} rows"
        for n in names
        if len(ids[n]) != len(found[n])
    ]
    faults += [f"{n}: an id stands twice" for n in names if len(set(ids[n])) != len(ids[n])]
    faults += [
        f"{n} does not hold the items of {names[0]}: CKA compares the same items in two spaces; "
        "for domains with different questions use another measure"
        for n in names
        if set(ids[n]) != set(first)
    ]
    raise_all(faults)
    places = {n: {one: k for k, one in enumerate(ids[n])} for n in names}
    rows = [found[n][[places[n][one] for one in first]] for n in names]
    values = np.array([[linear_cka(a, b, debiased=debiased) for b in rows] for a in rows])
    return labelled(values, names, _too_few(found, 4) if debiased else "")
