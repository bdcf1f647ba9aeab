"""Share what is the same: one prompt under several answers, frozen blocks under every adapter.

Two savings, each exact up to rounding, each tested against the plain path:

- *Packing.* The answers to all questions of a batch stand in one row of tokens, every question's
  prompt once; positions count on from the prompt::

      row        prompt p0 p1 p2 | answer A a0 a1 | answer B b0 b1 b2 | next question's prompt …
      position          0  1  2  |          3  4  |          3  4  5  |  0 …

  Everything but attention treats tokens one by one and never notices. Attention is done in two
  turns, each padded on the right as plain conversations are: prompts among themselves, and every
  answer over its prompt and itself. An answer's sums are those of the answer alone, in the same
  order, so on a CPU its scores are the same to the last bit; nothing is spent on padding elsewhere.

- *Skipping.* Nothing below the lowest adapted block ever changes. What enters that block,
  ``(batch, length, d)``, is computed once and put back in place of the blocks below.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, cast

import torch
from torch import Tensor, nn

from conceptnet_em.encoding import Encoded
from conceptnet_em.models import LanguageModel

ATTENTION = "conceptnet_em_by_branch"
"""Name under which transformers knows :func:`attend_by_branch`."""


@dataclass(frozen=True)
class Packed:
    """Answers to one question behind one prompt."""

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    """Position of each token as its own conversation would count it."""
    members: tuple[int, ...]
    """Which conversation each answer is, as an index into what was packed."""
    shared: int
    """Tokens of the prompt."""
    starts: tuple[int, ...]
    """Where each answer begins."""

    def places(self, number: int, positions: range) -> list[int]:
        """Return where tokens of the ``number``-th conversation stand, by their own positions."""
        shift = self.starts[number] - self.shared
        return [k if k < self.shared else k + shift for k in positions]

    def ends(self) -> tuple[int, ...]:
        """Return where each answer ends."""
        return (*self.starts[1:], len(self.ids))


def pack(encoded: Sequence[Encoded]) -> list[Packed]:
    """Put conversations with the same prompt behind one prompt, in order of first appearance."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, e in enumerate(encoded):
        groups.setdefault(e.ids[: e.start], []).append(index)
    return [_pack_one(prompt, members, encoded) for prompt, members in groups.items()]


def _pack_one(prompt: tuple[int, ...], members: list[int], encoded: Sequence[Encoded]) -> Packed:
    shared = len(prompt)
    ids, positions = list(prompt), list(range(shared))
    starts = []
    for index in members:
        own = encoded[index].ids[shared : encoded[index].stop]
        starts.append(len(ids))
        ids += own
        positions += range(shared, shared + len(own))
    return Packed(tuple(ids), tuple(positions), tuple(members), shared, tuple(starts))


@dataclass(frozen=True)
class Branches:
    """Branches of a row that attend at once: ``s`` of them, padded on the right."""

    queries: Tensor
    """``(s, q)``, places of the tokens that look, 0 where padded."""
    keys: Tensor
    """``(s, k)``, places of the tokens that are looked at, 0 where padded."""
    mask: Tensor
    """``(s, 1, q, k)``, 0 where a token may look and very negative where it may not."""
    filled: Tensor
    """``(n,)``, which of the ``s·q`` queries are tokens."""

    def repeated(self, n: int, length: int) -> Branches:
        """Return the same for ``n`` rows of ``length`` tokens, their places counted on."""
        shift = torch.arange(n, device=self.queries.device)[:, None, None]
        many = shift * self.queries.numel() + self.filled
        return Branches(
            (self.queries + shift * length).flatten(0, 1),
            (self.keys + shift * length).flatten(0, 1),
            self.mask.repeat(n, 1, 1, 1),
            many.flatten(),
        )

    def within(self, window: int | None) -> Branches:
        """Return the same for a token that sees itself and ``window`` − 1 tokens before it."""
        k = self.keys.shape[1]
        if window is None or k <= window:
            return self
        places = torch.arange(k, device=self.mask.device)
        own = (self.mask == 0).long().mul(places).amax(dim=-1, keepdim=True)
        far = own - places >= window
        return replace(self, mask=self.mask.masked_fill(far, torch.finfo(self.mask.dtype).min))


