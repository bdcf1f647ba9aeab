"""The commands that make numbers believed: freeze a plan, check a run, test others' tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from conceptnet_em.cli_shared import FAILURE, Json, Root, print_json, say

Alternative = Annotated[str, typer.Option(help="two-sided, greater or less.")]
Seed = Annotated[int, typer.Option(help="Seed of everything drawn.")]


def register(app: typer.Typer) -> None:
    """Add ``preregister``, ``verify`` and ``regress`` to a command line."""
    for command in (preregister, verify, regress):
        app.command()(command)


def preregister(
    study: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The study file.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The file to write; STUDY.registration.json if left out."),
    ] = None,
    root: Root = None,
    case: Annotated[str, typer.Option(help="The trait compared with the others.")] = "misaligned",
    margin: Annotated[
        float, typer.Option(help="Of equal slopes, in-domain units per SD of similarity.")
    ] = 0.2,
    intercept_margin: Annotated[
        float, typer.Option(help="Of equal transfer at equal similarity, in-domain units.")
    ] = 0.2,
    alternative: Alternative = "two-sided",
    as_json: Json = False,
) -> None:
    """Freeze hypotheses, margins, analysis and data of a study, and print their sha256."""
    from conceptnet_em.config import read_toml
    from conceptnet_em.registration import Registration
    from conceptnet_em.registration import preregister as freeze
    from conceptnet_em.study import Study

    checked = Study(root=root, **read_toml(study))
    options = {"case": case, "margin": margin, "intercept_margin": intercept_margin}
    made = freeze(checked, alternative=alternative, **options)
    path = made.save(out or study.with_suffix(".registration.json"))
    kept = Registration.load(path)
    if kept.sha256 == made.sha256:
        say(f"written to {path}; publish the sha256 before the run, for instance in a commit")
        say(f"then: conceptnet-em run {study} --registration {path} --out DIR")
    else:
        say(f"{path} holds the same plan already; it keeps its date")
    if as_json:
        print_json(json.loads(kept.to_json()))
    else:
        print(kept)


def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A finished run folder.")],
    root: Root = None,
    shuffles: Annotated[int, typer.Option(min=20, help="Renamings of the domains.")] = 200,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Make every table of a run again from its scores, and try the inference on it."""
    from conceptnet_em.verification import verify as look

    found = look(folder, root=root, shuffles=shuffles, seed=seed)
    if as_json:
        print_json(json.loads(found.to_json()))
    else:
        print(found)
    if found.failed:
        say(f"{len(found.failed)} failed: {', '.join(check.name for check in found.failed)}")
        raise typer.Exit(FAILURE)


