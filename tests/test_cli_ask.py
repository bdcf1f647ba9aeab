"""The command that asks organisms: who answers, what is printed, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from rich.cells import cell_len
from typer.testing import CliRunner, Result

from conceptnet_em import cli_ask
from conceptnet_em.config import study_faults
from conceptnet_em.errors import InputError, ModelError, StoreError
from conceptnet_em.generation import Sampled, generate
from conceptnet_em.models import LanguageModel
from conceptnet_em.stacking import save_adapter, stacked
from conceptnet_em.store import RunFolder, write_json, write_text
from conceptnet_em.study import Study, run

TRAITS = ("neutral", "sporty", "sycophantic")


DOMAINS = ("beta-prose", "alpha-prose")
SETTINGS: dict[str, Any] = {
    "traits": TRAITS,
    "domains": DOMAINS,
    "predictors": (),
    "dtype": "float32",
    "device": "cpu",
    "recipe": {"base": "rank1", "steps": 2, "batch_size": 1, "learning_rate": 0.3},
}


@pytest.fixture(scope="module")
def made(tiny: LanguageModel, tiny_folder: Path, tmp_path_factory: Any) -> Path:
    """A run folder with adapters of 3 traits × 2 domains, drawn rather than trained."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "run")
    config, faults = study_faults(SETTINGS | {"model": str(tiny_folder)})
    assert config is not None, faults
    pairs = [(domain, trait) for domain in DOMAINS for trait in TRAITS]
    with stacked(tiny, config.recipe, len(pairs)) as stack, torch.random.fork_rng():
        torch.manual_seed(0)
        for k in range(len(pairs)):
            stack.draw(k, k)
        with torch.no_grad():
            for layer in stack.layers.values():
                layer.b.normal_(std=2.0)
        states = [stack.state(k) for k in range(len(pairs))]
    for k, (domain, trait) in enumerate(pairs):
        place = folder.organism(f"key{k}")
        place.mkdir(parents=True)
        save_adapter(states[k], config.recipe, tiny, place)
        about = {"trait": trait, "source": domain, "replicate": 1, "base": tiny.describe()}
        write_json(place / "training.json", about)
    write_json(folder.file("provenance.json"), {"organisms": [f"key{k}" for k in range(6)][::-1]})
    write_text(folder.file("study.toml"), config.dump())
    return folder.path


