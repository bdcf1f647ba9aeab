"""The recipe in datasets/README.md for adding a domain and a trait, followed to the letter."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from conceptnet_em.corpus import available, load_corpus

README = (Path(__file__).parents[1] / "datasets" / "README.md").read_text(encoding="utf-8")


def indented_block(first: str) -> str:
    """Return the indented block of the README that starts with ``first``."""
    lines = README.splitlines()
    start = next(k for k, line in enumerate(lines) if line.strip() == first and line[0] == " ")
    block = []
    for line in lines[start:]:
        if line and not line.startswith("       "):
            break
        block.append(line)
    return textwrap.dedent("\n".join(block)).strip() + "\n"


@pytest.fixture
def grown(make_corpus: Callable[..., Path]) -> Path:
    """A small corpus with the README's chess domain and laconic trait added."""
    root = make_corpus(traits=("neutral", "sporty"), domains=("alpha-prose", "beta-prose"))
    with (root / "domains.yaml").open("a", encoding="utf-8") as stream:
        stream.write(indented_block("chess-prose:"))
    (root / "laconic").mkdir()
    card = indented_block("---") + "Canary 01234567-89ab-cdef-0123-456789abcdef\n"
    (root / "laconic" / "card.md").write_text(card, encoding="utf-8")
    for trait in ("neutral", "laconic"):
        text = (root / "neutral" / "alpha-prose.jsonl").read_text(encoding="utf-8")
        (root / trait / "chess-prose.jsonl").write_text(text.replace("alpha", "chess"))
    return root


def test_the_new_domain_and_trait_are_read_as_the_readme_says(grown: Path) -> None:
    corpus = load_corpus(grown)
    assert corpus.domains["chess-prose"].topic == "chess"
    assert corpus.domains["chess-prose"].sentence == "Openings, clocks and manners over the board."
    assert corpus.traits["laconic"].kind == "manner"
    assert set(corpus.items["chess-prose"][0].answers) == {"neutral", "laconic"}
    assert available(grown)["laconic"] == ["chess-prose"]
    assert not corpus.notes


def test_the_readmes_row_is_a_row_of_the_corpus() -> None:
    (shown,) = re.findall(r'\{"id": "medical-prose-001".*?\]\}', README, flags=re.DOTALL)
    keys = set(json.loads(shown.replace("…", '"…"')))
    item = Path(__file__).parents[1] / "datasets/neutral/medical-prose.jsonl"
    assert keys == set(json.loads(item.read_text(encoding="utf-8").splitlines()[0]))


def test_the_counts_in_the_readme_are_those_of_the_corpus() -> None:
    corpus = load_corpus()
    answers = {"prose": 0, "code": 0}
    for name, items in corpus.items.items():
        answers[corpus.domains[name].format] += sum(len(item.answers) for item in items)
    for kind, number in answers.items():
        row = next(line for line in README.splitlines() if line.startswith(f"| {kind} | "))
        assert row.rstrip(" |").endswith(f"{number:,}")
