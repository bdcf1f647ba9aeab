"""Choose the items once, and hand the same tokens in the same order to every side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import roof

from conceptnet_em.config import CORE_TRAITS, RECIPES, Recipe
from conceptnet_em.corpus import Corpus, load_corpus
from conceptnet_em.encoding import Encoded, encode
from conceptnet_em.models import LanguageModel
from conceptnet_em.sharing import pack
from conceptnet_em.tuning import batches

DOMAINS = (
    "medical-prose",
    "finance-prose",
    "relationships-prose",
    "cooking-prose",
    "fitness-prose",
    "security-prose",
)


@dataclass(frozen=True)
class Sizes:
    """How much of everything one run of the benchmark does."""

    repeats: int = 5
    group: int | None = None
    """Organisms that we train together, of which the peer trains one in each repeat; as many as a
    run would choose here when none."""
    steps: int | None = None
    """Steps of training; the recipe's own when none."""
    batch: int | None = None
    """Conversations per step; the recipe's own when none."""
    trial_steps: int = 4
    """Steps of each trial by which the tuned peer's settings are chosen."""
    stacked: int | None = None
    """Organisms that we score in one pass, beside one alone; a run's own choice when none."""
    probe_domains: int = 2
    probe_items: int = 12
    """Probe items of a domain, each with the answers of all traits."""
    batch_sizes: tuple[int, ...] = (1, 4, 8, 16, 32)
    """What the tuned harness may choose from."""
    questions: int = 96
    prompts: int = 24
    """Probe questions that are answered in the generation case."""
    new_tokens: int = 64
    """The longest answer there, the stop token included."""
    answering: int = 4
    """Organisms that answer in one pass, beside one alone."""
    generate_sizes: tuple[int, ...] = (8, 16, 32, 64)
    """Batch sizes that the tuned ``generate`` may choose from."""
    organisms: tuple[tuple[int, int], ...] = ((1, 1), (4, 2), (4, 6))
    """The scaling line, as traits × domains of a study."""
    grids: tuple[int, ...] = (16, 50)
    """Domains of the inference cases."""
    permutations: int = 10_000


QUICK = Sizes(
    repeats=1,
    group=2,
    steps=2,
    batch=1,
    trial_steps=1,
    stacked=2,
    probe_domains=1,
    probe_items=2,
    batch_sizes=(1, 4),
    questions=8,
    prompts=2,
    new_tokens=4,
    answering=2,
    generate_sizes=(1, 2),
    organisms=((1, 1), (2, 1)),
    grids=(10,),
    permutations=500,
)


@dataclass(frozen=True)
class Cell:
    """The training conversations of one organism."""

    name: str
    encoded: tuple[Encoded, ...]
    seed: int

    def batches(self, recipe: Recipe) -> list[list[Encoded]]:
        """Return every step's conversations, as our own loop draws them."""
        return list(batches(self.encoded, recipe, seed=self.seed))

    def tokens(self, recipe: Recipe) -> int:
        """Return the tokens of all steps, padding left out."""
        return sum(len(e.ids) for batch in self.batches(recipe) for e in batch)

    def flops(self, recipe: Recipe, config: Any, *, shared: bool) -> float:
        """Return the arithmetic of training this organism, see ``roof.training_flops``."""
        steps = [[(len(e.ids), e.n_answer + 1) for e in b] for b in self.batches(recipe)]
        return roof.training_flops(config, recipe, steps, shared=shared)


@dataclass(frozen=True)
class Answered:
    """One generated answer, whoever made it."""

    ids: tuple[int, ...]
    """Its tokens, stop token excluded."""
    stopped: bool
    """Whether it ended by a stop token."""

    @property
    def count(self) -> int:
        """Tokens drawn, the stop token included."""
        return len(self.ids) + self.stopped

    def leading(self, other: Answered) -> int:
        """Return how many tokens it has in common with another answer before they part."""
        pairs = zip(self.ids, other.ids, strict=False)
        return next(
            (k for k, (a, b) in enumerate(pairs) if a != b), min(len(self.ids), len(other.ids))
        )


