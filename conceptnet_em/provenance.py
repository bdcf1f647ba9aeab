"""Record what a result was made with: versions, commit, model, device, threads, seeds."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import torch

from conceptnet_em.config import StudyConfig
from conceptnet_em.models import LanguageModel
from conceptnet_em.resources import PACKAGE

PACKAGES = (
    "conceptnet-em",
    "torch",
    "transformers",
    "peft",
    "sentence-transformers",
    "numpy",
    "scipy",
    "pandas",
)


def provenance(model: LanguageModel, config: StudyConfig, keys: Sequence[str]) -> dict[str, Any]:
    """Return a JSON-able record of everything that a run depends on."""
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in PACKAGES},
        "commit": commit(),
        "model": model.describe(),
        "requested": {"device": config.device, "dtype": config.dtype},
        "threads": torch.get_num_threads(),
        "seeds": {"training": list(config.samples), "study": config.seed},
        "organisms": list(keys),
    }


def version(name: str) -> str | None:
    """Return an installed distribution's version; none when it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> dict[str, Any]:
    """Return the checkout's commit and whether it is dirty; nulls for an installed wheel."""
    if not (PACKAGE.parent / "pyproject.toml").is_file():
        return {"id": None, "dirty": None}
    head = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain")
    return {"id": head or None, "dirty": None if changed is None else bool(changed)}


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *words], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
