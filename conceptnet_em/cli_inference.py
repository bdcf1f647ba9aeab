"""The commands around the inference: is it to be trusted?"""

from __future__ import annotations

from typing import Annotated

import typer

from conceptnet_em.cli_shared import FAILURE, Json, say


def register(app: typer.Typer) -> None:
    """Add ``selftest-inference`` to a command line."""
    app.command()(selftest_inference)


def selftest_inference(
    quick: Annotated[
        bool, typer.Option("--quick", help="120 grids instead of 1,000, with wider bounds.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Test the inference on grids whose truth is known; exit 1 if a test misses its bound."""
    from conceptnet_em.acceptance import run

    found = run(quick=quick, watcher=lambda name: say(f"{name} …"))
    print(found.to_json() if as_json else found)
    if not found.passed:
        raise typer.Exit(FAILURE)
