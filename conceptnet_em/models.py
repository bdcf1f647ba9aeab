"""Load a base model, know its layers, and lend it adapters that are always given back."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from conceptnet_em.config import Recipe
from conceptnet_em.errors import ModelError, unknown
from conceptnet_em.store import digest
from conceptnet_em.weights import find_model, one_line, quietly

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'Question: ' + message['content'] + '\n' }}"
    "{% else %}{{ 'Answer:\n' + message['content'] + eos_token + '\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Answer:\n' }}{% endif %}"
)
"""What a model without a chat template is given: plain question and answer, recorded as such."""


class LanguageModel:
    """A frozen causal language model with its tokenizer, its layers and where it came from."""

    def __init__(
        self,
        network: nn.Module,
        tokenizer: Any,
        *,
        name: str,
        sha256: str,
        system: str | None,
    ) -> None:
        """Freeze ``network`` and make sure there is a chat template and a stop token.

        Raises:
            ModelError: the tokenizer is slow (no offsets) or has no stop token.
        """
        self.network = network.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self.sha256 = sha256
        self.system = system
        self.template = "own" if tokenizer.chat_template else "plain question/answer"
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(f"{name} has no fast tokenizer, which answer masks need")
        if tokenizer.eos_token_id is None:
            raise ModelError(f"{name}'s tokenizer has no end-of-sequence token")
        if not tokenizer.chat_template:
            tokenizer.chat_template = _plain_template(tokenizer)
        self._tokenizer_digest = digest(tokenizer.backend_tokenizer.to_str())
        self._short_head: bool | None = None
        self.head_is_plain()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return next(self.network.parameters()).dtype

    @property
    def config(self) -> Any:
        """The text part of the model's configuration."""
        return cast("Any", self.network).config.get_text_config()

    @property
    def n_layers(self) -> int:
        """Number of decoder layers."""
        return int(self.config.num_hidden_layers)

    @property
    def max_tokens(self) -> int:
        """Longest sequence the model was made for."""
        return int(getattr(self.config, "max_position_embeddings", 2**20))

    @property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end an answer."""
        configured = getattr(getattr(self.network, "generation_config", None), "eos_token_id", None)
        found = configured if isinstance(configured, list) else [configured]
        return frozenset(int(i) for i in [self.tokenizer.eos_token_id, *found] if i is not None)

    @property
    def pad_id(self) -> int:
        """Token id that fills batches; it is always masked."""
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder layers, first to last."""
        return decoder_layers(self.network, self.n_layers)

    @property
    def decoder(self) -> nn.Module:
        """The network without its output layer; returns normed hidden states."""
        return cast("nn.Module", cast("Any", self.network).get_decoder())

    @property
    def head(self) -> Any:
        """The output layer: normed hidden states to logits."""
        return cast("Any", self.network).get_output_embeddings()

    def describe(self) -> dict[str, Any]:
        """Return what enters every key and provenance record."""
        return {
            "model": self.name,
            "sha256": self.sha256,
            "system": self.system,
            "template": self.template,
            "template_digest": digest(self.tokenizer.chat_template),
            "tokenizer_digest": self._tokenizer_digest,
            "device": self.device.type,
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def answer_logits(self, inputs: dict[str, Any], rows: Tensor, positions: Tensor) -> Tensor:
        """Return float32 logits at chosen positions only.

        Args:
            inputs: what the network takes, see :meth:`inputs`.
            rows: ``(n,)`` batch index of each wanted position.
            positions: ``(n,)`` position in the padded row.

        Returns:
            ``(n, vocabulary)``.
        """
        if self.head_is_plain():
            hidden = self.decoder(**inputs).last_hidden_state[rows, positions]
            logits = self.head(hidden)
        else:
            logits = self.network(**inputs).logits[rows, positions]
        return cast("Tensor", logits.float())

    def decode(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return ``(batch, length, d)`` hidden states after the final norm."""
        return cast("Tensor", self.decoder(**self.inputs(ids, mask)).last_hidden_state)

    def padded(
        self, rows: Sequence[Sequence[int]], *, side: str = "right"
    ) -> tuple[Tensor, Tensor]:
        """Return ``(batch, length)`` ids and mask of rows padded on one side."""
        return pad(rows, self.pad_id, side=side, device=self.device)

    def inputs(self, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        """Return what the network takes for ``(batch, length)`` ids and mask, padded anywhere."""
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": positions,
            "use_cache": False,
        }

    def head_is_plain(self) -> bool:
        """Whether logits are just output layer × decoder output (some models scale or cap them)."""
        if self._short_head is None:
            ids = torch.tensor([[1, 2, 3]], device=self.device)
            inputs = self.inputs(ids, torch.ones_like(ids))
            with torch.no_grad():
                whole = self.network(**inputs).logits
                hidden = self.decode(ids, torch.ones_like(ids))
                short = self.head(hidden)
            self._short_head = torch.equal(whole, short)
        return self._short_head

    @contextmanager
    def fitted(self, recipe: Recipe, *, seed: int) -> Iterator[Any]:
        """Attach a fresh adapter of ``recipe``, its A matrices drawn from ``seed``, its B zero.

        Yields the ``PeftModel``; the bare network is given back whatever happens in the block.

        Raises:
            ModelError: a module or layer of the recipe does not exist.
        """
        from peft import LoraConfig, get_peft_model

        if faults := recipe_faults(recipe, self.network, self.n_layers):
            raise ModelError("; ".join(faults))
        config = LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            lora_dropout=0.0,
            target_modules=target_names(recipe, self.network, self.n_layers),
            bias="none",
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng(devices=[]), quietly():
            wrapped = get_peft_model(cast("Any", self.network), config)
        try:
            _draw(wrapped, seed)
            yield wrapped
        finally:
            self._give_back(wrapped)

    @contextmanager
    def wearing(self, adapter: Path) -> Iterator[Any]:
        """Attach a saved adapter, in the base's dtype, for the length of the block.

        Raises:
            ModelError: the adapter cannot be read or does not fit this model.
        """
        from peft import PeftModel

        before = dict(self.network.named_modules())
        try:
            with quietly():
                wrapped = PeftModel.from_pretrained(cast("Any", self.network), str(adapter))
        except Exception as error:
            self._restore(before)
            raise ModelError(f"cannot attach the adapter {adapter}: {error}") from error
        try:
            for name, weight in wrapped.named_parameters():
                if ".lora_" in name:
                    weight.data = weight.data.to(self.dtype)
            yield wrapped.eval()
        finally:
            self._give_back(wrapped)

    def _give_back(self, wrapped: Any) -> None:
        wrapped.unload()
        self.network.__dict__.pop("peft_config", None)
        self.network.requires_grad_(False).eval()

    def _restore(self, before: dict[str, nn.Module]) -> None:
        """Undo a half-done attachment: put every module back that another one replaced."""
        for name, module in before.items():
            parent, _, last = name.rpartition(".")
            if name and self.network.get_submodule(name) is not module:
                setattr(before[parent], last, module)
        self.network.__dict__.pop("peft_config", None)
        self.network.requires_grad_(False).eval()


def _draw(wrapped: nn.Module, seed: int) -> None:
    """Draw every A (Kaiming uniform, as PEFT does) from one seed in module order; set B to 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in wrapped.named_parameters():
        if ".lora_A." in name:
            weight.data.copy_(fresh_a(weight.shape[0], weight.shape[1], generator))
        elif ".lora_B." in name:
            weight.data.zero_()


def fresh_a(rank: int, d_in: int, generator: torch.Generator) -> Tensor:
    """Return a starting A, ``(rank, d_in)`` float32, Kaiming uniform as PEFT draws it."""
    fresh = torch.empty(rank, d_in, dtype=torch.float32)
    return nn.init.kaiming_uniform_(fresh, a=5**0.5, generator=generator)


def decoder_layers(network: nn.Module, n_layers: int) -> nn.ModuleList:
    """Return the list of decoder layers.

    Raises:
        ModelError: there is none of that length.
    """
    for _, module in network.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == n_layers:
            return module
    raise ModelError(f"cannot find the {n_layers} decoder layers of {type(network).__name__}")


def _linear_names(network: nn.Module, n_layers: int) -> list[list[str]]:
    """Return, layer by layer, the full names of the linear modules inside."""
    layers = decoder_layers(network, n_layers)
    names = {id(module): name for name, module in network.named_modules()}
    return [[names[id(m)] for m in layer.modules() if isinstance(m, nn.Linear)] for layer in layers]


def target_names(recipe: Recipe, network: nn.Module, n_layers: int) -> list[str]:
    """Return the full names of the modules that a recipe puts adapters on."""
    by_layer = _linear_names(network, n_layers)
    return [
        name
        for number in recipe.layer_numbers(n_layers)
        for name in by_layer[number]
        if name.rpartition(".")[2] in recipe.modules
    ]


def recipe_faults(recipe: Recipe, network: nn.Module, n_layers: int) -> list[str]:
    """Return one sentence for each module or layer of a recipe that the model lacks."""
    there = {n.rpartition(".")[2] for layer in _linear_names(network, n_layers) for n in layer}
    faults = [
        unknown("module", module, there, next_step="set recipe.modules")
        for module in recipe.modules
        if module not in there
    ]
    faults += [
        f"no layer {number}; the model has layers 0 to {n_layers - 1}; set recipe.layers"
        for number in recipe.layer_numbers(n_layers)
        if number >= n_layers
    ]
    return faults


def _plain_template(tokenizer: Any) -> str:
    starts = tokenizer.bos_token_id is not None and (
        tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    )
    return ("{{ bos_token }}" if starts else "") + PLAIN_TEMPLATE


def choose_device(device: str = "auto") -> torch.device:
    """Return the device to use.

    Raises:
        ModelError: the device does not exist here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"no device '{device}' here; there is {_devices()}") from error
    return chosen


def _devices() -> str:
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return ", ".join(["cpu", *gpus])


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return the weight dtype: bfloat16 where the hardware multiplies it, else float32."""
    if dtype != "auto":
        return cast("torch.dtype", getattr(torch, dtype))
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_has_bfloat16()
    return torch.bfloat16 if fast else torch.float32


def _cpu_has_bfloat16() -> bool:
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def load_model(
    name: str,
    *,
    revision: str | None = None,
    system: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> LanguageModel:
    """Load a base model, frozen, in eager attention (the fastest on short sequences on a CPU).

    Args:
        name: an alias, a local folder or a Hub id.
        revision: Hub revision to pin.
        system: system prompt; the model's default when none.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: ``auto``, ``float32`` or ``bfloat16``.

    Raises:
        ModelError: the model is missing, holds pickle weights only, or cannot be used.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = choose_device(device)
    source = find_model(name, revision=revision)
    torch.set_flush_denormal(True)  # before any worker thread starts: late steps were 5 × slower
    keep_freed_memory()
    kind = choose_dtype(dtype, where)
    safe = {"trust_remote_code": False, "revision": source.revision}
    try:
        with quietly():
            network = AutoModelForCausalLM.from_pretrained(
                source.path, dtype=kind, use_safetensors=True, attn_implementation="eager", **safe
            )
            tokenizer = AutoTokenizer.from_pretrained(source.path, **safe)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"cannot load the model {name}: {one_line(error)}") from error
    sha = source.sha256
    if sha == "hub":
        sha = f"hub:{getattr(network.config, '_commit_hash', None) or source.revision}"
    prompt = source.system if system is None else system
    return LanguageModel(network.to(where), tokenizer, name=name, sha256=sha, system=prompt)


MALLOPT = {-3: 2**30, -1: 2**31 - 1, -2: 2**26}
"""glibc's M_MMAP_THRESHOLD, M_TRIM_THRESHOLD and M_TOP_PAD, bytes."""


def keep_freed_memory() -> bool:
    """Let the process keep memory that tensors free, and say whether the C library does so.

    Else every large temporary is mapped, zeroed and unmapped by the system anew, which took a tenth
    of scoring. Only glibc is told; elsewhere nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(k, size) == 1 for k, size in MALLOPT.items())


def skeleton(name: str, *, revision: str | None = None) -> tuple[nn.Module, int]:
    """Return a model without weights (on the meta device) and its number of layers.

    Raises:
        ModelError: the model cannot be found.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    source = find_model(name, revision=revision)
    try:
        with quietly(), torch.device("meta"):
            config = AutoConfig.from_pretrained(
                source.path, revision=source.revision, trust_remote_code=False
            )
            network = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"cannot read the model {name}: {one_line(error)}") from error
    return network, int(config.get_text_config().num_hidden_layers)


LANES = 16
"""Tokens are moved along a row by whole groups of so many only. Sums over a row run in groups of
this size; a shift within a group changes their rounding, and bfloat16 blows that up to .005
nats/token, while a shift by whole groups changes it by less than .001."""


def row_starts(lengths: Sequence[int], *, side: str = "right") -> list[int]:
    """Return where each row begins in its padded batch.

    Right-padded rows begin at 0. Left-padded rows end at the batch's end, up to fewer than
    ``LANES`` places, so that they begin at a multiple of ``LANES``.
    """
    if side == "right":
        return [0] * len(lengths)
    return [(max(lengths) - length) // LANES * LANES for length in lengths]


def pad(
    rows: Sequence[Sequence[int]], pad_id: int, *, side: str = "right", device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return ``(batch, length)`` ids and mask of padded rows, see :func:`row_starts`."""
    starts = row_starts([len(row) for row in rows], side=side)
    length = max(start + len(row) for start, row in zip(starts, rows, strict=True))
    ids = torch.full((len(rows), length), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, (start, row) in enumerate(zip(starts, rows, strict=True)):
        ids[index, start : start + len(row)] = torch.tensor(row)
        mask[index, start : start + len(row)] = 1
    return ids.to(device), mask.to(device)
