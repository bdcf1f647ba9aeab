"""The commands around a run: what it would take, how far it is, and whether the machine is fit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from conceptnet_em.cli_shared import FAILURE, Device, Dtype, Json, Root, print_json, say


def register(app: typer.Typer) -> None:
    """Add ``plan``, ``status`` and ``doctor`` to a command line."""
    for command in (plan, status, doctor):
        app.command()(command)


def plan(
    study: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The study file.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The run folder; what it holds is done, the plan goes there."),
    ] = None,
    root: Root = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Say what a study would train and score, and the time, disk and memory it would take."""
    from conceptnet_em.config import read_toml
    from conceptnet_em.planning import plan as make_plan
    from conceptnet_em.planning import write_plan
    from conceptnet_em.study import Study

    asked = {name: v for name, v in {"device": device, "dtype": dtype}.items() if v is not None}
    checked = Study(root=root, **(read_toml(study) | asked))
    say("load the model and time a few steps …")
    found = make_plan(checked, out)
    if out is not None:
        say(f"written to {write_plan(found, out)}")
    if as_json:
        print_json(found.to_dict())
    else:
        print(found)


def status(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run folder.")],
    as_json: Json = False,
) -> None:
    """Say how far a run is, also while another process works on it."""
    from conceptnet_em.following import status as read_status

    found = read_status(folder)
    if as_json:
        print_json(found.to_dict())
    else:
        print(found)


def doctor(
    out: Annotated[
        Path | None, typer.Option("--out", help="Where runs shall go; the present folder if none.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Look at the machine and say what to change; exit 1 if a study cannot run on it."""
    from conceptnet_em.doctor import examine, is_wrong

    found = examine(out)
    if as_json:
        print_json([finding.to_dict() for finding in found])
    else:
        for finding in found:
            print(finding)
    wrong = sum(finding.ok is False for finding in found)
    say(f"{wrong} to mend before a study can run" if wrong else "a study can run here")
    if is_wrong(found):
        raise typer.Exit(FAILURE)
