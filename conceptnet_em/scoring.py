"""Score answers: summed log-probabilities of every item's answers, whole and by part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from conceptnet_em.encoding import PARTS, Encoded, answer_positions
from conceptnet_em.models import LanguageModel, pad


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
    ids, mask = pad([e.ids for e in batch], model.pad_id, side=side, device=model.device)
    rows, positions, targets = answer_positions(batch, stop=False, side=side)
    with torch.inference_mode():
        logits = model.answer_logits(ids, mask, rows.to(model.device), positions.to(model.device))
        chosen = logits.log_softmax(dim=-1)[torch.arange(len(targets)), targets]
    values = chosen.double().cpu().numpy()
    ends = np.cumsum([e.n_answer for e in batch])
    return np.split(values, ends[:-1])


def _by_part(encoded: Encoded, tokens: np.ndarray) -> list[AnswerScore]:
    masks = {part: encoded.in_part(part) for part in PARTS}
    return [
        AnswerScore(part, int(mask.sum()), float(tokens[mask].sum()))
        for part, mask in masks.items()
        if mask.any()
    ]
