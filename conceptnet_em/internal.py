"""What the base model itself finds alike, before any training: states, examples, surprise.

Everything is computed from the items handed in. To predict organisms of one sample give the items
of the other, so that no item's noise is in both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from conceptnet_em.activations import captured, run_up_to
from conceptnet_em.corpus import REFERENCE, Item
from conceptnet_em.encoding import Encoded, encode, encode_prompt
from conceptnet_em.errors import TrainingError, raise_all
from conceptnet_em.geometry import agreement, labelled, spearman_brown
from conceptnet_em.models import LanguageModel
from conceptnet_em.scoring import PackedAnswers, score
from conceptnet_em.sharing import can_pack

POOLINGS = ("question", "prompt-end", "answer")
"""Mean over the question's own tokens; the last token before the answer; mean over the answer's."""

Items = Mapping[str, Sequence[Item]]


def faults_of(items: Items, traits: Sequence[str]) -> list[str]:
    """Return one sentence for each empty domain and each item without one of the answers."""
    faults = [
        f"{domain}: no items to compute a similarity from" for domain in items if not items[domain]
    ]
    return faults + [
        f"{item.id} has no {trait} answer"
        for found in items.values()
        for item in found
        for trait in traits
        if trait not in item.answers
    ]


# --- hidden states --------------------------------------------------------------------------------


def pooled_states(
    model: LanguageModel,
    items: Items,
    trait: str,
    *,
    formats: Mapping[str, str],
    layers: Sequence[int] | None = None,
    batch_size: int = 16,
    side: str = "right",
) -> dict[str, dict[str, np.ndarray]]:
    """Return every pooling of every layer from one forward pass over the trait's conversations.

    The question's states do not depend on the answer behind it, so any trait gives them.

    Args:
        model: the base model.
        items: domain to items.
        trait: whose answers to read.
        formats: domain to ``prose`` or ``code``.
        layers: entries of ``hidden_states``; all, from the embedding to the last block, when none.
        batch_size: conversations per forward pass.
        side: padding side; it must not matter, and a test holds that.

    Returns:
        Pooling to domain to ``(n_items, n_layers, d)``, float32.

    Raises:
        InputError: an empty domain, a missing answer, a layer that does not exist.
        TrainingError: a conversation cannot be encoded.
    """
    raise_all(faults_of(items, [trait]))
    wanted = range(model.n_layers + 1) if layers is None else layers
    rows = [
        _spans(model, item, trait, formats[domain]) for domain in items for item in items[domain]
    ]
    states = span_states(model, rows, list(wanted), batch_size=batch_size, side=side)
    ends = np.cumsum([len(items[domain]) for domain in items])[:-1]
    return {
        pooling: dict(zip(items, np.split(states[:, k], ends), strict=True))
        for k, pooling in enumerate(POOLINGS)
    }


def _spans(
    model: LanguageModel, item: Item, trait: str, answer_format: str
) -> tuple[tuple[int, ...], list[slice]]:
    e = encode(model, item.question, item.answers[trait], answer_format=answer_format)
    _, question = encode_prompt(model, item.question)
    return e.ids, [question, slice(e.start - 1, e.start), slice(e.start, e.stop)]


def span_states(
    model: LanguageModel,
    rows: Sequence[tuple[Sequence[int], Sequence[slice]]],
    layers: Sequence[int],
    *,
    batch_size: int = 16,
    side: str = "right",
) -> np.ndarray:
    """Return the mean hidden state over several spans of each row, every layer at once.

    Args:
        model: the base model.
        rows: token ids and the spans to average over, equally many in every row.
        layers: entries of ``hidden_states``.
        batch_size: rows per forward pass.
        side: padding side.

    Returns:
        ``(n_rows, n_spans, n_layers, d)``, float32.
    """
    width = int(model.config.hidden_size)
    result = np.empty((len(rows), len(rows[0][1]), len(layers), width), dtype=np.float32)
    order = sorted(range(len(rows)), key=lambda k: (len(rows[k][0]), k))
    with torch.inference_mode(), captured(model, layers) as caught:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            ids, mask = model.padded([rows[k][0] for k in chosen], side=side)
            run_up_to(model, model.inputs(ids, mask), layers)
            averages = _averages([rows[k] for k in chosen], ids.shape[1], side).to(model.device)
            for column, layer in enumerate(layers):
                result[chosen, :, column] = (averages @ caught[layer].float()).cpu().numpy()
    return result


def _averages(
    rows: Sequence[tuple[Sequence[int], Sequence[slice]]], length: int, side: str
) -> torch.Tensor:
    """Return ``(batch, n_spans, length)`` weights that average each row over each of its spans."""
    weights = torch.zeros(len(rows), len(rows[0][1]), length)
    for k, (ids, spans) in enumerate(rows):
        shift = length - len(ids) if side == "left" else 0
        for j, span in enumerate(spans):
            weights[k, j, shift + span.start : shift + span.stop] = 1 / (span.stop - span.start)
    return weights


def by_layer(
    states: Mapping[str, np.ndarray],
    layers: Sequence[int],
    measure: Callable[[dict[str, np.ndarray]], pd.DataFrame],
) -> dict[int, pd.DataFrame]:
    """Return a measure of vectors at each layer.

    Args:
        states: domain to ``(n_items, n_layers, d)``.
        layers: the entries of ``hidden_states`` that the second axis holds.
        measure: from domain to ``(n_items, d)`` to a labelled matrix.
    """
    return {
        layer: measure({domain: found[:, k] for domain, found in states.items()})
        for k, layer in enumerate(layers)
    }


# --- surprise -------------------------------------------------------------------------------------


def surprise(
    model: LanguageModel,
    items: Items,
    traits: Sequence[str],
    *,
    formats: Mapping[str, str],
    batch_size: int = 16,
) -> dict[str, dict[str, np.ndarray]]:
    """Return how much the base is surprised by each answer: log perplexity, nats/token.

    Give a trait's part to ``wording.gap`` for the perplexity gap.

    Returns:
        Trait to domain to ``(n_items,)``.

    Raises:
        InputError: an empty domain or a missing answer.
        TrainingError: a conversation cannot be encoded.
    """
    raise_all(faults_of(items, traits))
    some = [(domain, item) for domain in items for item in items[domain]]
    values = _per_token(
        model,
        [
            encode(model, item.question, item.answers[trait], answer_format=formats[domain])
            for domain, item in some
            for trait in traits
        ],
        batch_size,
        packed=can_pack(model),
    ).reshape(len(some), len(traits))
    ends = np.cumsum([len(items[domain]) for domain in items])[:-1]
    return {
        trait: dict(zip(items, np.split(-values[:, k], ends), strict=True))
        for k, trait in enumerate(traits)
    }


def _per_token(
    model: LanguageModel, encoded: Sequence[Encoded], batch_size: int, *, packed: bool
) -> np.ndarray:
    """Return ``(n,)`` mean log-probabilities per answer token, nats."""
    if packed:
        found = PackedAnswers(model, encoded, block=0, batch_size=batch_size).score()
    else:
        found = score(model, encoded, batch_size=batch_size)
    return np.array([parts[0].logprob / parts[0].n_tokens for parts in found])


# --- examples in the prompt -----------------------------------------------------------------------


@dataclass(frozen=True)
class InContext:
    """How examples of a source in the prompt move a target's margin, one trait."""

    trait: str
    domains: tuple[str, ...]
    after_trait: np.ndarray
    """``(D, D, n_targets)``, source × target × item: margins, nats/token, behind the source's
    questions with their trait answers; NaN where an item would be its own example, and where a
    domain has fewer items."""
    after_reference: np.ndarray
    """The same with the same questions' reference answers."""
    alone: np.ndarray
    """``(D, n_targets)``: margins without examples."""

    def shift(self, *, net: bool = True) -> pd.DataFrame:
        """Return the mean shift of the target's margin, nats/token; directed.

        Args:
            net: against the reference's examples; against no examples otherwise.
        """
        values = _mean(self._shifts(net))
        lost = [d for d, x in zip(self.domains, np.diag(values), strict=True) if np.isnan(x)]
        note = f"too few items for examples apart from the targets in {', '.join(lost)}"
        return labelled(values, self.domains, note if lost else "")

    def reliability(self, *, net: bool = True) -> float:
        """Return the split-half reliability of :meth:`shift` over target items, even against odd.

        One halving, Spearman-Brown. NaN where a domain has one target or there are fewer than 3
        domains.
        """
        values = self._shifts(net)
        if values.shape[2] < 2 or len(self.domains) < 3:
            return float("nan")
        first, second = (_mean(values[:, :, k::2]) for k in (0, 1))
        return spearman_brown(agreement(first, second))

    def _shifts(self, net: bool) -> np.ndarray:
        shifts: np.ndarray = self.after_trait - (self.after_reference if net else self.alone)
        return shifts


