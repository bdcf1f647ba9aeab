"""The similarities that may predict transfer: one function each, one table of them all.

A predictor of one's own is a function from :class:`predictor_inputs.Inputs` to similarities,
wrapped in a :class:`Predictor`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from conceptnet_em import geometry, gradients, graph, posthoc, wording
from conceptnet_em.corpus import REFERENCE
from conceptnet_em.errors import InputError, raise_all, unknown
from conceptnet_em.internal import in_context as shifts_in_context
from conceptnet_em.internal import surprise
from conceptnet_em.predictor_inputs import Inputs, Vectors
from conceptnet_em.purposes import functional_structure
from conceptnet_em.records import Similarity
from conceptnet_em.similarity import centroid_cosine, split_half_reliability

EXTERNAL, INTERNAL, POST_HOC = "external", "internal", "post hoc"


@dataclass(frozen=True)
class Predictor:
    """One way to say how alike two domains are."""

    name: str
    compute: Callable[[Inputs], list[Similarity]]
    kind: str
    """``external`` (no language model under test), ``internal`` (the base model only) or
    ``post hoc`` (the organisms themselves: an explanation, never a forecast)."""
    reads: str
    """What it is computed from."""
    cost: str
    """What it takes beside the run."""
    reference: str
    directed: bool = False
    """Whether source → target may differ from target → source."""
    specific: bool = False
    """Whether each trait has its own."""
    layered: bool = False
    """Whether it is computed at a layer."""


# --- external -------------------------------------------------------------------------------------


def text(inputs: Inputs) -> list[Similarity]:
    """Cosine of sentence-embedding centroids of the questions, uncentred."""
    return [_centroids("text", inputs.questions(), inputs)]


def _centroids(
    name: str, vectors: Vectors, inputs: Inputs, *, trait: str | None = None
) -> Similarity:
    values = centroid_cosine(vectors)
    return inputs.similarity(name, values, split_half_reliability(vectors), trait=trait)


def text_centred(inputs: Inputs) -> list[Similarity]:
    """Cosine of question centroids less the mean over the domains."""
    return inputs.shared("text-centred", geometry.centred_cosine, inputs.questions())


def text_whitened(inputs: Inputs) -> list[Similarity]:
    """Cosine of question centroids where directions that vary within domains count less."""
    return inputs.shared("text-whitened", _whitened_cosine, inputs.questions())


def _whitened_cosine(vectors: Vectors) -> pd.DataFrame:
    return centroid_cosine(geometry.whiten(vectors))


def text_direction(inputs: Inputs) -> list[Similarity]:
    """Cosine of mean differences of sentence embeddings, trait minus neutral answers."""
    found = []
    for trait in inputs.others:
        own, neutral = inputs.answers(trait), inputs.answers(REFERENCE)
        differences = {domain: own[domain] - neutral[domain] for domain in own}
        found.append(_centroids("text-direction", differences, inputs, trait=trait))
    return found


def tfidf_questions(inputs: Inputs) -> list[Similarity]:
    """Cosine of mean TF-IDF vectors of the questions."""
    texts = {domain: [i.question for i in items] for domain, items in inputs.items.items()}
    return inputs.shared("tfidf-questions", wording.tfidf, texts)


def tfidf_all(inputs: Inputs) -> list[Similarity]:
    """Cosine of mean TF-IDF vectors of questions and neutral answers."""
    texts = {
        domain: [f"{i.question} {i.answers[REFERENCE]}" for i in items]
        for domain, items in inputs.items.items()
    }
    return inputs.shared("tfidf-all", wording.tfidf, texts)


def trait_words(inputs: Inputs) -> list[Similarity]:
    """Cosine of mean TF-IDF differences, trait minus neutral answers: the standing control."""
    found = []
    for trait in inputs.others:
        pairs = {
            domain: [(i.answers[trait], i.answers[REFERENCE]) for i in items]
            for domain, items in inputs.items.items()
        }
        (one,) = inputs.shared("trait-words", wording.trait_words, pairs)
        found.append(replace(one, trait=trait))
    return found


def mmd(inputs: Inputs) -> list[Similarity]:
    """Minus the squared maximum mean discrepancy of the questions' embeddings, unbiased."""
    return inputs.shared("mmd", geometry.mmd, inputs.questions())


def energy(inputs: Inputs) -> list[Similarity]:
    """Minus the energy distance of the questions' embeddings, unbiased."""
    return inputs.shared("energy", geometry.energy, inputs.questions())


def nearest_neighbour(inputs: Inputs) -> list[Similarity]:
    """How near a target's questions have their nearest question of the source, hubs corrected."""
    return inputs.shared("nearest-neighbour", geometry.nearest_neighbour, inputs.questions())


