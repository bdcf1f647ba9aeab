"""Ask whether a trait is really there: can its answers be told apart in a domain never seen?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from conceptnet_em.corpus import Corpus
from conceptnet_em.embeddings import embed
from conceptnet_em.errors import InputError


def separability(corpus: Corpus, *, embedder: str = "all-minilm-l6-v2") -> pd.DataFrame:
    """Tell traits apart by sentence embeddings, each domain by a classifier that never saw it.

    A logistic regression on the answers' embeddings, each minus the mean over its question's
    answers, is fitted on all other domains of the same format. Chance is one over the number of
    traits.

    Args:
        corpus: the corpus.
        embedder: alias, Hub id or folder.

    Returns:
        Trait × domain: the share of answers recognised, 0 to 1; NaN where a trait lacks a domain.

    Raises:
        InputError: a format has fewer than two domains.
        ModelError: the embedder is missing.
    """
    columns: dict[str, pd.Series] = {}
    for kind in dict.fromkeys(domain.format for domain in corpus.domains.values()):
        names = [name for name, domain in corpus.domains.items() if domain.format == kind]
        if len(names) < 2:
            raise InputError(f"one {kind} domain ({names[0]}) cannot be left out: two are needed")
        columns |= _leave_one_out({name: _answers(corpus, name, embedder) for name in names})
    return pd.DataFrame(columns).reindex(list(corpus.traits))[list(corpus.domains)]


Answers = tuple[np.ndarray, np.ndarray]
"""``(n, d)`` vectors and ``(n,)`` trait names."""


def _answers(corpus: Corpus, domain: str, embedder: str) -> Answers:
    items = corpus.items[domain]
    traits = list(items[0].answers)
    texts = [item.answers[trait] for item in items for trait in traits]
    vectors = embed(texts, embedder=embedder).reshape(len(items), len(traits), -1)
    centred = vectors - vectors.mean(axis=1, keepdims=True)
    return centred.reshape(len(texts), -1), np.array(traits * len(items))


def _leave_one_out(found: dict[str, Answers]) -> dict[str, pd.Series]:
    columns = {}
    for held, (vectors, traits) in found.items():
        others = [name for name in found if name != held]
        classifier = LogisticRegression(C=30.0, max_iter=2_000)
        classifier.fit(
            np.concatenate([found[name][0] for name in others]),
            np.concatenate([found[name][1] for name in others]),
        )
        right = pd.Series(classifier.predict(vectors) == traits, index=traits)
        columns[held] = right.groupby(level=0).mean()
    return columns
