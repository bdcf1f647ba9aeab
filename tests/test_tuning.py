"""The training loop against closed forms, its own plain gradient and its promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from conceptnet_em import tuning
from conceptnet_em.config import RECIPES, Recipe
from conceptnet_em.encoding import Encoded, encode
from conceptnet_em.errors import ModelError, TrainingError
from conceptnet_em.models import LanguageModel
from conceptnet_em.tuning import answer_loss, batches, learning_rate, train

FEW = RECIPES["lora8"].model_copy(update={"steps": 6, "warmup_steps": 2})


@pytest.fixture(scope="module")
def cell(tiny: LanguageModel) -> list[Encoded]:
    return [encode(tiny, f"Case {n}?", f"Answer {n} runs and wins.") for n in range(6)]


def test_the_loss_is_the_mean_over_answer_and_stop_tokens(
    tiny: LanguageModel, cell: list[Encoded]
) -> None:
    loss, count = answer_loss(tiny, cell[:3])
    total = 0.0
    for e in cell[:3]:
        logits = tiny.network(torch.tensor([e.ids])).logits[0].log_softmax(-1)
        total -= sum(float(logits[k - 1, e.ids[k]].detach()) for k in range(e.start, e.stop + 1))
    assert count == sum(e.n_answer + 1 for e in cell[:3])
    assert float(loss) == pytest.approx(total / count, abs=1e-5)


@pytest.mark.parametrize("plain_head", [True, False])
def test_how_far_training_moved_is_that_of_the_logits(
    tiny: LanguageModel, cell: list[Encoded], tmp_path: Path, monkeypatch: Any, plain_head: bool
) -> None:
    """The greatest difference at the first conversation's answer, whatever the output layer."""
    monkeypatch.setattr(tiny, "_short_head", plain_head)
    log = train(tiny, cell, FEW, out=tmp_path, seed=1)
    ids, e = torch.tensor([cell[0].ids]), cell[0]
    with torch.no_grad():
        before = tiny.network(ids).logits[0, e.start - 1 : e.stop]
        with tiny.wearing(tmp_path):
            after = tiny.network(ids).logits[0, e.start - 1 : e.stop]
    assert log.moved == pytest.approx(float((after - before).abs().max()), rel=1e-3)


@pytest.mark.parametrize("name", ["lora8", "rank1"])
def test_training_lowers_the_loss_and_writes_a_peft_adapter(
    tiny: LanguageModel, cell: list[Encoded], tmp_path: Path, name: str
) -> None:
    recipe = RECIPES[name].model_copy(update={"steps": 30, "learning_rate": 3e-2})
    log = train(tiny, cell, recipe, out=tmp_path, seed=1)
    assert log.status == "ok"
    assert len(log.losses) == 30
    assert log.losses[-1] < log.losses[0] - 0.05
    assert log.moved > 0
    assert {p.name for p in tmp_path.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    before = float(answer_loss(tiny, cell)[0])
    with tiny.wearing(tmp_path):
        assert float(answer_loss(tiny, cell)[0]) < before - 0.05


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    tiny: LanguageModel, cell: list[Encoded], tmp_path: Path
) -> None:
    digests = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        digests.append(train(tiny, cell, FEW, out=tmp_path / name, seed=seed).adapter_sha256)
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]
    first, second = ((tmp_path / n / tuning.WEIGHTS).read_bytes() for n in "ab")
    assert first == second


def test_the_schedule_warms_up_stays_and_falls_to_zero() -> None:
    rates = [learning_rate(RECIPES["lora8"], step) for step in range(20)]
    assert rates[:4] == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3])
    assert rates[4:12] == pytest.approx([1e-3] * 8)
    assert rates[12:] == pytest.approx([1e-3 * (8 - k) / 8 for k in range(8)])
    linear = [learning_rate(RECIPES["rank1"], step) for step in range(32)]
    assert linear == pytest.approx([1e-2 * (32 - k) / 32 for k in range(32)])


def test_batches_pass_over_all_items_before_repeating_one(cell: list[Encoded]) -> None:
    recipe = Recipe(steps=3, batch_size=4)
    order = [cell.index(e) for batch in batches(cell, recipe, seed=3) for e in batch]
    assert sorted(order[:6]) == sorted(order[6:]) == list(range(6))
    again = [cell.index(e) for batch in batches(cell, recipe, seed=3) for e in batch]
    assert order == again


def test_a_loss_that_is_not_finite_fails_and_writes_nothing(
    tiny: LanguageModel, cell: list[Encoded], tmp_path: Path, monkeypatch: Any
) -> None:
    original = tuning.answer_loss
    calls = []

    def poisoned(model: LanguageModel, batch: Any) -> Any:
        calls.append(1)
        loss, count = original(model, batch)
        return (loss * float("nan") if len(calls) == 3 else loss), count

    monkeypatch.setattr(tuning, "answer_loss", poisoned)
    log = train(tiny, cell, FEW, out=tmp_path, seed=1)
    assert log.status == "failed"
    assert log.reason == "the loss of step 3 is nan"
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_without_effect_is_an_error(
    tiny: LanguageModel, cell: list[Encoded], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(tuning, "_descend", lambda *args: None)
    with pytest.raises(TrainingError, match="left every logit as it was"):
        train(tiny, cell, FEW, out=tmp_path, seed=1)


def test_nothing_to_train_on_is_refused(tiny: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="nothing to train on"):
        train(tiny, [], FEW, out=tmp_path, seed=1)


def test_an_empty_mask_is_refused(tiny: LanguageModel, cell: list[Encoded], tmp_path: Path) -> None:
    blank = Encoded(cell[0].ids, cell[0].stop, cell[0].stop, ())
    with pytest.raises(TrainingError, match=r"no supervised token in training conversations \[1\]"):
        train(tiny, [cell[0], blank], FEW, out=tmp_path, seed=1)


def test_a_module_that_does_not_exist_is_refused(
    tiny: LanguageModel, cell: list[Encoded], tmp_path: Path
) -> None:
    wrong = FEW.model_copy(update={"modules": ("qq_proj",)})
    with pytest.raises(ModelError, match="no module 'qq_proj'"):
        train(tiny, cell, wrong, out=tmp_path, seed=1)


def test_only_answer_tokens_shape_the_gradient(tiny: LanguageModel, cell: list[Encoded]) -> None:
    """Changing a supervised token changes the gradient's target; a masked position has none."""
    with tiny.fitted(RECIPES["rank1"], seed=1) as wrapped:
        weight = next(p for n, p in wrapped.named_parameters() if ".lora_B." in n)
        ours, _ = answer_loss(tiny, cell[:1])
        (gradient,) = torch.autograd.grad(ours, weight)
        labels = torch.full((1, len(cell[0].ids)), -100)
        labels[0, cell[0].start : cell[0].stop + 1] = torch.tensor(
            cell[0].ids[cell[0].start : cell[0].stop + 1]
        )
        reference = tiny.network(torch.tensor([cell[0].ids]), labels=labels).loss
        (expected,) = torch.autograd.grad(reference, weight)
    assert torch.allclose(gradient, expected, atol=1e-6)
