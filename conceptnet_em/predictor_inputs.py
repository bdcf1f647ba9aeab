"""What predictors look at: training items, embeddings, hidden states, gradients, organisms.

Organisms trained on sample 1 are predicted from the training items of sample 2 and conversely, so
that no item's noise is in both transfer and predictor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from conceptnet_em.activations import middle_layer
from conceptnet_em.config import RECIPES, Recipe
from conceptnet_em.corpus import REFERENCE, Corpus, Item, other_sample
from conceptnet_em.embeddings import embed
from conceptnet_em.errors import InputError
from conceptnet_em.geometry import split_half
from conceptnet_em.gradients import GradientGram, cell_gradients
from conceptnet_em.internal import pooled_states
from conceptnet_em.models import LanguageModel
from conceptnet_em.posthoc import Shifts, shifts
from conceptnet_em.records import Similarity

Vectors = dict[str, np.ndarray]
Measure = Callable[[Any], pd.DataFrame]
Made = TypeVar("Made")


@dataclass(frozen=True)
class Inputs:
    """What a predictor may look at; what several look at is computed once."""

    items: Mapping[str, Sequence[Item]]
    """Domain to the training items of the other sample."""
    formats: Mapping[str, str]
    """Domain to ``prose`` or ``code``."""
    traits: Sequence[str]
    """The study's traits."""
    model: LanguageModel
    embedder: str
    layers: tuple[int, ...]
    """Entries of ``hidden_states`` that internal predictors are computed at."""
    replicate: int
    """The replicate whose transfer is to be predicted."""
    recipe: Recipe = RECIPES["rank1"]
    """Of the organisms; its adapters are those whose gradients are taken."""
    organisms: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)
    """Trait to source to adapter folder, for what is post hoc."""
    _made: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)
    _cost: dict[Hashable, float] = field(default_factory=dict, repr=False, compare=False)
    _used: set[Hashable] = field(default_factory=set, repr=False, compare=False)

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return what ``make`` gives, calling it the first time only."""
        if key not in self._made:
            start = time.perf_counter()
            self._made[key] = make()
            self._cost[key] = time.perf_counter() - start
        self._used.add(key)
        found: Made = self._made[key]
        return found

    def timed(self, compute: Callable[[], Made]) -> tuple[Made, float]:
        """Return a result and its seconds, with those of what it found already computed."""
        before = set(self._made)
        self._used.clear()
        start = time.perf_counter()
        found = compute()
        spent = time.perf_counter() - start
        return found, spent + sum(self._cost[key] for key in self._used & before)

    @property
    def others(self) -> list[str]:
        """The traits besides the reference."""
        return [trait for trait in self.traits if trait != REFERENCE]

    def questions(self) -> Vectors:
        """Return domain to ``(n_items, d)``: sentence embeddings of the questions."""
        return self.once("questions", lambda: self._embedded(lambda item: item.question))

    def answers(self, trait: str) -> Vectors:
        """Return domain to ``(n_items, d)``: sentence embeddings of the trait's answers."""
        return self.once(
            ("answers", trait), lambda: self._embedded(lambda item: item.answers[trait])
        )

    def _embedded(self, text_of: Callable[[Item], str]) -> Vectors:
        return {
            domain: embed([text_of(item) for item in items], embedder=self.embedder)
            for domain, items in self.items.items()
        }

    def states(
        self, pooling: str, trait: str = REFERENCE, *, layers: tuple[int, ...] = ()
    ) -> Vectors:
        """Return domain to ``(n_items, n_layers, d)``, see :func:`internal.pooled_states`."""
        wanted = layers or self.layers
        return self.once(
            ("states", trait, wanted),
            lambda: pooled_states(
                self.model, self.items, trait, formats=self.formats, layers=wanted
            ),
        )[pooling]

    def directions(self, trait: str, *, layers: tuple[int, ...] = ()) -> Vectors:
        """Return domain to ``(n_items, n_layers, d)``: answer states, trait minus reference."""
        own, neutral = (self.states("answer", t, layers=layers) for t in (trait, REFERENCE))
        return {domain: own[domain] - neutral[domain] for domain in own}

    def grams(self) -> list[GradientGram]:
        """Return the inner products of all gradients, trait by trait."""
        return self.once(
            "grams",
            lambda: cell_gradients(
                self.model, self.recipe, self.items, traits=self.traits, formats=self.formats
            ),
        )

    @property
    def moved_layers(self) -> tuple[int, ...]:
        """The layers an adapter can move: where none of ``layers`` is, one halfway above it."""
        n = self.model.n_layers
        lowest = self.recipe.layer_numbers(n)[0]  # hidden_states[lowest] is what enters that block
        return tuple(layer for layer in self.layers if layer > lowest) or ((lowest + 1 + n) // 2,)

    def shifts(self, trait: str) -> Shifts:
        """Return how the trait's organisms move hidden states, see :func:`posthoc.shifts`."""
        return self.once(
            ("shifts", trait),
            lambda: shifts(
                self.model,
                self.recipe,
                {domain: self.organisms[trait][domain] for domain in self.items},
                {domain: [i.question for i in items] for domain, items in self.items.items()},
                layers=self.moved_layers,
            ),
        )

    def shared(self, name: str, measure: Measure, items: Mapping[str, Any]) -> list[Similarity]:
        """Return one measure of items as a similarity for all traits."""
        return [self.similarity(name, measure(items), split_half(measure, items))]

    def layered(
        self,
        name: str,
        measure: Measure,
        states: Vectors,
        *,
        trait: str | None = None,
        reliability: Callable[[Vectors], float] | None = None,
    ) -> list[Similarity]:
        """Return one measure of hidden states, layer by layer."""
        found = []
        for k, layer in enumerate(self.layers):
            vectors = {domain: rows[:, k] for domain, rows in states.items()}
            halves = reliability or (lambda v: split_half(measure, v))
            one = self.similarity(name, measure(vectors), halves(vectors), trait=trait)
            found.append(replace(one, layer=layer))
        return found

    def similarity(
        self, name: str, values: pd.DataFrame, reliability: float, *, trait: str | None = None
    ) -> Similarity:
        """Return a labelled matrix as the similarity that may predict this replicate."""
        return Similarity(
            predictor=name,
            values=values,
            trait=trait,
            replicate=self.replicate,
            reliability=reliability,
            basis=str(values.attrs.get("note", "")),
        )


def inputs_for(
    corpus: Corpus,
    model: LanguageModel,
    *,
    traits: Sequence[str],
    domains: Sequence[str],
    replicate: int,
    embedder: str,
    layers: Sequence[int] = (),
    recipe: Recipe = RECIPES["rank1"],
    organisms: Mapping[str, Mapping[str, Path]] | None = None,
) -> Inputs:
    """Return what predictors of one replicate look at; the middle layer when none is named.

    Raises:
        InputError: a domain has no items of the other sample.
    """
    sample = other_sample(replicate)
    items = {domain: corpus.train(domain, sample) for domain in domains}
    if empty := [domain for domain, found in items.items() if not found]:
        raise InputError(
            f"no training items of sample {sample} in {', '.join(empty)}: predictors of replicate "
            f"{replicate} need them"
        )
    return Inputs(
        items=items,
        formats={domain: corpus.domains[domain].format for domain in domains},
        traits=traits,
        model=model,
        embedder=embedder,
        layers=tuple(layers) or (middle_layer(model),),
        replicate=replicate,
        recipe=recipe,
        organisms=organisms or {},
    )
