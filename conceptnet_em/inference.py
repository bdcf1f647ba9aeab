"""Ask whether similarity explains transfer, trait by trait and for the trait average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from conceptnet_em.errors import ConceptNetError, InputError
from conceptnet_em.qap import Topics, align, qap, too_small
from conceptnet_em.records import Similarity, Slope, TransferMatrix, Verdict
from conceptnet_em.transfer import in_domain_constant, matrix, traits_trained

Transfers = TransferMatrix | pd.DataFrame | Mapping[str, TransferMatrix | pd.DataFrame]
Similarities = Similarity | pd.DataFrame | Mapping[str, Similarity | pd.DataFrame]
SMALLEST_T = 3.0
AVERAGE = "average"


def regress(
    transfer: Transfers,
    similarity: Similarities,
    *,
    predictor: str = "similarity",
    replicate: int = 1,
    topics: Topics | None = None,
    permutations: int = 9_999,
    seed: int = 0,
) -> Verdict:
    """Regress transfer on one similarity, for each trait and for the trait average (FE-QAP).

    Transfer is divided by each trait's mean in-domain effect; similarity is z-scored once over all
    off-diagonal cells, pooled over traits where it is trait-specific. A trait whose in-domain
    effect has t < 3 over domains is left out, and the verdict says so.

    Args:
        transfer: a labelled source × target matrix, or one per trait. Its diagonal gives the unit;
            where the diagonal is absent or NaN, the matrix is taken in its own unit.
        similarity: one labelled matrix, or one per trait.
        predictor: name shown in the verdict.
        replicate: number shown in the verdict.
        topics: domain to (topic, format), which decides the group of relabellings.
        permutations: relabellings drawn when the group has over 50,000 members.
        seed: of those draws.

    Returns:
        A verdict with one slope per trait and one for ``average``. H0: given source and target
        effects, domain labels are exchangeable. Below 5 domains, or with missing cells, a slope is
        ``not_estimable`` with its reason.

    Raises:
        InputError: labels do not match, or a trait has no similarity.
    """
    matrices = _by_trait(transfer)
    units, notes = _units(matrices, replicate)
    scaled = {t: _values(matrices[t]) / units[t] for t in units}
    alike = _standardised(_similarity_by_trait(similarity, list(matrices)), scaled)
    shared = {"topics": topics, "permutations": permutations, "seed": seed}
    cases = [(trait, scaled[trait], alike[trait]) for trait in scaled]
    if len(scaled) > 1:
        cases.append((AVERAGE, _mean(list(scaled.values())), _mean([alike[t] for t in scaled])))
    scale = next((m.scale for m in matrices.values() if isinstance(m, TransferMatrix)), "own")
    slopes, groups = [], []
    for trait, y, x in cases:
        blank = Slope(trait, predictor, replicate, scale, "not_estimable")
        slope, group = _one(blank, y, x, shared)
        slopes.append(slope)
        groups.append(group)
    return Verdict(tuple(slopes), units, tuple(notes), next((g for g in groups if g), ""))


def _by_trait(transfer: Transfers) -> dict[str, TransferMatrix | pd.DataFrame]:
    if isinstance(transfer, TransferMatrix):
        return {transfer.trait: transfer}
    if isinstance(transfer, pd.DataFrame):
        return {"transfer": transfer}
    if not transfer:
        raise InputError("no transfer matrix to regress")
    return dict(transfer)


def _values(found: TransferMatrix | Similarity | pd.DataFrame) -> pd.DataFrame:
    return found if isinstance(found, pd.DataFrame) else found.values


def _units(
    matrices: Mapping[str, TransferMatrix | pd.DataFrame], replicate: int
) -> tuple[dict[str, float], list[str]]:
    units: dict[str, float] = {}
    notes: list[str] = []
    for trait, found in matrices.items():
        constant, t = in_domain_constant(_values(found))
        if np.isnan(constant):
            units[trait] = 1.0
            notes.append(f"{trait} has no in-domain values: its slope is in the table's own unit.")
        elif np.isnan(t) or t < SMALLEST_T:
            shown = "not estimable" if np.isnan(t) else f"{t:.1f}"
            notes.append(
                f"{trait} is left out: its mean in-domain effect {constant:+.3f} has t {shown}, "
                f"below {SMALLEST_T:.0f}, so there is no unit to measure it in "
                f"(replicate {replicate})."
            )
        else:
            units[trait] = constant
    return units, notes


def _similarity_by_trait(
    similarity: Similarities, traits: Sequence[str]
) -> dict[str, pd.DataFrame]:
    if isinstance(similarity, Similarity | pd.DataFrame):
        return dict.fromkeys(traits, _values(similarity))
    if missing := [trait for trait in traits if trait not in similarity]:
        raise InputError(
            f"no similarity for {', '.join(missing)}; there is one for {', '.join(similarity)}"
        )
    return {trait: _values(similarity[trait]) for trait in traits}


def _standardised(
    alike: Mapping[str, pd.DataFrame], transfers: Mapping[str, pd.DataFrame]
) -> dict[str, pd.DataFrame]:
    """Z-score over all off-diagonal cells, pooled over the traits in the regression."""
    if not transfers:
        return {}
    pooled = np.concatenate([_off_cells(alike[t]) for t in transfers])
    mean, sd = float(np.nanmean(pooled)), float(np.nanstd(pooled))
    if not sd > 0:
        return {trait: alike[trait] * np.nan for trait in transfers}
    return {trait: (alike[trait] - mean) / sd for trait in transfers}


def _off_cells(frame: pd.DataFrame) -> np.ndarray:
    keep = np.array([[s != t for t in frame.columns] for s in frame.index])
    cells: np.ndarray = frame.to_numpy(dtype=float)[keep]
    return cells


def _mean(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    first = frames[0]
    total = sum((f.reindex_like(first) for f in frames[1:]), first)
    return total / len(frames)


def _one(
    blank: Slope, y: pd.DataFrame, x: pd.DataFrame, shared: Mapping[str, object]
) -> tuple[Slope, str]:
    """Fit one slope; what cannot be estimated keeps its reason instead of a number."""
    if reason := too_small(len(set(y.index) | set(y.columns))):
        return replace(blank, reason=reason), ""
    if not np.isfinite(_off_cells(y)).all():
        holes = int((~np.isfinite(_off_cells(y))).sum())
        return replace(blank, reason=f"{holes} transfer cells are missing"), ""
    if not np.isfinite(_off_cells(x)).all():
        return replace(blank, reason="the similarity is constant or has missing cells"), ""
    y, aligned = align(y, x)
    try:
        fit = qap(y, aligned, **shared)  # type: ignore[arg-type]
    except InputError as error:  # labels match, so the numbers or the topics allow no test
        return replace(blank, reason=str(error)), ""
    return replace(
        blank,
        status="ok",
        slope=fit.slope,
        low=fit.interval[0],
        high=fit.interval[1],
        t=fit.t,
        p=fit.p,
        smallest_p=fit.smallest_p,
        n_permutations=fit.n_permutations,
        exact=fit.exact,
        n_domains=fit.n_domains,
        n_cells=fit.n_cells,
        r=float(np.corrcoef(_off_cells(y), _off_cells(aligned))[0, 1]),
        r2_over_effects=fit.r2_over_effects,
    ), fit.group


def verdict(
    table: pd.DataFrame,
    similarities: Sequence[Similarity],
    *,
    scale: str = "contrast",
    part: str = "all",
    topics: Topics | None = None,
    permutations: int = 9_999,
    seed: int = 0,
) -> Verdict:
    """Regress a whole transfer table on every similarity, replicate by replicate.

    Each similarity predicts only the replicate it was computed for (from the other sample's items).

    Raises:
        InputError: labels do not match.
    """
    parts: list[Verdict] = []
    for name in dict.fromkeys(s.predictor for s in similarities):
        for replicate in sorted({s.replicate or 1 for s in similarities if s.predictor == name}):
            chosen = [
                s for s in similarities if s.predictor == name and (s.replicate or 1) == replicate
            ]
            transfers = {
                trait: matrix(table, trait, scale=scale, part=part, replicate=replicate)
                for trait in traits_trained(table)
            }
            parts.append(
                regress(
                    transfers,
                    _as_similarities(chosen),
                    predictor=name,
                    replicate=replicate,
                    topics=topics,
                    permutations=permutations,
                    seed=seed,
                )
                if transfers
                else Verdict((), {}, ("Only the reference was trained: nothing to regress.",))
            )
    return merge(parts)


def _as_similarities(chosen: Sequence[Similarity]) -> Similarities:
    if len(chosen) == 1 and chosen[0].trait is None:
        return chosen[0]
    return {str(s.trait): s for s in chosen}


def merge(parts: Sequence[Verdict]) -> Verdict:
    """Put several verdicts into one."""
    if not parts:
        raise ConceptNetError("there is no similarity to regress on")
    return Verdict(
        tuple(slope for part in parts for slope in part.slopes),
        _units_by_replicate(parts),
        tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        next((part.group for part in parts if part.group), ""),
    )


def _units_by_replicate(parts: Sequence[Verdict]) -> dict[str, float]:
    """Key units by trait, or by ``trait/replicate`` where there are several replicates."""
    replicates = {slope.replicate for part in parts for slope in part.slopes}
    return {
        trait if len(replicates) < 2 else f"{trait}/{part.slopes[0].replicate}": unit
        for part in parts
        if part.slopes
        for trait, unit in part.units.items()
    }
