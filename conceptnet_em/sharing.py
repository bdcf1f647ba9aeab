"""Share what is the same: one prompt under several answers, frozen blocks under every adapter.

Two savings, each exact up to rounding, each tested against the plain path:

- *Packing.* The answers to one question stand in one row behind one prompt. A tree-shaped mask lets
  every answer see the prompt and itself, and positions count on from the prompt, so each answer is
  computed as if it stood alone::

      row        prompt p0 p1 p2 | answer A a0 a1 | answer B b0 b1 b2
      position          0  1  2  |          3  4  |          3  4  5
      branch            0  0  0  |          1  1  |          2  2  2

  Unused places keep answers a multiple of ``LANES`` apart from where they would stand alone, and a
  prompt of odd length gives its last token to every branch: bf16 products are summed in pairs, and
  no pair is torn. So a packed answer's sums are those of the answer alone, bit for bit on a CPU.

- *Skipping.* Nothing below the lowest adapted block ever changes. What enters that block,
  ``(batch, length, d)``, is computed once and put back in place of the blocks below.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from conceptnet_em.encoding import Encoded
from conceptnet_em.models import LANES, LanguageModel

GAP = -1
LONGEST = 352
"""Tokens of a row of packed answers, where more than one answer stands in it. From 384 on bf16
products are summed in blocks, and attention costs more than the prompt saved."""
PAIR = 2
"""Neighbouring products that bf16 instructions add up as one."""


@dataclass(frozen=True)
class Packed:
    """Answers to one question in one row, behind one prompt."""

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    """Position of each token as its own conversation would count it."""
    branch: tuple[int, ...]
    """0 for the prompt, k for the k-th answer, ``GAP`` for an unused place."""
    members: tuple[int, ...]
    """Which conversation each answer is, as an index into what was packed."""
    shared: int
    """Tokens of the prompt that stand in the row once."""
    starts: tuple[int, ...]
    """Where each branch begins in the row: with what is left of the prompt, then the answer."""

    def places(self, number: int, positions: range) -> list[int]:
        """Return where tokens of the ``number``-th branch stand, by their own positions."""
        shift = self.starts[number] - self.shared
        return [k if k < self.shared else k + shift for k in positions]


def pack(encoded: Sequence[Encoded]) -> list[Packed]:
    """Put conversations with the same prompt behind one prompt, in order of first appearance.

    A row takes as many answers as fit into ``LONGEST`` tokens.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, e in enumerate(encoded):
        groups.setdefault(e.ids[: e.start], []).append(index)
    return [
        _pack_one(prompt, members, encoded)
        for prompt, whole in groups.items()
        for members in _split(len(prompt), whole, encoded)
    ]


def _split(prompt: int, members: list[int], encoded: Sequence[Encoded]) -> list[list[int]]:
    """Cut one question's answers into rows of about equal number that fit."""
    shared = _shared(prompt)
    spaces = [-(-(encoded[m].stop - shared) // LANES) * LANES for m in members]
    widest = max(1, (LONGEST - shared) // max(spaces))
    n_rows = -(-len(members) // widest)
    bounds = [round(k * len(members) / n_rows) for k in range(n_rows + 1)]
    return [members[a:b] for a, b in pairwise(bounds)]


def _shared(prompt: int) -> int:
    """Return how much of a prompt stands in the row once."""
    return prompt - prompt % PAIR


def _pack_one(prompt: tuple[int, ...], members: list[int], encoded: Sequence[Encoded]) -> Packed:
    shared = _shared(len(prompt))
    ids, positions = list(prompt[:shared]), list(range(shared))
    branch, starts = [0] * shared, []
    for number, index in enumerate(members, start=1):
        gap = -(len(ids) - shared) % LANES
        ids += prompt[:1] * gap
        positions += [0] * gap
        branch += [GAP] * gap
        own = encoded[index].ids[shared : encoded[index].stop]
        starts.append(len(ids))
        ids += own
        positions += range(shared, shared + len(own))
        branch += [number] * len(own)
    return Packed(
        tuple(ids), tuple(positions), tuple(branch), tuple(members), shared, tuple(starts)
    )


def tree_inputs(model: LanguageModel, rows: Sequence[Packed]) -> dict[str, Any]:
    """Return what the network takes for right-padded packed rows.

    The mask is ``(batch, 1, length, length)``, 0 where a token may look and very negative where it
    may not: a token sees the prompt and the earlier tokens of its own branch.
    """
    length = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), length), model.pad_id)
    positions = torch.zeros_like(ids)
    branch = torch.full_like(ids, GAP)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids)] = torch.tensor(row.ids)
        positions[index, : len(row.ids)] = torch.tensor(row.positions)
        branch[index, : len(row.ids)] = torch.tensor(row.branch)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same = branch[:, :, None] == branch[:, None, :]
    allowed = causal & (same | (branch == 0)[:, None, :])
    mask = torch.zeros(allowed.shape, dtype=model.dtype)
    mask.masked_fill_(~allowed, torch.finfo(model.dtype).min)
    return {
        "input_ids": ids.to(model.device),
        "attention_mask": mask[:, None].to(model.device),
        "position_ids": positions.to(model.device),
        "use_cache": False,
    }


def tree_positions(
    rows: Sequence[Packed], encoded: Sequence[Encoded]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows, predicting positions and predicted tokens, answer after answer.

    Every token of an answer is predicted where the token before it stands; before the first stands
    the prompt's last.
    """
    at: list[int] = []
    positions: list[int] = []
    targets: list[int] = []
    for number, row in enumerate(rows):
        for branch, member in enumerate(row.members):
            e = encoded[member]
            at += [number] * e.n_answer
            positions += row.places(branch, range(e.start - 1, e.stop - 1))
            targets += e.ids[e.start : e.stop]
    return torch.tensor(at), torch.tensor(positions), torch.tensor(targets)


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
    """Say whether this architecture takes a tree-shaped mask and still tells answers apart."""
    prompt, answers = (1, 2, 3), ((4, 5, 6), (7, 8))
    encoded = [Encoded((*prompt, *a, 0), 3, 3 + len(a), ("",) * len(a)) for a in answers]
    rows = pack(encoded)
    try:
        with torch.no_grad():
            packed = model.decoder(**tree_inputs(model, rows)).last_hidden_state[0]
            for number, e in enumerate(encoded):
                ids = torch.tensor([e.ids[: e.stop]], device=model.device)
                alone = model.decode(ids, torch.ones_like(ids))[0]
                found = packed[rows[0].places(number, range(e.start, e.stop))]
                if not torch.allclose(found, alone[e.start :], rtol=0.05, atol=0.1):
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
