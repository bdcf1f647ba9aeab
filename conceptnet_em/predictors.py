"""The similarities that may predict transfer, each from training items only.

Organisms trained on sample 1 are predicted from the items of sample 2 and conversely, so that no
item's noise is in both transfer and predictor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from conceptnet_em.activations import answer_states, middle_layer, question_states
from conceptnet_em.corpus import REFERENCE, Corpus, Item
from conceptnet_em.embeddings import embed
from conceptnet_em.errors import InputError, unknown
from conceptnet_em.models import LanguageModel
from conceptnet_em.records import Similarity
from conceptnet_em.similarity import centroid_cosine, split_half_reliability


@dataclass(frozen=True)
class Inputs:
    """What a predictor may look at."""

    items: Mapping[str, Sequence[Item]]
    """Domain to the training items of the other sample."""
    formats: Mapping[str, str]
    """Domain to ``prose`` or ``code``."""
    traits: Sequence[str]
    """The study's traits."""
    model: LanguageModel
    embedder: str
    layer: int
    """Entry of ``hidden_states``."""
    replicate: int


def other_sample(sample: int) -> int:
    """Return the sample whose items predict the transfer of organisms trained on ``sample``."""
    return 3 - sample


def text(inputs: Inputs) -> list[Similarity]:
    """Cosine of sentence-embedding centroids of the questions, uncentred; external."""
    vectors = {
        domain: embed([item.question for item in items], embedder=inputs.embedder)
        for domain, items in inputs.items.items()
    }
    return [_similarity("text", vectors, inputs)]


def activation(inputs: Inputs) -> list[Similarity]:
    """Cosine of hidden-state centroids of the questions, uncentred, one layer; internal."""
    vectors = {
        domain: question_states(inputs.model, [i.question for i in items], [inputs.layer])[:, 0]
        for domain, items in inputs.items.items()
    }
    return [_similarity("activation", vectors, inputs, layer=inputs.layer)]


def trait_direction(inputs: Inputs) -> list[Similarity]:
    """Cosine of difference-of-means vectors, trait minus neutral answers, one layer; internal."""
    states = {
        (domain, trait): _states(inputs, domain, trait)
        for domain in inputs.items
        for trait in inputs.traits
    }
    found = []
    for trait in (t for t in inputs.traits if t != REFERENCE):
        vectors = {d: states[d, trait] - states[d, REFERENCE] for d in inputs.items}
        found.append(
            _similarity("trait-direction", vectors, inputs, layer=inputs.layer, trait=trait)
        )
    return found


def _states(inputs: Inputs, domain: str, trait: str) -> np.ndarray:
    pairs = [(item.question, item.answers[trait]) for item in inputs.items[domain]]
    found = answer_states(inputs.model, pairs, [inputs.layer], answer_format=inputs.formats[domain])
    states: np.ndarray = found[:, 0]
    return states


def _similarity(
    name: str,
    vectors: Mapping[str, np.ndarray],
    inputs: Inputs,
    *,
    layer: int | None = None,
    trait: str | None = None,
) -> Similarity:
    return Similarity(
        predictor=name,
        values=centroid_cosine(vectors),
        trait=trait,
        layer=layer,
        replicate=inputs.replicate,
        reliability=split_half_reliability(vectors),
    )


TABLE: dict[str, Callable[[Inputs], list[Similarity]]] = {
    "text": text,
    "activation": activation,
    "trait-direction": trait_direction,
}
"""Every predictor by name."""


def similarities(
    names: Sequence[str],
    corpus: Corpus,
    model: LanguageModel,
    *,
    traits: Sequence[str],
    domains: Sequence[str],
    replicate: int,
    embedder: str,
    layer: int | None = None,
) -> list[Similarity]:
    """Compute the named predictors for the organisms of one replicate.

    Raises:
        InputError: an unknown predictor, or a domain without items of the other sample.
    """
    if wrong := [unknown("predictor", n, TABLE) for n in names if n not in TABLE]:
        raise InputError("; ".join(wrong))
    sample = other_sample(replicate)
    items = {domain: corpus.train(domain, sample) for domain in domains}
    if empty := [domain for domain, found in items.items() if not found]:
        raise InputError(
            f"no training items of sample {sample} in {', '.join(empty)}: predictors of replicate "
            f"{replicate} need them"
        )
    inputs = Inputs(
        items=items,
        formats={domain: corpus.domains[domain].format for domain in domains},
        traits=traits,
        model=model,
        embedder=embedder,
        layer=middle_layer(model) if layer is None else layer,
        replicate=replicate,
    )
    return [found for name in names for found in TABLE[name](inputs)]


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
            "status": "ok" if pd.notna(s.values.loc[source, target]) else "not_estimable",
        }
        for s in found
        for source in s.values.index
        for target in s.values.columns
    ]
    table = pd.DataFrame(rows)
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
            )
        )
    return found
