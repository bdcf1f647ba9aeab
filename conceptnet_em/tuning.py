"""Train one organism: a LoRA adapter on one cell's answers, by our own short loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conceptnet_em.config import Recipe
from conceptnet_em.encoding import Encoded, answer_positions
from conceptnet_em.errors import TrainingError
from conceptnet_em.models import LanguageModel
from conceptnet_em.stacking import Frozen, can_skip, skipping
from conceptnet_em.store import file_digest

WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class TrainingLog:
    """What happened while one organism was trained."""

    status: str
    """``ok`` or ``failed``."""
    reason: str
    """Why it failed; empty when it did not."""
    losses: tuple[float, ...]
    """Mean negative log-likelihood of the answer and stop tokens, nats/token, step by step."""
    learning_rates: tuple[float, ...]
    moved: float
    """Largest change of an answer logit on the first training conversation."""
    n_tokens: int
    """Supervised tokens over all steps."""
    adapter_sha256: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def train(
    model: LanguageModel,
    encoded: Sequence[Encoded],
    recipe: Recipe,
    *,
    out: Path,
    seed: int,
    share: bool = True,
    on_step: Callable[[int, float], None] | None = None,
) -> TrainingLog:
    """Train one adapter and write it to ``out`` in PEFT format (safetensors).

    The loss is the mean negative log-likelihood of the batch's answer tokens and stop tokens.
    The base stays in its own dtype, the adapter trains in float32. The same seed, machine and
    thread count give the same bytes.

    Args:
        model: the frozen base; given back unchanged.
        encoded: the training conversations.
        recipe: how to train.
        out: an existing folder.
        seed: of the adapter's start and of the order of conversations.
        share: run the blocks below the lowest adapted one once instead of at every step, where the
            architecture allows it; the plain path gives the same up to rounding.
        on_step: called with the step number, from 1, and its loss.

    Returns:
        The log; ``status`` is ``failed`` when the loss is not finite, and then nothing is written.

    Raises:
        TrainingError: there is nothing to train on, a mask is empty, or training left the logits
            as they were.
        ModelError: a module or layer of the recipe does not exist.
    """
    _refuse(encoded)
    block = recipe.layer_numbers(model.n_layers)[0]
    with model.fitted(recipe, seed=seed) as wrapped:
        weights = [p for p in wrapped.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            weights, lr=1.0, betas=recipe.betas, weight_decay=recipe.weight_decay
        )
        frozen = Frozen(model, encoded, block) if share and can_skip(model, block) else None
        before = _answer_logits(model, encoded[0])
        losses: list[float] = []
        rates = [learning_rate(recipe, step) for step in range(recipe.steps)]
        n_tokens = 0
        for step, batch in enumerate(batches(encoded, recipe, seed=seed)):
            loss, count = answer_loss(model, batch, frozen)
            losses.append(float(loss.detach()))
            n_tokens += count
            if not math.isfinite(losses[-1]):
                return _failed(f"the loss of step {step + 1} is {losses[-1]}", losses, rates)
            _descend(loss, optimizer, weights, rates[step], recipe.clip)
            if on_step is not None:
                on_step(step + 1, losses[-1])
        if not all(bool(torch.isfinite(p).all()) for p in weights):
            return _failed("the adapter's weights are not finite", losses, rates)
        moved = float((_answer_logits(model, encoded[0]) - before).abs().max())
        if moved == 0:
            raise TrainingError("training left every logit as it was: the adapter has no effect")
        _save(wrapped, model, out)
    log = TrainingLog("ok", "", tuple(losses), tuple(rates), moved, n_tokens)
    return TrainingLog(**{**asdict(log), "adapter_sha256": file_digest(out / WEIGHTS)})


def _refuse(encoded: Sequence[Encoded]) -> None:
    if not encoded:
        raise TrainingError("nothing to train on: the cell has no items in this sample")
    if empty := [index for index, e in enumerate(encoded) if e.n_answer < 1]:
        raise TrainingError(f"no supervised token in training conversations {empty}")


def _failed(reason: str, losses: list[float], rates: list[float]) -> TrainingLog:
    return TrainingLog("failed", reason, tuple(losses), tuple(rates), float("nan"), 0)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Return the learning rate of a step counted from 0: warm-up, plateau, linear fall to 0."""
    warm = min(1.0, (step + 1) / recipe.warmup_steps) if recipe.warmup_steps else 1.0
    falling = recipe.decay_fraction * recipe.steps
    left = (recipe.steps - step) / falling if falling else 1.0
    return recipe.learning_rate * min(warm, left, 1.0)


def batches(encoded: Sequence[Encoded], recipe: Recipe, *, seed: int) -> Iterator[list[Encoded]]:
    """Yield ``recipe.steps`` batches: shuffled passes over the items, one after the other."""
    generator = torch.Generator().manual_seed(seed)
    queue: list[int] = []
    for _ in range(recipe.steps):
        while len(queue) < recipe.batch_size:
            queue += torch.randperm(len(encoded), generator=generator).tolist()
        yield [encoded[index] for index in queue[: recipe.batch_size]]
        del queue[: recipe.batch_size]


def answer_loss(
    model: LanguageModel, batch: Sequence[Encoded], frozen: Frozen | None = None
) -> tuple[Tensor, int]:
    """Return the batch's mean loss over answer and stop tokens, nats/token, and their number.

    With ``frozen`` the blocks below the lowest adapted one are not computed again.
    """
    ids, mask = model.padded([e.ids for e in batch])
    places = answer_positions(batch, stop=True)
    rows, positions, targets = (tensor.to(model.device) for tensor in places)
    block = frozen.block if frozen else 0
    with skipping(model, block, frozen.entering(batch) if frozen else None):
        logits = model.answer_logits(model.inputs(ids, mask), rows, positions)
    return torch.nn.functional.cross_entropy(logits, targets), len(targets)


def _descend(
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    weights: list[torch.nn.Parameter],
    rate: float,
    clip: float | None,
) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(weights, clip)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()


def _answer_logits(model: LanguageModel, encoded: Encoded) -> Tensor:
    ids, mask = model.padded([encoded.ids])
    rows, positions, _ = (t.to(model.device) for t in answer_positions([encoded], stop=True))
    with torch.no_grad():
        return model.answer_logits(model.inputs(ids, mask), rows, positions)


def _save(wrapped: Any, model: LanguageModel, out: Path) -> None:
    wrapped.peft_config["default"].base_model_name_or_path = model.name
    wrapped.save_pretrained(str(out), safe_serialization=True, save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)
