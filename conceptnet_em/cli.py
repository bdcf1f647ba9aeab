"""The command line: data on stdout, everything else on stderr, exit codes that can be trusted.

Exit codes: 0 ok, 1 failure, 2 usage or bad input, 3 some cells failed, 130 interrupted.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from conceptnet_em import (
    cli_ask,
    cli_atlas,
    cli_engine,
    cli_forecast,
    cli_inference,
    cli_power,
    cli_predictors,
    cli_registration,
)
from conceptnet_em.cli_shared import (
    FAILURE,
    INTERRUPTED,
    SOME_FAILED,
    USAGE,
    Device,
    Dtype,
    Json,
    Root,
    print_json,
    say,
)
from conceptnet_em.errors import ConceptNetError, InputError

app = typer.Typer(
    name="conceptnet-em",
    help="Measure how far a narrow fine-tune generalizes, and test whether similarity explains it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Memory = Annotated[
    float | None, typer.Option(help="GB that training may take; chosen from what is free if unset.")
]


@app.command("list")
def list_cells(root: Root = None, as_json: Json = False) -> None:
    """List the traits and domains of the corpus."""
    from conceptnet_em.corpus import load_corpus

    corpus = load_corpus(root)
    for note in corpus.notes:
        say(f"note: {note}")
    cells = {
        trait: [d for d, items in corpus.items.items() if trait in items[0].answers]
        for trait in corpus.traits
    }
    if as_json:
        kinds = {name: trait.kind for name, trait in corpus.traits.items()}
        print_json({"traits": kinds, "cells": cells})
        return
    print(f"{len(corpus.traits)} traits")
    for name, trait in corpus.traits.items():
        print(f"  {name:<14} {trait.kind:<10} {len(cells[name])} domains")
    print(f"\n{len(corpus.domains)} domains")
    for name, domain in corpus.domains.items():
        print(f"  {name:<20} {len(corpus.items[name])} items  {domain.sentence}")


@app.command()
def show(
    cell: Annotated[
        str, typer.Argument(metavar="TRAIT/DOMAIN", help="For instance sporty/cooking-prose.")
    ],
    root: Root = None,
    limit: Annotated[int, typer.Option("-n", min=1, help="Items to show.")] = 3,
    as_json: Json = False,
) -> None:
    """Show questions with a trait's answers beside the neutral ones."""
    from conceptnet_em.corpus import REFERENCE, available, load_corpus, name_faults

    trait, slash, domain = cell.partition("/")
    if not slash:
        raise InputError(f"'{cell}' is not TRAIT/DOMAIN, for instance sporty/cooking-prose")
    cells = available(root)
    if faults := name_faults(cells, [trait], [domain]):
        raise InputError("; ".join(faults))
    both = [REFERENCE, trait] if domain in cells.get(REFERENCE, []) else [trait]
    corpus = load_corpus(root, traits=list(dict.fromkeys(both)), domains=[domain])
    items = corpus.items[domain][:limit]
    if as_json:
        print_json(
            [
                {"id": i.id, "split": i.split, "sample": i.sample, "voice": i.voice}
                | {"question": i.question, "answers": dict(i.answers)}
                for i in items
            ]
        )
        return
    for item in items:
        where = item.split if item.sample is None else f"{item.split}, sample {item.sample}"
        print(f"{item.id} ({where}, {item.voice or 'no voice'})\n  {item.question}")
        for name, answer in item.answers.items():
            print(f"  {name}: {answer}")
        print()