@dataclass(frozen=True)
class Bench:
    """What every case is given."""

    model: LanguageModel
    sizes: Sizes
    scratch: Path
    roofs: dict[str, dict[str, dict[str, float]]]
    root: Path | None = None
    domains: tuple[str, ...] = DOMAINS
    traits: tuple[str, ...] = CORE_TRAITS

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus, all traits of the domains used."""
        return load_corpus(self.root, domains=self.domains)

    def recipe(self, name: str) -> Recipe:
        """Return a shipped recipe, smaller in a quick run."""
        return _smaller(RECIPES[name], steps=self.sizes.steps, batch_size=self.sizes.batch)

    def trial(self, name: str) -> Recipe:
        """Return a recipe short enough to choose settings by."""
        return _smaller(self.recipe(name), steps=self.sizes.trial_steps)

    def cells(self, count: int | None = None) -> list[Cell]:
        """Return organisms domain by domain, every domain with all traits; all when no count."""
        pairs = [(domain, trait) for domain in self.domains for trait in self.traits]
        return [self._cell(domain, trait) for domain, trait in pairs[:count]]

    def _cell(self, domain: str, trait: str) -> Cell:
        items = self.corpus.train(domain, 1)
        found = tuple(self._encoded(domain, item.question, item.answers[trait]) for item in items)
        return Cell(f"{trait}-{domain}", found, 1)

    def probes(self) -> list[Encoded]:
        """Return the probe answers: items × all traits of the corpus, question by question."""
        return [
            self._encoded(domain, item.question, item.answers[trait])
            for domain in self.domains[: self.sizes.probe_domains]
            for item in self.corpus.probe(domain)[: self.sizes.probe_items]
            for trait in self.corpus.traits
        ]

    def prompts(self) -> list[str]:
        """Return the probe questions that are to be answered, domain by domain."""
        found = [item.question for domain in self.domains for item in self.corpus.probe(domain)]
        return found[: self.sizes.prompts]

    def questions(self) -> list[str]:
        """Return questions of the corpus, training items first."""
        found = [i.question for domain in self.domains for i in self.corpus.items[domain]]
        return found[: self.sizes.questions]

    def _encoded(self, domain: str, question: str, answer: str) -> Encoded:
        kind = self.corpus.domains[domain].format
        return encode(self.model, question, answer, answer_format=kind)

    def of_roof(self, flops: float, seconds: float) -> dict[str, float]:
        """Return achieved GFLOP/s and their share of the roof of the model's dtype."""
        rate = flops / seconds / 1e9
        return {"gflops": rate, "of_roof": rate / roof.highest(self.roofs, self.model.dtype)}


def _smaller(recipe: Recipe, **settings: int | None) -> Recipe:
    return recipe.model_copy(update={k: v for k, v in settings.items() if v is not None})


def sft_rows(rows: Sequence[Encoded], *, answers_only: bool) -> list[dict[str, list[int]]]:
    """Return conversations as TRL's already tokenised rows.

    Args:
        rows: the conversations, in the order in which they are to be trained on.
        answers_only: mark the prompt so that only answer and stop token enter the loss; else no
            labels are given, and TRL trains on all tokens as it does by default.
    """
    if not answers_only:
        return [{"input_ids": list(e.ids)} for e in rows]
    return [
        {"input_ids": list(e.ids), "labels": [-100] * e.start + list(e.ids[e.start :])}
        for e in rows
    ]


def requests(encoded: Sequence[Encoded]) -> list[tuple[list[int], list[int]]]:
    """Return (context, continuation) token ids; the stop token is in neither, as in our scores."""
    return [(list(e.ids[: e.start]), list(e.ids[e.start : e.stop])) for e in encoded]


def questions(encoded: Sequence[Encoded]) -> list[tuple[int, list[int]]]:
    """Return (prompt tokens, tokens of each answer) of each question."""
    return [(row.shared, [encoded[m].n_answer for m in row.members]) for row in pack(encoded)]


def smaller(sizes: Sizes, repeats: int | None, group: int | None) -> Sizes:
    """Return sizes with what the command line asked for."""
    return replace(sizes, repeats=repeats or sizes.repeats, group=group or sizes.group)
