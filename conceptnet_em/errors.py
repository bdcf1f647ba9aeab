"""Errors a user can fix: each says what came, what was possible and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConceptNetError(Exception):
    """Base of all errors that a user can mend; the command line prints them without a traceback."""


class InputError(ConceptNetError, ValueError):
    """Something handed in is wrong: a name, a number, a file, a matrix. Lists every fault found."""


class DataError(InputError):
    """A corpus or table breaks its format; the message gives file and line."""


class ModelError(ConceptNetError, RuntimeError):
    """A model, tokenizer or embedder is missing or cannot do what was asked."""


class TrainingError(ConceptNetError, RuntimeError):
    """An organism cannot be trained as asked, or its training failed."""


class StoreError(ConceptNetError, OSError):
    """A run folder cannot be read or written; made from an errno and a sentence."""

    def __str__(self) -> str:
        """Return the sentence without the errno in front."""
        return str(self.strerror or super().__str__())


def unknown(kind: str, name: str, known: Iterable[str], *, next_step: str = "") -> str:
    """Say that ``name`` is not a ``kind``, suggest the nearest match and list what there is.

    Args:
        kind: what was looked for, for instance ``"trait"``.
        name: what came.
        known: every possible name.
        next_step: a closing sentence, for instance which command lists them.

    Returns:
        One line without a full stop in front of ``next_step``.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    shown = ", ".join(names[:24]) + (", …" if len(names) > 24 else "") or "none"
    tail = f"; {next_step}" if next_step else ""
    return f"no {kind} '{name}'{hint}; there is {shown}{tail}"


def raise_all(faults: list[str], error: type[ConceptNetError] = InputError) -> None:
    """Raise one ``error`` naming all ``faults``; return quietly when there are none."""
    if len(faults) == 1:
        raise error(faults[0])
    if faults:
        raise error(f"{len(faults)} faults:\n  - " + "\n  - ".join(faults))
