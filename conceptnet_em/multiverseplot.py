"""Draw the multiverse: every way of asking as one point with its interval, and what it chose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from conceptnet_em.errors import InputError
from conceptnet_em.store import writing

CHOICES = ("predictor", "scale", "normalisation", "part")
"""What a row chose, one band each, top to bottom."""
WIDEST = 15.0
"""Inches; more ways than fit stand closer together."""
PLAIN, STRONG, REGISTERED = "#9aa5ad", "#2471a3", "#c0392b"


def draw_multiverse(rows: pd.DataFrame, path: str | Path) -> None:
    """Draw a specification curve (Simonsohn, Simmons & Nelson 2020, doi:10.1038/s41562-020-0912-z).

    Above, every estimable slope as a partial correlation, which rows of different units share, in
    rising order with its 95% interval; the registered ones stand out. Below, its choices.

    Args:
        rows: what ``multiverse.multiverse`` returned.
        path: the PNG to write.

    Raises:
        InputError: no row is estimable.
        StoreError: the file cannot be written.
    """
    fine = rows[rows["status"] == "ok"].sort_values("partial_r", kind="stable", ignore_index=True)
    if fine.empty:
        raise InputError(f"nothing to draw: none of {len(rows)} ways of asking is estimable")
    bands = {name: _options(fine, name) for name in CHOICES}
    bands = {name: options for name, options in bands.items() if len(options) > 1}
    lines = sum(len(options) for options in bands.values()) + len(bands)
    size = (min(max(7.0, 2.6 + 0.11 * len(fine)), WIDEST), 3.9 + 0.21 * lines)
    figure = Figure(figsize=size, layout="constrained")
    heights = {"height_ratios": [3.5, max(0.21 * lines, 0.1)]}
    curve, choices = figure.subplots(2, 1, sharex=True, gridspec_kw=heights)
    _draw_curve(curve, fine)
    _draw_choices(choices, fine, bands)
    curve.set_xlim(-1, len(fine))
    curve.set_title(f"{len(fine)} ways of asking the same question", fontsize=12, loc="left")
    target = Path(path)
    with writing(target):
        figure.savefig(target, dpi=130, bbox_inches="tight", metadata={"Software": None})


def _options(rows: pd.DataFrame, name: str) -> list[str]:
    """Return the values of one choice, in order of appearance in the table's own order."""
    return sorted(dict.fromkeys(_words(rows, name)))


def _words(rows: pd.DataFrame, name: str) -> list[str]:
    """Say what each row chose: a predictor with its layer, a scale with the trait left out."""
    if name == "predictor":
        layers = ["" if pd.isna(n) else f", layer {n}" for n in rows["layer"]]
        return [f"{p}{layer}" for p, layer in zip(rows["predictor"], layers, strict=True)]
    if name == "scale":
        lost = [f" without {trait}" if trait else "" for trait in rows["without"]]
        return [f"{scale}{words}" for scale, words in zip(rows["scale"], lost, strict=True)]
    return ["no normalisation" if value == "none" else str(value) for value in rows[name]]


def _draw_curve(axis: Any, rows: pd.DataFrame) -> None:
    """Draw points and intervals; one that has no end runs to the edge."""
    axis.axhline(0, color="#555555", linewidth=0.8, zorder=0)
    limit = max(1.0, float(np.abs(rows["partial_r"]).max()))
    low, high = (rows[name].clip(-limit, limit) for name in ("partial_low", "partial_high"))
    colours = _colours(rows)
    axis.vlines(rows.index, low, high, colors=colours, linewidth=1.1 * _shrunk(rows), alpha=0.6)
    axis.scatter(rows.index, rows["partial_r"], c=colours, s=14 * _shrunk(rows), zorder=3)
    mine = rows[rows["registered"]]
    style = {"facecolors": "none", "edgecolors": REGISTERED, "linewidths": 1.6, "zorder": 4}
    axis.scatter(mine.index, mine["partial_r"], s=70, **style)
    for place, row in mine.iterrows():
        where: dict[str, Any] = {
            "xytext": (0, 9),
            "textcoords": "offset points",
            "ha": "center",
            "fontsize": 8,
        }
        where |= {"bbox": {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}}
        axis.annotate(f"registered: {row['predictor']}", (place, row["partial_r"]), **where)
    axis.set_ylim(-limit * 1.05, limit * 1.05)
    axis.set_ylabel("partial correlation\n95% interval")
    axis.spines[["top", "right", "bottom"]].set_visible(False)
    axis.tick_params(bottom=False)


def _shrunk(rows: pd.DataFrame) -> float:
    """Return how much smaller marks are where rows stand close."""
    return min(1.0, 112 / len(rows))


def _colours(rows: pd.DataFrame) -> list[str]:
    return [
        REGISTERED if mine else STRONG if strong else PLAIN
        for mine, strong in zip(rows["registered"], rows["significant"], strict=True)
    ]


def _draw_choices(axis: Any, rows: pd.DataFrame, bands: dict[str, list[str]]) -> None:
    """Draw a mark where a row chose an option, bands apart by an empty line."""
    ticks: list[tuple[int, str]] = []
    style: dict[str, Any] = {"marker": "|", "s": 36, "linewidths": 1.5 * _shrunk(rows)}
    line = 0
    for name, options in bands.items():
        words = _words(rows, name)
        for option in options:
            chosen = [place for place, word in enumerate(words) if word == option]
            colours = _picked(_colours(rows), chosen)
            axis.scatter(chosen, [-line] * len(chosen), c=colours, **style)
            ticks.append((-line, option))
            line += 1
        line += 1
    axis.set_yticks([place for place, _ in ticks], [word for _, word in ticks], fontsize=8)
    axis.set_ylim(-line + 0.5, 0.8)
    axis.set_xticks([])
    planned = "; red: registered" if rows["registered"].any() else ""
    axis.set_xlabel(f"blue: p ≤ .05{planned}", fontsize=9)
    axis.spines[:].set_visible(False)


def _picked(values: Sequence[str], places: Sequence[int]) -> list[str]:
    return [values[place] for place in places]
