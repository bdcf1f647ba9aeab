"""Scores against a brute-force log-softmax, and against their own padding and batching."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch

from conceptnet_em import logprobs
from conceptnet_em.config import RECIPES
from conceptnet_em.encoding import Encoded, encode
from conceptnet_em.models import LanguageModel
from conceptnet_em.scoring import score

CODE = "```python\nx = {n}\n```\nSets x to {n}."


@pytest.fixture(scope="module")
def answers(tiny: LanguageModel) -> list[Encoded]:
    long = [encode(tiny, f"Case {n}?", "word " * (3 + 5 * (n % 4))) for n in range(9)]
    code = [encode(tiny, "Set x", CODE.format(n=n), answer_format="code") for n in range(2)]
    return long + code


def totals(found: list[Any]) -> np.ndarray:
    return np.array([parts[0].logprob for parts in found])


def test_scores_equal_a_brute_force_log_softmax(
    tiny: LanguageModel, answers: list[Encoded]
) -> None:
    for e, parts in zip(answers, score(tiny, answers), strict=True):
        with torch.no_grad():
            logits = tiny.network(torch.tensor([e.ids])).logits[0].log_softmax(-1)
        expected = sum(float(logits[k - 1, e.ids[k]]) for k in range(e.start, e.stop))
        assert parts[0].part == "all"
        assert parts[0].n_tokens == e.stop - e.start  # the stop token is not counted
        assert parts[0].logprob == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_batching_do_not_matter_in_float32(
    tiny: LanguageModel, answers: list[Encoded], batch_size: int, side: str
) -> None:
    alone = score(tiny, answers, batch_size=1)
    found = score(tiny, answers, batch_size=batch_size, side=side)
    tokens = np.array([parts[0].n_tokens for parts in alone])
    assert np.abs((totals(found) - totals(alone)) / tokens).max() < 1e-5


def test_results_come_in_the_order_asked(tiny: LanguageModel, answers: list[Encoded]) -> None:
    backwards = score(tiny, answers[::-1])[::-1]
    assert totals(backwards) == pytest.approx(totals(score(tiny, answers)), abs=1e-4)


def test_parts_are_scored_separately_and_the_fences_only_in_all(
    tiny: LanguageModel, answers: list[Encoded]
) -> None:
    whole, code, remark = score(tiny, answers)[-1]
    assert [p.part for p in (whole, code, remark)] == ["all", "code", "remark"]
    assert (code.n_tokens, remark.n_tokens) == (len("x = 1"), len("Sets x to 1."))
    assert whole.n_tokens == len(CODE.format(n=1))
    assert whole.logprob < code.logprob + remark.logprob  # fences cost something


def test_an_untrained_adapter_scores_exactly_like_the_base(
    tiny: LanguageModel, answers: list[Encoded]
) -> None:
    base = totals(score(tiny, answers))
    with tiny.fitted(RECIPES["lora8"], seed=1):
        assert np.array_equal(totals(score(tiny, answers)), base)


def test_logits_of_few_positions_exist_at_once(
    tiny: LanguageModel, answers: list[Encoded], monkeypatch: Any
) -> None:
    """Those of a whole pass would take gigabytes: each chunk is gone before the next is made."""
    monkeypatch.setattr(logprobs, "CHUNK", 4)
    made: list[Any] = []
    alive: list[int] = []

    def watch(_head: Any, _inputs: Any, logits: torch.Tensor) -> None:
        assert len(logits) <= 4
        alive.append(sum(one() is not None for one in made))
        made.append(weakref.ref(logits))

    handle = tiny.head.register_forward_hook(watch)
    try:
        found = totals(score(tiny, answers))
    finally:
        handle.remove()
    assert len(made) > 10
    assert max(alive) <= 1
    monkeypatch.undo()
    assert found == pytest.approx(totals(score(tiny, answers)), abs=1e-4)
