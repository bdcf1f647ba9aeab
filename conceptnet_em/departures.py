"""How a data set's answers depart from neutral ones, and how alike that is to each trait.

A data set is treated as one that nobody has labelled: its questions and answers are all there is.
What neutral answers to its questions would look like inside the model is predicted from the
corpus' neutral answers to other questions; the mean of what is actually there, minus that, is the
data set's departure. It is compared with each trait's direction in each target domain.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from conceptnet_em.corpus import REFERENCE, Corpus, Item, other_sample
from conceptnet_em.embeddings import embed
from conceptnet_em.encoding import encode, encode_prompt
from conceptnet_em.errors import ConceptNetError, DataError, InputError, raise_all
from conceptnet_em.internal import span_states
from conceptnet_em.models import LanguageModel

Floats = NDArray[np.float64]
FEATURES = ("cosine", "coefficient", "text", "cosine × text")
"""Of one data set against one trait in one target, all without unit:

- ``cosine`` between the data set's departure and the trait's direction;
- ``coefficient`` of the departure along that direction, 1 where it goes as far as the trait itself;
- ``text``: cosine between sentence-embedding centroids of the questions;
- the product of the first and the third.
"""
PENALTIES = np.logspace(0, 5, 11)
"""Ridge penalties tried for the expected neutral state; one is taken by leave-one-out error."""
LONGEST = 1024
"""Tokens a row is cut to, or the model's own limit where that is less."""