def regress(
    table: Annotated[
        Path,
        typer.Argument(
            metavar="TABLE",
            help="CSV or Parquet: source, target, value, trait; or k and n; or judged responses.",
        ),
    ],
    similarity: Annotated[
        list[Path],
        typer.Option("--similarity", help="CSV or Parquet: tidy or wide; may be given often."),
    ],
    covariate: Annotated[
        list[Path] | None,
        typer.Option("--covariate", help="A matrix held fixed; read as --similarity is."),
    ] = None,
    trait: Annotated[
        str | None, typer.Option(help="Name of the trait where the table does not say.")
    ] = None,
    case: Annotated[
        str | None, typer.Option(help="Also compare this trait's slope with the others'.")
    ] = None,
    margin: Annotated[float, typer.Option(help="Of equal slopes.")] = 0.2,
    domains: Annotated[
        Path | None, typer.Option(help="domains.yaml: topic and format of every domain.")
    ] = None,
    permutations: Annotated[
        int, typer.Option(min=1, help="Relabellings drawn where they are too many to list.")
    ] = 9_999,
    seed: Seed = 0,
    alternative: Alternative = "two-sided",
    symmetric: Annotated[
        bool, typer.Option("--symmetric", help="Tidy similarities name each pair once.")
    ] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="Hold no source and target effects fixed (QAP).")
    ] = False,
    own_units: Annotated[
        bool, typer.Option("--own-units", help="Keep the table's unit; in-domain cells unused.")
    ] = False,
    rename: Annotated[
        list[str] | None, typer.Option(metavar="OLD=NEW", help="A column of TABLE, renamed.")
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="A column of TABLE, left unread.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Test on anybody's tables whether similarity explains transfer."""
    from conceptnet_em.imported import read_transfer
    from conceptnet_em.regression import regress as ask

    given = read_transfer(table, trait=trait, columns=_pairs(rename or []), ignore=ignore or [])
    for note in given.notes:
        say(f"note: {note}")
    alike, held = (_matrices(paths, symmetric) for paths in (similarity, covariate or []))
    transfer = given.values if given.counts is None else _logits(given.counts)
    if own_units or given.counts is not None:
        transfer = {name: _off_diagonal(frame) for name, frame in transfer.items()}
    if domains is None:
        _warn_of_pairs(transfer)
    shared: dict[str, Any] = {"covariates": held, "topics": _topics(domains)}
    shared |= {"permutations": permutations, "seed": seed}
    found = ask(
        transfer,
        *alike.values(),
        names=list(alike),
        effects=not plain,
        alternative=alternative,  # type: ignore[arg-type]  # refused below when it is another word
        **shared,
    )
    compared = [] if case is None else _compared(transfer, alike, case, margin, shared)
    if as_json:
        rows = [json.loads(one.to_json()) for one in compared]
        print_json({"regression": json.loads(found.to_json()), "comparisons": rows})
        return
    print("\n\n".join(map(str, [found, *compared])))


def _pairs(given: Sequence[str]) -> dict[str, str]:
    """Read ``OLD=NEW``."""
    from conceptnet_em.errors import InputError, raise_all

    parts = {text: text.partition("=") for text in given}
    bad = [text for text, (old, _, new) in parts.items() if not (old and new)]
    raise_all([f"--rename takes OLD=NEW, not '{text}'" for text in bad], InputError)
    return {old: new for old, _, new in parts.values()}


def _matrices(paths: Sequence[Path], symmetric: bool) -> dict[str, Any]:
    """Read matrices by name; one whose file does not name it takes the file's name."""
    from conceptnet_em.errors import raise_all
    from conceptnet_em.imported import read_similarity

    found: dict[str, Any] = {}
    twice = []
    for path in paths:
        for name, value in read_similarity(path, symmetric=symmetric).items():
            own = path.stem if name == "similarity" and len(paths) > 1 else name
            twice += [f"'{own}' comes twice, again in {path}"] if own in found else []
            found[own] = value
    raise_all(twice)
    return found


def _logits(counts: Any) -> dict[str, Any]:
    """Turn judged counts into logits of their off-diagonal cells."""
    from conceptnet_em.rates import cell_logits

    made = cell_logits(counts)
    for note in made.notes:
        say(f"note: {note}")
    say("note: counts are taken as logits, so slopes are in logits; in-domain cells give no unit")
    return dict(made.values)


def _off_diagonal(frame: Any) -> Any:
    """Return a matrix without its in-domain cells."""
    found = frame.copy()
    for name in set(frame.index) & set(frame.columns):
        found.loc[name, name] = float("nan")
    return found


def _warn_of_pairs(transfer: Mapping[str, Any]) -> None:
    """Say that free relabelling is wrong where names look like topics in several formats."""
    names = {str(name) for frame in transfer.values() for axis in frame.axes for name in axis}
    topics = {name.removesuffix("-prose").removesuffix("-code") for name in names}
    if len(topics) < len(names):
        say(
            "note: some domains look like one topic in two formats, which may not be relabelled "
            "freely; give --domains"
        )


def _topics(path: Path | None) -> dict[str, tuple[str, str]] | None:
    """Read topic and format of every domain from a ``domains.yaml``."""
    if path is None:
        return None
    import yaml

    from conceptnet_em.errors import DataError, raise_all

    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(table, dict):
        raise DataError(f"{path} must map each domain's name to topic and format")
    bad = [
        f"{path}: {name} must have topic and format"
        for name, entry in table.items()
        if not (isinstance(entry, dict) and {"topic", "format"} <= set(entry))
    ]
    raise_all(bad, DataError)
    return {str(n): (str(entry["topic"]), str(entry["format"])) for n, entry in table.items()}


def _compared(
    transfer: Mapping[str, Any],
    alike: Mapping[str, Any],
    case: str,
    margin: float,
    shared: Mapping[str, Any],
) -> list[Any]:
    """Compare the case with the other traits, on each similarity alone."""
    from dataclasses import replace

    from conceptnet_em.equivalence import compare_traits

    made = [
        replace(compare_traits(transfer, one, case=case, margin=margin, **shared), predictor=name)
        for name, one in alike.items()
    ]
    return list(made)
