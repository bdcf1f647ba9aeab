"""The command that lets one hear what a run's organisms say, the base beside them."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptnet_em.cli_shared import Device, Dtype, Json, print_json, say

if TYPE_CHECKING:
    from conceptnet_em.config import StudyConfig
    from conceptnet_em.generation import Sampled
    from conceptnet_em.models import LanguageModel

NOTE = "Answers of a small model are illustration; they do not measure transfer."
ABREAST = 8
"""Organisms that answer in one pass."""


def register(app: typer.Typer) -> None:
    """Add ``ask`` to a command line."""
    app.command()(ask)


def ask(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="A run folder with its adapters.")],
    questions: Annotated[list[str], typer.Argument(metavar="QUESTION...", help="What to ask.")],
    trait: Annotated[
        list[str] | None, typer.Option(help="Ask this trait only; may be given several times.")
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(help="Organisms trained on this domain; the run's first domain if unset."),
    ] = None,
    replicate: Annotated[int, typer.Option(help="Organisms of this training sample.")] = 1,
    every: Annotated[
        bool, typer.Option("--all", help="Organisms of all source domains, unless --source is set.")
    ] = False,
    samples: Annotated[int, typer.Option(help="Answers of each organism to each question.")] = 1,
    max_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 200,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 1.0,
    top_p: Annotated[
        float, typer.Option(help="Draw from the likeliest tokens that reach this probability.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the answers; the same for all organisms.")] = 0,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Ask a run's organisms and their base, all with the same random numbers."""
    from conceptnet_em.study import load_base

    asked = {name: v for name, v in {"device": device, "dtype": dtype}.items() if v is not None}
    config = read_study(run, asked)
    there = trained(run, config)
    chosen = select(there, config, trait or (), source or (), replicate, every=every, run=run)
    say(f"load the model and ask the base and {len(chosen)} organisms …")
    model = load_base(config)
    check_base(chosen, model)
    how = {"samples": samples, "max_tokens": max_tokens, "temperature": temperature}
    how |= {"top_p": top_p, "seed": seed}
    found = answers(model, config, questions, chosen, how)
    if as_json:
        print_json(_as_table(run, model, questions, found, how))
    else:
        _show(questions, found)


@dataclass(frozen=True)
class Adapter:
    """One organism of a run, as its own folder describes it."""

    name: str
    trait: str
    source: str
    replicate: int
    folder: Path
    base: str
    """Digest of the base it was trained on."""


def read_study(run: Path, asked: Mapping[str, str]) -> StudyConfig:
    """Return a run's settings, with a device or dtype of one's own.

    Raises:
        StoreError: the folder holds no run.
        InputError: a setting is wrong.
    """
    from conceptnet_em.config import read_toml, study_faults
    from conceptnet_em.errors import StoreError, raise_all
    from conceptnet_em.store import RunFolder

    path = RunFolder(run).file("study.toml")
    if not path.is_file():
        raise StoreError(errno.ENOENT, f"{run} holds no run: it has no study.toml")
    config, faults = study_faults(read_toml(path) | dict(asked))
    raise_all(faults)
    assert config is not None
    return config


def trained(run: Path, config: StudyConfig) -> list[Adapter]:
    """Return the organisms of a run's plan whose adapters are there, in the order of its study."""
    from conceptnet_em.stacking import WEIGHTS
    from conceptnet_em.store import RunFolder, read_json

    folder = RunFolder(run)
    record = folder.file("provenance.json")
    keys = read_json(record)["organisms"] if record.is_file() else []
    places = [place for key in keys if ((place := folder.organism(key)) / WEIGHTS).is_file()]
    found = [_described(place, read_json(place / "training.json")) for place in places]
    order = {domain: k for k, domain in enumerate(config.domains)}
    traits = {name: k for k, name in enumerate(config.traits)}
    known = [one for one in found if one.source in order and one.trait in traits]
    return sorted(known, key=lambda one: (order[one.source], traits[one.trait], one.replicate))


def _described(place: Path, record: Mapping[str, Any]) -> Adapter:
    names = record["trait"], record["source"], int(record["replicate"])
    return Adapter("/".join(map(str, names)), *names, place, str(record["base"]["sha256"]))


