"""The command line on the tiny model: exit codes, streams, resuming and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

STUDY = """
name = "small"
model = "{model}"
traits = ["neutral", "sporty"]
domains = ["alpha-prose", "beta-prose"]
predictors = ["activation", "trait-direction"]
dtype = "float32"
threads = 1
[recipe]
base = "rank1"
steps = {steps}
learning_rate = 5e-2
batch_size = {batch}
"""


@pytest.fixture
def begin(make_corpus: Callable[..., Path], tiny_folder: Path, tmp_path: Path) -> Any:
    """Return a function that starts ``conceptnet-em run`` on a small study."""
    root = make_corpus()

    def start(*more: str, steps: int = 2, batch: int = 4) -> subprocess.Popen[str]:
        file = tmp_path / "study.toml"
        file.write_text(STUDY.format(model=tiny_folder, steps=steps, batch=batch))
        words = ["run", str(file), "--out", str(tmp_path / "run"), "--root", str(root), *more]
        return subprocess.Popen(
            [sys.executable, "-m", "conceptnet_em.cli", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # as in a terminal
        )

    return start


def test_a_run_prints_data_on_stdout_and_progress_on_stderr(begin: Any, tmp_path: Path) -> None:
    out, err = (process := begin()).communicate(timeout=120)
    assert process.returncode == 0, err
    assert "sporty: contrast transfer" in out
    assert "not_estimable" in out
    for scale in ("raw", "net", "contrast"):
        assert scale in out
    assert "train organisms" in err
    assert "peak memory" in err
    assert (tmp_path / "run" / "heatmap-sporty.png").stat().st_size > 10_000

    out, err = (process := begin("--json")).communicate(timeout=120)
    assert process.returncode == 0, err
    assert json.loads(out)["failed"] == {}

    report = subprocess.run(
        [sys.executable, "-m", "conceptnet_em.cli", "report", str(tmp_path / "run"), "--json"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert report.returncode == 0, report.stderr
    assert json.loads(report.stdout)["verdict"] == json.loads(out)["verdict"]


def test_ctrl_c_keeps_finished_organisms_and_says_how_to_go_on(begin: Any, tmp_path: Path) -> None:
    process = begin(steps=100, batch=12)  # so many rows that every organism is a group
    finished = tmp_path / "run" / "organisms"
    deadline = time.monotonic() + 100
    while len(list(finished.glob("[!.]*/training.json"))) < 1:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "finished organisms are kept" in err
    assert "To go on: conceptnet-em run" in err
    assert "Traceback" not in err
    kept = {p.name: p.stat().st_ino for p in finished.glob("[!.]*")}
    assert kept
    assert not list(finished.glob(".*"))  # no half-written organism

    _, err = (process := begin(steps=100, batch=12)).communicate(timeout=120)
    assert process.returncode == 0, err
    assert {p.name: p.stat().st_ino for p in finished.iterdir() if p.name in kept} == kept


def test_failed_cells_leave_with_exit_code_3(
    make_corpus: Callable[..., Path],
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: Any,
    capsys: Any,
) -> None:
    from conceptnet_em import cli, tuning

    file = tmp_path / "study.toml"
    file.write_text(STUDY.format(model=tiny_folder, steps=2, batch=4))
    words = ["run", str(file), "--out", str(tmp_path / "run"), "--root", str(make_corpus())]
    monkeypatch.setattr(sys, "argv", ["conceptnet-em", *words])
    monkeypatch.setattr(tuning, "_descend_each", _explode)
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 3
    assert "4 organisms failed" in capsys.readouterr().err


def _explode(optimizer: Any, weights: Any, rate: float, clip: Any) -> None:
    weights[0].data.fill_(float("nan"))


def test_a_registered_run_keeps_to_its_plan_and_refuses_others(
    make_corpus: Callable[..., Path],
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: Any,
    capsys: Any,
) -> None:
    from conceptnet_em import cli

    file, plan, root = tmp_path / "study.toml", tmp_path / "plan.json", str(make_corpus())
    file.write_text(STUDY.format(model=tiny_folder, steps=2, batch=4))
    out = tmp_path / "run"

    def say(command: str, *words: object) -> int:
        called = ["conceptnet-em", command, str(file), "--root", root, *map(str, words)]
        monkeypatch.setattr(sys, "argv", called)
        with pytest.raises(SystemExit) as left:
            cli.main()
        return int(left.value.code or 0)

    assert say("preregister", "--out", plan) == 0
    assert f"--registration {plan}" in capsys.readouterr().err
    forged = tmp_path / "forged.json"
    forged.write_text(plan.read_text().replace('"seed": 0', '"seed": 1'))
    assert say("run", "--out", out, "--registration", forged) == 2
    assert "was changed after it was registered" in capsys.readouterr().err
    assert not out.exists()

    assert say("run", "--out", out, "--registration", plan) == 0
    assert "\nH1 activation: registered.\n" in capsys.readouterr().out
    assert say("preregister", "--out", tmp_path / "other.json", "--margin", 0.4) == 0
    assert say("run", "--out", out, "--registration", tmp_path / "other.json") == 2
    assert "give another --out" in capsys.readouterr().err
    assert say("run", "--out", out, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"]["registration"]["H1 activation"] == "registered"
    assert "ways of asking" in told["multiverse"]