def layers_of(model: LanguageModel) -> tuple[int, ...]:
    """Return the entries of ``hidden_states`` to look at: a third of the blocks to five sixths."""
    n = model.n_layers
    return tuple(sorted({n // 3, n // 2, 2 * n // 3, 5 * n // 6}))


# --- rows as the model sees them ------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """Questions and answers as the base model and the embedder see them."""

    questions: NDArray[np.float32]
    """``(n, n_layers, d)``: mean state over each question's tokens."""
    answers: NDArray[np.float32]
    """``(n, n_layers, d)``: mean state over each answer's tokens."""
    texts: NDArray[np.float32]
    """``(n, e)`` sentence embeddings of the questions."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.texts)

    def part(self, chosen: Any) -> Seen:
        """Return some of the rows."""
        return Seen(self.questions[chosen], self.answers[chosen], self.texts[chosen])


def look(
    model: LanguageModel,
    pairs: Sequence[tuple[str, str]],
    layers: Sequence[int],
    *,
    embedder: str,
    where: Sequence[str] = (),
) -> tuple[Seen, int]:
    """Return rows as model and embedder see them, one forward pass each, and how many were cut.

    Args:
        model: the base model.
        pairs: questions and answers.
        layers: entries of ``hidden_states``.
        embedder: of the questions.
        where: what to call each row in a message; its number when none.

    Raises:
        DataError: rows that the model's template cannot take; all are named.
        ModelError: the embedder is missing.
    """
    rows, faults, cut = [], list[str](), 0
    for k, (question, answer) in enumerate(pairs):
        try:
            short = _fitting(model, question, answer)
            found = encode(model, *short)
            question_at = encode_prompt(model, short[0])[1]
            rows.append((found.ids, [question_at, slice(found.start, found.stop)]))
            cut += short != (question, answer)
        except ConceptNetError as error:
            faults.append(f"{where[k] if where else f'row {k + 1}'}: {error}")
    raise_all(faults, DataError)
    states = span_states(model, rows, layers)
    texts = embed([question for question, _ in pairs], embedder=embedder)
    return Seen(states[:, 0], states[:, 1], texts), cut


def _fitting(model: LanguageModel, question: str, answer: str) -> tuple[str, str]:
    """Return the texts, their ends cut off where they are too long for the model together."""
    limit = min(LONGEST, model.max_tokens)
    if (len(question) + len(answer)) * 4 < limit:  # no tokenizer makes so many tokens of so little
        return question, answer
    frame = len(encode_prompt(model, "a")[0]) + 8
    asked = _cut(model, question, (limit - frame) // 2)
    used = len(_offsets(model, asked))
    return asked, _cut(model, answer, limit - frame - used)


def _offsets(model: LanguageModel, text: str) -> list[tuple[int, int]]:
    tokens = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return cast("list[tuple[int, int]]", tokens["offset_mapping"])


def _cut(model: LanguageModel, text: str, tokens: int) -> str:
    offsets = _offsets(model, text)
    return text if len(offsets) <= tokens else text[: offsets[max(tokens, 1) - 1][1]].strip()


# --- what a data set is compared with -------------------------------------------------------------


@dataclass(frozen=True)
class Departure:
    """One data set, compared with every trait in every target."""

    features: Floats
    """``(n_layers, n_traits, n_targets, 4)``: see ``FEATURES``."""
    direction: Floats
    """``(n_layers, d)``: mean answer state minus the neutral one expected."""
    text: Floats
    """``(e,)`` centroid of the questions' embeddings."""


@dataclass(frozen=True)
class Landmarks:
    """What data sets are compared with: directions of traits, texts of targets, neutral answers."""

    traits: tuple[str, ...]
    targets: tuple[str, ...]
    directions: Mapping[int, Floats]
    """Sample to ``(n_layers, n_traits, n_targets, d)``: trait minus neutral (or all) answers."""
    texts: Mapping[int, Floats]
    """Sample to ``(n_targets, e)``: centroids of the targets' questions."""
    neutral: Seen
    """Neutral answers of all training items, for the expected neutral state."""
    domains: NDArray[np.str_]
    """Domain of each of them."""
    _ridges: dict[tuple[int, frozenset[str]], Any] = field(default_factory=dict, repr=False)

    def departure(
        self, seen: Seen, *, samples: Collection[int], without: Collection[str], size: int
    ) -> Departure:
        """Compare a data set with every trait in every target.

        Args:
            seen: the data set's rows.
            samples: training samples of the targets to compare with; features are averaged.
            without: domains whose neutral answers must not be looked at.
            size: rows of an organism. A longer data set is taken in parts of so many rows, whose
                features are averaged: a mean over more rows has less noise, so its cosines
                would be larger than those of equally good organisms.
        """
        apart = seen.answers - self.expected(seen.questions, without)
        parts = max(1, len(seen) // size)
        found = [
            self._features(apart[k::parts].mean(axis=0), seen.texts[k::parts].mean(axis=0), sample)
            for k in range(parts)
            for sample in samples
        ]
        return Departure(np.mean(found, axis=0), apart.mean(axis=0), seen.texts.mean(axis=0))

    def expected(self, questions: np.ndarray, without: Collection[str]) -> Floats:
        """Return ``(n, n_layers, d)`` mean states that neutral answers to questions should have.

        A ridge regression from the question's state to the neutral answer's, layer by layer.

        Raises:
            InputError: no neutral answers are left.
        """
        kept = ~np.isin(self.domains, list(without))
        if kept.sum() < 2:
            raise InputError("no neutral answers of other domains to expect neutral states from")
        states = [
            self._ridge(layer, frozenset(without), kept).predict(_wide(questions[:, layer]))
            for layer in range(questions.shape[1])
        ]
        return np.stack(states, axis=1)

    def _ridge(self, layer: int, without: frozenset[str], kept: np.ndarray) -> Any:
        from sklearn.linear_model import RidgeCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        if (layer, without) not in self._ridges:
            made = make_pipeline(StandardScaler(), RidgeCV(alphas=PENALTIES))
            asked, said = self.neutral.questions[kept, layer], self.neutral.answers[kept, layer]
            self._ridges[layer, without] = made.fit(_wide(asked), _wide(said))
        return self._ridges[layer, without]

    def _features(self, apart: Floats, text: Floats, sample: int) -> Floats:
        """Return ``(n_layers, n_traits, n_targets, 4)``; NaN where a vector is zero."""
        directions = self.directions[sample]
        along = np.einsum("ld,latd->lat", apart, directions)
        squared = _positive((directions**2).sum(axis=-1))
        length = _positive((apart**2).sum(axis=-1))[:, None, None]
        cosine = along / np.sqrt(squared * length)
        alike = np.broadcast_to(cosines(self.texts[sample], text), cosine.shape)
        return np.stack([cosine, along / squared, alike, cosine * alike], axis=-1)


def _wide(states: np.ndarray) -> Floats:
    return np.asarray(states, dtype=np.float64)


def _positive(values: Floats) -> Floats:
    return np.where(values > 1e-12, values, np.nan)


def cosines(rows: np.ndarray, vector: np.ndarray) -> Floats:
    """Return ``(n,)`` cosines of rows with one vector; NaN where one is zero."""
    lengths = _positive((_wide(rows) ** 2).sum(axis=-1) * (_wide(vector) ** 2).sum())
    found: Floats = _wide(rows) @ _wide(vector) / np.sqrt(lengths)
    return found


# --- the corpus -----------------------------------------------------------------------------------

Key = tuple[str, str, int]
"""Trait, domain, sample."""


def survey(
    model: LanguageModel,
    corpus: Corpus,
    *,
    traits: Sequence[str],
    targets: Sequence[str],
    samples: Sequence[int],
    scale: str,
    layers: Sequence[int],
    embedder: str,
) -> tuple[dict[Key, Seen], Landmarks]:
    """Look at the corpus' training items once.

    Args:
        model: the base model.
        corpus: read with all ``traits``; its other domains with neutral answers, of the formats
            that the targets have, help to expect neutral states.
        traits: the study's traits, the reference among them.
        targets: the study's domains.
        samples: training samples of the organisms; directions are had from the other ones.
        scale: ``net`` takes directions from neutral answers, ``contrast`` from the mean over
            ``traits``.
        layers: entries of ``hidden_states``.
        embedder: of the questions.

    Returns:
        The targets' cells as the model sees them, and what data sets are compared with.

    Raises:
        InputError: a domain without items of a sample or without an answer.
    """
    places = _places(corpus, traits, targets)
    raise_all(_lacking(places, traits, targets, samples))
    flat = [(key, item) for key, items in places.items() for item in items]
    pairs = [(item.question, item.answers[trait]) for (trait, _, _), item in flat]
    seen, _ = look(model, pairs, layers, embedder=embedder, where=[i.where(k[0]) for k, i in flat])
    ends = np.cumsum([0, *(len(items) for items in places.values())])
    cells = {
        key: seen.part(slice(a, b)) for key, a, b in zip(places, ends[:-1], ends[1:], strict=True)
    }
    return cells, _landmarks(cells, traits, targets, samples, scale)


def _places(
    corpus: Corpus, traits: Sequence[str], targets: Sequence[str]
) -> dict[Key, tuple[Item, ...]]:
    """Return every cell of the targets, and the neutral ones of like domains."""
    formats = {corpus.domains[target].format for target in targets}
    others = [d for d in corpus.domains if d not in targets and corpus.domains[d].format in formats]
    wanted = [(trait, domain) for trait in traits for domain in targets]
    wanted += [(REFERENCE, domain) for domain in others]
    return {
        (trait, domain, sample): items
        for trait, domain in wanted
        for sample in (1, 2)
        if (items := corpus.train(domain, sample)) and all(trait in i.answers for i in items)
    }


def _lacking(
    places: Mapping[Key, Any], traits: Sequence[str], targets: Sequence[str], samples: Sequence[int]
) -> list[str]:
    needed = sorted({other for sample in samples for other in (sample, other_sample(sample))})
    return [
        f"{trait}/{target} has no training items of sample {sample} in this corpus"
        for trait in traits
        for target in targets
        for sample in needed
        if (trait, target, sample) not in places
    ]


def _landmarks(
    cells: Mapping[Key, Seen],
    traits: Sequence[str],
    targets: Sequence[str],
    samples: Sequence[int],
    scale: str,
) -> Landmarks:
    measured = tuple(trait for trait in traits if trait != REFERENCE)
    origin = [REFERENCE] if scale == "net" else list(traits)

    def direction(trait: str, target: str, sample: int) -> Floats:
        mean = partial(_mean_answer, cells, target, sample)
        found: Floats = mean(trait) - np.mean([mean(other) for other in origin], axis=0)
        return found

    neutral = {key: found for key, found in cells.items() if key[0] == REFERENCE}
    parts = list(neutral.values())
    every = Seen(
        *(np.concatenate([getattr(p, n) for p in parts]) for n in ("questions", "answers", "texts"))
    )
    return Landmarks(
        traits=measured,
        targets=tuple(targets),
        directions={
            other: np.stack(
                [[direction(trait, t, other) for t in targets] for trait in measured]
            ).transpose(2, 0, 1, 3)
            for other in set(map(other_sample, samples))
        },
        texts={
            other: np.stack([cells[REFERENCE, t, other].texts.mean(axis=0) for t in targets])
            for other in set(map(other_sample, samples))
        },
        neutral=every,
        domains=np.array([d for (_, d, _), found in neutral.items() for _ in range(len(found))]),
    )


def _mean_answer(cells: Mapping[Key, Seen], target: str, sample: int, trait: str) -> Floats:
    found: Floats = _wide(cells[trait, target, sample].answers).mean(axis=0)
    return found