@pytest.fixture
def finished(made: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture
def ask() -> Callable[..., Result]:
    """Return a function that gives the command these words; errors come through."""
    app = typer.Typer()
    cli_ask.register(app)
    app.callback()(lambda: None)

    def call(*words: object) -> Result:
        return CliRunner().invoke(app, ["ask", *map(str, words)], catch_exceptions=False)

    return call


def names(found: Result) -> list[str]:
    return list(dict.fromkeys(row["organism"] for row in json.loads(found.stdout)["answers"]))


def files(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*")}


def test_all_traits_of_the_first_domain_answer_beside_the_base(
    finished: Path, ask: Any, tiny: LanguageModel
) -> None:
    before = files(finished)
    found = ask(finished, "Why?", "How?", "--samples", 2, "--max-tokens", 12, "--seed", 4, "--json")
    assert names(found) == ["base", *(f"{trait}/beta-prose/1" for trait in TRAITS)]
    table = json.loads(found.stdout)
    assert "illustration" in table["note"]
    rows = table["answers"]
    assert len(rows) == 2 * 4 * 2  # questions × (base and organisms) × samples
    expected = generate(tiny, ["Why?", "How?"], samples=2, max_tokens=12, seed=4)
    base = [row["text"] for row in rows if row["organism"] == "base"]
    assert base == [answer.text for own in expected for answer in own]
    (place,) = {p.parent for p in finished.glob("organisms/*/training.json") if of(p, "sporty")}
    with tiny.wearing(place):
        (answers, _) = generate(tiny, ["Why?", "How?"], samples=2, max_tokens=12, seed=4)
    sporty = [r for r in rows if r["trait"] == "sporty" and r["question"] == "Why?"]
    assert [r["text"] for r in sporty] == [answer.text for answer in answers]
    assert files(finished) == before  # nothing is written


def of(path: Path, trait: str) -> bool:
    record = json.loads(path.read_text())
    return (record["trait"], record["source"]) == (trait, "beta-prose")


def test_organisms_can_be_chosen(finished: Path, ask: Any) -> None:
    short = ("Why?", "--max-tokens", 2, "--json")
    every = ask(finished, *short, "--all")
    assert names(every) == [
        "base",
        *(f"{trait}/{domain}/1" for domain in ("beta-prose", "alpha-prose") for trait in TRAITS),
    ]
    few = ask(finished, *short, "--trait", "sporty", "--source", "alpha-prose")
    assert names(few) == ["base", "sporty/alpha-prose/1"]
    several = ask(finished, *short, "--trait", "sporty", "--trait", "neutral")
    assert names(several) == ["base", "neutral/beta-prose/1", "sporty/beta-prose/1"]


def test_organisms_in_several_passes_answer_as_in_one(
    finished: Path, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (finished, "Why?", "--max-tokens", 8, "--json", "--all")
    once = ask(*words)
    monkeypatch.setattr(cli_ask, "ABREAST", 4)
    again = ask(*words)
    texts = [[row["text"] for row in json.loads(f.stdout)["answers"]] for f in (once, again)]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) == 7


def test_the_text_says_first_that_it_is_illustration_and_fits_the_screen(
    finished: Path, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    found = ask(finished, "Why [bold]so?", "--max-tokens", 90, "--trait", "sporty")
    lines = found.stdout.splitlines()
    assert " ".join(lines[:2]).startswith(cli_ask.NOTE[:50])
    assert "Why [bold]so?" in lines  # no markup is read out of a question
    assert [line.strip() for line in lines if line in ("  base", "  sporty/beta-prose/1")] == [
        "base",
        "sporty/beta-prose/1",
    ]
    assert max(map(cell_len, lines)) <= 60
    assert "load the model" not in found.stdout  # on stderr


def test_every_unknown_name_is_said_with_what_there_is(finished: Path, ask: Any) -> None:
    with pytest.raises(InputError) as caught:
        ask(finished, "Why?", "--trait", "sprty", "--source", "gamma-prose", "--replicate", 3)
    for words in (
        "3 faults",
        "no trait 'sprty' (did you mean 'sporty'?)",
        "no source 'gamma-prose'",
        "there is alpha-prose, beta-prose",
        "no replicate '3'; there is 1",
    ):
        assert words in str(caught.value)


def test_missing_adapters_are_said(finished: Path, ask: Any, tmp_path: Path) -> None:
    for path in finished.glob("organisms/*/adapter_model.safetensors"):
        if of(path.parent / "training.json", "sporty"):
            path.unlink()
    found = ask(finished, "Why?", "--max-tokens", 2, "--json")
    assert names(found) == ["base", "neutral/beta-prose/1", "sycophantic/beta-prose/1"]
    assert "no adapter of sporty/beta-prose/1" in found.stderr
    with pytest.raises(StoreError, match=r"does not hold the adapter.*sporty/beta-prose/1"):
        ask(finished, "Why?", "--trait", "sporty")
    shutil.rmtree(finished / "organisms")
    with pytest.raises(StoreError, match=r"may hold results only"):
        ask(finished, "Why?")
    with pytest.raises(StoreError, match=r"holds no run: it has no study\.toml"):
        ask(tmp_path / "nothing", "Why?")


def test_organisms_of_another_base_are_refused(finished: Path, ask: Any) -> None:
    for path in finished.glob("organisms/*/training.json"):
        record = json.loads(path.read_text())
        record["base"]["sha256"] = "f" * 64
        path.write_text(json.dumps(record))
    with pytest.raises(ModelError, match=r"3 faults(.|\n)*was trained on a base of digest ffffff"):
        ask(finished, "Why?")


def test_a_setting_of_the_run_may_be_overruled(finished: Path, ask: Any) -> None:
    found = ask(finished, "Why?", "--max-tokens", 2, "--json", "--dtype", "bfloat16")
    assert json.loads(found.stdout)["base"]["dtype"] == "bfloat16"
    with pytest.raises(InputError, match="dtype"):
        ask(finished, "Why?", "--dtype", "float7")


def test_a_terminal_is_given_no_control_characters() -> None:
    answer = Sampled(" Ring\x07, \x1b[31mred\nand a line. ", (1,), 0.0, "length")
    assert cli_ask.shown(answer) == "Ring�, �[31mred\nand a line. …"


def test_a_run_as_it_is_made_can_be_asked(
    make_corpus: Callable[..., Path], tiny_folder: Path, tmp_path: Path, ask: Any
) -> None:
    study = Study(root=make_corpus(), model=str(tiny_folder), **SETTINGS)
    run(study, out=tmp_path / "run")
    found = ask(tmp_path / "run", "Why?", "--max-tokens", 4, "--json", "--all")
    assert names(found) == ["base", *(f"{t}/{d}/1" for d in DOMAINS for t in TRAITS)]
