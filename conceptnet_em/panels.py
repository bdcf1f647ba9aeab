"""Bring transfer, similarities and covariates, in any form they come, to one set of cells.

Transfer comes as one labelled matrix or one per trait; similarities and covariates come as one
matrix for all traits or one per trait. What leaves is matched by name, in in-domain units, with
similarities in standard deviations: averaged over traits where nothing is trait-specific, else
stacked trait beside trait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from conceptnet_em.errors import InputError, raise_all
from conceptnet_em.grid import Floats, Grid, faults
from conceptnet_em.records import Similarity, TransferMatrix
from conceptnet_em.transfer import in_domain_constant

Transfers = TransferMatrix | pd.DataFrame | Mapping[str, TransferMatrix | pd.DataFrame]
Alike = Similarity | pd.DataFrame | Mapping[str, Similarity | pd.DataFrame]
Covariates = Alike | Mapping[str, Alike] | Sequence[Alike]
Variable = pd.DataFrame | dict[str, pd.DataFrame]  # for all traits, or one per trait

SMALLEST_T = 3.0  # of a trait's mean in-domain effect over domains: below it there is no unit
UNNAMED = "transfer"  # the trait of a matrix that comes without a name


@dataclass(frozen=True)
class Panel:
    """Aligned cells of everything that enters a regression."""

    grid: Grid
    traits: tuple[str, ...]
    """The traits that are averaged or stacked."""
    response: Floats
    """(n, T) transfer: T = 1 is one trait or the average; else one column per trait."""
    predictors: dict[str, Floats]
    """(n, T) each."""
    covariates: dict[str, Floats]
    """(n, T) each, as they came."""
    units: dict[str, float]
    """What each trait was divided by: its in-domain constant, or 1."""
    unit: str
    """What transfer is measured in, in words."""
    scale: str
    """Scale of the transfer matrices, or ``own``."""
    notes: tuple[str, ...]
    """What a reader must know, a sentence each."""
    reason: str
    """Why nothing can be estimated; empty when something can."""
    lacking: dict[str, str]
    """Predictors that cannot be estimated, with the reason."""


def panel(
    transfer: Transfers,
    similarities: Sequence[Alike],
    *,
    covariates: Covariates = (),
    names: Sequence[str] | None = None,
    units: bool = True,
    standardise: bool = True,
    apart: Mapping[str, str] | None = None,
) -> Panel:
    """Match by name, scale, and average or stack; options as in ``regression.regress``.

    Args:
        transfer: labelled matrix, or one per trait.
        similarities: labelled matrices, or one per trait for each of them.
        covariates: the same, by name or in order.
        names: of the similarities.
        units: divide each trait by its mean in-domain effect.
        standardise: z-score similarities over all off-diagonal cells, pooled over traits.
        apart: a value for every domain; cells between domains that share it are left out.

    Raises:
        InputError: labels or names do not match, a trait lacks its similarity, or scales are mixed.
    """
    matrices, scale = _by_trait(transfer)
    alike = _named("similarity", similarities, names)
    held = _covariates(covariates)
    raise_all(_label_faults(matrices, alike, held))
    constants, notes, unit = _units(matrices, units)
    traits = list(constants)
    alike = _for_traits("similarity", alike, traits)
    held = _for_traits("covariate", held, traits)
    first = next(iter(matrices.values()))
    grid, whole = Grid.of(first, apart=apart), Grid.of(first)
    stacked = any(isinstance(value, dict) for value in [*alike.values(), *held.values()])
    response = _columns({t: matrices[t] / constants[t] for t in traits}, grid, len(traits))
    across = len(traits) if stacked else 1
    predictors = {name: _columns(value, grid, across) for name, value in alike.items()}
    if standardise:
        for name, value in alike.items():
            predictors[name] = _z_scored(predictors[name], _columns(value, whole, across))
    fixed = {name: _columns(value, grid, across) for name, value in held.items()}
    return Panel(
        grid=grid,
        traits=tuple(traits),
        response=response if stacked else response.mean(axis=1, keepdims=True),
        predictors=predictors,
        covariates=fixed,
        units=constants,
        unit=unit,
        scale=scale,
        notes=tuple(notes),
        reason=_gaps(grid, traits, response, fixed) if traits else " ".join(notes),
        lacking=_lacking(grid, predictors),
    )


def _lacking(grid: Grid, predictors: Mapping[str, Floats]) -> dict[str, str]:
    found = {name: grid.holes(f"predictor '{name}'", cells) for name, cells in predictors.items()}
    return {name: "; ".join(holes) for name, holes in found.items() if holes}


def _by_trait(transfer: Transfers) -> tuple[dict[str, pd.DataFrame], str]:
    """Return a frame for every trait, and the scale."""
    if isinstance(transfer, TransferMatrix):
        transfer = {transfer.trait: transfer}
    elif isinstance(transfer, pd.DataFrame):
        transfer = {UNNAMED: transfer}
    if not transfer:
        raise InputError("no transfer matrix to regress")
    scales = {found.scale for found in transfer.values() if isinstance(found, TransferMatrix)}
    if len(scales) > 1:
        raise InputError(f"transfer on several scales ({', '.join(sorted(scales))}); take one")
    frames = {trait: _frame(found) for trait, found in transfer.items()}
    return frames, next(iter(scales), "own")


def _frame(found: TransferMatrix | Similarity | pd.DataFrame) -> pd.DataFrame:
    return found if isinstance(found, pd.DataFrame) else found.values


def _units(
    matrices: Mapping[str, pd.DataFrame], wanted: bool
) -> tuple[dict[str, float], list[str], str]:
    """Return the divisor of every trait that is kept, notes, and the unit in words."""
    units: dict[str, float] = {}
    notes: list[str] = []
    own: list[str] = []
    for trait, frame in matrices.items():
        constant, t = in_domain_constant(frame) if wanted else (np.nan, np.nan)
        if frame.isna().all(axis=None):
            notes.append(f"{trait} is left out: its transfer holds no value at all.")
        elif np.isnan(constant):
            units[trait] = 1.0
            own.append(trait)
        elif np.isnan(t) or t < SMALLEST_T:
            words = _weak(constant, t)
            notes.append(f"{trait} is left out: {words} (units=False takes the table's).")
        else:
            units[trait] = constant
    if wanted and own:
        notes.append(f"No in-domain values, so in the table's own unit: {', '.join(own)}.")
    if not own:
        return units, notes, "in-domain units"
    return units, notes, "units of the table" if len(own) == len(units) else "mixed units"


def _weak(constant: float, t: float) -> str:
    shown = "not estimable" if np.isnan(t) else f"{t:.1f}"
    return (
        f"its mean in-domain effect {constant:+.3f} has t {shown}, below {SMALLEST_T:.0f}, so "
        "there is no unit to measure it in"
    )


def unfit(values: pd.DataFrame, constant: float, t: float, in_domain: bool) -> str:
    """Say why a trait cannot be compared with others; else nothing.

    Args:
        values: its transfer, sources × targets.
        constant: its mean in-domain effect, see ``transfer.in_domain_constant``.
        t: of that effect over domains.
        in_domain: whether the others are measured in in-domain units.
    """
    cells = Grid.of(values).cells(values)
    if holes := int((~np.isfinite(cells)).sum()):
        return f"{holes} of its {len(cells)} off-diagonal cells are missing"
    if in_domain and not np.isfinite(constant):
        return "it has no in-domain values, while others have"
    return _weak(constant, t) if in_domain and not t >= SMALLEST_T else ""


def _variable(value: Alike) -> Variable:
    if isinstance(value, Similarity) and value.trait is not None:
        return {value.trait: value.values}
    if isinstance(value, Mapping):
        return {trait: _frame(found) for trait, found in value.items()}
    return _frame(value)


def _covariates(given: Covariates) -> dict[str, Variable]:
    if isinstance(given, Mapping):
        return {name: _variable(value) for name, value in given.items()}
    listed = [given] if isinstance(given, Similarity | pd.DataFrame) else given
    return _named("covariate", listed, None)


def _named(kind: str, values: Sequence[Alike], names: Sequence[str] | None) -> dict[str, Variable]:
    """Name variables: as asked, by their predictor, or by their place."""
    found = list(names) if names is not None else _own_names(kind, values)
    if len(found) != len(values):
        raise InputError(f"{len(values)} matrices but {len(found)} names: {', '.join(found)}")
    if twice := sorted({name for name in found if found.count(name) > 1}):
        raise InputError(
            f"several matrices are called {', '.join(twice)}; tell them apart by names="
        )
    return {name: _variable(value) for name, value in zip(found, values, strict=True)}


def _own_names(kind: str, values: Sequence[Alike]) -> list[str]:
    """Name by predictor, with its layer where one comes several times; frames by their place."""
    ones = [next(iter(v.values()), None) if isinstance(v, Mapping) else v for v in values]
    names = [
        one.predictor if isinstance(one, Similarity) else f"{kind} {k}" if k > 1 else kind
        for k, one in enumerate(ones, 1)
    ]
    layers = [one.layer if isinstance(one, Similarity) else None for one in ones]
    return [
        f"{name} (layer {layer})" if names.count(name) > 1 and layer is not None else name
        for name, layer in zip(names, layers, strict=True)
    ]


def _for_traits(
    kind: str, variables: Mapping[str, Variable], traits: Sequence[str]
) -> dict[str, Variable]:
    """Keep of trait-specific variables what the traits need; a single trait needs one frame."""
    found: dict[str, Variable] = {}
    lost: list[str] = []
    for name, value in variables.items():
        if not isinstance(value, dict):
            found[name] = value
            continue
        if list(traits) == [UNNAMED] and len(value) == 1:
            value = {UNNAMED: next(iter(value.values()))}
        if missing := [trait for trait in traits if trait not in value]:
            there = ", ".join(value) or "none"
            lost.append(f"no {kind} '{name}' for {', '.join(missing)}; there is one for {there}")
        mine = {trait: value[trait] for trait in traits if trait in value}
        found[name] = next(iter(mine.values())) if len(mine) == 1 else mine
    raise_all(lost)
    return found


def _label_faults(
    matrices: Mapping[str, pd.DataFrame],
    alike: Mapping[str, Variable],
    held: Mapping[str, Variable],
) -> list[str]:
    full = {t: frame for t, frame in matrices.items() if not frame.isna().all(axis=None)}
    named = {_title(t): frame for t, frame in (full or matrices).items()}
    for kind, variables in (("similarity", alike), ("covariate", held)):
        for name, value in variables.items():
            parts = value.items() if isinstance(value, dict) else [("", value)]
            named |= {f"{kind} '{name}'" + f" of {t}" * bool(t): frame for t, frame in parts}
    return faults(named)


def _title(trait: str) -> str:
    return "transfer" if trait == UNNAMED else f"transfer of {trait}"


def _columns(value: Variable, grid: Grid, across: int) -> Floats:
    """Return (n, across) cells: a column for every trait, or the same one again."""
    if isinstance(value, dict):
        columns = [grid.cells(frame) for frame in value.values()]
        return np.column_stack(columns) if columns else np.full((len(grid.source), 1), np.nan)
    return np.repeat(grid.cells(value)[:, None], max(across, 1), axis=1)


def _z_scored(cells: Floats, everywhere: Floats) -> Floats:
    """Subtract the mean and divide by the SD of `everywhere`; constants stay as they are."""
    there = everywhere[np.isfinite(everywhere)]
    mean, sd = (float(there.mean()), float(there.std())) if there.size else (0.0, 0.0)
    return (cells - mean) / sd if sd > 1e-10 * abs(mean) else cells


def _gaps(grid: Grid, traits: Sequence[str], response: Floats, held: Mapping[str, Floats]) -> str:
    columns = dict(zip(map(_title, traits), response.T, strict=True))
    columns |= {f"covariate '{name}'": cells for name, cells in held.items()}
    return "; ".join(hole for name, cells in columns.items() for hole in grid.holes(name, cells))
