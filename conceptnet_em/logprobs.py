"""Log-probabilities of chosen tokens, a few positions at a time, so that logits never pile up."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import linear

from conceptnet_em.models import LanguageModel

CHUNK = 128
"""Positions whose logits exist at once: 128 × 49,152 float32 are 25 MB."""


def chosen_logprobs(
    model: LanguageModel, inputs: dict[str, Any], places: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """Return ``(n,)`` float32 log-probabilities, nats, without a gradient.

    Args:
        model: the base, or the base under adapters.
        inputs: what the network takes.
        places: batch row, predicting position and predicted token of each wanted one, ``(n,)``.
    """
    rows, positions, targets = (tensor.to(model.device) for tensor in places)
    with torch.inference_mode():
        if not model.head_is_plain():
            logits = model.answer_logits(inputs, rows, positions).log_softmax(dim=-1)
            return logits.gather(1, targets[:, None])[:, 0]
        hidden = model.decoder(**inputs).last_hidden_state[rows, positions]
        parts = [
            _logprobs(model.head(part), wanted)
            for part, wanted in zip(
                torch.split(hidden, CHUNK), torch.split(targets, CHUNK), strict=True
            )
        ]
    return torch.cat(parts)


def _logprobs(logits: Tensor, wanted: Tensor) -> Tensor:
    return logits.float().log_softmax(dim=-1).gather(1, wanted[:, None])[:, 0]


def weighted_nll(
    model: LanguageModel,
    inputs: dict[str, Any],
    places: tuple[Tensor, Tensor, Tensor],
    weights: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the weighted sum of negative log-likelihoods, with its gradient, and each of them.

    The gradient with respect to the hidden states is made chunk by chunk in the forward pass, so
    that no logits wait for the backward pass; the output layer is frozen and gets none.

    Args:
        model: the base under adapters.
        inputs: what the network takes.
        places: as in :func:`chosen_logprobs`.
        weights: ``(n,)`` float32 weight of each token.

    Returns:
        A scalar with a gradient; ``(n,)`` negative log-likelihoods, nats, without one.
    """
    rows, positions, targets = (tensor.to(model.device) for tensor in places)
    weights = weights.to(model.device)
    if not model.head_is_plain():
        logits = model.answer_logits(inputs, rows, positions)
        each = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        return (each * weights).sum(), each.detach()
    hidden = model.decoder(**inputs).last_hidden_state[rows, positions]
    head = cast("torch.nn.Linear", model.head)
    total, each = _HeadLoss.apply(  # type: ignore[no-untyped-call]
        hidden, head.weight, head.bias, targets, weights
    )
    return total, each


class _HeadLoss(torch.autograd.Function):
    """Output layer, log-softmax and likelihood in one, a chunk of positions at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        each = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        slope = torch.empty_like(hidden)
        for start in range(0, len(targets), CHUNK):
            part = slice(start, start + CHUNK)
            at = torch.arange(len(targets[part]), device=hidden.device)
            logprobs = linear(hidden[part], weight, bias).float().log_softmax(dim=-1)
            each[part] = -logprobs[at, targets[part]]
            residual = logprobs.exp_()  # softmax − one-hot, times the weight: dL/dlogits
            residual[at, targets[part]] -= 1
            residual *= weights[part, None]
            slope[part] = residual.to(weight.dtype) @ weight
        ctx.save_for_backward(slope)
        ctx.mark_non_differentiable(each)
        return (each * weights).sum(), each

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (slope,) = ctx.saved_tensors
        return slope * grads[0].to(slope.dtype), None, None, None, None
