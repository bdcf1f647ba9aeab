"""Compare slopes of several traits on one grid: by relabelling, as one more draw, by prediction.

Two one-sided tests at 5% each judge equivalence: the difference is above -margin and below
+margin. Where all traits share a similarity the traits reduce to one matrix, the case minus the
mean of the controls, and `qap` tests it; where each has its own, the traits are stacked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan, sqrt
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from conceptnet_em.errors import InputError, raise_all
from conceptnet_em.grid import Grid, too_small
from conceptnet_em.projection import LEAST_SHARE, effect_basis, project_off, span, spread
from conceptnet_em.qap import mantel, qap
from conceptnet_em.relabelling import Topics

Floats = NDArray[np.float64]
Frames = Mapping[str, pd.DataFrame]
LEVEL = 0.05  # of each one-sided test
ROUNDING = 1e-10  # of a size: what varies by less does not vary
NOTE = "note"  # entry of a frame's `attrs` that says why it holds no value
NO_SLOPE = (
    "similarity is explained by source and target effects and covariates: the controls have no "
    "slope to predict from"
)


class ContrastFit(NamedTuple):
    """A difference of slopes with its tests; units of transfer per unit of similarity."""

    difference: float
    low: float
    """90% interval: every difference that neither one-sided 5% test rejects."""
    high: float
    p_difference: float
    """Two-sided. H0: the difference is 0."""
    p_above: float
    """H0: the difference is -margin or less."""
    p_below: float
    """H0: the difference is +margin or more."""
    n_domains: int
    n_permutations: int
    exact: bool
    smallest_p: float
    group: str


class MeanFit(NamedTuple):
    """The mean of a contrast matrix with its t-tests."""

    difference: float
    se: float
    df: int
    low: float
    high: float
    p_difference: float
    p_above: float
    p_below: float


class DrawFit(NamedTuple):
    """One slope beside several, see `one_against_many`."""

    difference: float
    spread: float
    t: float
    p: float
    low: float
    high: float
    half_width: float


class Prediction(NamedTuple):
    """How well a prediction meets the off-diagonal cells."""

    r2: float
    r: float
    calibration: float
    p: float


def slope_contrast(
    contrast: pd.DataFrame, similarity: pd.DataFrame, *, margin: float, **options: Any
) -> ContrastFit:
    """Test the slope of a contrast matrix, case minus mean of controls, by FE-QAP.

    H0 of each test: the slope is 0, -margin or less, +margin or more, and domain labels are
    exchangeable. Adding one matrix to every trait changes nothing.

    Args:
        contrast: (sources, targets), off-diagonal cells are used.
        similarity: with the same labels.
        margin: in units of the contrast per unit of similarity.
        options: `covariates`, `topics`, `permutations`, `seed` of `qap`.

    Raises:
        InputError: as `qap`.
    """
    level = 1 - LEVEL
    both = qap(contrast, similarity, interval=None, **options)
    above = qap(
        contrast, similarity, null=-margin, alternative="greater", interval=level, **options
    )
    below = qap(contrast, similarity, null=margin, alternative="less", interval=level, **options)
    return ContrastFit(
        difference=both.slope,
        low=above.interval[0],
        high=below.interval[1],
        p_difference=both.p,
        p_above=above.p,
        p_below=below.p,
        n_domains=both.n_domains,
        n_permutations=both.n_permutations,
        exact=both.exact,
        smallest_p=max(above.smallest_p, below.smallest_p),
        group=both.group,
    )


def intercept(contrast: pd.DataFrame, *, margin: float, topics: Topics | None = None) -> MeanFit:
    """Test the mean off-diagonal cell of a contrast matrix, sources and targets being random.

    H0 of the t-tests with D - 1 degrees of freedom: the mean is 0, -margin or less, +margin or
    more. Relabelling cannot test it: it leaves the mean as it is. The variance of the mean is the
    larger of two: with source and target effects of a domain independent, and with them
    correlated. Simulated coverage of the 95% interval is .956 to .989 for D = 6 to 16 and
    correlations of 0 to 1; where there are no such effects it is .99.

    Where several domains share a topic the topics are the sample, D their number, and what moves
    the domains of a topic together is in the variance.

    Args:
        contrast: (sources, targets), in the unit of the margin; off-diagonal cells are used.
        margin: of equivalence.
        topics: (topic, format) of every label; without it every label is a topic of its own.

    Raises:
        InputError: cells are missing, there are under 5 domains, a single source or target, a label
            without a topic, or means that do not differ, so that there is no error to test by.

    Source: statistics of round robins, with correlated source and target effects: Warner, Kenny &
    Stoto 1979, Journal of Personality and Social Psychology 37, 1742–1757.
    """
    grid = Grid.of(contrast)
    cells, size = grid.cells(contrast), len(grid.labels)
    small = too_small(size)
    raise_all([*([small] if small else []), *grid.holes("the contrast", cells)])
    topic = _topics_of(grid, topics)
    df = min(np.unique(topic[axis]).size for axis in (grid.source, grid.target)) - 1
    raise_all([] if df else ["a single source or target topic shows no spread to test a mean by"])
    rows, columns = (
        np.bincount(topic, _deviations(axis, cells, size)) for axis in (grid.source, grid.target)
    )
    shrunk = (size - 2) / (size - 1) if len(grid.roles()) == 1 else 1.0  # no cell at home
    apart = float(rows @ rows + columns @ columns)
    together = float((rows + columns) @ (rows + columns)) / shrunk**2
    se = sqrt(max(apart, together) * (df + 1) / df)
    if not se > ROUNDING * float(np.abs(cells).max()):
        raise InputError("the domains' means do not differ: the mean has no error to test it by")
    return _mean_tests(float(cells.mean()), se, df, margin)


def _topics_of(grid: Grid, topics: Topics | None) -> NDArray[np.intp]:
    """Number the topics of the grid's labels."""
    lost = [str(label) for label in grid.labels if topics is not None and label not in topics]
    raise_all([f"topics names no topic for {', '.join(lost)}"] if lost else [])
    named = [topics[label][0] if topics else label for label in grid.labels]
    return np.asarray(pd.factorize(pd.Series(named, dtype=object))[0], np.intp)


