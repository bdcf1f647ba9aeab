"""Race our engine against its peers and write the table: python benchmarks/speed/run.py.

Every case runs ours and its peers in turns in this one process, on the same items and tokens. See
README.md beside this file for what each number is.
"""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import argparse
import json
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import machine
import peers
import roof
from cases import CASES
from measure import Row, table
from workload import QUICK, Bench, Sizes, smaller

from conceptnet_em.models import load_model

HERE = Path(__file__).resolve().parent
FEWER = ("steps", "probe_domains", "probe_items", "questions", "prompts", "new_tokens")
"""Settings of ``Sizes`` that a shorter run may lower."""


def main(arguments: Sequence[str] | None = None) -> None:
    asked = _asked(arguments)
    peers.clean_path()
    sizes = smaller(QUICK if asked.quick else Sizes(), asked.repeats, asked.group)
    given = {name: getattr(asked, name) for name in FEWER}
    sizes = replace(sizes, **{name: value for name, value in given.items() if value})
    model = load_model(asked.model, device=asked.device)
    _say(f"measuring the roof of {asked.model}'s matrix products")
    roofs = roof.measure(model.config, device=model.device, repeats=3 if asked.quick else 30)
    record: dict[str, Any] = {
        "machine": machine.describe(model, roofs),
        "commit": machine.commit_line(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "sizes": vars(sizes),
        "results": [],
        "failed": {},
    }
    with tempfile.TemporaryDirectory(prefix="conceptnet-em-speed-") as scratch:
        bench = Bench(model, sizes, Path(scratch), roofs)
        rows = _race(bench, asked.cases, record, asked.out)
    sys.stdout.write(f"{_heading(record)}\n\n{table(rows)}\n\nwritten to {asked.out}\n")
    if record["failed"]:
        raise SystemExit(f"failed: {record['failed']}")


def _race(bench: Bench, names: Sequence[str], record: dict[str, Any], out: Path) -> list[Row]:
    """Run the cases; the file is written after each, and a case that fails costs only itself."""
    rows: list[Row] = []
    for name in names:
        _say(f"case {name}")
        try:
            rows += CASES[name](bench)
        except Exception as error:
            record["failed"][name] = f"{type(error).__name__}: {error}"
            _say(f"case {name} failed:\n{traceback.format_exc()}")
        record["results"] = [r.to_dict() for r in rows]
        out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return rows


def _asked(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--repeats", type=int, help="alternating repeats of each case (5)")
    parser.add_argument("--group", type=int, help="organisms that ours trains together")
    parser.add_argument("--quick", action="store_true", help="2 steps, 1 repeat, few items")
    for name in FEWER:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help="less than all of it")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="results.json beside this file")
    asked = parser.parse_args(arguments)
    quick = Path(tempfile.gettempdir()) / "conceptnet-em-speed-quick.json"
    asked.out = asked.out or (quick if asked.quick else HERE / "results.json")
    return asked


def _heading(record: dict[str, Any]) -> str:
    found = record["machine"]
    rates = ", ".join(f"{name} {rate:.0f}" for name, rate in found["roof_gflops"].items())
    return (
        f"{found['cpu']}, {found['cores']} cores, {found['threads']} threads, {found['device']}; "
        f"matrix products {rates} GFLOP/s; commit {record['commit']}, {record['date']}"
    )


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    main()