def purpose(inputs: Inputs) -> list[Similarity]:
    """How alike the mixes of what is asked for are: advice, explanation, decision, artefact."""
    texts = {domain: [i.question for i in items] for domain, items in inputs.items.items()}
    return inputs.shared("purpose", functional_structure, texts)


def same_format(inputs: Inputs) -> list[Similarity]:
    """0 where two domains have the same format, -1 where one is prose and the other code."""
    return [inputs.similarity("same-format", wording.same_format(inputs.formats), 1.0)]


def length_gap(inputs: Inputs) -> list[Similarity]:
    """Minus the difference of mean log words of the neutral answers."""
    lengths = {
        domain: np.log([len(i.answers[REFERENCE].split()) for i in items])
        for domain, items in inputs.items.items()
    }
    return inputs.shared("length-gap", wording.gap, lengths)


def perplexity_gap(inputs: Inputs) -> list[Similarity]:
    """Minus the difference of the base's mean log perplexity on the neutral answers."""
    found = surprise(inputs.model, inputs.items, [REFERENCE], formats=inputs.formats)
    return inputs.shared("perplexity-gap", wording.gap, found[REFERENCE])


def text_path(inputs: Inputs) -> list[Similarity]:
    """Minus the length of the shortest path in the neighbour graph of ``text``."""
    return _graph("path", inputs)


def text_pagerank(inputs: Inputs) -> list[Similarity]:
    """Where a walk on that graph is found that keeps returning to the source."""
    return _graph("pagerank", inputs)


def text_heat(inputs: Inputs) -> list[Similarity]:
    """How much of a unit of heat at the source is at the target after a while."""
    return _graph("heat", inputs)


