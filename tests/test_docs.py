"""The pages in docs/ run as they stand: code, commands, quoted messages, tables and the demo's."""

from __future__ import annotations

import ast
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from conceptnet_em.cli import app
from conceptnet_em.qap import qap
from conceptnet_em.relabelling import Relabellings, relabellings

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
INFERENCE = (ROOT / "docs" / "inference.md").read_text("utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```(?:\s*^```text\n(.*?)^```)?", re.DOTALL | re.MULTILINE)
"""A fenced block, and the one of text right behind it: what the first prints."""
QUICK = {"regress"}
"""Commands that are run, not only parsed, where the page shows what they print."""


def commands(page: str) -> list[list[str]]:
    """Return the words behind ``conceptnet-em``, in blocks of shell and in code between words."""
    shell = [text for language, text, _ in BLOCK.findall(page) if language == "sh"]
    lines = [line.split(" #")[0] for text in shell for line in text.split("\n")]
    spans = re.findall(r"`([^`\n]+)`", BLOCK.sub("", page))
    texts = [part.strip() for text in [*lines, *spans] for part in text.split("&&")]
    return [shlex.split(text)[1:] for text in texts if text.startswith("conceptnet-em ")]


@cache
def known() -> dict[str, Any]:
    """Return the commands by name, as the command line parses them."""
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


def unbroken(shown: str) -> str:
    """Drop line breaks: a page breaks long lines where it likes."""
    return " ".join(shown.split())


# --- every page ----------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_the_code_of_a_page_runs_and_prints_what_the_page_shows(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": page.stem}
    for language, text, shown in BLOCK.findall(page.read_text("utf-8")):
        printed = None
        if language == "python":
            exec(compile(text, str(page), "exec"), names)
            printed = capsys.readouterr().out
        elif language == "sh" and shown:
            (called,) = commands(f"```sh\n{text}```")
            if called[0] in QUICK:
                done = CliRunner().invoke(app, called)
                assert done.exit_code == 0, done.output
                printed = done.stdout
        if printed is not None and shown:
            assert unbroken(printed) == unbroken(shown)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda path: path.stem)
def test_every_command_a_page_shows_is_one_with_these_options(page: Path) -> None:
    for name, *words in commands(page.read_text("utf-8")):
        assert name in known(), f"no command {name}"
        known()[name].make_context(name, words)  # refuses an unknown option or a missing argument


def test_a_command_or_an_option_that_is_not_there_would_be_noticed() -> None:
    page = (
        "`conceptnet-em regress t.csv --similar s.csv`\n```sh\nls && conceptnet-em dance  # !\n```"
    )
    dance, regress = commands(page)
    assert dance == ["dance"]
    assert "dance" not in known()
    with pytest.raises(Exception, match=r"[Nn]o such option|Missing option"):
        known()["regress"].make_context("regress", regress[1:])
    assert commands(INFERENCE)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_option_named_alone_is_one_of_a_command(page: Path) -> None:
    options = {name for command in known().values() for p in command.params for name in p.opts}
    spans = re.findall(r"`(--[a-z][^`\n]*)`", page.read_text("utf-8"))
    assert {span.split()[0] for span in spans} <= options


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_links_within_the_house_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    titles = re.findall(r"^#+ (.*)$", BLOCK.sub("", text), flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif not target.startswith("http"):
            assert (page.parent / target.split("#")[0]).exists(), target


# --- docs/inference.md ---------------------------------------------------------------------------


def section(title: str) -> str:
    """Return what stands under a heading."""
    return INFERENCE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(title: str) -> list[list[str]]:
    """Return the rows of the tables under a heading, cell by cell, rules left out."""
    lines = [line for line in section(title).split("\n") if line.startswith("|")]
    return [[c.strip() for c in line.strip("|").split("|")] for line in lines if "|---" not in line]


@cache
def sayings() -> str:
    """Return every piece of text in the package, a line each."""
    trees = [ast.parse(path.read_text("utf-8")) for path in (ROOT / "conceptnet_em").glob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return "\n".join(node.value for node in nodes if isinstance(node.value, str))


def test_every_message_in_the_table_is_one_that_the_library_says() -> None:
    _, *found = rows("When it refuses or warns")
    assert len(found) > 20
    for message, reason, step in found:
        pieces = re.findall(r"`([^`]+)`", message)
        assert pieces, message
        assert not [piece for piece in pieces if piece not in sayings()]
        assert reason
        assert step


def group(topics: int, formats: int, **options: Any) -> Relabellings:
    labels = [f"{t} {f}" for t in range(topics) for f in range(formats)]
    named = {label: (label.split()[0], label.split()[1]) for label in labels}
    return relabellings(labels, topics=named, **options)


def row(title: str, number: int) -> list[float]:
    """Return the numbers of the so-manieth row of smallest p-values."""
    found = [r for r in rows("How far they can see") if r[0].startswith(title)]
    return [float(cell) for cell in found[number][1:] if cell != "–"]


def test_the_smallest_p_values_are_those_of_the_groups() -> None:
    free = [group(size, 1).smallest_p for size in range(5, 10)]
    both = [group(size, 2).smallest_p for size in (3, 4, 5, 6, 8)]
    assert row("smallest p", 0) == pytest.approx(free, rel=0.02)
    assert row("smallest p of a slope", 0) == pytest.approx(both, rel=0.02)


def test_the_smallest_p_values_of_a_format_mismatch_are_those_of_its_flips() -> None:
    found = []
    for topics in (3, 4, 5, 6, 8):
        flips = group(topics, 2, group="flips")
        names = list(flips.labels)
        y = pd.DataFrame(np.random.default_rng(0).normal(size=2 * [len(names)]), names, names)
        mismatch = pd.DataFrame([[float(a[-1] != b[-1]) for b in names] for a in names])
        mismatch = mismatch.set_axis(names).set_axis(names, axis=1)
        found.append(qap(y, mismatch, group=flips, interval=None).smallest_p)
    assert row("smallest p of the mismatch", 0) == pytest.approx(found, rel=0.02)


def test_what_the_page_quotes_of_the_demo_stands_in_its_report() -> None:
    report = unbroken((ROOT / "benchmarks/science/demo/report.md").read_text("utf-8"))
    title = "The demo's verdict, read"
    (commit,) = re.findall(r"commit `(\w+)`", section(title))
    assert f"commit {commit}" in report
    quoted = unbroken(" ".join(re.findall(r"^> (.*)$", section(title), flags=re.MULTILINE)))
    assert len(quoted) > 500
    pieces = [piece for said, _ in rows(title)[1:] for piece in re.findall(r"`([^`]+)`", said)]
    assert len(pieces) > 10
    assert not [piece for piece in [quoted, *pieces] if piece not in report]