def _branches(model: LanguageModel, queries: list[range], before: list[range]) -> Branches:
    """Let every branch look at what stands before it and, causally, at itself.

    What padded queries look at does not matter: nobody takes what they find.
    """
    n, q = len(queries), max(map(len, queries))
    k = max(len(a) + len(b) for a, b in zip(before, queries, strict=True))
    places, keys = torch.zeros(n, q, dtype=torch.long), torch.zeros(n, k, dtype=torch.long)
    allowed = torch.zeros(n, q, k, dtype=torch.bool)
    filled = torch.zeros(n, q, dtype=torch.bool)
    for row, (own, first) in enumerate(zip(queries, before, strict=True)):
        every = [*first, *own]
        places[row, : len(own)] = torch.tensor(own, dtype=torch.long)
        keys[row, : len(every)] = torch.tensor(every, dtype=torch.long)
        filled[row, : len(own)] = True
        allowed[row] = torch.ones(q, k, dtype=torch.bool).tril(len(first))
    mask = torch.zeros(n, 1, q, k, dtype=model.dtype)
    mask.masked_fill_(~allowed[:, None], torch.finfo(model.dtype).min)
    found = (places, keys, mask, filled.flatten().nonzero()[:, 0])
    return Branches(*(tensor.to(model.device) for tensor in found))


def row_inputs(model: LanguageModel, rows: Sequence[Packed]) -> dict[str, Any]:
    """Return what the network takes for packed questions, one after the other in one row.

    Ids and positions are ``(1, tokens)``; ``branches`` says who looks at whom and goes through the
    network to :func:`attend_by_branch`. To be used inside :func:`attending_by_branch`.
    """
    starts = _starts(rows)
    prompts = [range(at, at + row.shared) for at, row in zip(starts, rows, strict=True)]
    pairs = [
        (range(at + first, at + last), prompt)
        for at, row, prompt in zip(starts, rows, prompts, strict=True)
        for first, last in zip(row.starts, row.ends(), strict=True)
    ]
    answers, before = [own for own, _ in pairs], [prompt for _, prompt in pairs]
    nothing = [range(0)] * len(rows)
    return {
        "input_ids": torch.tensor([[i for row in rows for i in row.ids]], device=model.device),
        "position_ids": torch.tensor(
            [[k for row in rows for k in row.positions]], device=model.device
        ),
        "attention_mask": None,
        "use_cache": False,
        "branches": [_branches(model, prompts, nothing), _branches(model, answers, before)],
    }


def row_places(rows: Sequence[Packed], encoded: Sequence[Encoded]) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows (all 0), predicting positions and predicted tokens, answer after answer.

    Every token of an answer is predicted where the token before it stands; before the first stands
    the prompt's last.
    """
    positions: list[int] = []
    targets: list[int] = []
    for at, row in zip(_starts(rows), rows, strict=True):
        for number, member in enumerate(row.members):
            e = encoded[member]
            positions += [at + k for k in row.places(number, range(e.start - 1, e.stop - 1))]
            targets += e.ids[e.start : e.stop]
    return (
        torch.zeros(len(positions), dtype=torch.long),
        torch.tensor(positions),
        torch.tensor(targets),
    )


def _starts(rows: Sequence[Packed]) -> list[int]:
    return [0, *accumulate(len(row.ids) for row in rows)][:-1]


def abreast(inputs: dict[str, Any], n: int) -> dict[str, Any]:
    """Return the inputs of ``n`` equal rows, one for each organism of a stack."""
    if n == 1:
        return inputs
    length = inputs["input_ids"].shape[1]
    return inputs | {
        "input_ids": inputs["input_ids"].repeat(n, 1),
        "position_ids": inputs["position_ids"].repeat(n, 1),
        "branches": [each.repeated(n, length) for each in inputs["branches"]],
    }


def attend_by_branch(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    branches: Sequence[Branches],
    **settings: Any,
) -> tuple[Tensor, None]:
    """Attend in turns, branches by branches, with the architecture's own eager attention.

    Query ``(batch, heads, length, d)``, key and value ``(batch, key heads, length, d)``; returns
    ``(batch, length, heads, d)``, as attention functions of transformers do.
    """
    eager = vars(sys.modules[type(module).__module__])["eager_attention_forward"]
    batch, heads, length, d = query.shape
    found = query.new_empty(batch * length, heads, d)
    flat = [x.transpose(1, 2).flatten(0, 1) for x in (query, key, value)]
    for each in branches:
        own = each.within(settings.get("sliding_window"))
        wanted = (own.queries, own.keys, own.keys)
        q, k, v = (x[at].transpose(1, 2) for x, at in zip(flat, wanted, strict=True))
        out, _ = eager(module, q, k, v, own.mask, **settings)
        found[own.queries.flatten()[own.filled]] = out.flatten(0, 1)[own.filled]
    return found.reshape(batch, length, heads, d), None


@contextmanager
def attending_by_branch(model: LanguageModel) -> Iterator[None]:
    """Let forward passes in this block take :func:`row_inputs`."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, attend_by_branch)
    config = cast("Any", model.decoder).config
    before = config._attn_implementation
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before