def _graph(kind: str, inputs: Inputs) -> list[Similarity]:
    """Return one of the graph's predictors, for the smallest usual number of neighbours."""
    values = centroid_cosine(inputs.questions())
    k = next(iter(graph.possible_k(len(values), graph.KS)), max(1, len(values) // 2))
    found = inputs.once("graph", lambda: graph.graph_similarities(values, ks=[k]))
    one = inputs.similarity(f"text-{kind}", found[f"{kind}-k{k}"], float("nan"))
    said = f"{k} nearest neighbours, mutual"
    return [replace(one, basis="; ".join(filter(None, [said, one.basis])))]


# --- internal -------------------------------------------------------------------------------------


def activation(inputs: Inputs) -> list[Similarity]:
    """Cosine of hidden-state centroids of the questions' tokens, uncentred."""
    return _states("activation", "question", inputs)


def activation_end(inputs: Inputs) -> list[Similarity]:
    """Cosine of hidden-state centroids at the last token before the answer."""
    return _states("activation-end", "prompt-end", inputs)


def activation_answer(inputs: Inputs) -> list[Similarity]:
    """Cosine of hidden-state centroids of the neutral answers' tokens."""
    return _states("activation-answer", "answer", inputs)


def _states(name: str, pooling: str, inputs: Inputs) -> list[Similarity]:
    states = inputs.states(pooling)
    return inputs.layered(name, centroid_cosine, states, reliability=split_half_reliability)


def activation_whitened(inputs: Inputs) -> list[Similarity]:
    """Cosine of whitened hidden-state centroids of the questions, covariance shrunken."""
    return inputs.layered("activation-whitened", _whitened_cosine, inputs.states("question"))


def subspace(inputs: Inputs) -> list[Similarity]:
    """Mean squared cosine of the principal angles between the questions' main subspaces."""
    return inputs.layered("subspace", geometry.subspace_overlap, inputs.states("question"))


def trait_direction(inputs: Inputs) -> list[Similarity]:
    """Cosine of difference-of-means vectors, trait minus neutral answers."""
    return [
        one
        for trait in inputs.others
        for one in inputs.layered(
            "trait-direction",
            centroid_cosine,
            inputs.directions(trait),
            trait=trait,
            reliability=split_half_reliability,
        )
    ]


def trait_direction_pure(inputs: Inputs) -> list[Similarity]:
    """The same with the items' noise taken off the vectors' lengths (disattenuated)."""
    return [
        one
        for trait in inputs.others
        for one in inputs.layered(
            "trait-direction-pure",
            geometry.trait_direction,
            inputs.directions(trait),
            trait=trait,
        )
    ]


def in_context(inputs: Inputs) -> list[Similarity]:
    """How an example of the source in the prompt moves the target's margin, against neutral."""
    found = shifts_in_context(inputs.model, inputs.items, inputs.others, formats=inputs.formats)
    return [
        inputs.similarity("in-context", one.shift(), one.reliability(), trait=one.trait)
        for one in found
    ]


def gradient(inputs: Inputs) -> list[Similarity]:
    """Cosine of the source's loss gradient with the target's margin gradient, at the start."""
    return _gradients("gradient", inputs, net=False)


def gradient_net(inputs: Inputs) -> list[Similarity]:
    """The same, the neutral answers' loss gradient taken off the source's."""
    return _gradients("gradient-net", inputs, net=True)


def _gradients(name: str, inputs: Inputs, *, net: bool) -> list[Similarity]:
    return [
        inputs.similarity(
            name,
            gradients.gradient_cosine(gram, net=net),
            gradients.gradient_reliability(gram, net=net),
            trait=gram.trait,
        )
        for gram in inputs.grams()
    ]


def gradient_nats(inputs: Inputs) -> list[Similarity]:
    """First-order forecast of net transfer, in nats/token for learning rates that add up to 1."""
    return [
        inputs.similarity(
            "gradient-nats",
            gradients.forecast(gram),
            gradients.gradient_reliability(gram),
            trait=gram.trait,
        )
        for gram in inputs.grams()
    ]


# --- post hoc -------------------------------------------------------------------------------------


def update_cosine(inputs: Inputs) -> list[Similarity]:
    """Cosine of organisms' weight updates B·A, the control organisms' taken off."""
    control = inputs.organisms.get(REFERENCE, {})
    return [
        inputs.similarity(
            "update-cosine",
            posthoc.update_cosine(inputs.organisms[trait], control=control),
            float("nan"),
            trait=trait,
        )
        for trait in _trained(inputs)
    ]


def _trained(inputs: Inputs) -> list[str]:
    """Return the traits with an organism, and a control organism, of every domain."""
    wanted = set(inputs.items)
    whole = [trait for trait, found in inputs.organisms.items() if wanted <= set(found)]
    return [trait for trait in inputs.others if trait in whole and REFERENCE in whole]


def shift_along(inputs: Inputs) -> list[Similarity]:
    """How far organisms move a target's states along its trait direction, above the control's."""
    return _moved("shift-along", inputs, along=True)


def shift_cosine(inputs: Inputs) -> list[Similarity]:
    """Cosine of the ways organisms move hidden states, the control organisms' taken off."""
    return _moved("shift-cosine", inputs, along=False)


def _moved(name: str, inputs: Inputs, *, along: bool) -> list[Similarity]:
    found = []
    for trait in _trained(inputs):
        moved = inputs.shifts(trait).minus(inputs.shifts(REFERENCE))
        directions = inputs.directions(trait, layers=inputs.moved_layers)
        axes = {d: rows.mean(axis=0) for d, rows in directions.items()}

        def of(half: int | None, moved: Any = moved, axes: Any = axes) -> dict[int, pd.DataFrame]:
            if along:
                return posthoc.shift_along(moved, axes, half=half)
            return posthoc.shift_cosine(moved, half=half)

        first, second = of(0), of(1)
        for layer, values in of(None).items():
            sure = posthoc.halves_reliability(first[layer], second[layer])
            one = inputs.similarity(name, values, sure, trait=trait)
            found.append(replace(one, layer=layer))
    return found


# --- the table ------------------------------------------------------------------------------------

QUESTIONS, ANSWERS = "questions", "questions and answers"
FAST, PASS = "seconds", "one forward pass over the items"
TRAIT_PASS = "one forward pass over the items, each trait's answers"
OWN: dict[str, Any] = {"specific": True}
LAYER: dict[str, Any] = {"layered": True}
BOTH: dict[str, Any] = OWN | {"directed": True}
TABLE: dict[str, Predictor] = {
    one.name: one
    for one in (
        Predictor("text", text, EXTERNAL, QUESTIONS, FAST, "Reimers & Gurevych 2019"),
        Predictor("text-centred", text_centred, EXTERNAL, QUESTIONS, FAST, "Mu & Viswanath 2018"),
        Predictor("text-whitened", text_whitened, EXTERNAL, QUESTIONS, FAST, "Su et al. 2021"),
        Predictor(
            "text-direction", text_direction, EXTERNAL, ANSWERS, FAST, "Park et al. 2024", **OWN
        ),
        Predictor("text-path", text_path, EXTERNAL, QUESTIONS, FAST, "Dijkstra 1959"),
        Predictor(
            "text-pagerank", text_pagerank, EXTERNAL, QUESTIONS, FAST, "Page et al. 1999",
            directed=True,
        ),
        Predictor("text-heat", text_heat, EXTERNAL, QUESTIONS, FAST, "Kondor & Lafferty 2002"),
        Predictor(
            "tfidf-questions", tfidf_questions, EXTERNAL, QUESTIONS, FAST, "Salton & Buckley 1988"
        ),
        Predictor("tfidf-all", tfidf_all, EXTERNAL, ANSWERS, FAST, "Salton & Buckley 1988"),
        Predictor(
            "trait-words", trait_words, EXTERNAL, ANSWERS, FAST, "Salton & Buckley 1988", **OWN
        ),
        Predictor("mmd", mmd, EXTERNAL, QUESTIONS, FAST, "Gretton et al. 2012"),
        Predictor("energy", energy, EXTERNAL, QUESTIONS, FAST, "Székely & Rizzo 2013"),
        Predictor(
            "nearest-neighbour", nearest_neighbour, EXTERNAL, QUESTIONS, FAST,
            "Conneau et al. 2018", directed=True,
        ),
        Predictor("purpose", purpose, EXTERNAL, QUESTIONS, FAST, "–"),
        Predictor("same-format", same_format, EXTERNAL, "formats", FAST, "–"),
        Predictor("length-gap", length_gap, EXTERNAL, ANSWERS, FAST, "–"),
        Predictor("perplexity-gap", perplexity_gap, INTERNAL, ANSWERS, PASS, "–"),
        Predictor(
            "activation", activation, INTERNAL, QUESTIONS, PASS, "Kornblith et al. 2019", **LAYER
        ),
        Predictor(
            "activation-end", activation_end, INTERNAL, QUESTIONS, PASS, "Zou et al. 2023", **LAYER
        ),
        Predictor(
            "activation-answer", activation_answer, INTERNAL, ANSWERS, PASS, "Chen et al. 2025",
            **LAYER,
        ),
        Predictor(
            "activation-whitened", activation_whitened, INTERNAL, QUESTIONS, PASS,
            "Ledoit & Wolf 2004", **LAYER,
        ),
        Predictor(
            "subspace", subspace, INTERNAL, QUESTIONS, PASS, "Björck & Golub 1973", **LAYER
        ),
        Predictor(
            "trait-direction", trait_direction, INTERNAL, ANSWERS, TRAIT_PASS, "Chen et al. 2025",
            **OWN, **LAYER,
        ),
        Predictor(
            "trait-direction-pure", trait_direction_pure, INTERNAL, ANSWERS, TRAIT_PASS,
            "Spearman 1904", **OWN, **LAYER,
        ),
        Predictor(
            "in-context", in_context, INTERNAL, ANSWERS,
            "domains² × 2 items × 4 traits answers behind an example", "Brown et al. 2020", **BOTH,
        ),
        Predictor(
            "gradient", gradient, INTERNAL, ANSWERS, "about 1.4 training epochs of every cell",
            "Pruthi et al. 2020", **BOTH,
        ),
        Predictor(
            "gradient-net", gradient_net, INTERNAL, ANSWERS,
            "about 1.4 training epochs of every cell", "Xia et al. 2024", **BOTH,
        ),
        Predictor(
            "gradient-nats", gradient_nats, INTERNAL, ANSWERS,
            "about 1.4 training epochs of every cell", "Pruthi et al. 2020", **BOTH,
        ),
        Predictor(
            "update-cosine", update_cosine, POST_HOC, "organisms", FAST, "Ilharco et al. 2023",
            **OWN,
        ),
        Predictor(
            "shift-along", shift_along, POST_HOC, "organisms, questions",
            "one forward pass over the questions under every organism", "Chen et al. 2025",
            **BOTH, **LAYER,
        ),
        Predictor(
            "shift-cosine", shift_cosine, POST_HOC, "organisms, questions",
            "one forward pass over the questions under every organism", "Soligo et al. 2025",
            **OWN, **LAYER,
        ),
    )
}  # fmt: skip
"""Every predictor by name."""


def chosen(names: Sequence[str | Predictor]) -> list[Predictor]:
    """Return predictors by name; one's own stand for themselves.

    Raises:
        InputError: unknown names.
    """
    wrong = [n for n in names if isinstance(n, str) and n not in TABLE]
    raise_all([unknown("predictor", n, TABLE) for n in wrong], InputError)
    return [TABLE[n] if isinstance(n, str) else n for n in names]


def listing(wanted: Sequence[Predictor]) -> str:
    """Return a table for the terminal, two lines a predictor."""
    head = f"{'name':<22}{'kind':<10}{'directed':<10}{'by trait':<10}{'at a layer':<12}"
    lines = [head + "what it is"]
    for one in wanted:
        marks = ["yes" if yes else "–" for yes in (one.directed, one.specific, one.layered)]
        what = (one.compute.__doc__ or "").strip().splitlines() or [""]
        lines += [
            f"{one.name:<22}{one.kind:<10}{marks[0]:<10}{marks[1]:<10}{marks[2]:<12}{what[0]}",
            f"{'':<22}reads {one.reads}; takes {one.cost}; {one.reference}",
        ]
    return "\n".join(lines)
