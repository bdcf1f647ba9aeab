"""The commands around similarity: which predictors there are, and how each does on a run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from conceptnet_em.cli_shared import Json, Root, print_json, say


def register(app: typer.Typer) -> None:
    """Add ``predictors`` and ``layers`` to a command line."""
    for command in (predictors, layers):
        app.command()(command)


def predictors(
    run: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR]", help="A finished run: put every predictor to its test."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="One predictor; may be given several times."),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option("--skip", metavar="NAME", help="Leave one out, for instance in-context."),
    ] = None,
    permutations: Annotated[
        int, typer.Option(min=99, help="Relabellings, where the group is too large to list.")
    ] = 9_999,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the table here too, as CSV.")
    ] = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """List the predictors; with a run, compute them and say how well each explains transfer."""
    from conceptnet_em.predictors import TABLE, chosen, listing

    wanted = [p for p in chosen(only or list(TABLE)) if p not in chosen(skip or [])]
    if run is None:
        rows = [{k: v for k, v in asdict(p).items() if k != "compute"} for p in wanted]
        print_json(rows) if as_json else print(listing(wanted))
        return
    from conceptnet_em.screening import screen

    found = screen(run, wanted, root=root, permutations=permutations, note=say)
    if out is not None:
        found.to_table().to_csv(out, index=False)
        say(f"written to {out}")
    if as_json:
        typer.echo(found.to_json())
    else:
        print(found)


def layers(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="A finished run.")],
    predictor: Annotated[
        str, typer.Option(help="One that is computed at a layer; 'predictors' says which.")
    ] = "trait-direction",
    case: Annotated[str, typer.Option(help="The trait in question.")] = "misaligned",
    permutations: Annotated[
        int, typer.Option(min=99, help="Relabellings, where the group is too large to list.")
    ] = 1_999,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where picture and table go; the run if unset.")
    ] = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Say at which layer similarity explains transfer, allowing for having looked at all."""
    from conceptnet_em.layerplot import draw_layers
    from conceptnet_em.layers import layer_profile
    from conceptnet_em.screening import at_all_layers

    result, corpus, alike = at_all_layers(run, predictor, root=root, note=say)
    found = layer_profile(
        result.table,
        alike,
        case=case,
        topics=corpus.topics,
        permutations=permutations,
        seed=result.config.seed,
    )
    place = (out or run) / f"layers-{predictor}"
    place.parent.mkdir(parents=True, exist_ok=True)
    found.to_table().to_csv(place.with_suffix(".csv"), index=False)
    say(f"written to {place}.csv and {draw_layers(found, place.with_suffix('.png'))}")
    if as_json:
        typer.echo(found.to_json())
    else:
        print(found)