def _deviations(axis: NDArray[np.intp], cells: Floats, size: int) -> Floats:
    """Return each label's share of the deviation of the mean: (its mean - the mean) / count."""
    count = np.bincount(axis, minlength=size)
    there = count > 0
    means = np.bincount(axis, cells, size)[there] / count[there]
    found = np.zeros(size)
    found[there] = (means - means.mean()) / there.sum()
    return found


def _mean_tests(mean: float, se: float, df: int, margin: float) -> MeanFit:
    def above(null: float) -> float:
        return float(stats.t.sf((mean - null) / se, df))

    reach = float(stats.t.ppf(1 - LEVEL, df)) * se
    differ = 2 * min(above(0), 1 - above(0))
    return MeanFit(
        mean, se, df, mean - reach, mean + reach, differ, above(-margin), 1 - above(margin)
    )


def one_against_many(case: float, controls: Sequence[float]) -> DrawFit:
    """Compare one slope with the spread of K others, themselves a sample (Crawford–Howell).

    H0: the case is one more draw from the normal population of the controls; t with K - 1 degrees
    of freedom. `low` and `high` are the 95% prediction interval for one more control; `half_width`
    is `t(.95, K - 1) · sd · sqrt(1 + 1/K)`, half the 90% interval that equivalence needs within
    the margin. At K = 8 and a spread of .10 it is .20: few controls cannot support such a claim.

    Raises:
        InputError: fewer than 3 controls, or controls all alike.

    Source: Crawford & Howell 1998, Clinical Neuropsychologist 12, 482–486.
    """
    values = np.asarray(controls, float)
    count = len(values)
    if count < 3:
        raise InputError(
            f"K = {count} controls are too few to judge one more by; at least 3 needed"
        )
    sd = float(values.std(ddof=1))
    if not sd > ROUNDING * float(np.abs(values).max()):
        raise InputError(f"the {count} controls have the same slope: they show no spread")
    unit = sd * sqrt(1 + 1 / count)
    difference = case - float(values.mean())
    t = difference / unit
    reach = float(stats.t.ppf(0.975, count - 1)) * unit
    return DrawFit(
        difference=difference,
        spread=sd,
        t=t,
        p=float(2 * stats.t.sf(abs(t), count - 1)),
        low=float(values.mean()) - reach,
        high=float(values.mean()) + reach,
        half_width=float(stats.t.ppf(1 - LEVEL, count - 1)) * unit,
    )


