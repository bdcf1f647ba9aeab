"""Draw how well similarity explains transfer at every layer, beside what chance would do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from conceptnet_em.errors import InputError
from conceptnet_em.layerprofile import CONTROLS, LayerProfile, LayerTest
from conceptnet_em.records import format_p
from conceptnet_em.store import writing
from conceptnet_em.verdicts import AVERAGE

LEAD, CASE, INK, BAND = "#0072B2", "#D55E00", "#444444", "#e3e6e8"
THIN = ("#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#332288", "#7a7a7a", "#8c6d31", "#66a61e")
"""Of controls, over again where there are more."""
STYLES = ("-", "--", ":", "-.")
"""Of controls, the next where colours come again."""


def draw_layers(profile: LayerProfile, path: str | Path) -> Path:
    """Draw t by layer: the average over traits, and beside it the case among the controls.

    The grey band is where |t| of the bold line stays in all but ``level`` of the relabellings, one
    layer at a time; between the dashed lines the largest |t| over all layers stays. The star is the
    case at the layer that the controls chose. What is not estimable is a gap.

    Args:
        profile: what ``layers.layer_profile`` returned.
        path: the PNG to write.

    Returns:
        The path.

    Raises:
        InputError: no layer is estimable.
        StoreError: the file cannot be written.
    """
    if not any(row.status == "ok" for row in profile.rows):
        why = profile.rows[0].reason if profile.rows else "there is no trait"
        raise InputError(f"nothing to draw: no layer is estimable ({why})")
    bold = [name for name in (AVERAGE, profile.case) if profile.of(name)] or profile.traits[:1]
    size = (5.9 * len(bold) + 0.3 + 2.2 * (len(bold) == 1), 5.4)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(bold), squeeze=False, sharey=True)[0]
    for axis, name in zip(axes, bold, strict=True):
        _panel(axis, profile, name)
    axes[0].set_ylabel("t of the slope of transfer on similarity")
    handles = _handles(axes)
    figure.legend(
        handles=list(handles.values()),
        labels=list(handles),
        loc="outside lower center",
        ncols=3 if len(bold) > 1 else 2,
        frameon=False,
        fontsize=9,
    )
    figure.suptitle(_title(profile, int(size[0] * 10.5)), fontsize=11)
    target = Path(path)
    with writing(target):
        figure.savefig(target, dpi=130, bbox_inches="tight", metadata={"Software": None})
    return target


def _title(profile: LayerProfile, width: int) -> str:
    """Name the predictor and the null hypothesis."""
    head = f"{profile.predictor}: does similarity explain transfer, and at which layer?"
    null = "H0: no relation to transfer beyond source and target effects"
    if not profile.group:
        return f"{head}\n{null}"
    between = "; " if len(null) + len(profile.group) + 2 <= width else ",\n"
    return f"{head}\n{null}{between}{profile.group}"


def _panel(axis: Any, profile: LayerProfile, name: str) -> None:
    """Draw one bold line with its own bands; the case also among the controls."""
    rows = profile.of(name)
    _bands(axis, rows, profile.level)
    axis.axhline(0, color=INK, linewidth=0.8, zorder=1)
    if name == profile.case:
        _thin_lines(axis, profile)
    colour = CASE if name == profile.case else LEAD
    label = "average over traits" if name == AVERAGE else name
    _line(axis, rows, label, color=colour, linewidth=2.2, marker="o", markersize=3.5, zorder=5)
    if name == profile.case:
        _star(axis, profile)
    aside = " (thin: controls)" if name == profile.case and len(profile.nested) > 1 else ""
    axis.set_title(label + aside, fontsize=11, fontweight="bold", color=colour, loc="left")
    axis.set_xlabel("layer (0 = embedding)" if profile.layers[0] == 0 else "layer")
    axis.set_xlim(profile.layers[0] - 0.6, profile.layers[-1] + 0.6)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True, min_n_ticks=1))
    axis.spines[["top", "right"]].set_visible(False)


def _bands(axis: Any, rows: Sequence[LayerTest], level: float) -> None:
    """Draw what chance does: steps, so that a layer between gaps has its band too."""
    places = np.array([row.layer for row in rows], float)
    middles = (places[1:] + places[:-1]) / 2
    edges = np.concatenate([[places[0] - 0.5], np.repeat(middles, 2), [places[-1] + 0.5]])
    one, every = (
        np.repeat([_finite(getattr(row, kind)) for row in rows], 2)
        for kind in ("pointwise", "simultaneous")
    )
    share = f"{100 * (1 - level):g}% of relabellings"
    band = {"color": BAND, "linewidth": 0, "zorder": 0, "label": f"{share}, one layer at a time"}
    axis.fill_between(edges, -one, one, **band)
    dashes: dict[str, Any] = {"color": INK, "linewidth": 1.1, "linestyle": (0, (5, 3)), "zorder": 2}
    axis.plot(edges, every, label=f"{share}, largest |t| over the layers", **dashes)
    axis.plot(edges, -every, **dashes)


def _finite(value: float) -> float:
    return value if np.isfinite(value) else np.nan


def _thin_lines(axis: Any, profile: LayerProfile) -> None:
    controls = [t for t in profile.traits if t not in (AVERAGE, CONTROLS, profile.case)]
    for k, trait in enumerate(controls):
        rows = profile.of(trait)
        if any(row.status == "ok" for row in rows):
            style = {"color": THIN[k % len(THIN)], "linestyle": STYLES[k // len(THIN) % 4]}
            _line(axis, rows, trait, linewidth=1.0, alpha=0.9, zorder=3, **style)


def _line(axis: Any, rows: Sequence[LayerTest], label: str, **style: Any) -> None:
    if len(rows) == 1:
        style["marker"] = style.get("marker", "o")
    axis.plot([row.layer for row in rows], [_finite(row.t) for row in rows], label=label, **style)


def _star(axis: Any, profile: LayerProfile) -> None:
    """Mark the case at the layer that the controls chose."""
    case = profile.chosen
    if case.status != "ok" or not np.isfinite(case.t):
        return
    axis.axvline(case.layer, color=CASE, linewidth=1.0, linestyle=":", zorder=1)
    axis.plot(
        [case.layer],
        [case.t],
        marker="*",
        markersize=17,
        color=CASE,
        markeredgecolor="white",
        linestyle="none",
        zorder=6,
        label=f"layer {case.layer}, chosen on controls: p = {format_p(case.p)}\n"
        f"({format_p(case.p_redone)} where relabellings choose anew)",
    )


def _handles(axes: Sequence[Any]) -> dict[str, Any]:
    """Return every legend entry once."""
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return found
