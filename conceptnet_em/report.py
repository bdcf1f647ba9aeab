"""Write what a run found: heat maps, a scatter plot and a plain report, from its tables alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from conceptnet_em.multiverse import CONSTANT
from conceptnet_em.multiverse import summary as told_of
from conceptnet_em.multiverseplot import draw_multiverse
from conceptnet_em.planning import compared
from conceptnet_em.plots import draw_heatmaps, draw_scatter
from conceptnet_em.records import TransferMatrix
from conceptnet_em.registration import FILE
from conceptnet_em.store import read_json, write_text
from conceptnet_em.study import Result
from conceptnet_em.transfer import SCALES, in_domain_constant
from conceptnet_em.verdict_tables import table_of, verdict_sections
from conceptnet_em.verdicts import EXPLORATORY, Verdict

UNPLANNED = "Nothing was registered before this run: every number is exploratory."
WAYS = (
    "The trait-averaged slope in every other defensible way: on each scale, each trait divided by "
    "its mean in-domain effect or not or z-scored, for each part of the answers, and with one "
    "trait left out of the contrast. *Partial r* is the correlation without the effects held "
    "fixed: a unit that all ways share. Ways that are not registered draw at most 1,999 "
    "relabellings where there are over 5,040. Every way stands in `multiverse.parquet`."
)


def write_report(result: Result | str | Path) -> Path:
    """Draw a run's figures and write ``report.md`` beside them; needs no model.

    Args:
        result: a finished run, or its folder.

    Returns:
        The path of ``report.md``.

    Raises:
        StoreError: the run cannot be read or its folder not written.
    """
    found = result if isinstance(result, Result) else Result.load(result)
    for trait in found.traits:
        draw_heatmaps(
            {scale: found.transfer(trait, scale=scale) for scale in SCALES},
            {scale: found.reliability(trait, scale=scale) for scale in SCALES},
            found.path / f"heatmap-{trait}.png",
        )
    if _scattered(found):
        draw_scatter(
            found.transfers(), found.similarities, found.verdict.slopes, found.path / "scatter.png"
        )
    if _asked(found).any():
        draw_multiverse(found.multiverse, found.path / "multiverse.png")
    path = found.path / "report.md"
    write_text(path, markdown(found))
    return path


def markdown(result: Result) -> str:
    """Return the report as Markdown."""
    config = result.config
    sections = [
        f"# {config.name}",
        f"{len(config.traits)} traits × {len(config.domains)} domains, model `{config.model}`, "
        f"recipe `{config.recipe.name}`, samples {list(config.samples)}.",
        *verdict_sections(result.verdict),
        *_planned(result),
        *["![transfer against similarity](scatter.png)"] * _scattered(result),
        *_multiverse(result),
        "## Transfer",
        "In brackets: in-domain. Off-domain means leave the diagonal out.",
        table_of(shown(summary(result))),
        *(_trait_section(result, trait) for trait in result.traits),
        "## Leakage",
        "Mean off-domain contrast of answers in the columns after training the trait in the row.",
        table_of(shown(leakage(result))),
        _made(result),
    ]
    if result.failed:
        lines = [f"- {name}: {reason}" for name, reason in result.failed.items()]
        sections.insert(3, "**Failed organisms**\n\n" + "\n".join(lines))
    return "\n\n".join(sections) + "\n"


def _scattered(result: Result) -> bool:
    """Say whether there is transfer, and similarity to draw it against."""
    return bool(result.traits and result.similarities)


def _planned(result: Result) -> list[str]:
    """Say of every number whether it was registered, and what was done otherwise."""
    plan, told = result.registration, result.verdict.registration
    if plan is None:
        return ["## Pre-registration", UNPLANNED]
    rows = [{"number": n, **_status(words)} for n, words in told.items() if words != EXPLORATORY]
    rest = [name for name, words in told.items() if words == EXPLORATORY]
    claims = [f"- {name}: {entry['claim']}" for name, entry in plan["hypotheses"].items()]
    found = [
        "## Pre-registration",
        f"Registered {plan['registered']}, sha256 `{plan.sha256}`, in `{FILE}`:",
        "\n".join(claims),
        table_of(pd.DataFrame(rows)),
    ]
    found += [f"All other numbers are exploratory: {', '.join(rest)}."] if rest else []
    differs = read_json(result.path / "provenance.json").get("differences", [])
    if unsaid := [one for one in differs if not any(one in words for words in told.values())]:
        found += ["Also not as registered:", "\n".join(f"- {one}" for one in unsaid)]
    return found


def _status(told: str) -> dict[str, str]:
    """Split a status from its differences."""
    status, _, differs = told.partition(" (")
    return {"status": status, "registered → done": differs.removesuffix(")").replace("|", "\\|")}


def _multiverse(result: Result) -> list[str]:
    """Say how much hangs on the way of asking."""
    if result.multiverse.empty:
        return []
    found = ["## Multiverse", WAYS, multiverse_words(result)]
    if _asked(result).any():
        found += [table_of(ways_table(result)), "![every way of asking](multiverse.png)"]
    return found


def _asked(result: Result) -> pd.Series:
    """Say which ways of asking gave a number."""
    rows = result.multiverse
    return pd.Series(dtype=bool) if rows.empty else rows["status"] == "ok"


def multiverse_words(result: Result) -> str:
    """Return a few sentences on all ways of asking; none where there is none."""
    rows = result.multiverse
    if rows.empty or _asked(result).any():
        return "" if rows.empty else told_of(rows)
    reasons = "; ".join(dict.fromkeys(rows["reason"]))
    return f"None of {len(rows)} ways of asking can be estimated: {reasons}."


def ways_table(result: Result) -> pd.DataFrame:
    """Return one row per predictor and layer: how far its slopes reach, how many agree."""
    fine = result.multiverse[_asked(result)]
    found = []
    for _, rows in fine.groupby(["predictor", "layer"], sort=False, dropna=False):
        name, layer = str(rows["predictor"].iloc[0]), rows["layer"].iloc[0]
        usual = rows[rows["normalisation"] == CONSTANT]
        found.append(
            {
                "predictor": name if pd.isna(layer) else f"{name}, layer {layer}",
                "ways": len(rows),
                "slope in the verdict": _slope(result.verdict, name, layer),
                "slopes, in-domain units": _reach(usual["slope"]),
                "partial r": _reach(rows["partial_r"]),
                "positive": f"{float((rows['sign'] == '+').mean()):.0%}",
                "p ≤ .05": f"{float(rows['significant'].mean()):.0%}",
            }
        )
    return pd.DataFrame(found)


def _slope(verdict: Verdict, predictor: str, layer: Any) -> str:
    found = verdict.lead(predictor) or verdict.lead(f"{predictor} (layer {layer})")
    return _signed(found.slope) if found else "–"


def _reach(values: pd.Series) -> str:
    return f"{_signed(values.min())} … {_signed(values.max())}"


def _trait_section(result: Result, trait: str) -> str:
    matrix = result.transfer(trait)
    return "\n\n".join(
        [
            f"### {trait}",
            f"```\n{matrix}\n```",
            f"Contrast scale: {result.reliability(trait)}.",
            f"![{trait}](heatmap-{trait}.png)",
        ]
    )


def summary(result: Result) -> pd.DataFrame:
    """Return in-domain and off-domain means of every trait on the three scales, nats/token.

    ``t`` is the in-domain effect's over domains; ``ratio`` is off-domain over in-domain; the last
    two columns are split-half reliabilities of the off-diagonal cells.
    """
    rows = []
    for trait in result.traits:
        for scale in SCALES:
            found = result.transfer(trait, scale=scale)
            constant, t = in_domain_constant(found.values)
            off = _off_mean(found)
            reliable = result.reliability(trait, scale=scale)
            rows.append(
                {
                    "trait": trait,
                    "scale": scale,
                    "in-domain": constant,
                    "t": t,
                    "off-domain": off,
                    "ratio": off / constant if constant else float("nan"),
                    "reliability": reliable.plain,
                    "without effects": reliable.centred,
                }
            )
    return pd.DataFrame(rows)


def _off_mean(found: TransferMatrix) -> float:
    cells = found.off_domain.to_numpy(dtype=float)
    return float(np.nanmean(cells)) if np.isfinite(cells).any() else float("nan")


def _signed(value: float) -> str:
    return "–" if value != value else f"{value:+.2f}"


def shown(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table with its numbers as signed text, ``–`` where there is none."""
    return frame.map(lambda cell: _signed(cell) if isinstance(cell, float) else str(cell))


def leakage(result: Result) -> pd.DataFrame:
    """Return trait trained × answers measured: mean off-domain contrast, nats/token."""
    measured = sorted(set(result.table["answer_trait"]))
    return pd.DataFrame(
        [
            {"trained": trait}
            | {
                answer: _off_mean(result.transfer(trait, answer_trait=answer))
                for answer in measured
            }
            for trait in result.traits
        ]
    )


def _made(result: Result) -> str:
    record = read_json(result.path / "provenance.json")
    model, commit = record["model"], record["commit"]
    dirty = " with local changes" if commit["dirty"] else ""
    return (
        "## How it was made\n\n"
        f"Model sha256 `{model['sha256']}`, system prompt {model['system']!r}, template "
        f"{model['template']}, {model['device']} {model['dtype']}, {record['threads']} threads, "
        f"{record['made']}, commit {commit['id'] or 'unknown'}{dirty}. "
        f"{compared(result.path)} Everything else stands in `provenance.json` and `study.toml`."
    )
