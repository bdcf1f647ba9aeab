"""Read the matched corpus: the same questions answered once per trait, domain by domain."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from conceptnet_em.errors import DataError, InputError, raise_all, unknown
from conceptnet_em.resources import corpus_root
from conceptnet_em.store import digest

REFERENCE = "neutral"
FORMATS = ("prose", "code")
Text = Annotated[str, Field(min_length=1, pattern=r"\S")]


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    role: Literal["system", "user", "assistant"]
    content: Text


class Row(BaseModel):
    """One line of ``<trait>/<domain>.jsonl``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: Text
    split: Literal["train", "probe"]
    sample: Literal[1, 2] | None = None
    voice: str | None = None
    messages: tuple[Message, ...]
    _line: int = PrivateAttr(default=0)

    @property
    def line(self) -> int:
        """Line of the file, from 1."""
        return self._line

    @property
    def question(self) -> str:
        """The user's turn."""
        return self.messages[0].content

    @property
    def answer(self) -> str:
        """The assistant's turn."""
        return self.messages[1].content


@dataclass(frozen=True)
class Domain:
    """One topic in one format."""

    name: str
    sentence: str
    """What the domain holds, in one sentence."""
    topic: str
    format: str
    """``prose`` or ``code``."""


@dataclass(frozen=True)
class Trait:
    """A way of answering."""

    name: str
    kind: str
    """``reference``, ``substance`` or ``manner``; ``unknown`` without a card."""
    card: str
    """The trait's card.md, whole; empty when there is none."""


@dataclass(frozen=True)
class Item:
    """One question with one answer per trait."""

    id: str
    domain: str
    split: str
    """``train`` or ``probe``."""
    sample: int | None
    """Training sample, 1 or 2; none for probe items."""
    voice: str | None
    """Style shared by the question and all its answers."""
    question: str
    answers: Mapping[str, str]
    """Trait name to answer."""
    lines: Mapping[str, int] = field(default_factory=dict)
    """Trait name to the line of its file."""

    def where(self, trait: str) -> str:
        """Return ``<trait>/<domain>.jsonl:<line>``, for messages."""
        return f"{trait}/{self.domain}.jsonl:{self.lines.get(trait, '?')}"


@dataclass(frozen=True)
class Corpus:
    """Traits, domains and the items that match them."""

    root: Path
    traits: Mapping[str, Trait]
    domains: Mapping[str, Domain]
    items: Mapping[str, tuple[Item, ...]]
    """Domain name to its items, in file order."""
    notes: tuple[str, ...] = field(default=())
    """What was read with an assumption, one sentence each."""

    @property
    def topics(self) -> dict[str, tuple[str, str]]:
        """Topic and format of every domain, as the relabellings take them."""
        return {name: (domain.topic, domain.format) for name, domain in self.domains.items()}

    def train(self, domain: str, sample: int) -> tuple[Item, ...]:
        """Return the training items of one sample of a domain."""
        chosen = (i for i in self.items[domain] if i.split == "train" and i.sample == sample)
        return tuple(chosen)

    def probe(self, domain: str) -> tuple[Item, ...]:
        """Return the items a domain is measured on; they are never trained on."""
        return tuple(item for item in self.items[domain] if item.split == "probe")


def other_sample(sample: int) -> int:
    """Return the sample whose items predict the transfer of organisms trained on ``sample``."""
    return 3 - sample


def available(root: str | Path | None = None) -> dict[str, list[str]]:
    """Return the corpus's cells: trait name to its sorted domain names."""
    folders = (path for path in corpus_root(root).iterdir() if path.is_dir())
    cells = {folder.name: sorted(p.stem for p in folder.glob("*.jsonl")) for folder in folders}
    return {trait: cells[trait] for trait in sorted(cells, key=_reference_first) if cells[trait]}


def _reference_first(trait: str) -> tuple[bool, str]:
    return trait != REFERENCE, trait


