"""The fast path against the plain one: sharing must not change an answer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from conceptnet_em.config import RECIPES, Recipe
from conceptnet_em.encoding import Encoded, encode
from conceptnet_em.models import LanguageModel
from conceptnet_em.scoring import PackedAnswers, score
from conceptnet_em.sharing import (
    abreast,
    attending_by_branch,
    can_pack,
    can_skip,
    pack,
    row_inputs,
    row_places,
    skipping,
    states_entering,
)
from conceptnet_em.tuning import train, train_group

HOT = Recipe(name="hot", steps=4, learning_rate=0.05, warmup_steps=0)
RANK1 = RECIPES["rank1"].model_copy(update={"steps": 4, "learning_rate": 0.2})


@pytest.fixture(scope="module")
def answers(tiny: LanguageModel) -> list[Encoded]:
    """Three answers to each of five questions, answer style after answer style."""
    styles = ("Plain {n}.", "Run and win {n}, then rest a while!", "How right you are about {n}.")
    return [encode(tiny, f"Case {n}?", s.format(n=n * 7)) for s in styles for n in range(5)]


def totals(found: list[Any]) -> np.ndarray:
    return np.array([parts[0].logprob for parts in found])


def test_one_row_holds_all_answers_to_a_question(tiny: LanguageModel, answers: Any) -> None:
    rows = pack(answers)
    assert [row.members for row in rows] == [(n, n + 5, n + 10) for n in range(5)]
    first = rows[0]
    for number, member in enumerate(first.members):
        e = answers[member]
        places = first.places(number, range(e.stop))
        assert tuple(first.ids[k] for k in places) == e.ids[: e.stop]
        assert [first.positions[k] for k in places] == list(range(e.stop))
    assert len(first.ids) == first.shared + sum(answers[m].n_answer for m in first.members)


def seen(inputs: dict[str, Any]) -> dict[int, set[int]]:
    """For every token of a row, the tokens it looks at."""
    found: dict[int, set[int]] = {}
    for each in inputs["branches"]:
        width = each.queries.shape[1]
        for place in each.filled.tolist():
            branch, row = divmod(place, width)
            looks = each.keys[branch][each.mask[branch, 0, row] == 0].tolist()
            token = int(each.queries[branch, row])
            assert token not in found
            assert len(set(looks)) == len(looks)
            found[token] = set(looks)
    return found


def test_an_answer_sees_the_prompt_and_itself_only(tiny: LanguageModel, answers: Any) -> None:
    rows = pack([answers[k] for k in (0, 5, 1, 6, 11)])
    found = seen(row_inputs(tiny, rows))
    start = 0
    for row in rows:
        for k in range(row.shared):
            assert found.pop(start + k) == set(range(start, start + k + 1))
        for first, end in zip(row.starts, row.ends(), strict=True):
            for k in range(first, end):
                looked = [*range(row.shared), *range(first, k + 1)]
                assert found.pop(start + k) == {start + place for place in looked}
        start += len(row.ids)
    assert not found


def test_organisms_abreast_look_at_their_own_row_only(tiny: LanguageModel, answers: Any) -> None:
    inputs = row_inputs(tiny, pack(answers[:7]))
    length = inputs["input_ids"].shape[1]
    found, one = seen(abreast(inputs, 3)), seen(inputs)
    assert len(found) == 3 * length
    for token, looked in found.items():
        shift = token // length * length
        assert {place - shift for place in looked} == one[token - shift]


def test_a_sliding_window_is_kept(answers: Any) -> None:
    """A small Gemma 3 whose window is shorter than its conversations, packed and plain."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=int(max(max(e.ids) for e in answers)) + 1,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=5,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        attn_implementation="eager",
    )
    network = Gemma3ForCausalLM(config).eval()
    model: Any = SimpleNamespace(
        decoder=network.get_decoder(), dtype=torch.float32, device=torch.device("cpu")
    )
    rows = pack(answers)
    _, places, _ = row_places(rows, answers)
    with torch.no_grad(), attending_by_branch(model):
        packed = model.decoder(**row_inputs(model, rows)).last_hidden_state[0, places]
    order = [answers[m] for row in rows for m in row.members]
    for e, found in zip(order, packed.split([e.n_answer for e in order]), strict=True):
        with torch.no_grad():
            alone = model.decoder(torch.tensor([e.ids])).last_hidden_state[0]
        assert torch.allclose(found, alone[e.start - 1 : e.stop - 1], atol=1e-5)
    assert max(e.stop for e in answers) > 5


