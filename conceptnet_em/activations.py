"""Read hidden states of the base model, all wanted layers in one forward pass.

Index convention: ``hidden_states[0]`` is the embedding, ``hidden_states[L]`` the output of block
``L - 1``. transformers gives the last entry after the final norm; here it is the last block's own
output, taken by a hook like all the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from conceptnet_em.encoding import encode, encode_prompt
from conceptnet_em.errors import InputError
from conceptnet_em.models import LanguageModel
from conceptnet_em.sharing import states_entering


def middle_layer(model: LanguageModel) -> int:
    """Return the default entry of ``hidden_states``: half the number of blocks."""
    return model.n_layers // 2


@contextmanager
def captured(model: LanguageModel, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Catch ``hidden_states[L]`` for each ``L`` in ``layers`` during forward passes in the block.

    Yields a dictionary that every forward pass refills; the hooks are removed whatever happens.

    Raises:
        InputError: a layer that does not exist.
    """
    if wrong := [layer for layer in layers if not 0 <= layer <= model.n_layers]:
        raise InputError(
            f"no hidden state {wrong}; {model.name} has 0 (embedding) to {model.n_layers}"
        )
    caught: dict[int, Tensor] = {}

    def keep_output(layer: int) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            caught[layer] = output[0] if isinstance(output, tuple) else output

        return hook

    def keep_input(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        caught[0] = args[0] if args else kwargs["hidden_states"]

    blocks = model.layers
    handles = []
    try:
        for layer in layers:
            if layer == 0:
                handles.append(blocks[0].register_forward_pre_hook(keep_input, with_kwargs=True))
            else:
                handles.append(blocks[layer - 1].register_forward_hook(keep_output(layer)))
        yield caught
    finally:
        for handle in handles:
            handle.remove()


def mean_states(
    model: LanguageModel,
    rows: Sequence[tuple[Sequence[int], slice]],
    layers: Sequence[int],
    *,
    batch_size: int = 16,
) -> np.ndarray:
    """Return the mean hidden state over a span of tokens of each row.

    Args:
        model: the base model.
        rows: token ids and the span to average over.
        layers: entries of ``hidden_states``.
        batch_size: rows per forward pass.

    Returns:
        ``(n_rows, n_layers, d)``, float32.
    """
    result = np.empty((len(rows), len(layers), int(model.config.hidden_size)), dtype=np.float32)
    order = sorted(range(len(rows)), key=lambda k: (len(rows[k][0]), k))
    with torch.inference_mode(), captured(model, layers) as caught:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            ids, mask = model.padded([rows[k][0] for k in chosen])
            run_up_to(model, model.inputs(ids, mask), layers)
            for row, k in enumerate(chosen):
                for column, layer in enumerate(layers):
                    state = caught[layer][row, rows[k][1]].float().mean(dim=0)
                    result[k, column] = state.cpu().numpy()
    return result


def run_up_to(model: LanguageModel, inputs: dict[str, Any], layers: Sequence[int]) -> None:
    """Run the network as far as the highest of ``layers``: the blocks above are not needed."""
    highest = max(layers, default=0)
    if highest < model.n_layers:
        states_entering(model, inputs, highest)
    else:
        model.decoder(**inputs)


def question_states(
    model: LanguageModel, questions: Sequence[str], layers: Sequence[int]
) -> np.ndarray:
    """Return ``(n_questions, n_layers, d)``: the mean over each question's own tokens."""
    return mean_states(model, [encode_prompt(model, question) for question in questions], layers)


def answer_states(
    model: LanguageModel,
    pairs: Sequence[tuple[str, str]],
    layers: Sequence[int],
    *,
    answer_format: str = "prose",
) -> np.ndarray:
    """Return ``(n_pairs, n_layers, d)``: the mean over each answer's tokens, given its question."""
    found = [encode(model, q, a, answer_format=answer_format) for q, a in pairs]
    return mean_states(model, [(e.ids, slice(e.start, e.stop)) for e in found], layers)
