"""Lay the items and domains of a finished run out for the eye, and keep where they lie.

Coordinates illustrate; nothing here is a test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from conceptnet_em.corpus import Corpus
from conceptnet_em.embeddings import embed
from conceptnet_em.errors import InputError, raise_all, unknown
from conceptnet_em.maps import (
    Map,
    Method,
    centroids,
    embed_map,
    from_table,
    sent_and_received,
    to_table,
    with_column,
)
from conceptnet_em.panels import unfit
from conceptnet_em.progress import Watcher
from conceptnet_em.store import digest, replacing
from conceptnet_em.study import Result
from conceptnet_em.transfer import in_domain_constant

Texts = Literal["questions", "answers"]
KEY = "made_from"
"""The column of a stored map with the digest of what it was made from."""


@dataclass(frozen=True)
class TypicalTransfer:
    """Transfer of one trait, or of several on one scale."""

    values: pd.DataFrame
    """``(n_sources, n_targets)``, contrast, the diagonal included."""
    unit: str
    traits: tuple[str, ...]
    """The traits averaged."""
    notes: tuple[str, ...] = ()
    """Which traits were left out, and why."""

    @property
    def words(self) -> str:
        """Say whose transfer it is."""
        several = f"mean of {len(self.traits)} traits"
        return self.traits[0] if len(self.traits) == 1 else several


def typical_transfer(
    result: Result, *, trait: str | None = None, replicate: int | None = None
) -> TypicalTransfer:
    """Return contrast transfer of one trait, or its mean over traits.

    Before they are averaged, traits are divided by their mean in-domain effect, or the trait with
    the largest effects would speak for all; one without such a unit (t < 3, or missing cells) is
    left out, and if all are, the mean is over all in nats/token. One trait stays in nats/token.

    Args:
        result: a finished run.
        trait: one trait; the mean over all but the reference when none.
        replicate: one replicate; their mean when none.

    Raises:
        InputError: there is no such trait or replicate; says what there is.
    """
    if trait is not None and trait not in result.traits:
        raise InputError(unknown("trait", trait, result.traits))
    names = [trait] if trait else result.traits
    frames = {name: result.transfer(name, replicate=replicate).values for name in names}
    if len(frames) == 1:
        return TypicalTransfer(frames[names[0]], "nats/token", tuple(names))
    units = {name: in_domain_constant(frame) for name, frame in frames.items()}
    why = {name: unfit(frames[name], *units[name], True) for name in names}
    if kept := [name for name in names if not why[name]]:
        total = sum(frames[name] / units[name][0] for name in kept)
        notes = tuple(f"{n} is left out of the mean: {w}" for n, w in why.items() if w)
        return TypicalTransfer(_frame(total) / len(kept), "in-domain units", tuple(kept), notes)
    first = f"{names[0]}: {why[names[0]]}"
    note = f"no trait can be put into in-domain units ({first}), so the mean is in nats/token"
    values = _frame(sum(frames.values())) / len(names)
    return TypicalTransfer(values, "nats/token", tuple(names), (note,))


def _frame(value: Any) -> pd.DataFrame:
    assert isinstance(value, pd.DataFrame)
    return value


# --- maps ---


def item_map(
    result: Result,
    corpus: Corpus,
    *,
    of: Texts = "questions",
    method: Method = "umap",
    sample: int = 1,
    seed: int = 0,
    folder: str | Path | None = None,
    watcher: Watcher | None = None,
) -> Map:
    """Lay out the training items of a run by their sentence embeddings.

    Args:
        result: a finished run; its domains, traits and embedder are taken.
        corpus: the corpus it ran on.
        of: ``"questions"``, a point each, or ``"answers"``, a point for each item and trait.
        method: ``"umap"`` or ``"pca"``.
        sample: the training sample, 1 or 2.
        seed: of UMAP.
        folder: where coordinates are kept as ``map-<of>-<method>.parquet``. What stands there is
            used if it was made from the same texts, embedder and seed, and replaced otherwise.
        watcher: told whether stored coordinates are used.

    Returns:
        The map, with the label columns ``domain`` and ``item``, of answers also ``trait``.

    Raises:
        InputError: an unknown name, no items of that sample, or too few for the method.
        ModelError: the embedder is missing.
        StoreError: the folder cannot be written.
    """
    _check(of, method)
    texts, labels = texts_of(result, corpus, of, sample)
    about = [texts, labels.to_numpy().tolist(), result.config.embedder, method, seed]

    def make() -> Map:
        vectors = embedded(texts, result.config.embedder)
        return embed_map(vectors, labels, method=method, seed=seed)

    return _kept(make, folder, f"map-{of}-{method}.parquet", digest(about), watcher)


def domain_map(
    result: Result,
    corpus: Corpus,
    *,
    trait: str | None = None,
    method: Method = "umap",
    sample: int = 1,
    seed: int = 0,
    folder: str | Path | None = None,
    watcher: Watcher | None = None,
) -> Map:
    """Lay out a run's domains by the centroids of their questions, with transfer as columns.

    Args:
        result: a finished run.
        corpus: the corpus it ran on.
        trait: whose transfer; the mean over traits when none, see :func:`typical_transfer`.
        method: ``"umap"`` or ``"pca"``.
        sample: the training sample of the questions, 1 or 2.
        seed: of UMAP.
        folder: as for :func:`item_map`; ``map-domains-<method>.parquet`` holds no transfer.
        watcher: as for :func:`item_map`.

    Returns:
        The map, with the columns ``domain``, ``sent`` and ``received``: mean off-diagonal contrast
        of a domain as source and as target, in the unit of :func:`typical_transfer`.

    Raises:
        InputError: an unknown trait, no items of that sample, or too few domains for the method.
    """
    _check("questions", method)
    means = sent_and_received(typical_transfer(result, trait=trait).values)
    texts, labels = texts_of(result, corpus, "questions", sample)
    about = [texts, list(labels["domain"]), result.config.embedder, method, seed]

    def make() -> Map:
        middles = centroids(embedded(texts, result.config.embedder), labels)
        return embed_map(*middles, method=method, seed=seed)

    found = _kept(make, folder, f"map-domains-{method}.parquet", digest(about), watcher)
    return with_column(with_column(found, "sent", means["sent"]), "received", means["received"])


def _check(of: str, method: str) -> None:
    faults = [unknown("kind of text", of, get_args(Texts))] if of not in get_args(Texts) else []
    if method not in get_args(Method):
        faults.append(unknown("method", method, get_args(Method)))
    raise_all(faults)


def texts_of(
    result: Result, corpus: Corpus, of: Texts, sample: int
) -> tuple[tuple[str, ...], pd.DataFrame]:
    """Return a run's training texts and, a row each, ``domain``, ``item`` and perhaps ``trait``.

    Raises:
        InputError: a domain has no items of that sample.
    """
    items = {name: corpus.train(name, sample) for name in result.config.domains}
    if empty := [name for name, found in items.items() if not found]:
        there = sorted({str(i.sample) for n in empty for i in corpus.items[n] if i.sample})
        known = ", ".join(there) or "none"
        raise InputError(
            f"no training items of sample {sample} in {', '.join(empty)}; there is {known}"
        )
    every = [item for found in items.values() for item in found]
    if of == "questions":
        rows = [(item.domain, item.id) for item in every]
        return tuple(i.question for i in every), pd.DataFrame(rows, columns=["domain", "item"])
    both = [(item, trait) for trait in result.config.traits for item in every]
    labels = pd.DataFrame(
        [(item.domain, item.id, trait) for item, trait in both],
        columns=["domain", "item", "trait"],
    )
    return tuple(item.answers[trait] for item, trait in both), labels


@lru_cache(maxsize=4)
def embedded(texts: tuple[str, ...], embedder: str) -> np.ndarray:
    """Embed once what UMAP, PCA and the domains are all made from."""
    return embed(texts, embedder=embedder)


def _kept(
    make: Callable[[], Map], folder: str | Path | None, name: str, key: str, watcher: Watcher | None
) -> Map:
    """Read a map that was made from the same, or make and keep it."""
    if folder is None:
        return make()
    path = Path(folder) / name
    if (stored := _stored(path, key)) is not None:
        (watcher or Watcher()).note(f"coordinates as stored in {path}")
        return stored
    found = make()
    with replacing(path) as draft:
        to_table(found).assign(**{KEY: key}).to_parquet(draft, index=False)
    return found


def _stored(path: Path, key: str) -> Map | None:
    """Return a stored map; none where it is of other things, damaged or not there."""
    try:
        table = pd.read_parquet(path)
        right = set(table[KEY]) == {key}
        return from_table(table.drop(columns=KEY)) if right else None
    except (OSError, ValueError, KeyError):
        return None