def _mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over what is there on the last axis; NaN where nothing is."""
    there = (~np.isnan(values)).sum(axis=-1)
    return np.where(there > 0, np.nansum(values, axis=-1) / np.maximum(there, 1), np.nan)


def in_context(
    model: LanguageModel,
    items: Items,
    traits: Sequence[str],
    *,
    formats: Mapping[str, str],
    k: int = 1,
    n_targets: int = 2,
    seed: int = 0,
    batch_size: int = 16,
) -> list[InContext]:
    """Return how k examples of a source, as turns before the question, move a target's margin.

    Examples and targets of a domain are drawn once and apart from each other; every trait and the
    reference have the same. Cost: ``D² * n_targets * (4 * n_traits)`` answers, each behind k
    examples: the dearest of all predictors, hence few targets.

    Args:
        model: the base model.
        items: domain to items.
        traits: the traits; the reference is added to them.
        formats: domain to ``prose`` or ``code``.
        k: examples.
        n_targets: items of each target that are measured.
        seed: of the draw.
        batch_size: conversations per forward pass.

    Raises:
        InputError: an empty domain, a missing answer, ``k`` or ``n_targets`` below 1.
        TrainingError: a conversation cannot be encoded, or is longer than the model was made for.
    """
    wanted = [trait for trait in traits if trait != REFERENCE]
    faults = faults_of(items, [REFERENCE, *wanted])
    faults += [f"k is {k}; it must be at least 1"] if k < 1 else []
    faults += [f"n_targets is {n_targets}; it must be at least 1"] if n_targets < 1 else []
    raise_all(faults)
    plan = _Plan(model, items, formats, k, n_targets, seed, batch_size)
    alone = plan.margins((), wanted)
    shape = (len(wanted), len(items), len(items), n_targets)
    trained, control = np.empty(shape), np.empty(shape)
    for s, source in enumerate(items):
        control[:, s] = plan.margins(plan.turns(source, REFERENCE), wanted)
        for j, trait in enumerate(wanted):
            trained[j, s] = plan.margins(plan.turns(source, trait), [trait])[0]
        if len(items[source]) < plan.needed:
            trained[:, s, s] = control[:, s, s] = np.nan
    return [
        InContext(trait, tuple(items), trained[j], control[j], alone[j])
        for j, trait in enumerate(wanted)
    ]


class _Plan:
    """Which items are examples, which are targets, and how they are scored."""

    def __init__(
        self,
        model: LanguageModel,
        items: Items,
        formats: Mapping[str, str],
        k: int,
        n_targets: int,
        seed: int,
        batch_size: int,
    ) -> None:
        self.model, self.formats, self.batch_size = model, formats, batch_size
        self.needed, self.n_targets = k + n_targets, n_targets
        self.packed = can_pack(model)
        rng = np.random.default_rng(seed)
        drawn = {d: [some[n] for n in rng.permutation(len(some))] for d, some in items.items()}
        self.targets = {d: some[:n_targets] for d, some in drawn.items()}
        self.examples = {d: some[::-1][:k] for d, some in drawn.items()}

    def turns(self, source: str, trait: str) -> tuple[tuple[str, str], ...]:
        """Return question and answer of each example."""
        return tuple((item.question, item.answers[trait]) for item in self.examples[source])

    def margins(self, turns: Sequence[tuple[str, str]], traits: Sequence[str]) -> np.ndarray:
        """Return ``(n_traits, D, n_targets)`` margins, nats/token, behind these turns."""
        found = np.full((len(traits), len(self.targets), self.n_targets), np.nan)
        places = [(t, n) for t, some in enumerate(self.targets.values()) for n in range(len(some))]
        answers = (REFERENCE, *traits)
        encoded = [
            encode_after(
                self.model, turns, item.question, item.answers[a], answer_format=self.formats[d]
            )
            for d, some in self.targets.items()
            for item in some
            for a in answers
        ]
        values = _per_token(self.model, encoded, self.batch_size, packed=self.packed)
        for (t, n), row in zip(places, values.reshape(-1, len(answers)), strict=True):
            found[:, t, n] = row[1:] - row[0]
        return found


def encode_after(
    model: LanguageModel,
    turns: Sequence[tuple[str, str]],
    question: str,
    answer: str,
    *,
    answer_format: str = "prose",
) -> Encoded:
    """Tokenise a conversation behind earlier turns; its answer has the tokens it has alone.

    Args:
        model: whose tokenizer, template and system prompt to use.
        turns: earlier questions and answers.
        question: the last user's turn.
        answer: the last assistant's turn.
        answer_format: ``prose`` or ``code``.

    Raises:
        TrainingError: the template renders a long conversation otherwise than turn by turn, or it
            is longer than the model was made for.
    """
    alone = encode(model, question, answer, answer_format=answer_format)
    said = [{"role": "system", "content": model.system}] if model.system is not None else []
    for q, a in turns:
        said += [{"role": "user", "content": q}, {"role": "assistant", "content": a.strip()}]
    said.append({"role": "user", "content": question})
    prompt = _rendered(model, said, prompt=True)
    ids = prompt + alone.ids[alone.start :]
    whole = _rendered(
        model, [*said, {"role": "assistant", "content": answer.strip()}], prompt=False
    )
    if whole[: len(ids)] != ids:
        raise TrainingError(
            f"{model.name}'s chat template does not append turns one after the other, so examples "
            f"cannot stand before the question {question[:60]!r}"
        )
    if len(ids) > model.max_tokens:
        raise TrainingError(
            f"{len(ids)} tokens with {len(turns)} examples before the question {question[:60]!r}, "
            f"but {model.name} was made for {model.max_tokens}: take fewer examples"
        )
    return Encoded(ids, len(prompt), len(prompt) + alone.n_answer, alone.parts)


def _rendered(
    model: LanguageModel, turns: list[dict[str, str]], *, prompt: bool
) -> tuple[int, ...]:
    text = model.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt)
    return tuple(model.tokenizer(str(text), add_special_tokens=False)["input_ids"])