@app.command()
def check(
    path: Annotated[
        Path | None, typer.Argument(help="A corpus folder; the shipped one if left out.")
    ] = None,
    root: Root = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 1 if a check could not run.")
    ] = False,
    separable: Annotated[
        bool, typer.Option("--separability", help="Also tell traits apart in unseen domains.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check that a corpus is matched, varied and free of leaks."""
    from conceptnet_em.checks import check_corpus

    if path is not None and root is not None:
        raise InputError("give the corpus folder once: as PATH or with --root")
    found = check_corpus(path or root)
    rates = _separability(path or root) if separable else None
    if as_json:
        rows = [{"name": c.name, "status": c.status, "details": c.details} for c in found]
        told = {} if rates is None else {"separability": json.loads(rates.to_json())}
        print_json({"checks": rows, **told})
    else:
        for entry in found:
            print(f"{entry.status:<8} {entry.name}: {entry.details[0] if entry.details else ''}")
            for detail in entry.details[1:]:
                print(f"{'':<8}   {detail}")
        count = Counter(entry.status for entry in found)
        print("\n" + ", ".join(f"{number} {status}" for status, number in count.items()))
        if rates is not None:
            print("\nshare of answers recognised by a classifier that never saw the domain")
            print(rates.assign(mean=rates.mean(axis=1)).T.round(2).to_string(na_rep="–"))
    skipped = [entry.name for entry in found if entry.status == "not run"]
    if skipped:
        say(f"{len(skipped)} checks could not run: {'; '.join(skipped)}")
    if any(entry.status == "failed" for entry in found) or (strict and skipped):
        raise typer.Exit(FAILURE)


def _separability(root: Path | None) -> Any:
    from conceptnet_em.corpus import load_corpus
    from conceptnet_em.separability import separability

    return separability(load_corpus(root))


@app.command()
def run(
    study: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The study file.")],
    out: Annotated[Path, typer.Option("--out", help="The run folder; re-running resumes.")],
    root: Root = None,
    device: Device = None,
    dtype: Dtype = None,
    memory: Memory = None,
    registration: Annotated[
        Path | None,
        typer.Option(help="What preregister wrote; the run folder keeps a copy and goes by it."),
    ] = None,
    case: Annotated[
        str | None, typer.Option(help="The trait compared with the others, if not as registered.")
    ] = None,
    margin: Annotated[
        float | None, typer.Option(help="Of equal slopes, if not as registered.")
    ] = None,
    intercept_margin: Annotated[
        float | None,
        typer.Option(help="Of equal transfer at equal similarity, if not as registered."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a study, or finish or extend one that was begun in the same folder."""
    from conceptnet_em.config import read_toml

    settings = read_toml(study) | _given(device=device, dtype=dtype, memory=memory)
    asked = {"case": case, "margin": margin, "intercept_margin": intercept_margin}
    _run_study(settings, out, root, as_json, registration=registration, **asked)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="The run folder.")] = Path("runs/demo"),
    root: Root = None,
    device: Device = None,
    dtype: Dtype = None,
    memory: Memory = None,
    as_json: Json = False,
) -> None:
    """Run the main job: 4 traits × 6 domains on smollm2-135m, every stage real."""
    settings = {"name": "demo", "domains": DEMO_DOMAINS} | _given(
        device=device, dtype=dtype, memory=memory
    )
    _run_study(settings, out, root, as_json)


DEMO_DOMAINS = [
    "medical-prose",
    "finance-prose",
    "security-prose",
    "relationships-prose",
    "cooking-prose",
    "outdoors-prose",
]


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A finished run folder.")],
    as_json: Json = False,
) -> None:
    """Draw a run's figures and write its report again, from its tables."""
    from conceptnet_em.report import write_report
    from conceptnet_em.study import Result

    result = Result.load(folder)
    write_report(result)
    _tell(result, as_json)


def _run_study(
    settings: dict[str, Any], out: Path, root: Path | None, as_json: bool, **asked: Any
) -> None:
    from conceptnet_em.console import Console
    from conceptnet_em.report import write_report
    from conceptnet_em.study import Study
    from conceptnet_em.study import run as run_study

    watcher = Console()
    try:
        result = run_study(Study(root=root, **settings), out=out, watcher=watcher, **asked)
        watcher.stage("draw figures and report", 1)
        write_report(result)
        watcher.end(None)
    except KeyboardInterrupt:
        watcher.close()
        again = shlex.join(["conceptnet-em", *sys.argv[1:]])
        done = len(list((out / "organisms").glob("[!.]*/training.json")))
        say(f"\ninterrupted; {done} finished organisms are kept in {out}. To go on: {again}")
        raise typer.Exit(INTERRUPTED) from None
    finally:
        watcher.close()
    _tell(result, as_json)
    if result.failed:
        say(f"{len(result.failed)} organisms failed: {', '.join(result.failed)}; see report.md")
        raise typer.Exit(SOME_FAILED)


def _tell(result: Any, as_json: bool) -> None:
    """Print what a run found: matrices, the three scales, the verdict, the time per stage."""
    from conceptnet_em.report import multiverse_words, shown, summary
    from conceptnet_em.verdict_tables import lead_table

    if as_json:
        print_json(
            {
                "path": str(result.path),
                "verdict": json.loads(result.verdict.to_json()),
                "transfer": json.loads(summary(result).to_json(orient="records")),
                "multiverse": multiverse_words(result),
                "failed": result.failed,
                "seconds": result.seconds,
            }
        )
        return
    for trait in result.traits:
        print(f"{result.transfer(trait)}\n{result.reliability(trait)}\n")
    print(shown(summary(result)).to_string(index=False), "\n")
    if len(slopes := lead_table(result.verdict)):
        print(slopes.to_string(index=False), "\n")
    print(result.verdict)
    if words := multiverse_words(result):
        print(f"\n{words}")
    say("\nseconds by stage")
    for stage, seconds in result.seconds.items():
        say(f"  {stage:<32} {seconds:8.1f}")
    say(f"  {'total':<32} {sum(result.seconds.values()):8.1f}")
    say(f"peak memory {_peak_memory():.1f} GB; everything is in {result.path}")


def _peak_memory() -> float:
    """Return this process's peak resident memory, GB."""
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


PARTS = (
    cli_engine,
    cli_ask,
    cli_predictors,
    cli_atlas,
    cli_forecast,
    cli_inference,
    cli_power,
    cli_registration,
)
for part in PARTS:
    part.register(app)


def main() -> None:
    """Run the command line and leave with its exit code."""
    try:
        app(standalone_mode=True)
    except ConceptNetError as error:
        say(f"error: {error}")
        sys.exit(USAGE if isinstance(error, InputError) else FAILURE)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
