"""Score answers: summed log-probabilities of every item's answers, whole and by part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conceptnet_em.encoding import PARTS, Encoded, answer_positions
from conceptnet_em.logprobs import chosen_logprobs
from conceptnet_em.models import LanguageModel
from conceptnet_em.sharing import (
    Packed,
    abreast,
    attending_by_branch,
    pack,
    row_inputs,
    row_places,
    skipping,
    states_entering,
)


@dataclass(frozen=True)
class AnswerScore:
    """One part of one answer under one model."""

    part: str
    """``all``, ``code`` or ``remark``."""
    n_tokens: int
    """Tokens of the part, stop token excluded."""
    logprob: float
    """Summed log-probability, nats."""


def score(
    model: LanguageModel,
    encoded: Sequence[Encoded],
    *,
    batch_size: int = 16,
    side: str = "right",
) -> list[list[AnswerScore]]:
    """Return, for each conversation in the order given, the scores of its answer's parts.

    Conversations are batched by length; only answer positions go through the output layer, and
    the log-softmax is float32. The stop token is left out.

    Args:
        model: the base, or the base wearing an adapter.
        encoded: the conversations.
        batch_size: conversations per forward pass.
        side: padding side; it must not matter, and a test holds that.
    """
    order = sorted(range(len(encoded)), key=lambda k: (len(encoded[k].ids), k))
    found: list[list[AnswerScore]] = [[] for _ in encoded]
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        for index, tokens in zip(
            chosen, _token_logprobs(model, [encoded[k] for k in chosen], side), strict=True
        ):
            found[index] = _by_part(encoded[index], tokens)
    return found


def _token_logprobs(model: LanguageModel, batch: Sequence[Encoded], side: str) -> list[np.ndarray]:
    """Return ``(n_answer,)`` log-probabilities, nats, for each conversation of a batch."""
    ids, mask = model.padded([e.ids for e in batch], side=side)
    places = answer_positions(batch, stop=False, side=side)
    values = chosen_logprobs(model, model.inputs(ids, mask), places).double().cpu().numpy()
    return np.split(values, np.cumsum([e.n_answer for e in batch])[:-1])


class PackedAnswers:
    """Answers that are scored under many adapters: packed once, the blocks below run once.

    The plain path is :func:`score`; this one agrees with it within rounding.
    """

    def __init__(
        self, model: LanguageModel, encoded: Sequence[Encoded], *, block: int, batch_size: int
    ) -> None:
        """Pack answers to the same question behind one prompt.

        Args:
            model: the base.
            encoded: the conversations.
            block: the lowest block that any adapter touches.
            batch_size: about how many conversations share a forward pass.
        """
        self.model, self.encoded, self.block = model, list(encoded), block
        questions = pack(encoded)
        per_question = len(encoded) / max(1, len(questions))
        step = max(1, round(batch_size / per_question))
        self._batches = [questions[k : k + step] for k in range(0, len(questions), step)]
        self._entering: dict[int, Tensor] = {}

    def score(self) -> list[list[AnswerScore]]:
        """Return the scores of each conversation, in order, under what the model now wears."""
        return self.score_stack(1)[0]

    def score_stack(self, n: int) -> list[list[list[AnswerScore]]]:
        """Return the same for each of the ``n`` organisms stacked on the model, one by one."""
        found: list[list[list[AnswerScore]]] = [[[] for _ in self.encoded] for _ in range(n)]
        for number, rows in enumerate(self._batches):
            for k, values in enumerate(self._batch(number, rows, n)):
                members = [member for row in rows for member in row.members]
                ends = np.cumsum([self.encoded[m].n_answer for m in members])[:-1]
                for member, tokens in zip(members, np.split(values, ends), strict=True):
                    found[k][member] = _by_part(self.encoded[member], tokens)
        return found

    def _batch(self, number: int, rows: Sequence[Packed], n: int) -> np.ndarray:
        """Return ``(n, tokens)`` log-probabilities, nats, of one batch under n organisms."""
        at, positions, targets = row_places(rows, self.encoded)
        shift = torch.arange(n)[:, None]
        places = (at + shift).ravel(), positions.repeat(n), targets.repeat(n)
        inputs = row_inputs(self.model, rows)
        with attending_by_branch(self.model):
            below = self._below(number, inputs)
            states = None if below is None else below.repeat(n, 1, 1)
            with skipping(self.model, self.block, states):
                values = chosen_logprobs(self.model, abreast(inputs, n), places)
        found: np.ndarray = values.double().cpu().numpy().reshape(n, -1)
        return found

    def _below(self, number: int, inputs: dict[str, Any]) -> Tensor | None:
        if self.block and number not in self._entering:
            self._entering[number] = states_entering(self.model, inputs, self.block)
        return self._entering.get(number)


def _by_part(encoded: Encoded, tokens: np.ndarray) -> list[AnswerScore]:
    masks = {part: encoded.in_part(part) for part in PARTS}
    return [
        AnswerScore(part, int(mask.sum()), float(tokens[mask].sum()))
        for part, mask in masks.items()
        if mask.any()
    ]
