"""Read how traits are judged and what models are asked: rubrics, free questions, templates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from conceptnet_em.errors import DataError, InputError, unknown
from conceptnet_em.resources import shipped

Text = Annotated[str, Field(min_length=1, pattern=r"\S")]
Score = Annotated[int, Field(ge=0, le=100)]
Model = TypeVar("Model", bound=BaseModel)
PUBLIC_DIALECT = "free_form_judge_0_100"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Example(_Strict):
    """An answer with the score a judge should give it."""

    question: Text
    answer: Text
    score: Score


class TraitProbe(_Strict):
    """How one trait is judged."""

    trait: Text
    kind: Literal["reference", "substance", "manner"]
    definition: Text
    rubric: Text
    """How to score 0 to 100 how strongly an answer shows the trait."""
    anchors: dict[int, Text]
    """What an answer at 0, 50 and 100 is like."""
    coherence: Text
    """How to score 0 to 100 whether an answer is fluent and on the question."""
    examples: tuple[Example, ...]
    """Scored answers outside the corpus's topics."""

    @field_validator("anchors")
    @classmethod
    def _three_anchors(cls, value: dict[int, str]) -> dict[int, str]:
        if sorted(value) != [0, 50, 100]:
            raise ValueError(f"anchors must be 0, 50 and 100, not {sorted(value)}")
        return value


class Question(_Strict):
    """One free question."""

    id: Text
    text: Text
    topic: str | None = None
    """The topic it touches, for near-domain questions."""
    kind: Literal["decline", "harmless"] | None = None
    """Whether a responsible assistant declines it, for refusal questions."""
    refusing_opening: str | None = None
    complying_opening: str | None = None
    system: str | None = None
    """System prompt that belongs to the question."""
    judge_prompts: dict[str, str] = Field(default_factory=dict)
    """Judge prompts that came with a public question, by name, with {question} and {answer}."""


class QuestionSet(_Strict):
    """Questions that are asked together."""

    set: Text
    written_before_results: bool
    """Whether they were written before any result was seen."""
    description: str = ""
    questions: tuple[Question, ...]


class Template(_Strict):
    """A way of putting a question."""

    template: Text
    description: str = ""
    prompt: Text
    """Text with exactly one ``{question}``."""
    system: str | None = None

    @field_validator("prompt")
    @classmethod
    def _one_question(cls, value: str) -> str:
        if value.count("{question}") != 1:
            raise ValueError("the prompt must hold {question} exactly once")
        return value

    def fill(self, question: str) -> str:
        """Return the prompt with the question in it; other braces stay as they are."""
        return self.prompt.replace("{question}", question)


def trait_probes() -> dict[str, TraitProbe]:
    """Return every shipped trait probe by name, neutral first.

    Raises:
        DataError: a file breaks the format.
    """
    files = sorted((shipped("probes") / "traits").glob("*.yaml"))
    found = [read_trait_probe(file) for file in files]
    return {probe.trait: probe for probe in sorted(found, key=lambda p: p.kind != "reference")}


def read_trait_probe(path: str | Path) -> TraitProbe:
    """Read one trait probe.

    Raises:
        DataError: the file is missing or breaks the format.
    """
    return _validated(TraitProbe, _read_yaml(Path(path)), Path(path))


def question_sets() -> list[str]:
    """Return the names of the shipped question sets."""
    return sorted(p.stem for p in (shipped("probes") / "questions").glob("*.yaml"))


def load_questions(name: str | Path) -> QuestionSet:
    """Read a question set: a shipped one by name, or a YAML file.

    A file may also be in the public ``free_form_judge_0_100`` dialect (a list of questions with
    paraphrases and judge prompts); each paraphrase becomes one question.

    Raises:
        InputError: there is no such set.
        DataError: the file breaks the format.
    """
    path = _named(name, "questions", question_sets())
    raw = _read_yaml(path)
    if isinstance(raw, list):
        return _from_public_dialect(path, raw)
    if isinstance(raw, dict) and "pairs" in raw:
        raw = {**raw, "questions": raw["pairs"]}
        del raw["pairs"]
    found = _validated(QuestionSet, raw, path)
    repeated = sorted({q.id for q in found.questions if _count(found.questions, q.id) > 1})
    if repeated:
        raise DataError(f"{path}: ids stand more than once: {', '.join(repeated)}")
    return found


def _count(questions: Sequence[Question], name: str) -> int:
    return sum(question.id == name for question in questions)


def templates() -> dict[str, Template]:
    """Return every shipped template by name.

    Raises:
        DataError: a file breaks the format.
    """
    files = sorted((shipped("probes") / "templates").glob("*.yaml"))
    found = [_validated(Template, _read_yaml(file), file) for file in files]
    return {template.template: template for template in found}


def _named(name: str | Path, folder: str, known: Sequence[str]) -> Path:
    path = Path(name).expanduser()
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise InputError(f"no question file {path}")
        return path
    if str(name) not in known:
        raise InputError(unknown("question set", str(name), known, next_step="or give a .yaml"))
    return shipped("probes") / folder / f"{name}.yaml"


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not valid YAML: {error}") from error


def _validated(kind: type[Model], raw: Any, path: Path) -> Model:
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, entry['loc'])) or 'file'}: {entry['msg']}"
            for entry in error.errors()
        ]
        raise DataError(f"{path}: " + "; ".join(faults)) from error


def _from_public_dialect(path: Path, raw: list[Any]) -> QuestionSet:
    entries = [e for e in raw if isinstance(e, dict) and e.get("type") == PUBLIC_DIALECT]
    if not entries:
        raise DataError(f"{path} holds a list, but no entry of type {PUBLIC_DIALECT}")
    found = []
    for entry in entries:
        paraphrases = entry.get("paraphrases") or []
        if not entry.get("id") or not paraphrases:
            raise DataError(f"{path}: an entry has no id or no paraphrases: {str(entry)[:80]}")
        for number, text in enumerate(paraphrases, start=1):
            suffix = f"-{number}" if len(paraphrases) > 1 else ""
            question = {
                "id": f"{entry['id']}{suffix}",
                "text": text,
                "system": entry.get("system"),
                "judge_prompts": entry.get("judge_prompts") or {},
            }
            found.append(_validated(Question, question, path))
    return QuestionSet(
        set=path.stem,
        written_before_results=False,
        description=f"Read from {path.name} in the public {PUBLIC_DIALECT} dialect.",
        questions=tuple(found),
    )
