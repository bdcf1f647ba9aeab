"""Turn vectors into labelled similarity matrices, and matrices into a table; no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from conceptnet_em.errors import InputError
from conceptnet_em.geometry import split_half
from conceptnet_em.records import Similarity


def centroid_cosine(vectors: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Return the cosine between the domains' mean vectors, uncentred.

    Args:
        vectors: domain to ``(n_items, d)``.

    Returns:
        ``(n_domains, n_domains)``, symmetric, NaN where a mean vector is zero.

    Raises:
        InputError: a domain has no items, or widths differ.
    """
    names = list(vectors)
    _check(vectors)
    centroids = np.stack([np.asarray(vectors[name], dtype=float).mean(axis=0) for name in names])
    norms = np.linalg.norm(centroids, axis=1, keepdims=True)
    unit = centroids / np.where(norms > 0, norms, np.nan)
    return pd.DataFrame(unit @ unit.T, index=names, columns=names)


def _check(vectors: Mapping[str, np.ndarray]) -> None:
    empty = [name for name, found in vectors.items() if np.asarray(found).shape[0] == 0]
    if empty:
        raise InputError(f"no items to compute a similarity from in {', '.join(empty)}")
    widths = {np.asarray(found).shape[1] for found in vectors.values()}
    if len(widths) > 1:
        raise InputError(f"vectors of several widths: {sorted(widths)}")


def split_half_reliability(
    vectors: Mapping[str, np.ndarray], *, splits: int = 50, seed: int = 0
) -> float:
    """Return the reliability of :func:`centroid_cosine`, see :func:`geometry.split_half`."""
    return split_half(centroid_cosine, vectors, splits=splits, seed=seed)


# --- the similarities table ---


COLUMNS = (
    "predictor",
    "layer",
    "trait",
    "replicate",
    "source",
    "target",
    "value",
    "reliability",
    "basis",
    "status",
)


def to_table(found: Sequence[Similarity]) -> pd.DataFrame:
    """Return the ``similarities`` table of labelled matrices, one row a source × target."""
    rows = [
        {
            "predictor": s.predictor,
            "layer": s.layer,
            "trait": s.trait,
            "replicate": s.replicate,
            "source": source,
            "target": target,
            "value": float(s.values.loc[source, target]),
            "reliability": s.reliability,
            "basis": s.basis,
            "status": "ok" if pd.notna(s.values.loc[source, target]) else "not_estimable",
        }
        for s in found
        for source in s.values.index
        for target in s.values.columns
    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.astype({"layer": "Int64", "replicate": "Int64", "trait": "str"})


def from_table(table: pd.DataFrame) -> list[Similarity]:
    """Return the labelled matrices that :func:`to_table` wrote down."""
    found = []
    keys = ["predictor", "layer", "trait", "replicate"]
    for _, rows in table.groupby(keys, dropna=False, sort=False):
        first = rows.iloc[0]
        names = list(dict.fromkeys(rows["source"]))
        values = rows.pivot(index="source", columns="target", values="value")
        values = values.reindex(index=names, columns=list(dict.fromkeys(rows["target"])))
        found.append(
            Similarity(
                str(first["predictor"]),
                values.rename_axis(index=None, columns=None),
                None if pd.isna(first["trait"]) else str(first["trait"]),
                None if pd.isna(first["layer"]) else int(first["layer"]),
                None if pd.isna(first["replicate"]) else int(first["replicate"]),
                float(first["reliability"]),
                str(first.get("basis", "")),
            )
        )
    return found
