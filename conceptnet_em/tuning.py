"""Train organisms: LoRA adapters on cells' answers, a whole group in one loop.

:func:`train_group` is the fast path: the adapters of a group are stacked along the batch
(``stacking``), what lies below the lowest adapted block runs once (``sharing``), and logits exist a
few positions at a time (``logprobs``). :func:`train` is the plain reference, one organism under
PEFT, that it is tested against.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conceptnet_em.config import Recipe
from conceptnet_em.encoding import Encoded, answer_positions
from conceptnet_em.errors import TrainingError
from conceptnet_em.logprobs import weighted_nll
from conceptnet_em.models import LanguageModel
from conceptnet_em.sharing import Frozen, can_skip, skipping
from conceptnet_em.stacking import WEIGHTS, Stack, stacked
from conceptnet_em.store import file_digest


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


@dataclass(frozen=True)
class Trained:
    """One organism of a group, trained but not yet written."""

    log: TrainingLog
    tensors: dict[str, Tensor] = field(repr=False)
    """The adapter under PEFT's names; empty when training failed."""


@dataclass
class Sizes:
    """Rows per forward pass, and how it shrank when memory ran out."""

    rows: int
    """Conversations in one forward pass; a step of more is done in pieces that add up to it."""
    history: list[tuple[int, int]] = field(default_factory=list)
    """``(step, rows)`` from which step on, counted from 1, which size was used."""


def train_group(
    model: LanguageModel,
    cells: Sequence[Sequence[Encoded]],
    recipe: Recipe,
    *,
    seeds: Sequence[int],
    sizes: Sizes | None = None,
    on_step: Callable[[int, Sequence[float]], None] | None = None,
) -> list[Trained]:
    """Train one organism on each cell, all at once, on one frozen forward pass.

    Companions change nothing but rounding: each organism has its own rows, its own gradient norm
    and its own moments. A step that does not fit into memory is done in smaller pieces whose
    gradients add up to the same; ``sizes`` then says from which step on.

    Args:
        model: the base.
        cells: each organism's training conversations.
        recipe: how to train.
        seeds: of each adapter's start and of the order of its conversations.
        sizes: rows per forward pass; all of a step's when none.
        on_step: called with the step number, from 1, and every organism's loss.

    Returns:
        Logs and adapters in the order of ``cells``; ``status`` is ``failed`` where the loss or
        the weights were not finite or training left the logits as they were.

    Raises:
        TrainingError: there is nothing to train on, a mask is empty, or not even one conversation
            fits into memory.
        ModelError: a module or layer of the recipe does not exist.
    """
    for encoded in cells:
        _refuse(encoded)
    sizes = sizes or Sizes(len(cells) * recipe.batch_size)
    sizes.history.append((1, sizes.rows))
    block = recipe.layer_numbers(model.n_layers)[0]
    every = [e for encoded in cells for e in encoded]
    frozen = Frozen(model, every, block) if can_skip(model, block) else None
    orders = [batches(c, recipe, seed=s) for c, s in zip(cells, seeds, strict=True)]
    rates = [learning_rate(recipe, step) for step in range(recipe.steps)]
    losses = np.full((recipe.steps, len(cells)), np.nan)
    n_tokens = np.zeros(len(cells), int)
    firsts = [encoded[0] for encoded in cells]
    with stacked(model, recipe, len(cells)) as stack:
        for k, seed in enumerate(seeds):
            stack.draw(k, seed)
        optimizer = _optimizer(stack.parameters(), recipe)
        before = _at_answers(model, firsts)
        for step, rate in enumerate(rates):
            now = [next(order) for order in orders]
            losses[step] = _step(model, stack, now, frozen, sizes, step + 1)
            n_tokens += [sum(e.n_answer + 1 for e in batch) for batch in now]
            _descend_each(optimizer, stack.parameters(), rate, recipe.clip)
            if on_step is not None:
                on_step(step + 1, losses[step].tolist())
        moved = _moved(model, before, _at_answers(model, firsts))
        states = [stack.state(k) for k in range(len(cells))]
    return [
        _trained(losses[:, k], rates, moved[k], int(n_tokens[k]), states[k])
        for k in range(len(cells))
    ]


