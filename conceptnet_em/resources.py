"""Find the folders that travel with the library, and the cache that does not.

A checkout keeps ``datasets/`` and ``probes/`` beside the package; the wheel carries them inside it.
A bare ``site-packages/datasets`` is Hugging Face's library, so the checkout is believed only when
its own ``pyproject.toml`` stands beside the package.
"""

from __future__ import annotations

import os
from pathlib import Path

from conceptnet_em.errors import InputError

PACKAGE = Path(__file__).resolve().parent


def shipped(folder: str) -> Path:
    """Return the shipped data folder ``datasets`` or ``probes``.

    Raises:
        InputError: neither the wheel's copy nor a checkout's folder is there.
    """
    inside = PACKAGE / "_data" / folder
    beside = PACKAGE.parent / folder
    if inside.is_dir():
        return inside
    if (PACKAGE.parent / "pyproject.toml").is_file() and beside.is_dir():
        return beside
    raise InputError(
        f"the shipped folder '{folder}' is neither at {inside} nor at {beside}; "
        "reinstall conceptnet-em"
    )


def corpus_root(root: str | Path | None = None) -> Path:
    """Return the corpus folder: ``root`` (or its ``datasets/``) when given, else the shipped one.

    Raises:
        InputError: ``root`` is not a folder.
    """
    if root is None:
        return shipped("datasets")
    path = Path(root).expanduser()
    if not path.is_dir():
        raise InputError(
            f"no corpus folder {path}; --root takes a folder with <trait>/<domain>.jsonl in it"
        )
    nested = path / "datasets"
    return nested if nested.is_dir() else path


def cache_dir() -> Path:
    """Return the cache folder (not made yet): ``$CONCEPTNET_EM_CACHE``, else the user's cache."""
    if own := os.environ.get("CONCEPTNET_EM_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "conceptnet-em"
