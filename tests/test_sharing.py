"""The fast path against the plain one: sharing must not change an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conceptnet_em.config import RECIPES, Recipe
from conceptnet_em.encoding import Encoded, encode
from conceptnet_em.models import LANES, LanguageModel
from conceptnet_em.scoring import PackedAnswers, score
from conceptnet_em.sharing import (
    GAP,
    LONGEST,
    can_pack,
    can_skip,
    pack,
    skipping,
    states_entering,
    tree_inputs,
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
    used = sum(branch != GAP for branch in first.branch)
    assert used == first.shared + sum(answers[m].stop - first.shared for m in first.members)


@pytest.mark.parametrize("length", [1, 2, 3, 40, 41])
def test_neighbours_that_are_summed_as_a_pair_stay_together(length: int) -> None:
    """bf16 instructions add products two by two: torn, an answer's sums would round otherwise."""
    prompt = tuple(range(1, length + 1))
    encoded = [
        Encoded((*prompt, *range(50, 50 + n), 0), length, length + n, ("",) * n) for n in (5, 20, 9)
    ]
    (row,) = pack(encoded)
    assert length - 1 <= row.shared <= length
    for number, e in enumerate(encoded):
        places = row.places(number, range(e.stop))
        assert all((place - k) % LANES == 0 for k, place in enumerate(places))
        pairs = [(k, k + 1) for k in range(0, e.stop - 1, 2)]
        assert all(places[b] == places[a] + 1 for a, b in pairs)


def test_an_answer_sees_the_prompt_and_itself_only(tiny: LanguageModel, answers: Any) -> None:
    (row,) = pack([answers[0], answers[5]])
    mask = tree_inputs(tiny, [row])["attention_mask"][0, 0] == 0
    branch = np.array(row.branch)
    for i in range(len(branch)):
        for j in range(len(branch)):
            expected = j <= i and branch[j] in (0, branch[i])
            # an unused place looks at its like, so that no row of the mask is empty
            assert bool(mask[i, j]) == expected


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


def test_long_rows_are_cut_so_that_each_fits(tiny: LanguageModel) -> None:
    many = [encode(tiny, "Case 1?", f"{n}: " + "walk on, " * 12) for n in range(10)]
    rows = pack(many)
    assert [m for row in rows for m in row.members] == list(range(10))
    assert max(len(row.ids) for row in rows) <= LONGEST
    assert max(len(row.members) for row in rows) - min(len(row.members) for row in rows) <= 1
    alone = pack([encode(tiny, "Case 1?", "go " * 200)])
    assert len(alone) == 1  # one answer is never cut
    packed = totals(PackedAnswers(tiny, many, block=0, batch_size=4).score())
    assert packed == pytest.approx(totals(score(tiny, many)), abs=1e-4)


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

    def causal_only(*args: Any, **kwargs: Any) -> Any:
        """Ignore a tree-shaped mask, as an architecture that builds its own would."""
        mask = kwargs.get("attention_mask")
        if mask is not None and mask.dim() == 4:
            kwargs["attention_mask"] = torch.ones(mask.shape[0], mask.shape[-1], dtype=torch.long)
        return original(*args, **kwargs)

    monkeypatch.setattr(tiny.decoder, "forward", causal_only)
    assert not can_pack(tiny)