def _trained(
    losses: np.ndarray, rates: list[float], moved: float, n_tokens: int, state: dict[str, Tensor]
) -> Trained:
    """Judge one organism: finite all the way, and not the base still."""
    finite = np.isfinite(losses)
    if not finite.all():
        step = int(np.argmin(finite))
        reason = f"the loss of step {step + 1} is {losses[step]}"
        return Trained(_failed(reason, losses[: step + 1].tolist(), rates), {})
    if not all(bool(torch.isfinite(tensor).all()) for tensor in state.values()):
        return Trained(_failed("the adapter's weights are not finite", losses.tolist(), rates), {})
    if moved == 0:
        reason = "training left every logit as it was: the adapter has no effect"
        return Trained(_failed(reason, losses.tolist(), rates), {})
    return Trained(
        TrainingLog("ok", "", tuple(losses.tolist()), tuple(rates), moved, n_tokens), state
    )


def _optimizer(weights: list[torch.nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        weights, lr=1.0, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True
    )


def _step(
    model: LanguageModel,
    stack: Stack,
    now: Sequence[Sequence[Encoded]],
    frozen: Frozen | None,
    sizes: Sizes,
    step: int,
) -> list[float]:
    """Leave every organism's gradient in place and return the losses, in pieces that fit."""
    while True:
        try:
            return _gradients(model, stack, now, frozen, sizes.rows)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            if sizes.rows == 1:
                raise TrainingError(
                    "not even one conversation fits into memory: free some, choose a smaller "
                    "model or rank, or shorten recipe.max_tokens; what is finished is kept"
                ) from error
        for weight in stack.parameters():
            weight.grad = None
        if model.device.type == "cuda":
            torch.cuda.empty_cache()
        sizes.rows = min(sizes.rows, sum(map(len, now))) // 2
        sizes.history.append((step, sizes.rows))


def _is_out_of_memory(error: BaseException) -> bool:
    words = ("out of memory", "can't allocate memory", "not enough memory")
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or any(w in str(error).lower() for w in words)


def _gradients(
    model: LanguageModel,
    stack: Stack,
    now: Sequence[Sequence[Encoded]],
    frozen: Frozen | None,
    rows: int,
) -> list[float]:
    """Add up each organism's gradient of its mean loss over the pieces of a step."""
    totals = [sum(e.n_answer + 1 for e in batch) for batch in now]
    losses = [0.0] * len(now)
    try:
        for members, part in pieces(len(now), len(now[0]), rows):
            chosen = range(*members.indices(len(now)))
            batch = [e for k in chosen for e in now[k][part]]
            stack.use(None if len(chosen) == len(now) else members)
            counts = [sum(e.n_answer + 1 for e in now[k][part]) for k in chosen]
            shares = torch.tensor([1 / totals[k] for k in chosen])
            weights = shares.repeat_interleave(torch.tensor(counts))
            each = _backward(model, batch, frozen, weights)
            for k, own in zip(chosen, torch.split(each, counts), strict=True):
                losses[k] += float(own.sum())
    finally:
        stack.use(None)
    return losses


def pieces(n: int, batch: int, rows: int) -> Iterator[tuple[slice, slice]]:
    """Yield which organisms, and which of their conversations, share a forward pass.

    Whole organisms while ``rows`` holds at least one batch, else parts of one organism's batch.
    """
    width = max(1, rows // batch)
    height = batch if rows >= batch else max(1, rows)
    for first in range(0, n, width):
        for start in range(0, batch, height):
            yield slice(first, first + width), slice(start, start + height)


def _backward(
    model: LanguageModel, batch: Sequence[Encoded], frozen: Frozen | None, weights: Tensor
) -> Tensor:
    """Add the gradient of the weighted loss and return ``(n,)``, each token's share of it."""
    ids, mask = model.padded([e.ids for e in batch])
    places = answer_positions(batch, stop=True)
    block = frozen.block if frozen else 0
    with skipping(model, block, frozen.entering(batch) if frozen else None):
        total, each = weighted_nll(model, model.inputs(ids, mask), places, weights)
    total.backward()  # type: ignore[no-untyped-call]
    return (each.cpu() * weights).double()


def _descend_each(
    optimizer: torch.optim.Optimizer,
    weights: list[torch.nn.Parameter],
    rate: float,
    clip: float | None,
) -> None:
    """Clip each organism's own gradient norm and take one step."""
    grads = [weight.grad for weight in weights if weight.grad is not None]
    if clip is not None:
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in grads]).norm(dim=0)
        factor = (clip / (norms + 1e-6)).clamp(max=1.0)
        for grad in grads:
            grad *= factor[:, None, None]
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _at_answers(model: LanguageModel, firsts: Sequence[Encoded]) -> list[Tensor]:
    """Return what gives each organism's answer logits on its first conversation.

    ``(n, d)`` normed hidden states where the output layer is plain, so that no logits of a large
    group are kept; else ``(n, vocabulary)`` logits.
    """
    ids, mask = model.padded([e.ids for e in firsts])
    rows, positions, _ = (t.to(model.device) for t in answer_positions(firsts, stop=True))
    with torch.no_grad():
        if model.head_is_plain():
            found = model.decode(ids, mask)[rows, positions]
        else:
            found = model.answer_logits(model.inputs(ids, mask), rows, positions)
    return list(torch.split(found, [e.n_answer + 1 for e in firsts]))


