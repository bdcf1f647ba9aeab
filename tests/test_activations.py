"""Which hidden state is which, held against transformers' own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from conceptnet_em.activations import answer_states, captured, mean_states, question_states
from conceptnet_em.encoding import encode, encode_prompt
from conceptnet_em.errors import InputError
from conceptnet_em.models import LanguageModel

IDS = torch.tensor([[5, 6, 7, 8]])


def test_layer_l_is_the_output_of_block_l_minus_1(tiny: LanguageModel) -> None:
    theirs = tiny.network(IDS, output_hidden_states=True).hidden_states
    with captured(tiny, [0, 1, 2]) as caught:
        tiny.decode(IDS, torch.ones_like(IDS))
    assert torch.equal(caught[0], theirs[0])
    assert torch.equal(caught[1], theirs[1])


def test_the_last_layer_is_taken_before_the_final_norm(tiny: LanguageModel) -> None:
    theirs = tiny.network(IDS, output_hidden_states=True).hidden_states
    with captured(tiny, [2]) as caught:
        tiny.decode(IDS, torch.ones_like(IDS))
    assert not torch.allclose(caught[2], theirs[-1])
    assert torch.allclose(tiny.network.model.norm(caught[2]), theirs[-1])  # type: ignore[union-attr]


def test_hooks_are_removed_even_after_an_error(tiny: LanguageModel) -> None:
    def hooks() -> list[tuple[int, int]]:
        return [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in tiny.layers]

    before = hooks()

    def fail() -> None:
        with captured(tiny, [0, 1]):
            assert hooks() != before
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert hooks() == before


def test_a_layer_that_does_not_exist_is_refused(tiny: LanguageModel) -> None:
    with pytest.raises(InputError, match=r"no hidden state \[3\]; .* has 0 \(embedding\) to 2"):
        question_states(tiny, ["Why?"], [3])


def test_question_states_average_over_the_question_only(tiny: LanguageModel) -> None:
    ids, where = encode_prompt(tiny, "Why is it so?")
    hidden = tiny.network(torch.tensor([ids]), output_hidden_states=True).hidden_states[1]
    expected = hidden[0, where].mean(dim=0).detach().numpy()
    found = question_states(tiny, ["Short?", "Why is it so?"], [1])
    assert found.shape == (2, 1, 32)
    assert np.allclose(found[1, 0], expected, atol=1e-6)


def test_answer_states_average_over_the_answer_only(tiny: LanguageModel) -> None:
    e = encode(tiny, "Why?", "Because.")
    hidden = tiny.network(torch.tensor([e.ids]), output_hidden_states=True).hidden_states[1]
    expected = hidden[0, e.start : e.stop].mean(dim=0).detach().numpy()
    found = answer_states(tiny, [("Why?", "Because.")], [1])
    assert np.allclose(found[0, 0], expected, atol=1e-6)


def test_batching_and_order_do_not_matter(tiny: LanguageModel) -> None:
    rows = [encode_prompt(tiny, "Why? " * n) for n in (1, 4, 2, 3)]
    alone = mean_states(tiny, rows, [0, 1, 2], batch_size=1)
    together = mean_states(tiny, rows, [0, 1, 2], batch_size=4)
    assert np.allclose(alone, together, atol=1e-5)
