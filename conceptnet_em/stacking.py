"""Several adapters on one frozen forward pass: organisms side by side along the batch.

Every adapted linear layer holds the adapters of all G organisms of a group, and the rows of a batch
come organism after organism, b rows each::

    x       (G·b, length, d_in)                     what enters the layer
    A, B    (G, d_in, r), (G, r, d_out)             float32 masters, multiplied in the base's dtype
    output  (G·b, length, d_out)                    base(x) + (x A) B · alpha / r

The base's products run once over all rows; only the thin ones are batched by organism. No row of
one organism ever meets a row of another, so companions change nothing but rounding. Adapters are
swapped by writing into A and B: the network stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from conceptnet_em.config import Recipe
from conceptnet_em.errors import ModelError
from conceptnet_em.models import LanguageModel, fresh_a, recipe_faults, target_names

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # PEFT's name for what an adapter hangs on


class StackedLinear(nn.Module):
    """A frozen linear layer under the adapters of G organisms."""

    def __init__(self, base: nn.Linear, n: int, rank: int, scale: float) -> None:
        """Start with zero adapters, which leave the layer as it is."""
        super().__init__()
        d_out, d_in = base.weight.shape
        device = base.weight.device
        self.base = base
        self.scale = scale
        self.a = nn.Parameter(torch.zeros(n, d_in, rank, device=device))
        self.b = nn.Parameter(torch.zeros(n, rank, d_out, device=device))
        self.members: slice | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(G·b, length, d_out)`` for ``(G·b, length, d_in)``."""
        every = slice(None) if self.members is None else self.members
        a, b = self.a[every], self.b[every]
        plain = self.base(x)
        rows = x.reshape(a.shape[0], -1, x.shape[-1])
        low = torch.bmm(rows, a.to(x.dtype))
        wide = plain.reshape(a.shape[0], -1, plain.shape[-1])
        added = torch.add(wide, torch.bmm(low, b.to(x.dtype)), alpha=self.scale)
        return added.reshape(plain.shape)


class Stack:
    """The adapters of a group while they are on a model."""

    def __init__(self, layers: Mapping[str, StackedLinear], recipe: Recipe, n: int) -> None:
        """Take the layers of a model by their full names, in the model's order."""
        self.layers = dict(layers)
        self.recipe = recipe
        self.n = n

    def parameters(self) -> list[nn.Parameter]:
        """Return every A and B; the first axis is the organism."""
        return [weight for layer in self.layers.values() for weight in (layer.a, layer.b)]

    def use(self, members: slice | None) -> None:
        """Let the next forward passes hold only these organisms; ``None``: all."""
        for layer in self.layers.values():
            layer.members = members

    def draw(self, k: int, seed: int) -> None:
        """Start organism ``k`` as PEFT does: A drawn from ``seed`` in the model's order, B zero."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for layer in self.layers.values():
                layer.a[k] = fresh_a(layer.a.shape[2], layer.a.shape[1], generator).T
                layer.b[k] = 0

    def state(self, k: int) -> dict[str, Tensor]:
        """Return organism ``k``'s adapter under PEFT's names: A ``(r, d_in)``, B ``(d_out, r)``."""
        found = {}
        for name, layer in self.layers.items():
            found[f"{PREFIX}{name}.lora_A.weight"] = layer.a[k].detach().T.contiguous().cpu()
            found[f"{PREFIX}{name}.lora_B.weight"] = layer.b[k].detach().T.contiguous().cpu()
        return found

    def load(self, k: int, tensors: Mapping[str, Tensor], *, origin: str = "adapter") -> None:
        """Put an adapter, named as PEFT names it, into place ``k``.

        Raises:
            ModelError: a tensor is missing, left over or of another shape.
        """
        wanted: dict[str, tuple[int, ...]] = {}
        for name, layer in self.layers.items():
            wanted[f"{PREFIX}{name}.lora_A.weight"] = tuple(layer.a[k].T.shape)
            wanted[f"{PREFIX}{name}.lora_B.weight"] = tuple(layer.b[k].T.shape)
        came = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if wanted != came:
            odd = sorted(n for n in wanted.keys() | came.keys() if wanted.get(n) != came.get(n))
            raise ModelError(
                f"{origin} does not fit recipe {self.recipe.name} on this model: {len(odd)} of its "
                f"tensors are missing, left over or of another shape, the first {odd[0]}"
            )
        with torch.no_grad():
            for name, layer in self.layers.items():
                layer.a[k] = tensors[f"{PREFIX}{name}.lora_A.weight"].T
                layer.b[k] = tensors[f"{PREFIX}{name}.lora_B.weight"].T


@contextmanager
def stacked(model: LanguageModel, recipe: Recipe, n: int) -> Iterator[Stack]:
    """Put the adapters of ``n`` organisms on the model for the length of the block, all zero.

    Raises:
        ModelError: a module or layer of the recipe does not exist.
    """
    if faults := recipe_faults(recipe, model.network, model.n_layers):
        raise ModelError("; ".join(faults))
    plain: dict[str, nn.Linear] = {}
    scale = recipe.alpha / recipe.rank
    try:
        for name in target_names(recipe, model.network, model.n_layers):
            plain[name] = _linear(model, name)
            _put(model, name, StackedLinear(plain[name], n, recipe.rank, scale))
        layers = {name: model.network.get_submodule(name) for name in plain}
        yield Stack(layers, recipe, n)  # type: ignore[arg-type]
    finally:
        for name, module in plain.items():
            _put(model, name, module)


def _linear(model: LanguageModel, name: str) -> nn.Linear:
    module = model.network.get_submodule(name)
    assert isinstance(module, nn.Linear)
    return module


def _put(model: LanguageModel, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.network.get_submodule(parent), last, module)


@contextmanager
def wearing_all(model: LanguageModel, recipe: Recipe, folders: Sequence[Path]) -> Iterator[Stack]:
    """Put several saved adapters of one recipe on the model for the length of the block.

    Raises:
        ModelError: an adapter cannot be read or does not fit.
    """
    from safetensors.torch import load_file

    with stacked(model, recipe, len(folders)) as stack, torch.no_grad():
        for k, folder in enumerate(folders):
            try:
                tensors = load_file(folder / WEIGHTS)
            except Exception as error:
                raise ModelError(f"cannot attach the adapter {folder}: {error}") from error
            stack.load(k, tensors, origin=str(folder))
        yield stack


def save_adapter(
    tensors: Mapping[str, Tensor], recipe: Recipe, model: LanguageModel, out: Path
) -> None:
    """Write one adapter as PEFT does, so that ``PeftModel.from_pretrained`` reads it."""
    from safetensors.torch import save_file

    names = target_names(recipe, model.network, model.n_layers)
    save_file(dict(tensors), out / WEIGHTS, metadata={"format": "pt"})
    text = json.dumps(adapter_config(recipe, model.name, names), indent=2, sort_keys=True)
    (out / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def adapter_config(recipe: Recipe, base: str, names: Sequence[str]) -> dict[str, Any]:
    """Return PEFT's description of an adapter of this recipe."""
    return {
        "base_model_name_or_path": base,
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": recipe.alpha,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": recipe.rank,
        "target_modules": sorted(names),
        "task_type": "CAUSAL_LM",
    }
