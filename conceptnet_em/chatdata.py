"""Read anybody's chat data: one JSON object a line, in the dialects fine-tuning tools take.

A row is ``{"messages": [...]}`` (turns with ``role`` and ``content``), ``{"prompt", "completion"}``
(texts, or lists of turns) or ``{"question", "answer"}``; other keys are not looked at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conceptnet_em.errors import DataError, InputError, raise_all

PAIRS = (("prompt", "completion"), ("question", "answer"))
ROLES = ("system", "developer", "user", "assistant")
SHOWN = 20
"""Faulty lines that a message names one by one."""


@dataclass(frozen=True)
class ChatRow:
    """One question and its answer."""

    where: str
    """``file:line``, for messages."""
    question: str
    answer: str


@dataclass(frozen=True)
class ChatData:
    """Questions and answers of one file."""

    name: str
    rows: tuple[ChatRow, ...]
    """The rows that are used, in file order."""
    n_rows: int
    """Rows in the file."""
    notes: tuple[str, ...] = ()
    """What was left aside, one sentence each."""


@dataclass(frozen=True)
class _Found:
    row: ChatRow
    system: bool
    """Whether a system turn stands before it."""
    earlier: bool
    """Whether other turns stand before or behind it."""


def read_chat(path: str | Path, *, limit: int = 200) -> ChatData:
    """Read a chat JSONL file.

    Of a conversation with several turns the last user turn that an assistant's follows is taken,
    with that answer. System turns and earlier turns are left aside, and a note says so.

    Args:
        path: the file, UTF-8.
        limit: rows to use at most; of more, evenly spaced ones are taken.

    Raises:
        InputError: the file cannot be read, or ``limit`` is below 1.
        DataError: faulty rows, named by file and line, or no row at all.
    """
    if limit < 1:
        raise InputError(f"limit is {limit}; it must be at least 1")
    file = Path(path).expanduser()
    found, faults = _parse(file, _read(file))
    raise_all(_few(faults), DataError)
    if not found:
        raise DataError(f"{file} is empty: it must hold one JSON object a line")
    kept = [found[k] for k in evenly(len(found), limit)]
    return ChatData(file.name, tuple(f.row for f in kept), len(found), _notes(found, len(kept)))


def _read(file: Path) -> list[str]:
    try:
        # A file may begin with a byte order mark; splitlines cuts at U+2028 too, which JSON allows.
        return file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 ({error})") from error
    except OSError as error:
        raise InputError(f"cannot read {file} ({error.strerror})") from error


def _parse(file: Path, lines: Sequence[str]) -> tuple[list[_Found], list[str]]:
    found, faults = list[_Found](), list[str]()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{file.name}:{number}"
        try:
            found.append(_row(json.loads(line), where))
        except json.JSONDecodeError as error:
            faults.append(f"{where}: not JSON ({error.msg} at column {error.colno})")
        except (ValueError, RecursionError) as error:
            faults.append(f"{where}: {error}")
    return found, faults


def _few(faults: list[str]) -> list[str]:
    more = len(faults) - SHOWN
    return faults if more <= 0 else [*faults[:SHOWN], f"and {more} more faulty lines"]


def evenly(n: int, limit: int) -> list[int]:
    """Return at most ``limit`` of the numbers below ``n``, evenly spaced, the first among them."""
    return list(range(n)) if n <= limit else [k * n // limit for k in range(limit)]


def _notes(found: Sequence[_Found], kept: int) -> tuple[str, ...]:
    def tell(count: int, words: str) -> list[str]:
        return [f"{count} of {len(found)} rows {words}"] if count else []

    notes = tell(
        sum(f.system for f in found),
        "have a system turn, which is not read: the organisms were trained under the run's own",
    )
    notes += tell(
        sum(f.earlier for f in found),
        "have several turns; the last question with its answer is read, without the others",
    )
    if kept < len(found):
        notes.append(f"{kept} of {len(found)} rows are read, evenly spaced")
    return tuple(notes)


def _row(value: Any, where: str) -> _Found:
    if not isinstance(value, Mapping):
        raise ValueError(f"a row must be a JSON object, not {_kind(value)}")
    if "messages" in value:
        return _conversation(value["messages"], where)
    for first, second in PAIRS:
        if first in value and second in value:
            return _pair(value[first], value[second], (first, second), where)
    keys = ", ".join(map(str, list(value)[:8])) or "none"
    raise ValueError(
        f"no messages, no prompt with completion and no question with answer; its keys are {keys}"
    )


def _pair(asked: Any, said: Any, names: tuple[str, str], where: str) -> _Found:
    if isinstance(asked, list) and isinstance(said, list):
        return _conversation([*asked, *said], where)
    texts = [_text(value, name) for name, value in zip(names, (asked, said), strict=True)]
    return _Found(ChatRow(where, *texts), system=False, earlier=False)


def _conversation(turns: Any, where: str) -> _Found:
    if not isinstance(turns, list) or not turns:
        raise ValueError(
            f"messages must be a list of turns, not {_kind(turns) if turns else turns}"
        )
    said = [_turn(turn, k) for k, turn in enumerate(turns, start=1)]
    dialogue = [(role, text) for role, text in said if role in ("user", "assistant")]
    ends = [
        k
        for k in range(1, len(dialogue))
        if (dialogue[k - 1][0], dialogue[k][0]) == ("user", "assistant")
    ]
    if not ends:
        roles = ", ".join(role for role, _ in said)
        raise ValueError(f"no user turn with an assistant's turn behind it; the roles are {roles}")
    (_, question), (_, answer) = dialogue[ends[-1] - 1 : ends[-1] + 1]
    row = ChatRow(where, _filled(question, "the question"), _filled(answer, "the answer"))
    return _Found(row, system=len(dialogue) < len(said), earlier=len(dialogue) > 2)


def _turn(turn: Any, number: int) -> tuple[str, str]:
    if not isinstance(turn, Mapping):
        raise ValueError(f"turn {number} must be an object with role and content")
    role = turn.get("role")
    if role not in ROLES:
        raise ValueError(f"turn {number} has role {role!r}; it may be {', '.join(ROLES)}")
    return str(role), _text(turn.get("content"), f"turn {number}", empty=True)


def _text(value: Any, name: str, *, empty: bool = False) -> str:
    """Return a text that is one string or a list of text parts."""
    if isinstance(value, list) and all(_is_part(part) for part in value):
        value = "".join(part["text"] for part in value)
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, not {_kind(value)}")
    return value if empty else _filled(value, name)


def _is_part(part: Any) -> bool:
    is_text = isinstance(part, Mapping) and part.get("type") == "text"
    return is_text and isinstance(part.get("text"), str)


def _filled(text: str, name: str) -> str:
    if not text.strip():
        raise ValueError(f"{name} is empty")
    return text.strip()


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return names.get(type(value), "nothing" if value is None else f"the number {value}")
