"""Turn a conversation into tokens that know which of them are the answer, and which part of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conceptnet_em.corpus import answer_parts
from conceptnet_em.errors import TrainingError
from conceptnet_em.models import LanguageModel, row_starts

PARTS = ("all", "code", "remark")


@dataclass(frozen=True)
class Encoded:
    """One conversation as tokens."""

    ids: tuple[int, ...]
    """Token ids, from the first of the template to the stop token."""
    start: int
    """Index of the first answer token."""
    stop: int
    """Index of the stop token, the first after the answer."""
    parts: tuple[str, ...]
    """Part of each answer token: ``code``, ``remark`` or empty (prose, fences)."""

    @property
    def n_answer(self) -> int:
        """Answer tokens, stop token excluded."""
        return self.stop - self.start

    def in_part(self, part: str) -> np.ndarray:
        """Return ``(n_answer,)`` booleans: which answer tokens a part holds."""
        if part == "all":
            return np.ones(self.n_answer, dtype=bool)
        return np.array([mine == part for mine in self.parts], dtype=bool)


def _turns(model: LanguageModel, question: str, answer: str | None = None) -> list[dict[str, str]]:
    turns = [{"role": "user", "content": question}]
    if model.system is not None:
        turns.insert(0, {"role": "system", "content": model.system})
    if answer is not None:
        turns.append({"role": "assistant", "content": answer})
    return turns


def _render(model: LanguageModel, turns: list[dict[str, str]], *, prompt: bool) -> str:
    text = model.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt)
    return str(text)


def _tokens(model: LanguageModel, text: str) -> Any:
    return model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)


def encode_prompt(model: LanguageModel, question: str) -> tuple[tuple[int, ...], slice]:
    """Return the tokens of a question's prompt and where the question itself stands in them.

    Raises:
        TrainingError: the template changes the question.
    """
    text = _render(model, _turns(model, question), prompt=True)
    at = text.rfind(question.strip())
    if at < 0:
        raise TrainingError(f"{model.name}'s chat template changes the question {question[:60]!r}")
    tokens = _tokens(model, text)
    end = at + len(question.strip())
    inside = [k for k, (a, b) in enumerate(tokens["offset_mapping"]) if b > at and a < end]
    return tuple(tokens["input_ids"]), slice(inside[0], inside[-1] + 1)


def encode(
    model: LanguageModel,
    question: str,
    answer: str,
    *,
    answer_format: str = "prose",
    max_tokens: int | None = None,
) -> Encoded:
    """Tokenise a conversation and find its answer by comparing it with its own prefix.

    The whole conversation and the prompt alone are rendered by the same template and tokenised;
    the second must be a prefix of the first, in characters and in tokens. A token that spans the
    boundary of two parts belongs to the later one.

    Args:
        model: whose tokenizer, template and system prompt to use.
        question: the user's turn.
        answer: the assistant's turn.
        answer_format: ``prose`` or ``code``.
        max_tokens: the longest conversation allowed; the model's own limit when none.

    Raises:
        TrainingError: the prompt is no prefix, the answer has no tokens, the stop token does not
            follow the answer, or the conversation is too long.
        DataError: a code answer of another shape.
    """
    answer = answer.strip()
    whole = _render(model, _turns(model, question, answer), prompt=False)
    prefix = _render(model, _turns(model, question), prompt=True)
    tokens = _tokens(model, whole)
    ids, offsets = tokens["input_ids"], tokens["offset_mapping"]
    start = len(_tokens(model, prefix)["input_ids"])
    if not whole.startswith(prefix) or ids[:start] != _tokens(model, prefix)["input_ids"]:
        raise TrainingError(
            f"{model.name}'s template does not begin the conversation with its own prompt, so the "
            f"answer cannot be told from the question {question[:60]!r}"
        )
    if not whole.startswith(answer, len(prefix)):
        raise TrainingError(f"{model.name}'s chat template changes the answer {answer[:60]!r}")
    end = len(prefix) + len(answer)
    stop = next((k for k in range(start, len(ids)) if offsets[k][0] >= end), len(ids))
    _refuse(model, question, ids, start, stop, max_tokens)
    spans = answer_parts(answer, answer_format)
    parts = tuple(_part(offsets[k], len(prefix), spans) for k in range(start, stop))
    return Encoded(tuple(ids[: stop + 1]), start, stop, parts)


def _refuse(
    model: LanguageModel,
    question: str,
    ids: list[int],
    start: int,
    stop: int,
    max_tokens: int | None,
) -> None:
    limit = min(max_tokens or model.max_tokens, model.max_tokens)
    about = f"in the conversation that asks {question[:60]!r}"
    if stop <= start:
        raise TrainingError(f"the answer has no token of its own {about}")
    if stop >= len(ids) or ids[stop] not in model.stop_ids:
        raise TrainingError(
            f"no stop token follows the answer {about}: {model.name}'s template must close an "
            "answer with the end-of-sequence token"
        )
    if stop + 1 > limit:
        raise TrainingError(
            f"{stop + 1} tokens {about}, but the limit is {limit}: the answer would be cut; "
            "shorten it or raise recipe.max_tokens"
        )


def _part(offset: tuple[int, int], shift: int, spans: dict[str, tuple[int, int]]) -> str:
    """Return the last part that a token's characters reach into."""
    first, last = offset[0] - shift, offset[1] - shift
    touched = [name for name, (a, b) in spans.items() if last > a and first < b]
    if not touched:
        return ""
    name = touched[-1]
    return name if last <= spans[name][1] else ""


def answer_positions(
    batch: Sequence[Encoded], *, stop: bool, side: str = "right"
) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows, predicting positions and predicted tokens of a padded batch's answers.

    Args:
        batch: the conversations, in row order.
        stop: whether the stop token counts.
        side: the padding side.

    Returns:
        Three ``(n,)`` integer tensors; position ``p`` of a row predicts the token at ``p + 1``.
    """
    shifts = row_starts([len(e.ids) for e in batch], side=side)
    rows: list[int] = []
    positions: list[int] = []
    targets: list[int] = []
    for row, (shift, e) in enumerate(zip(shifts, batch, strict=True)):
        end = e.stop + 1 if stop else e.stop
        rows += [row] * (end - e.start)
        positions += range(shift + e.start - 1, shift + end - 1)
        targets += e.ids[e.start : end]
    return torch.tensor(rows), torch.tensor(positions), torch.tensor(targets)