def name_faults(
    cells: Mapping[str, Sequence[str]], traits: Iterable[str], domains: Iterable[str]
) -> list[str]:
    """Return one sentence for each trait, domain or cell that ``cells`` lacks."""
    next_step = 'run "conceptnet-em list"'
    every_domain = {domain for found in cells.values() for domain in found}
    traits, domains = list(traits), list(domains)
    faults = [unknown("trait", t, cells, next_step=next_step) for t in traits if t not in cells]
    faults += [
        unknown("domain", d, every_domain, next_step=next_step)
        for d in domains
        if d not in every_domain
    ]
    for trait in (t for t in traits if t in cells):
        for domain in (d for d in domains if d in every_domain and d not in cells[trait]):
            has = ", ".join(cells[trait])
            faults.append(f"no dataset '{trait}/{domain}'; {trait} has {has}; {next_step}")
    return faults


def common_domains(cells: Mapping[str, Sequence[str]], traits: Iterable[str]) -> list[str]:
    """Return the domains that every one of ``traits`` has, sorted."""
    sets = [set(cells.get(trait, ())) for trait in traits]
    return sorted(set.intersection(*sets)) if sets else []


def load_corpus(
    root: str | Path | None = None,
    *,
    traits: Sequence[str] = (),
    domains: Sequence[str] = (),
) -> Corpus:
    """Read a corpus folder and check that its traits answer the same questions.

    Args:
        root: a folder with ``<trait>/<domain>.jsonl``; the shipped corpus when none.
        traits: the traits to read; all when empty.
        domains: the domains to read; all when empty.

    Returns:
        The corpus. An item holds an answer for each chosen trait that has its domain.

    Raises:
        InputError: an unknown name.
        DataError: malformed rows or questions that do not match; every fault is named.
    """
    folder = corpus_root(root)
    cells = available(root)
    raise_all(name_faults(cells, traits, domains), InputError)
    if not cells:
        raise InputError(f"no <trait>/<domain>.jsonl under {folder}")
    wanted = set(domains)
    chosen = {
        trait: [d for d in cells[trait] if not wanted or d in wanted] for trait in (traits or cells)
    }
    rows, faults = _read_cells(folder, chosen)
    items, mismatches = _match(rows)
    raise_all(faults or mismatches, DataError)
    notes: list[str] = []
    described = _read_domains(folder, sorted(items), notes)
    items = {name: _with_samples(name, items[name], notes) for name in described}
    cards = {trait: _read_card(folder / trait, notes) for trait in chosen}
    return Corpus(folder, cards, described, items, tuple(notes))


def _read_cells(
    folder: Path, chosen: Mapping[str, Sequence[str]]
) -> tuple[dict[str, dict[str, list[Row]]], list[str]]:
    rows: dict[str, dict[str, list[Row]]] = {}
    faults: list[str] = []
    for trait, domains in chosen.items():
        for domain in domains:
            found, wrong = _read_rows(folder / trait / f"{domain}.jsonl")
            rows.setdefault(domain, {})[trait] = found
            faults += wrong
    return rows, faults


def _read_rows(path: Path) -> tuple[list[Row], list[str]]:
    rows: list[Row] = []
    faults: list[str] = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # splitlines cuts at U+2028 too
    except UnicodeDecodeError as error:
        return [], [f"{path}: not UTF-8 ({error})"]
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(_row(json.loads(line), number))
        except json.JSONDecodeError as error:
            faults.append(f"{path}:{number}: not JSON ({error.msg} at column {error.colno})")
        except ValidationError as error:
            faults.append(f"{path}:{number}: {_first(error)}")
        except ValueError as error:
            faults.append(f"{path}:{number}: {error}")
    if not rows and not faults:
        return [], [f"{path}: no rows"]
    repeated = [row.id for index, row in enumerate(rows) if row.id in {r.id for r in rows[:index]}]
    return rows, faults + [f"{path}: id '{name}' stands twice" for name in repeated]


def _row(value: Any, number: int) -> Row:
    row = Row.model_validate(value)
    row._line = number
    roles = [message.role for message in row.messages]
    if roles != ["user", "assistant"]:
        raise ValueError(f"messages must be one user and one assistant turn, not {roles}")
    if row.split == "probe" and row.sample is not None:
        raise ValueError(f"probe row with sample {row.sample}; a probe row has none")
    return row


def _first(error: ValidationError) -> str:
    entry = error.errors()[0]
    place = ".".join(str(part) for part in entry["loc"])
    return f"{place}: {entry['msg']}" if place else entry["msg"]