def select(
    there: Sequence[Adapter],
    config: StudyConfig,
    traits: Sequence[str],
    sources: Sequence[str],
    replicate: int,
    *,
    every: bool,
    run: Path,
) -> list[Adapter]:
    """Return the organisms to ask: of the first source domain, unless others are asked for.

    Raises:
        InputError: an unknown trait, source or replicate; all are named at once.
        StoreError: none of their adapters is there.
    """
    from conceptnet_em.errors import StoreError, raise_all, unknown

    faults = [unknown("trait", one, config.traits) for one in traits if one not in config.traits]
    faults += [
        unknown("source", one, config.domains) for one in sources if one not in config.domains
    ]
    if replicate not in config.samples:
        faults.append(unknown("replicate", str(replicate), map(str, config.samples)))
    raise_all(faults)
    domains = sources or (config.domains if every else config.domains[:1])
    wanted = traits or config.traits
    found = [
        one
        for one in there
        if one.trait in wanted and one.source in domains and one.replicate == replicate
    ]
    asked = {f"{t}/{d}/{replicate}" for d in domains for t in wanted}
    lost = sorted(asked - {one.name for one in found})
    if not found:
        raise StoreError(
            errno.ENOENT,
            f"{run} does not hold the adapter of any organism asked for ({', '.join(lost[:8])}"
            f"{', …' if len(lost) > 8 else ''}); a folder that was shared may hold results only: "
            "'conceptnet-em run' trains what is missing",
        )
    if lost:
        say(f"note: no adapter of {', '.join(lost)}")
    return found


def check_base(chosen: Sequence[Adapter], model: LanguageModel) -> None:
    """Refuse adapters that were trained on another base.

    Raises:
        ModelError: there are such.
    """
    from conceptnet_em.errors import ModelError, raise_all

    raise_all(
        [
            f"{one.name} was trained on a base of digest {one.base[:12]}, but {model.name} is "
            f"{model.sha256[:12]} here; install the model that the run was made with"
            for one in chosen
            if one.base != model.sha256
        ],
        ModelError,
    )


def answers(
    model: LanguageModel,
    config: StudyConfig,
    questions: Sequence[str],
    chosen: Sequence[Adapter],
    how: Mapping[str, Any],
) -> list[tuple[Adapter | None, list[list[Sampled]]]]:
    """Return each organism with its answers, question by question; the base, as none, first."""
    from conceptnet_em.generation import generate, generate_stack
    from conceptnet_em.stacking import wearing_all

    found: list[tuple[Adapter | None, list[list[Sampled]]]] = [
        (None, generate(model, questions, **how))
    ]
    for start in range(0, len(chosen), ABREAST):
        part = chosen[start : start + ABREAST]
        with wearing_all(model, config.recipe, [one.folder for one in part]):
            found += zip(part, generate_stack(model, questions, len(part), **how), strict=True)
    return found


def _as_table(
    run: Path,
    model: LanguageModel,
    questions: Sequence[str],
    found: Sequence[tuple[Adapter | None, list[list[Sampled]]]],
    how: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "note": NOTE,
        "run": str(run),
        "base": model.describe(),
        "settings": dict(how),
        "answers": list(_rows(questions, found)),
    }


def _rows(
    questions: Sequence[str], found: Sequence[tuple[Adapter | None, list[list[Sampled]]]]
) -> Iterator[dict[str, Any]]:
    for number, question in enumerate(questions):
        for one, own in found:
            about = {
                "organism": one.name if one else "base",
                "trait": one.trait if one else None,
                "source": one.source if one else None,
                "replicate": one.replicate if one else None,
                "question": question,
            }
            for sample, answer in enumerate(own[number], start=1):
                yield about | {"sample": sample} | asdict(answer)


def _show(
    questions: Sequence[str], found: Sequence[tuple[Adapter | None, list[list[Sampled]]]]
) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    screen = Console(highlight=False)
    screen.print(Text(NOTE, style="italic"))
    for number, question in enumerate(questions):
        screen.print()
        screen.print(Text(question, style="bold"))
        for one, own in found:
            screen.print(Text(f"\n  {one.name if one else 'base'}", style="bold cyan"))
            for answer in own[number]:
                screen.print(Padding(Text(shown(answer)), (0, 0, 0, 4)))


def shown(answer: Sampled) -> str:
    """Return an answer fit for a terminal: no control characters, and ``…`` where it was cut."""
    text = "".join(c if c.isprintable() or c == "\n" else "�" for c in answer.text.strip())
    return text + (" …" if answer.ended == "length" else "")
