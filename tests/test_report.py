"""The report of the demo's tables: every part of the verdict is there, and figures are drawn."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from conceptnet_em import plots
from conceptnet_em.inference import verdict
from conceptnet_em.multiverse import CONSTANT, multiverse
from conceptnet_em.plots import draw_scatter
from conceptnet_em.records import Similarity, Slope
from conceptnet_em.registration import Difference, Registration, numbers_of, statuses
from conceptnet_em.report import markdown, ways_table, write_report
from conceptnet_em.store import read_json, write_json
from conceptnet_em.study import Result
from conceptnet_em.transfer import item_effects

DEMO = Path(__file__).resolve().parent.parent / "benchmarks/science/demo"
FILES = ("study.toml", "provenance.json", "verdict.json")
FILES += ("scores.parquet", "transfer.parquet", "similarities.parquet")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The demo's tables in a folder of their own, with a verdict made from them."""
    folder = tmp_path_factory.mktemp("demo")
    for name in FILES:
        shutil.copy(DEMO / name, folder)
    result = Result.load(folder)
    topics = {d: (d.removesuffix("-prose"), "prose") for d in result.config.domains}
    found = verdict(
        result.table,
        result.similarities,
        items=item_effects(result.scores),
        topics=topics,
        resamples=100,
    )
    ways = multiverse(result.table, result.similarities, topics=topics, draws=99)
    return replace(result, verdict=found, multiverse=ways.assign(registered=False))


def test_the_report_holds_every_part_of_the_verdict(demo):
    text = write_report(demo).read_text("utf-8")
    heads = [line for line in text.splitlines() if line.startswith("## ")]
    assert heads == [
        "## Verdict",
        "## Slopes",
        "## misaligned against the controls",
        "## Mixed model",
        "## Noise ceiling",
        "## Notes",
        "## Pre-registration",
        "## Multiverse",
        "## Transfer",
        "## Leakage",
        "## How it was made",
    ]
    assert "> text similarity is not shown to predict trait-averaged transfer" in text
    assert "misaligned's slope differs from the controls' by" in text
    assert "Holm over the primaries" in text
    assert " nan " not in text
    assert {p.name for p in demo.path.glob("*.png")} == {
        "scatter.png",
        "multiverse.png",
        *(f"heatmap-{trait}.png" for trait in demo.traits),
    }


def test_an_earlier_verdict_is_still_reported(demo, tmp_path):
    for name in FILES:
        shutil.copy(DEMO / name, tmp_path)
    fields = ("slopes", "units", "notes", "group")  # all that a verdict had at first
    early = {k: v for k, v in read_json(DEMO / "verdict.json").items() if k in fields}
    write_json(tmp_path / "verdict.json", early)
    earlier = Result.load(tmp_path)
    text = write_report(earlier).read_text("utf-8")
    assert "> text similarity is not shown to predict trait-averaged transfer (replicate 1)" in text
    assert "## Mixed model" not in text
    assert "## Multiverse" not in text


def test_the_multiverse_table_says_how_far_slopes_reach_and_how_many_agree(demo):
    table = ways_table(demo).set_index("predictor")
    assert list(table.index) == [
        *("text", "activation, layer 15", "trait-direction, layer 15", "trait-words")
    ]
    rows = demo.multiverse[demo.multiverse["predictor"] == "text"]
    mine, usual = table.loc["text"], rows[rows["normalisation"] == CONSTANT]["slope"]
    assert mine["ways"] == len(rows) == 21
    assert mine["slope in the verdict"] == f"{demo.verdict.lead('text').slope:+.2f}"
    assert mine["slopes, in-domain units"] == f"{usual.min():+.2f} … {usual.max():+.2f}"
    assert mine["positive"] == f"{(rows['slope'] > 0).mean():.0%}"
    assert mine["p ≤ .05"] == f"{(rows['p'] <= 0.05).mean():.0%}"
    assert "registered slope" not in markdown(demo)  # nothing was registered


@pytest.fixture
def planned(demo: Result, tmp_path: Path) -> Result:
    """The demo as if registered with another margin and other samples."""
    for name in FILES:
        shutil.copy(DEMO / name, tmp_path)
    number = {"hypothesis": "H1", "primary": "P1"}
    names = {f"{h} text": number | {"hypothesis": h} for h in ("H1", "H2", "H4a", "H4b")}
    plan = Registration(
        {
            "registered": "2026-01-01T00:00:00+00:00",
            "hypotheses": {"H1": {"claim": "Likeness predicts."}, "H2": {"claim": "Alike."}},
            "numbers": names,
            "primaries": {"P1": {"predictor": "text"}},
            "analysis": {"margin": 0.3},
            "design": {"samples": [1]},
        }
    )
    differs = [Difference("design.samples", [1, 2], [1]), Difference("primaries.P2", "x", "y")]
    told = statuses(plan, demo.verdict.settings, numbers=numbers_of(demo.verdict), also=differs)
    write_json(
        tmp_path / "provenance.json",
        read_json(DEMO / "provenance.json") | {"differences": list(map(str, differs))},
    )
    verdict = replace(demo.verdict, registration=told)
    return replace(demo, path=tmp_path, verdict=verdict, registration=plan)


def test_every_number_stands_beside_its_plan(planned):
    text = markdown(planned)
    assert f"Registered 2026-01-01T00:00:00+00:00, sha256 `{planned.registration.sha256}`" in text
    assert "| H1 text | registered and changed | design.samples: [1, 2] → [1] |" in text
    assert (
        "| H2 text | registered and changed | analysis.margin: 0.3 → 0.2; "
        "design.samples: [1, 2] → [1] |"
    ) in text
    assert "All other numbers are exploratory: H1 activation, H1 trait-direction, H1 trait-" in text
    assert "- H1: Likeness predicts." in text
    assert text.count("design.samples: [1, 2] → [1]") == 4  # beside its numbers, and not again
    assert "Also not as registered:\n\n- primaries.P2: x → y\n" in text


def test_the_scatter_plot_takes_the_mean_similarity_and_the_main_slope(
    monkeypatch: pytest.MonkeyPatch, demo: Result, tmp_path: Path
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: drawn.append(figure))
    x = demo.similarity("text").values
    alike = [Similarity("text", x, replicate=1), Similarity("text", x + 0.5, replicate=2)]
    slopes = [
        Slope("average", "text", replicate, "contrast", "ok", slope=slope, p=0.02)
        for replicate, slope in ((None, 0.25), (1, 0.5), (2, 0.75))
    ]
    draw_scatter(demo.transfers(), alike, slopes, tmp_path / "scatter.png")
    upper, lower = drawn[0].axes[:2]
    off = ~np.eye(len(x), dtype=bool)
    shown = np.sort(np.asarray(upper.collections[0].get_offsets())[:, 0])
    assert shown == pytest.approx(np.sort((x.to_numpy() + 0.25)[off]))
    assert "average slope +0.25 per SD, p = 0.020" in lower.get_xlabel()
    line = pd.Series(lower.lines[0].get_ydata(), lower.lines[0].get_xdata())
    assert np.ptp(line) / np.ptp(line.index) == pytest.approx(0.25 / x.to_numpy()[off].std())