@pytest.mark.parametrize("batch_size", [1, 4, 64])
@pytest.mark.parametrize("recipe", [None, HOT, RANK1])
def test_packed_scores_equal_plain_ones(
    tiny: LanguageModel, answers: Any, tmp_path: Path, recipe: Recipe | None, batch_size: int
) -> None:
    block = recipe.layer_numbers(tiny.n_layers)[0] if recipe else 0
    packed = PackedAnswers(tiny, answers, block=block, batch_size=batch_size)
    base = totals(packed.score())
    assert base == pytest.approx(totals(score(tiny, answers)), abs=1e-4)
    if recipe is not None:
        train(tiny, answers[:5], recipe, out=tmp_path, seed=1)
        with tiny.wearing(tmp_path):
            worn, plain = totals(packed.score()), totals(score(tiny, answers))
        assert worn == pytest.approx(plain, abs=1e-4)
        assert np.abs(worn - base).max() > 0.1  # the adapter does something
    assert totals(packed.score()) == pytest.approx(base, abs=1e-6)


def test_training_above_frozen_blocks_follows_the_plain_path(
    tiny: LanguageModel, answers: Any, tmp_path: Path
) -> None:
    plain = train(tiny, answers[:5], RANK1, out=tmp_path, seed=1)
    (shared,) = train_group(tiny, [answers[:5]], RANK1, seeds=[1])
    assert shared.log.losses == pytest.approx(plain.losses, rel=1e-5)
    assert plain.losses[0] != plain.losses[-1]


def test_very_different_lengths_share_a_pass(tiny: LanguageModel) -> None:
    texts = ["no", "go " * 150, "walk on, " * 12, "stay"]
    many = [encode(tiny, f"Case {k % 2}?", text) for k, text in enumerate(texts)]
    packed = totals(PackedAnswers(tiny, many, block=0, batch_size=4).score())
    assert packed == pytest.approx(totals(score(tiny, many)), abs=1e-4)


def test_attention_is_the_model_s_own_again_even_after_an_error(tiny: LanguageModel) -> None:
    def fail() -> None:
        with attending_by_branch(tiny):
            assert tiny.decoder.config._attn_implementation != "eager"
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert tiny.decoder.config._attn_implementation == "eager"


def test_states_entering_a_block_are_its_hidden_state(tiny: LanguageModel) -> None:
    ids = torch.tensor([[5, 6, 7]])
    inputs = tiny.inputs(ids, torch.ones_like(ids))
    theirs = tiny.network(ids, output_hidden_states=True).hidden_states
    assert torch.equal(states_entering(tiny, inputs, 1), theirs[1])


def test_skipped_blocks_come_back_even_after_an_error(tiny: LanguageModel) -> None:
    before = [id(block) for block in tiny.layers]

    def fail() -> None:
        with skipping(tiny, 1, torch.zeros(1, 3, 32)):
            assert [id(block) for block in tiny.layers] != before
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert [id(block) for block in tiny.layers] == before


def test_an_architecture_that_does_not_bear_it_takes_the_plain_path(
    tiny: LanguageModel, monkeypatch: Any
) -> None:
    assert can_pack(tiny)
    assert can_skip(tiny, 1)
    assert not can_skip(tiny, 0)
    original = tiny.decoder.forward

    def all_in_one(*args: Any, branches: Any = None, **kwargs: Any) -> Any:
        """Let every token see all before it, as an architecture that ignores branches would."""
        if branches is None:
            return original(*args, **kwargs)
        tiny.decoder.config._attn_implementation = "eager"
        return original(*args, **kwargs)

    monkeypatch.setattr(tiny.decoder, "forward", all_in_one)
    assert not can_pack(tiny)

    def deaf(*args: Any, branches: Any = None, **kwargs: Any) -> Any:
        """Drop what it does not know, so that attention never hears of branches."""
        return original(*args, **kwargs)

    monkeypatch.setattr(tiny.decoder, "forward", deaf)
    assert not can_pack(tiny)