def predictions(
    controls: Frames,
    similarities: Frames,
    case: str,
    *,
    covariates: Mapping[str, pd.DataFrame] = {},
) -> dict[str, pd.DataFrame]:
    """Predict the case's off-diagonal cells from the control traits alone.

    Args:
        controls: control trait to (sources, targets).
        similarities: of the controls and the case.
        case: the trait to predict; its transfer is not looked at.
        covariates: held fixed where the slope is fitted, and part of the full prediction.

    Returns:
        Three matrices by what they are predicted from: the controls' mean and slope, their source
        and target effects, and these effects with the slope. The diagonal is NaN. Where the effects
        explain similarity there is no slope: what needs one is NaN, and `attrs["note"]` says so.

    Raises:
        InputError: there is no off-diagonal cell, or cells are missing.
    """
    grid = Grid.of(similarities[case])
    given = {f"transfer of {trait}": frame for trait, frame in controls.items()}
    given |= {f"similarity of {trait}": similarities[trait] for trait in (case, *controls)}
    _refuse_holes(grid, given | {f"covariate '{key}'": own for key, own in covariates.items()})
    y = np.stack([grid.cells(frame) for frame in controls.values()])
    x = np.stack([grid.cells(similarities[trait]) for trait in controls])
    own = grid.cells(similarities[case])
    effects = effect_basis(grid.source, grid.target, len(grid.labels))
    held = [project_off(grid.cells(frame), effects) for frame in covariates.values()]
    full = span(np.column_stack([effects, *held])) if held else effects
    slope = _common_slope(y, x, full)
    base = (y - slope * x).mean(axis=0)
    found = {
        "mean and similarity": base.mean() + slope * own,
        "source and target effects": y.mean(axis=0) - project_off(y.mean(axis=0), effects),
        "effects and similarity": base - project_off(base, full) + slope * own,
    }
    frames = {key: framed(cells, grid, similarities[case]) for key, cells in found.items()}
    for frame in frames.values():
        frame.attrs |= {NOTE: NO_SLOPE} if frame.isna().all(axis=None) else {}
    return frames


def _common_slope(y: Floats, x: Floats, held: Floats) -> float:
    """Fit one slope to (traits, n) cells beside the basis `held`; NaN where it explains them."""
    left = np.stack([project_off(row, held) for row in x])
    length, total = float((left * left).sum()), sum(map(spread, x))
    return float((left * y).sum() / length) if length > LEAST_SHARE * total else nan


def _refuse_holes(grid: Grid, named: Frames) -> None:
    """Refuse matrices that lack a cell, and a grid that has none."""
    raise_all([] if len(grid.source) else ["there is no off-diagonal cell to predict"])
    raise_all([hole for key, frame in named.items() for hole in grid.holes(key, grid.cells(frame))])


def framed(cells: Floats, grid: Grid, like: pd.DataFrame) -> pd.DataFrame:
    """Lay cells out as a matrix labelled like another; NaN where there is no cell."""
    square = np.full((len(grid.labels), len(grid.labels)), nan)
    square[grid.source, grid.target] = cells
    whole = pd.DataFrame(square, grid.labels, grid.labels)
    return whole.loc[list(like.index), list(like.columns)]


def judge_prediction(case: pd.DataFrame, predicted: pd.DataFrame, **options: Any) -> Prediction:
    """Compare predicted with measured off-diagonal cells.

    H0 of p (one-sided, for r): the case's domain labels are exchangeable. With source and target
    effects in the prediction r is high where domains differ alike for all traits, similarity or no.

    Args:
        case: (sources, targets), measured.
        predicted: with the same labels.
        options: `topics`, `permutations`, `seed` of `qap`.

    Raises:
        InputError: as `qap`, or the prediction holds no value, for the reason that it carries.
    """
    raise_all([note] if (note := predicted.attrs.get(NOTE)) else [])
    fit = qap(case, predicted, effects=False, alternative="greater", interval=None, **options)
    grid = Grid.of(case)
    y, guess = grid.cells(case), grid.cells(predicted)
    r2 = 1 - float(np.sum((y - guess) ** 2) / np.sum((y - y.mean()) ** 2))
    return Prediction(r2, mantel(case, predicted), fit.slope, fit.p)
