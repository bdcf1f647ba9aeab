"""What every command of the command line shares: options, exit codes, and where words go."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

OK, FAILURE, USAGE, SOME_FAILED, INTERRUPTED = 0, 1, 2, 3, 130

Root = Annotated[
    Path | None, typer.Option("--root", help="A corpus folder with <trait>/<domain>.jsonl.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[str | None, typer.Option(help="auto, float32 or bfloat16.")]


def say(text: str = "") -> None:
    """Tell the user something: on stderr, so that stdout holds data only."""
    print(text, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Print one JSON document on stdout; NaN becomes null."""
    from conceptnet_em.records import nulls

    print(json.dumps(nulls(value), indent=2, ensure_ascii=False, allow_nan=False))