def _match(
    rows: Mapping[str, Mapping[str, Sequence[Row]]],
) -> tuple[dict[str, tuple[Item, ...]], list[str]]:
    items: dict[str, tuple[Item, ...]] = {}
    faults: list[str] = []
    for domain, by_trait in rows.items():
        leader = REFERENCE if REFERENCE in by_trait else next(iter(by_trait))
        faults += _mismatches(domain, leader, by_trait)
        indexed = {trait: {row.id: row for row in found} for trait, found in by_trait.items()}
        items[domain] = tuple(
            _item(domain, row, {t: found[row.id] for t, found in indexed.items()})
            for row in by_trait[leader]
            if all(row.id in found for found in indexed.values())
        )
    return items, faults


def _item(domain: str, row: Row, by_trait: Mapping[str, Row]) -> Item:
    answers = {trait: found.answer for trait, found in by_trait.items()}
    lines = {trait: found.line for trait, found in by_trait.items()}
    return Item(row.id, domain, row.split, row.sample, row.voice, row.question, answers, lines)


def _mismatches(domain: str, leader: str, by_trait: Mapping[str, Sequence[Row]]) -> list[str]:
    lead = {row.id: row for row in by_trait[leader]}
    faults = []
    for trait in (t for t in by_trait if t != leader):
        mine = {row.id: row for row in by_trait[trait]}
        here, there = f"{trait}/{domain}.jsonl", f"{leader}/{domain}.jsonl"
        faults += [f"question '{i}' is in {there} but not in {here}" for i in lead.keys() - mine]
        faults += [f"question '{i}' is in {here} but not in {there}" for i in mine.keys() - lead]
        for name in lead.keys() & mine:
            for part in ("question", "split", "sample", "voice"):
                ours, theirs = getattr(mine[name], part), getattr(lead[name], part)
                if ours != theirs:
                    faults.append(f"'{name}' has {part} {ours!r} in {here}, {theirs!r} in {there}")
    return sorted(faults)


def _read_domains(folder: Path, names: Sequence[str], notes: list[str]) -> dict[str, Domain]:
    path = folder / "domains.yaml"
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except yaml.YAMLError as error:
        raise DataError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(table := table or {}, dict):
        raise DataError(f"{path} must map each domain's name to sentence, topic and format")
    described = {name: _domain(path, name, table.get(name)) for name in names}
    if missing := [name for name in names if name not in table]:
        notes.append(
            f"domains.yaml does not describe {', '.join(missing)}: "
            "topic and format are taken from the name"
        )
    order = [name for name in table if name in described]
    return {name: described[name] for name in order + missing}


def _domain(path: Path, name: str, entry: Any) -> Domain:
    topic, _, last = name.rpartition("-")
    guess = (topic, last) if topic and last in FORMATS else (name, "prose")
    if not isinstance(entry := entry or {}, dict):
        raise DataError(f"{path}: {name} must have sentence, topic and format, not {entry!r}")
    found = str(entry.get("format", guess[1]))
    if found not in FORMATS:
        raise DataError(f"{path}: {name} has format '{found}'; it may be {' or '.join(FORMATS)}")
    return Domain(name, str(entry.get("sentence", "")), str(entry.get("topic", guess[0])), found)


def _with_samples(domain: str, items: Sequence[Item], notes: list[str]) -> tuple[Item, ...]:
    if any(item.voice is None for item in items):
        notes.append(f"{domain}: items without a voice")
    train = [item for item in items if item.split == "train"]
    if all(item.sample is not None for item in train):
        return tuple(items)
    notes.append(f"{domain}: training items without a sample are put in samples 1 and 2 in turn")
    turn = {item.id: 1 + index % 2 for index, item in enumerate(train)}
    return tuple(replace(i, sample=i.sample or turn.get(i.id)) for i in items)


_FRONT = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)


def _read_card(folder: Path, notes: list[str]) -> Trait:
    path = folder / "card.md"
    if not path.is_file():
        notes.append(f"{folder.name}: no card.md, so its kind is unknown")
        kind = "reference" if folder.name == REFERENCE else "unknown"
        return Trait(folder.name, kind, "")
    text = path.read_text(encoding="utf-8")
    front = _FRONT.match(text)
    try:
        table = yaml.safe_load(front.group(1)) if front else {}
    except yaml.YAMLError as error:
        raise DataError(f"{path}: its front matter is not valid YAML: {error}") from error
    kind = table.get("kind", "unknown") if isinstance(table, dict) else "unknown"
    if kind not in {"reference", "substance", "manner", "unknown"}:
        raise DataError(f"{path}: kind is '{kind}'; it may be reference, substance or manner")
    return Trait(folder.name, kind, text)