def _moved(model: LanguageModel, before: Sequence[Tensor], after: Sequence[Tensor]) -> list[float]:
    """Return how far each organism's logits moved at most, one organism after the other."""
    head = model.head if model.head_is_plain() else torch.nn.Identity()
    with torch.no_grad():
        return [
            float((head(b).float() - head(a).float()).abs().max())
            for a, b in zip(before, after, strict=True)
        ]


# --- the plain reference --------------------------------------------------------------------------


def train(
    model: LanguageModel,
    encoded: Sequence[Encoded],
    recipe: Recipe,
    *,
    out: Path,
    seed: int,
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
        on_step: called with the step number, from 1, and its loss.

    Returns:
        The log; ``status`` is ``failed`` when the loss is not finite, and then nothing is written.

    Raises:
        TrainingError: there is nothing to train on, a mask is empty, or training left the logits
            as they were.
        ModelError: a module or layer of the recipe does not exist.
    """
    _refuse(encoded)
    with model.fitted(recipe, seed=seed) as wrapped:
        weights = [p for p in wrapped.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            weights, lr=1.0, betas=recipe.betas, weight_decay=recipe.weight_decay
        )
        before = _at_answers(model, encoded[:1])
        losses: list[float] = []
        rates = [learning_rate(recipe, step) for step in range(recipe.steps)]
        n_tokens = 0
        for step, batch in enumerate(batches(encoded, recipe, seed=seed)):
            loss, count = answer_loss(model, batch)
            losses.append(float(loss.detach()))
            n_tokens += count
            if not math.isfinite(losses[-1]):
                return _failed(f"the loss of step {step + 1} is {losses[-1]}", losses, rates)
            _descend(loss, optimizer, weights, rates[step], recipe.clip)
            if on_step is not None:
                on_step(step + 1, losses[-1])
        if not all(bool(torch.isfinite(p).all()) for p in weights):
            return _failed("the adapter's weights are not finite", losses, rates)
        (moved,) = _moved(model, before, _at_answers(model, encoded[:1]))
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


def answer_loss(model: LanguageModel, batch: Sequence[Encoded]) -> tuple[Tensor, int]:
    """Return the batch's mean loss over answer and stop tokens, nats/token, and their number."""
    ids, mask = model.padded([e.ids for e in batch])
    places = answer_positions(batch, stop=True)
    rows, positions, targets = (tensor.to(model.device) for tensor in places)
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


def _save(wrapped: Any, model: LanguageModel, out: Path) -> None:
    wrapped.peft_config["default"].base_model_name_or_path = model.name
    wrapped.save_pretrained(str(out), safe_serialization=True, save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)
