"""Say how fast this machine can multiply, and how much multiplying the work needs.

The roof is the rate of the base's own matrix products, forward (``x Wᵀ``) and backward (``g W``),
at the row counts that training uses; the floating-point operations of a training step or a scoring
pass are counted from shapes. Together they say what share of the machine is used:

    python benchmarks/speed/roof.py
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import linear

from conceptnet_em.config import Recipe

ROWS = (440, 1760)
"""Tokens of a batch of 4 conversations of this corpus, and of 4 such batches stacked."""
STAGE = {
    "q_proj": 0,
    "k_proj": 0,
    "v_proj": 0,
    "o_proj": 1,
    "gate_proj": 2,
    "up_proj": 2,
    "down_proj": 3,
}
"""Order of the linear modules inside a block: gradients flow from high to low."""


def shapes(config: Any) -> dict[str, tuple[int, int]]:
    """Return the (inputs, outputs) of each linear module of a Llama-like block."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    wide, narrow = config.num_attention_heads * head, config.num_key_value_heads * head
    d, inner = config.hidden_size, config.intermediate_size
    return {
        "q_proj": (d, wide),
        "k_proj": (d, narrow),
        "v_proj": (d, narrow),
        "o_proj": (wide, d),
        "gate_proj": (d, inner),
        "up_proj": (d, inner),
        "down_proj": (inner, d),
    }


# --- the roof ---


def measure(
    config: Any,
    *,
    rows: Sequence[int] = ROWS,
    repeats: int = 30,
    device: str | torch.device = "cpu",
) -> dict[str, dict[str, dict[str, float]]]:
    """Return GFLOP/s of one block's matrix products by dtype and row count.

    Each entry has ``p10``, ``p50`` and ``p90`` over repeats, each repeat running all seven shapes
    forward and backward. ``p90`` is what is called the roof.
    """
    return {
        name: {str(n): _rates(config, n, dtype, repeats, torch.device(device)) for n in rows}
        for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32))
    }


def _rates(
    config: Any, rows: int, dtype: torch.dtype, repeats: int, device: torch.device
) -> dict[str, float]:
    pairs = list(shapes(config).values())
    operands = [
        tuple(torch.randn(*s, dtype=dtype, device=device) for s in ((rows, i), (o, i), (rows, o)))
        for i, o in pairs
    ]
    work = sum(4 * rows * i * o for i, o in pairs)  # 2 forward, 2 backward
    _once(operands, device)
    rates = [work / _once(operands, device) / 1e9 for _ in range(repeats)]
    cuts = statistics.quantiles(rates, n=10, method="inclusive")
    return {"p10": cuts[0], "p50": cuts[4], "p90": cuts[8]}


def _once(operands: Iterable[tuple[torch.Tensor, ...]], device: torch.device) -> float:
    start = time.perf_counter()
    with torch.no_grad():
        for x, weight, gradient in operands:
            linear(x, weight)
            gradient @ weight
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def highest(found: Mapping[str, Mapping[str, Mapping[str, float]]], dtype: torch.dtype) -> float:
    """Return the roof of a dtype, GFLOP/s: the best ``p90`` of any row count."""
    return max(rates["p90"] for rates in found[str(dtype).removeprefix("torch.")].values())


# --- the work ---


def training_flops(
    config: Any,
    recipe: Recipe,
    steps: Sequence[Sequence[tuple[int, int]]],
    *,
    shared: bool = False,
) -> float:
    """Return the floating-point operations of training one organism.

    Counted are the products that the answer needs: every block forward, the gradients of
    activations down to the lowest adapted module, the adapters, attention (the whole square), and
    the output layer at supervised positions. Padding, norms and softmax are not. Frozen weights
    have no gradient, so a step is about 4 × parameters × tokens and not 6.

    Args:
        config: the text part of the model's configuration.
        recipe: which modules have adapters, and of what rank.
        steps: for each step, the (tokens, supervised tokens) of each conversation.
        shared: the blocks below the lowest adapted one ran once for each distinct row.
    """
    lowest = recipe.layer_numbers(config.num_hidden_layers)[0]
    below = lowest if shared else 0
    total = sum(_step(config, recipe, step, below) for step in steps)
    if below:
        distinct = {entry for step in steps for entry in step}
        lengths = [n for n, _ in distinct]
        total += _forward(config, sum(lengths), _square(lengths), below)
    return total


def _step(config: Any, recipe: Recipe, rows: Sequence[tuple[int, int]], below: int) -> float:
    lengths = [n for n, _ in rows]
    supervised = sum(n for _, n in rows)
    return (
        _forward(config, sum(lengths), _square(lengths), config.num_hidden_layers - below)
        + _backward(config, recipe, lengths)
        + 3 * _adapters(config, recipe, sum(lengths))
        + 2 * _head(config, supervised)
    )


def scoring_flops(
    config: Any,
    questions: Sequence[tuple[int, Sequence[int]]],
    *,
    recipe: Recipe | None = None,
    below: int = 0,
) -> float:
    """Return the floating-point operations of scoring every answer to some questions.

    Args:
        config: the text part of the model's configuration.
        questions: (prompt tokens, tokens of each answer) of each; the prompt counts once.
        recipe: of the adapter that is worn; none for the bare base.
        below: blocks whose result is there already.
    """
    tokens = sum(prompt + sum(answers) for prompt, answers in questions)
    looks = sum(p * p + sum(n * (p + n) for n in answers) for p, answers in questions)
    worn = _adapters(config, recipe, tokens) if recipe else 0.0
    blocks = config.num_hidden_layers - below
    head = _head(config, sum(sum(answers) for _, answers in questions))
    return _forward(config, tokens, looks, blocks) + worn + head


def _forward(config: Any, tokens: int, looks: int, blocks: int) -> float:
    weights = sum(i * o for i, o in shapes(config).values())
    return blocks * (2.0 * weights * tokens + _attention(config, looks))


def _backward(config: Any, recipe: Recipe, lengths: Sequence[int]) -> float:
    """Gradients of activations: all blocks above the lowest adapted one, and part of that one."""
    found = shapes(config)
    lowest = recipe.layer_numbers(config.num_hidden_layers)[0]
    whole: int = config.num_hidden_layers - lowest - 1
    first = min(STAGE[name] for name in recipe.modules)
    part = sum(i * o for name, (i, o) in found.items() if STAGE[name] > first)
    weights = whole * sum(i * o for i, o in found.values()) + part
    attended = int(whole + (first == 0))
    return 2.0 * weights * sum(lengths) + 2 * attended * _attention(config, _square(lengths))


def _attention(config: Any, looks: int) -> float:
    """One block's two products of queries with keys and weights with values, by pairs of tokens."""
    wide: int = shapes(config)["q_proj"][1]
    return 4.0 * wide * looks


def _square(lengths: Sequence[int]) -> int:
    return sum(n * n for n in lengths)


def _adapters(config: Any, recipe: Recipe, tokens: int) -> float:
    each = sum(sum(pair) for name, pair in shapes(config).items() if name in recipe.modules)
    blocks = len(recipe.layer_numbers(config.num_hidden_layers))
    return 2.0 * recipe.rank * each * blocks * tokens


def _head(config: Any, positions: int) -> float:
    size: int = config.hidden_size * config.vocab_size
    return 2.0 * size * positions


def main() -> None:
    from conceptnet_em.models import skeleton

    network, _ = skeleton(sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m")
    found = measure(network.config)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