class _Stop(Exception):
    """Ends a forward pass once the wanted state is caught."""


def states_entering(model: LanguageModel, inputs: dict[str, Any], block: int) -> Tensor:
    """Return ``(batch, length, d)``, what enters a block; the blocks above are not computed."""
    caught: list[Tensor] = []

    def keep(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        caught.append(args[0] if args else kwargs["hidden_states"])
        raise _Stop

    handle = model.layers[block].register_forward_pre_hook(keep, with_kwargs=True)
    try:
        with torch.no_grad():
            model.decoder(**inputs)
    except _Stop:
        pass
    finally:
        handle.remove()
    return caught[0]


class _Skip(nn.Module):
    """Stands in for a block below the first one needed; the last of them hands over the states."""

    def __init__(self, block: nn.Module, states: Tensor | None) -> None:
        super().__init__()
        self.__dict__["block"], self.__dict__["states"] = block, states

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["block"], name)  # for instance attention_type

    def forward(self, hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        states: Tensor | None = self.__dict__["states"]
        return hidden_states if states is None else states


@contextmanager
def skipping(model: LanguageModel, block: int, states: Tensor | None) -> Iterator[None]:
    """Run forward passes in this block from ``states`` at ``block`` on; nothing when it is 0."""
    blocks = model.layers
    below = [blocks[number] for number in range(block)]
    try:
        for number, module in enumerate(below):
            blocks[number] = _Skip(module, states if number == block - 1 else None)
        yield
    finally:
        for number, module in enumerate(below):
            blocks[number] = module


def can_skip(model: LanguageModel, block: int) -> bool:
    """Say whether skipping below ``block`` gives this architecture's own result."""
    if block == 0:
        return False
    ids = torch.tensor([[1, 2, 3, 4]], device=model.device)
    inputs = model.inputs(ids, torch.ones_like(ids))
    with torch.no_grad():
        whole = model.decoder(**inputs).last_hidden_state
        try:
            states = states_entering(model, inputs, block)
            with skipping(model, block, states):
                short = model.decoder(**inputs).last_hidden_state
        except (RuntimeError, TypeError, AttributeError, IndexError, KeyError, ValueError):
            return False
    return torch.equal(whole, short)


def can_pack(model: LanguageModel) -> bool:
    """Say whether this architecture lets attention be done by branch and tells answers apart."""
    prompts, answers = ((1, 2, 3), (3, 2)), ((4, 5, 6), (7, 8))
    encoded = [
        Encoded((*p, *a, 0), len(p), len(p) + len(a), ("",) * len(a))
        for p in prompts
        for a in answers
    ]
    rows = pack(encoded)
    places = row_places(rows, encoded)[1]
    try:
        with torch.no_grad(), attending_by_branch(model):
            packed = model.decoder(**row_inputs(model, rows)).last_hidden_state[0, places]
        for e, found in zip(encoded, packed.split([e.n_answer for e in encoded]), strict=True):
            with torch.no_grad():
                ids = torch.tensor([e.ids[: e.stop]], device=model.device)
                alone = model.decode(ids, torch.ones_like(ids))[0]
            if not torch.allclose(found, alone[e.start - 1 : -1], rtol=0.05, atol=0.1):
                return False
    except (RuntimeError, TypeError, AttributeError, IndexError, KeyError, ValueError):
        return False
    return True


class Frozen:
    """What enters the lowest adapted block, kept for each conversation of a group.

    Given to training so that the blocks below run once instead of at every step.
    """

    def __init__(
        self, model: LanguageModel, encoded: Sequence[Encoded], block: int, *, rows: int = 16
    ) -> None:
        """Compute the states of all conversations, ``rows`` at a time."""
        self.block = block
        self._kept: dict[tuple[int, ...], Tensor] = {}
        every = sorted({e.ids for e in encoded}, key=lambda ids: (len(ids), ids))
        for start in range(0, len(every), rows):
            part = every[start : start + rows]
            ids, mask = model.padded(part)
            states = states_entering(model, model.inputs(ids, mask), block)
            self._kept |= {row: states[k, : len(row)].clone() for k, row in enumerate(part)}

    def entering(self, batch: Sequence[Encoded]) -> Tensor:
        """Return ``(batch, length, d)``, right-padded with zeros."""
        rows = [self._kept[e.ids] for e in batch]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True)
