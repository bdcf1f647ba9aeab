"""The house: which module may import which, how long a file may be, how fast `--help` answers."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import conceptnet_em

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "conceptnet_em"
LAYERS = {
    0: {
        "acceptance_table",
        "errors",
        "labelling",
        "progress",
        "projection",
        "records",
        "simulated",
    },
    1: {
        "binomial",
        "bootstrap",
        "chatdata",
        "cli_shared",
        "comparison",
        "config",
        "console",
        "geometry",
        "graph",
        "grid",
        "imported",
        "leftout",
        "maps",
        "mixed",
        "relabelling",
        "resources",
        "store",
        "transfer",
    },
    2: {
        "corpus",
        "effect_sizes",
        "following",
        "mapplots",
        "multiverseplot",
        "networks",
        "panels",
        "probes",
        "purposes",
        "qap",
        "rates",
        "similarity",
        "symmetrised",
        "verdicts",
        "weights",
        "wording",
        "wrong_ways",
    },
    3: {
        "ceiling",
        "contrasts",
        "embeddings",
        "formats",
        "known_answers",
        "layerprofile",
        "models",
        "pilot",
        "plots",
        "regression",
        "replicates",
        "verdict_tables",
    },
    4: {
        "checks",
        "doctor",
        "encoding",
        "freedman_lane",
        "groups",
        "layerplot",
        "logprobs",
        "multiplicity",
        "planned",
        "power",
        "provenance",
        "sensitivity",
        "separability",
        "stacking",
    },
    5: {
        "acceptance",
        "equivalence",
        "generation",
        "powerplot",
        "registration",
        "sharing",
        "slopes",
    },
    6: {
        "activations",
        "adherence",
        "cli_inference",
        "cli_power",
        "gradients",
        "layers",
        "multiverse",
        "pooling",
        "scoring",
        "tuning",
    },
    7: {"calibration", "cells", "gridchecks", "inference", "internal", "posthoc"},
    8: {"departures", "predictor_inputs", "verification", "workload"},
    9: {"predictors"},
    10: {"predictor_store"},
    11: {"study"},
    12: {"atlas", "cli_ask", "cli_registration", "forecast", "planning", "screening"},
    13: {"cli_engine", "cli_forecast", "cli_predictors", "report", "rungraphs"},
    14: {"cli_atlas"},
    15: {"__init__", "cli"},
}
"""Design's order (architecture.md) over the modules that exist; change table and test together."""

LEVEL = {module: level for level, modules in LAYERS.items() for module in modules}
HEAVY = ("torch", "pandas", "peft", "sentence_transformers", "transformers")


def imported(source: str) -> set[str]:
    """Modules of the package that a source imports, at the top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {
                alias.name.removeprefix("conceptnet_em.")
                for alias in node.names
                if alias.name.startswith("conceptnet_em.")
            }
        elif isinstance(node, ast.ImportFrom):
            home = "conceptnet_em" if node.level else node.module or ""
            inner = f"{home}.{node.module}" if node.level and node.module else home
            if inner == "conceptnet_em":
                found |= {alias.name for alias in node.names}
            elif inner.startswith("conceptnet_em."):
                found.add(inner.removeprefix("conceptnet_em."))
    return {name.split(".")[0] for name in found}


def trespasses(module: str, source: str) -> list[str]:
    """Say which imports of a module go up or sideways, or to where nobody lives."""
    return [
        f"{module} (layer {LEVEL[module]}) imports {other} (layer {LEVEL.get(other)})"
        for other in sorted(imported(source))
        if other not in LEVEL or LEVEL[other] >= LEVEL[module]
    ]


def modules() -> dict[str, Path]:
    return {path.stem: path for path in sorted(PACKAGE.glob("*.py"))}


def test_every_module_has_a_layer_and_every_layer_entry_a_module():
    assert set(modules()) == set(LEVEL)


def test_no_module_stands_in_two_layers():
    assert len(LEVEL) == sum(map(len, LAYERS.values()))


def test_a_module_imports_only_from_lower_layers():
    wrong = [
        trespass
        for name, path in modules().items()
        if name in LEVEL  # the others are named by the test above
        for trespass in trespasses(name, path.read_text("utf-8"))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "line",
    [
        "from conceptnet_em.study import run",
        "from conceptnet_em import study",
        "import conceptnet_em.study as s",
        "from .study import run",
        "from . import study",
        "def late():\n    from conceptnet_em.study import run",
        "if TYPE_CHECKING:\n    from conceptnet_em.study import run",
    ],
)
def test_the_layer_test_sees_every_way_to_import_upwards(line):
    low, high = LEVEL["corpus"], LEVEL["study"]
    assert trespasses("corpus", line) == [f"corpus (layer {low}) imports study (layer {high})"]


def test_the_layer_test_sees_a_sideways_import_and_lets_a_downward_one_pass():
    assert trespasses("corpus", "from conceptnet_em.weights import find_model") != []
    assert trespasses("corpus", "import json\nfrom conceptnet_em.store import digest") == []


def test_no_module_passes_500_lines():
    long = {
        p.name: n for p in PACKAGE.rglob("*.py") if (n := len(p.read_bytes().splitlines())) > 500
    }
    assert long == {}


def test_the_data_folders_hold_no_python():
    found = [p for folder in ("datasets", "probes") for p in (ROOT / folder).rglob("*.py")]
    assert found == []


def test_no_module_shadows_hugging_face_datasets():
    assert [*PACKAGE.rglob("datasets.py"), *(ROOT / "tests").rglob("datasets.py")] == []


def test_help_imports_nothing_heavy():
    script = (
        "import json, sys; sys.argv = ['conceptnet-em', '--help']\n"
        "from conceptnet_em.cli import main\n"
        "try: main()\n"
        f"finally: print(json.dumps([m for m in {HEAVY} if m in sys.modules]), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "demo" in done.stdout
    assert json.loads(done.stderr) == []


def test_help_answers_in_half_a_second():
    def once() -> float:
        start = time.perf_counter()
        command = [sys.executable, "-m", "conceptnet_em.cli", "--help"]
        subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
        return time.perf_counter() - start

    assert min(once() for _ in range(3)) < 0.5


@pytest.mark.parametrize("name", conceptnet_em.__all__)
def test_every_public_name_can_be_had(name):
    own = conceptnet_em._HOMES[name].partition(".")[2] or name
    assert getattr(conceptnet_em, name).__name__ == own


def test_no_public_name_is_a_module_that_would_hide_it_once_imported():
    assert set(conceptnet_em.__all__) & set(modules()) == set()


def test_the_lazy_table_holds_the_public_names_and_no_others():
    assert set(conceptnet_em._HOMES) == set(conceptnet_em.__all__)
    assert set(conceptnet_em.__all__) < set(dir(conceptnet_em))


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'regres'"):
        importlib.import_module("conceptnet_em").regres  # noqa: B018
