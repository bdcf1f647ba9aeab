"""Measure how far a narrow fine-tune generalizes, and test whether similarity explains it.

Public names are loaded on first use, because importing torch and peft takes seconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conceptnet_em.corpus import Corpus, load_corpus, load_dataset, load_messages
    from conceptnet_em.inference import regress
    from conceptnet_em.models import LanguageModel, load_model
    from conceptnet_em.records import Similarity, TransferMatrix, Verdict
    from conceptnet_em.report import write_report
    from conceptnet_em.study import Result, Study, run
    from conceptnet_em.transfer import transfer_table

_HOMES = {
    "Corpus": "corpus",
    "LanguageModel": "models",
    "Result": "study",
    "Similarity": "records",
    "Study": "study",
    "TransferMatrix": "records",
    "Verdict": "records",
    "load_corpus": "corpus",
    "load_dataset": "corpus",
    "load_messages": "corpus",
    "load_model": "models",
    "regress": "inference",
    "run": "study",
    "transfer_table": "transfer",
    "write_report": "report",
}
__version__ = "0.1.0"
__all__ = [
    "Corpus",
    "LanguageModel",
    "Result",
    "Similarity",
    "Study",
    "TransferMatrix",
    "Verdict",
    "load_corpus",
    "load_dataset",
    "load_messages",
    "load_model",
    "regress",
    "run",
    "transfer_table",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module the first time it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'conceptnet_em' has no attribute '{name}'")
    return getattr(importlib.import_module(f"conceptnet_em.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted([*__all__, "__version__"])
