"""Decide which organisms share a forward pass, once, and remember it with the run.

Organisms are taken in the order of the plan (sample, source, trait), so that a group's members
answer the same questions at about the same length. What was decided stands in ``groups.json``: a
resumed run trains in the same company as an undisturbed one, and an extended study keeps its old
groups and forms new ones of its new organisms only.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch

from conceptnet_em.config import Recipe
from conceptnet_em.errors import StoreError
from conceptnet_em.models import LanguageModel
from conceptnet_em.store import RunFolder, digest, holding, read_json, write_json

CPU_ROWS = 16
"""Conversations in one forward pass on a CPU, whose caches gain nothing from more."""
GPU_ROWS = 2_048
"""The same on a GPU, where memory sets the limit first."""
SHARE = {"cpu": 0.5, "cuda": 0.8}
"""Share of the memory now free that a run takes by itself; on a CPU at most ``CPU_BYTES``."""
CPU_BYTES = 4 * 2**30


@dataclass(frozen=True)
class Group:
    """Organisms that are trained and scored together."""

    members: tuple[str, ...]
    """Their keys, in the order they stand in along the batch."""
    rows: int
    """Conversations in one forward pass of training."""
    abreast: int
    """Organisms in one forward pass of scoring."""

    @property
    def name(self) -> str:
        """Return a short name, the same for the same group."""
        return digest(list(self.members), length=16)


def settle_groups(
    keys: Sequence[str], recipe: Recipe, rows: int, model: LanguageModel, folder: RunFolder
) -> list[Group]:
    """Return the groups of a plan, adding to ``groups.json`` those of organisms it does not know.

    Args:
        keys: the plan's organisms, in order.
        recipe: how they are trained.
        rows: conversations that fit into one forward pass, see :func:`fitting_rows`.
        model: the base.
        folder: the run.

    Raises:
        StoreError: ``groups.json`` is damaged or cannot be written.
    """
    with holding(folder.lock("groups")):
        known = _read(folder)
        settled = {key for group in known for key in group.members}
        new = [key for key in keys if key not in settled]
        width = max(1, rows // recipe.batch_size)
        abreast = 1 if model.device.type == "cpu" else width
        fresh = [Group(tuple(new[k : k + width]), rows, abreast) for k in range(0, len(new), width)]
        if fresh:
            table = [{"name": g.name, **asdict(g)} for g in [*known, *fresh]]
            write_json(folder.file("groups.json"), {"recipe": recipe.name, "groups": table})
    planned = set(keys)
    return [group for group in [*known, *fresh] if planned & set(group.members)]


def _read(folder: RunFolder) -> list[Group]:
    path = folder.file("groups.json")
    if not path.is_file():
        return []
    try:
        rows: list[dict[str, Any]] = read_json(path)["groups"]
        return [Group(tuple(r["members"]), int(r["rows"]), int(r["abreast"])) for r in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            errno.EINVAL,
            f"{path} is damaged ({error}): delete it and run again; organisms that are finished "
            "stay, those that are not are grouped anew",
        ) from error


def fitting_rows(
    model: LanguageModel, recipe: Recipe, longest: int, *, memory: float | None = None
) -> int:
    """Return how many conversations one training forward pass may hold.

    Args:
        model: the base.
        recipe: how to train; blocks below its lowest adapted one keep nothing for the backward.
        longest: tokens of the longest conversation.
        memory: GB it may take beside the model; chosen from what is free when none.
    """
    budget = available_bytes(model.device) if memory is None else memory * 2**30
    limit = CPU_ROWS if model.device.type == "cpu" else GPU_ROWS
    return int(min(limit, max(1, budget // row_bytes(model, recipe, longest))))


def row_bytes(model: LanguageModel, recipe: Recipe, longest: int) -> int:
    """Return about how many bytes one conversation keeps for the backward pass.

    Counted from what autograd saves in a Llama block under adapters, and measured: 10 organisms of
    ``lora8`` with 4 conversations of 120 tokens each took 8.0 GB on ``smollm2-135m`` in bf16.
    """
    config = model.config
    blocks = model.n_layers - recipe.layer_numbers(model.n_layers)[0]
    wide = int(getattr(config, "intermediate_size", 4 * config.hidden_size))
    per_token = 16 * config.hidden_size + 8 * wide + 6 * config.num_attention_heads * longest
    size = torch.finfo(model.dtype).bits // 8
    return int(blocks * longest * per_token * size)


def available_bytes(device: torch.device) -> int:
    """Return the memory a run may take on this device, bytes."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * SHARE["cuda"])
    return int(min(CPU_BYTES, psutil.virtual_memory().available * SHARE["cpu"]))
