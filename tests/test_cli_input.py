"""The command line on good and bad input: data on stdout, the rest on stderr, true exit codes."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from conceptnet_em import checks, cli, embeddings, weights


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch, capsys):
    """Call the command line in this process, as its entry point does."""

    def call(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["conceptnet-em", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Said(left.value.code or 0, said.out, said.err)

    return call


@pytest.fixture
def bare(monkeypatch) -> None:
    """A machine without the model and the embedder."""
    monkeypatch.setattr(weights, "is_at_hand", lambda name: False)
    monkeypatch.setattr(embeddings, "is_at_hand", lambda name: False)
    checks._tokenizer.cache_clear()


@pytest.fixture
def root(make_corpus) -> Path:
    return make_corpus()


def spoil(root: Path) -> str:
    """Break line 3 of one file and return where that is."""
    path = root / "sporty" / "beta-prose.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], '{"id": 1', *lines[3:]]) + "\n")
    return f"{path}:3: not JSON"


# --- list ---


def test_list_shows_every_trait_and_domain_of_the_root(run, root):
    said = run("list", "--root", root)
    assert said.code == 0
    assert said.err == ""
    lines = [line.split() for line in said.out.splitlines()]
    assert ["3", "traits"] in lines
    assert ["sporty", "manner", "5", "domains"] in lines
    assert ["beta-prose", "12", "items", "About", "beta-prose."] in lines


def test_list_gives_json_on_stdout(run, root):
    (root / "sporty" / "beta-prose.jsonl").unlink()
    said = run("list", "--root", root, "--json")
    assert said.code == 0
    found = json.loads(said.out)
    assert found["traits"] == {"neutral": "reference", "sporty": "manner", "sycophantic": "manner"}
    assert "beta-prose" in found["cells"]["neutral"]
    assert "beta-prose" not in found["cells"]["sporty"]


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_notes_go_to_stderr(run, root, more):
    (root / "sporty" / "card.md").unlink()
    said = run("list", "--root", root, *more)
    assert said.code == 0
    assert said.err == "note: sporty: no card.md, so its kind is unknown\n"
    assert "note" not in said.out


def test_a_malformed_row_exits_2_with_file_and_line(run, root):
    where = spoil(root)
    for words in (["list"], ["show", "sporty/beta-prose"]):
        said = run(*words, "--root", root)
        assert (said.code, said.out) == (2, "")
        assert said.err.startswith(f"error: {where}")


def test_a_root_that_is_not_there_exits_2(run, tmp_path):
    said = run("list", "--root", tmp_path / "nowhere")
    assert (said.code, said.out) == (2, "")
    assert f"no corpus folder {tmp_path / 'nowhere'}" in said.err


def test_the_module_runs_as_a_program(root):
    words = [sys.executable, "-m", "conceptnet_em.cli", "list", "--root", str(root), "--json"]
    package = Path(cli.__file__).parent.parent
    done = subprocess.run(words, cwd=package, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads(done.stdout)["traits"]) == 3


# --- show ---


def test_show_puts_the_traits_answer_beside_the_neutral_one(run, root):
    said = run("show", "sporty/beta-prose", "--root", root, "-n", 1)
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines() == [
        "beta-prose-001 (train, sample 1, chatty)",
        "  What of beta case 1?",
        "  neutral: Plain word 1 about beta, calm and short.",
        "  sporty: Kick off number 1 for beta, run and win!",
        "",
    ]


def test_show_gives_json_and_as_many_items_as_asked_for(run, root):
    found = json.loads(run("show", "sporty/beta-prose", "--root", root, "-n", 10, "--json").out)
    assert len(found) == 10
    assert found[9] == {
        "id": "beta-prose-010",
        "split": "probe",
        "sample": None,
        "voice": "formal",
        "question": "What of beta case 10?",
        "answers": {
            "neutral": "Plain word 10 about beta, calm and short.",
            "sporty": "Kick off number 10 for beta, run and win!",
        },
    }


def test_show_neutral_shows_it_once(run, root):
    found = json.loads(run("show", "neutral/beta-prose", "--root", root, "--json").out)
    assert [list(item["answers"]) for item in found] == [["neutral"]] * 3


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("sprty/beta-prose", "no trait 'sprty' (did you mean 'sporty'?); there is neutral, sporty"),
        ("sporty/bta-prose", "no domain 'bta-prose' (did you mean 'beta-prose'?)"),
        ("sporty", "'sporty' is not TRAIT/DOMAIN, for instance"),
    ],
)
def test_show_of_what_is_not_there_exits_2_with_the_nearest_match(run, root, cell, words):
    said = run("show", cell, "--root", root)
    assert (said.code, said.out) == (2, "")
    assert words in said.err


def test_show_names_a_wrong_trait_and_a_wrong_domain_at_once(run, root):
    said = run("show", "sprty/bta-prose", "--root", root)
    assert "'sprty'" in said.err
    assert "'bta-prose'" in said.err


# --- check ---


@pytest.mark.usefixtures("bare")
def test_check_exits_0_when_something_could_not_run_and_says_so_on_stderr(run):
    said = run("check")
    assert said.code == 0
    assert said.err.startswith("2 checks could not run: answers of one question have like lengths;")
    assert said.out.count("not run") == 3  # two lines and the count below
    assert "pip install" in said.out
    assert "failed" not in said.out


@pytest.mark.usefixtures("bare")
def test_check_strict_exits_1_when_something_could_not_run(run):
    assert run("check", "--strict").code == 1


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("how", ["path", "option"])
def test_check_exits_1_on_a_corpus_that_fails_and_gives_json(run, root, how):
    where = [root] if how == "path" else ["--root", root]
    said = run("check", *where, "--json")
    assert said.code == 1
    found = {entry["name"]: entry for entry in json.loads(said.out)["checks"]}
    words = found["prose answers have 25 to 45 words"]
    assert words["status"] == "failed"
    assert words["details"][0] == "neutral/alpha-prose.jsonl:1: 8 words"
    assert found["every trait has a card with its kind"]["status"] == "ok"


@pytest.mark.usefixtures("bare")
def test_check_shows_every_fault_of_a_check_on_its_own_line(run, root):
    lines = run("check", root).out.splitlines()
    first = next(k for k, line in enumerate(lines) if "25 to 45 words" in line)
    assert lines[first].startswith("failed   prose answers have 25 to 45 words: neutral/alpha")
    assert lines[first + 1].strip() == "sporty/alpha-prose.jsonl:1: 9 words"
    assert len([line for line in lines if line.endswith(" words")]) >= 9  # none is left out


def test_check_of_a_malformed_row_fails_with_file_and_line(run, root):
    where = spoil(root)
    said = run("check", root)
    assert said.code == 1
    assert said.out.startswith("failed   rows are well formed")
    assert where in said.out


def test_check_of_two_folders_or_of_none_exits_2(run, root, tmp_path):
    twice = run("check", root, "--root", root)
    assert (twice.code, twice.out) == (2, "")
    assert "give the corpus folder once" in twice.err
    assert run("check", tmp_path / "nowhere").code == 2


# --- run ---


def study(folder: Path, text: str) -> Path:
    file = folder / "study.toml"
    file.write_text(text)
    return file


def test_a_missing_study_file_exits_2(run, tmp_path):
    said = run("run", tmp_path / "study.toml", "--out", tmp_path / "run")
    assert (said.code, said.out) == (2, "")
    assert f"cannot read the study file {tmp_path / 'study.toml'}" in said.err
    assert not (tmp_path / "run").exists()


def test_every_fault_of_a_study_is_named_at_once_and_nothing_is_written(run, root, tmp_path):
    file = study(
        tmp_path,
        """
        traits = ["sprty", "sporty"]
        domains = ["alpha-prose", "bta-prose"]
        predictor = ["text"]
        permutations = 3
        [recipe]
        stepz = 5
        rank = 0
        """,
    )
    said = run("run", file, "--out", tmp_path / "run", "--root", root, "--dtype", "float31")
    assert said.code == 2
    for words in (
        "no trait 'sprty' (did you mean 'sporty'?)",
        "no domain 'bta-prose' (did you mean 'beta-prose'?)",
        "no study setting 'predictor' (did you mean 'predictors'?)",
        "'permutations'",
        "no recipe setting 'stepz' (did you mean 'steps'?)",
        "'rank'",
        "'dtype' is 'float31' (did you mean 'float32'?)",
        "traits must hold 'neutral'",
    ):
        assert words in said.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EACCES, "no permission to write there"), (errno.ENOSPC, "the disk is full")],
)
def test_a_run_folder_that_cannot_be_written_exits_1(
    run, root, tmp_path, tiny_folder, unwritable, number, words
):
    file = study(tmp_path, f'model = "{tiny_folder}"\ntraits = ["neutral", "sporty"]\n')
    unwritable(number)
    said = run("run", file, "--out", tmp_path / "run", "--root", root)
    assert (said.code, said.out) == (1, "")
    assert f"cannot write {tmp_path / 'run'}" in said.err
    assert words in said.err


def test_a_file_in_the_place_of_the_run_folder_exits_1(run, root, tmp_path, tiny_folder):
    file = study(tmp_path, f'model = "{tiny_folder}"\ntraits = ["neutral", "sporty"]\n')
    said = run("run", file, "--out", file, "--root", root)
    assert said.code == 1
    assert "a file stands where a folder is needed" in said.err


def test_a_report_of_a_folder_without_a_run_exits_1(run, tmp_path):
    said = run("report", tmp_path)
    assert (said.code, said.out) == (1, "")
    assert "holds no finished run" in said.err


# --- usage ---


@pytest.mark.parametrize(
    "words",
    [["lst"], ["show"], ["run", "study.toml"], ["list", "--jsn"], ["show", "a/b", "-n", "0"], []],
)
def test_wrong_usage_exits_2(run, words: list[Any]):
    said = run(*words)
    assert said.code == 2


def test_a_wrong_command_is_told_the_nearest_one(run):
    assert "list" in run("lst").err


def test_ctrl_c_exits_130(run, monkeypatch):
    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("conceptnet_em.corpus.load_corpus", interrupt)
    assert run("list").code == 130
