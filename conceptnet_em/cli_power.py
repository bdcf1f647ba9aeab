"""The command that says before a study how large it has to be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from conceptnet_em.cli_shared import Json, say
from conceptnet_em.errors import InputError, raise_all


def register(app: typer.Typer) -> None:
    """Add ``power`` to a command line."""
    app.command()(power)


def power(
    pilot: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", help="A run folder to take the variances from."),
    ] = None,
    predictor: Annotated[
        str | None, typer.Option(help="Of the pilot; text, or else the first.")
    ] = None,
    scale: Annotated[str, typer.Option(help="Of the pilot: raw, net or contrast.")] = "contrast",
    design: Annotated[
        str | None,
        typer.Option(help="free (distinct topics) or joint (topics × 2 formats); the pilot's own."),
    ] = None,
    root: Annotated[
        Path | None, typer.Option("--root", help="The pilot's corpus folder, for its topics.")
    ] = None,
    domains: Annotated[str, typer.Option(help="Sizes of the grid.")] = "6,8,10,12,14,16",
    controls: Annotated[str, typer.Option(help="Control traits beside the case.")] = "3,8",
    replicates: Annotated[str, typer.Option(help="Organisms per trait and source.")] = "1,2,3",
    slope: Annotated[
        float | None, typer.Option(help="Transfer per SD of similarity; the pilot's own, or .5.")
    ] = None,
    difference: Annotated[
        float, typer.Option(help="The case's slope minus the controls', in truth.")
    ] = 0.0,
    margin: Annotated[float, typer.Option(help="Of equivalence, in the slope's unit.")] = 0.2,
    grids: Annotated[int, typer.Option(help="Simulated grids per size.")] = 300,
    permutations: Annotated[int, typer.Option(help="Relabellings drawn per test.")] = 499,
    seed: Annotated[int, typer.Option(help="Of the simulation.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="Draw the picture here, a PNG.")] = None,
    as_json: Json = False,
) -> None:
    """Say how likely a study of each size is to find what is there, and what margin it reaches."""
    from conceptnet_em.power import power as simulate

    lists = {"domains": domains, "controls": controls, "replicates": replicates}
    sizes = _numbers(lists)
    found = simulate(
        _design(pilot, design, root),
        pilot=None if pilot is None else _pilot(pilot, predictor, scale),
        slope=slope,
        true_difference=difference,
        margin=margin,
        grids=grids,
        permutations=permutations,
        seed=seed,
        **sizes,
    )
    if out is not None:
        from conceptnet_em.powerplot import draw_power

        draw_power(found, out)
        say(f"drawn to {out}")
    print(found.to_json() if as_json else found)


def _numbers(lists: dict[str, str]) -> dict[str, Any]:
    """Read whole numbers between commas, and name every list that holds something else."""
    found, faults = dict[str, Any](), list[str]()
    for name, text in lists.items():
        try:
            found[name] = [int(part) for part in text.split(",")]
        except ValueError:
            faults.append(f"--{name} takes whole numbers between commas; '{text}' came")
    raise_all(faults)
    return found


def _design(pilot: Path | None, design: str | None, root: Path | None) -> Any:
    """Return the design asked for, or the (topic, format) of the pilot's domains."""
    if design is not None or pilot is None:
        return design or "free"
    from conceptnet_em.config import read_toml, study_faults
    from conceptnet_em.corpus import REFERENCE, load_corpus

    config, faults = study_faults(read_toml(pilot / "study.toml"))
    raise_all(faults)
    assert config is not None
    return load_corpus(root, traits=[REFERENCE], domains=config.domains).topics


def _pilot(folder: Path, predictor: str | None, scale: str) -> Any:
    """Read transfer and similarity of a run folder."""
    import pandas as pd

    from conceptnet_em.pilot import tables
    from conceptnet_em.similarity import from_table

    paths = [folder / f"{name}.parquet" for name in ("transfer", "similarities")]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise InputError(
            f"{folder} is no finished run: it has no {' and no '.join(missing)}; "
            "finish it with conceptnet-em run, or leave DIR out"
        )
    transfer, alike = map(pd.read_parquet, paths)
    return tables(transfer, from_table(alike), predictor=predictor, scale=scale)
