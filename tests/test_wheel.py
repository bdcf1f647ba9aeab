"""The wheel carries its data and works from anywhere, in a venv that has nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def call(*words: Any, cwd: Path | str, **more: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(w) for w in words], cwd=cwd, capture_output=True, text=True, check=False, **more
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.mark.slow
def test_the_wheel_checks_its_corpus_from_the_root_folder(tmp_path: Path) -> None:
    call(sys.executable, "-m", "build", "--outdir", tmp_path / "dist", ROOT, cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    (sdist,) = (tmp_path / "dist").glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    for part in ("_data/datasets/domains.yaml", "_data/datasets/sporty/medical-prose.jsonl"):
        assert f"conceptnet_em/{part}" in names
    assert not [n for n in names if n.startswith(("datasets/", "tests/"))]
    assert sdist.stat().st_size < 5 * 2**20

    venv = tmp_path / "venv"
    call(sys.executable, "-m", "venv", venv, cwd=tmp_path)
    pip = (venv / "bin/python", "-m", "pip", "install", "--quiet", "--no-input")
    call(*pip, "-c", ROOT / "constraints.txt", wheel, cwd=tmp_path)
    command = venv / "bin/conceptnet-em"
    bare = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    bare |= {"CONCEPTNET_EM_CACHE": str(tmp_path / "cache")}
    assert "check" in call(command, "--help", cwd="/", env=bare).stdout
    checked = call(command, "check", cwd="/", env=bare)
    assert re.search(r"ok .*[0-9]{4} answers", checked.stdout)
    assert "not run" in checked.stdout  # no model and no embedder were installed
    assert "could not run" in checked.stderr
    assert "failed" not in checked.stdout
    listed = call(command, "list", "--json", cwd="/", env=bare)
    assert '"medical-prose"' in listed.stdout