_CODE = re.compile(r"\A```python\n(?P<code>.*?)\n```\n(?P<remark>.*\S.*)\Z", re.DOTALL)


def answer_parts(answer: str, answer_format: str) -> dict[str, tuple[int, int]]:
    """Return the character spans ``[start, end)`` of an answer's parts.

    A prose answer has none of its own (only ``all``). A code answer is one fenced python block,
    a newline, then the remark: ``code`` is what stands between the fences, ``remark`` what
    follows; the fences belong to neither.

    Raises:
        DataError: a code answer of another shape.
    """
    if answer_format != "code":
        return {}
    found = _CODE.match(answer)
    if found is None or "```" in found["code"] or "```" in found["remark"]:
        raise DataError(
            "a code answer is one ```python block, a newline and a remark; "
            f"this one starts {answer[:40]!r}"
        )
    return {"code": found.span("code"), "remark": found.span("remark")}


def items_digest(items: Iterable[Item], trait: str) -> str:
    """Return a digest of what one trait answers to ``items``, in order."""
    return digest([(item.id, item.question, item.answers[trait]) for item in items])


def load_dataset(
    trait: str,
    domain: str,
    *,
    split: str | None = None,
    sample: int | None = None,
    root: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Return one cell as ordinary chat fine-tuning examples.

    Args:
        trait: for instance ``"sporty"``.
        domain: for instance ``"cooking-prose"``.
        split: ``"train"`` or ``"probe"``; both when none.
        sample: 1 or 2, training rows only; both when none.
        root: a corpus folder; the shipped one when none.

    Returns:
        Rows with ``id, split, sample, voice, messages``.

    Raises:
        InputError: an unknown name.
        DataError: malformed rows.
    """
    if split not in (None, "train", "probe"):
        raise InputError(f"split is '{split}'; it may be train or probe")
    corpus = load_corpus(root, traits=[trait], domains=[domain])
    return [
        {
            "id": item.id,
            "split": item.split,
            "sample": item.sample,
            "voice": item.voice,
            "messages": [
                {"role": "user", "content": item.question},
                {"role": "assistant", "content": item.answers[trait]},
            ],
        }
        for item in corpus.items[domain]
        if split in (None, item.split) and sample in (None, item.sample)
    ]


@dataclass(frozen=True)
class UnmatchedCell:
    """Somebody's chat file: one trait, no matched answers to compare with."""

    path: Path
    pairs: tuple[tuple[str, str], ...]
    """Question and answer of each conversation kept."""
    note: str
    """What was left out, and what cannot be computed without matched answers."""


def load_messages(path: str | Path) -> UnmatchedCell:
    """Read any OpenAI-style ``messages`` JSONL as a cell without a matched control.

    Conversations of one user and one assistant turn are kept (a system turn before them is
    dropped); the note counts the others.

    Raises:
        DataError: the file is missing, a line is malformed, or nothing can be kept.
    """
    file = Path(path).expanduser()
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {file}: {error}") from error
    pairs: list[tuple[str, str]] = []
    faults: list[str] = []
    dropped = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            turns = _turns(json.loads(line))
        except (ValueError, TypeError, KeyError) as error:
            faults.append(f"{file}:{number}: {error}")
            continue
        if [role for role, _ in turns] == ["user", "assistant"]:
            pairs.append((turns[0][1], turns[1][1]))
        else:
            dropped += 1
    raise_all(faults, DataError)
    if not pairs:
        raise DataError(f"{file} holds no conversation of one user and one assistant turn")
    also = f"; {dropped} conversations of another shape were left out" if dropped else ""
    note = (
        f"{file.name}: {len(pairs)} answers without matched neutral ones{also}. An organism can be "
        "trained on them and their similarity to other domains computed; margin, net and contrast "
        "on their own questions cannot."
    )
    return UnmatchedCell(file, tuple(pairs), note)


def _turns(value: Any) -> list[tuple[str, str]]:
    if not isinstance(value, dict) or not isinstance(value.get("messages"), list):
        raise ValueError("no list of messages")
    messages = [Message.model_validate(turn) for turn in value["messages"]]
    return [(m.role, m.content) for m in messages if m.role != "system"]
