"""Draw maps of items and domains, and the concept graph, with labels that can be read.

Pictures are illustration: no test uses a coordinate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import networkx as nx
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from conceptnet_em.errors import InputError, raise_all, unknown
from conceptnet_em.graph import find_communities, path_similarity
from conceptnet_em.labelling import write_labels
from conceptnet_em.maps import NAMES, Map
from conceptnet_em.store import writing

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#332288", "#7a7a7a")
"""Okabe & Ito's colour-blind safe set, yellow and black replaced by indigo and grey."""
MARKERS = "osD^vPX*"
MISSING = "#d0d0d0"
DPI = 130
INK = "#222222"

Floats = NDArray[np.float64]


def draw_map(
    maps: Map | Sequence[Map],
    path: Path,
    *,
    colour: str = "domain",
    label: str | None = "domain",
    unit: str = "nats/token",
    title: str | None = None,
    names: Sequence[str] = (),
) -> None:
    """Draw one map, or several side by side, coloured by one of their columns.

    Text columns get up to 64 combinations of colour and marker, and a legend unless they are
    written on the map; columns of numbers get a colour bar, diverging around 0 where both signs
    occur. Missing values are grey.

    Args:
        maps: for instance UMAP and PCA of the same points.
        path: the PNG to write.
        colour: a column: ``domain``, ``trait``, or what :func:`maps.with_column` added.
        label: a column whose groups are named on the map, each beside its middle point; or none.
        unit: of a column of numbers.
        title: of the picture.
        names: of the maps, instead of method and seed.

    Raises:
        InputError: no map, no such column, or a column without any value.
        StoreError: the file cannot be written.
    """
    shown = [maps] if isinstance(maps, Map) else list(maps)
    _check(shown, colour, label)
    numbers = [_numbers(found, colour) for found in shown]
    figure = _figure(6.2 * len(shown) + 1.2, 6.6)
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    called = names or [_method(found) for found in shown]
    for axis, found, values, name in zip(axes, shown, numbers, called, strict=True):
        _frame(axis, found, name)
        if values is None:
            _groups(axis, found.coordinates, colour, _styles(shown, colour))
        else:
            _scale(axis, found.coordinates, values, _norm(numbers))
    if numbers[0] is not None:
        _grey_legend(figure, numbers)
        _colour_bar(figure, axes, numbers, f"{colour}, {unit}" if unit else colour)
    elif colour != label:
        _legend(figure, _styles(shown, colour), colour)
    figure.suptitle(title or f"A map of {_counted(shown[0])}, coloured by {colour}", fontsize=13)
    _settle(figure)
    for axis, found in zip(axes, shown, strict=True):
        if label is not None:
            _name_groups(figure, axis, found.coordinates, label, colour, _styles(shown, label))
    _save(figure, path)


def _check(maps: Sequence[Map], colour: str, label: str | None) -> None:
    if not maps:
        raise InputError("no map came to be drawn")
    faults = [
        unknown("column", name, map(str, found.coordinates.columns))
        for found in maps
        for name in dict.fromkeys((colour, label))
        if name is not None and name not in found.coordinates
    ]
    raise_all(list(dict.fromkeys(faults)))
    if all(found.coordinates[colour].isna().all() for found in maps):
        raise InputError(f"column '{colour}' has no value to colour by")


def _numbers(found: Map, colour: str) -> Floats | None:
    column = found.coordinates[colour]
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return None
    return column.to_numpy(dtype=float)


def _frame(axis: Any, found: Map, title: str) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#999999")
    axis.margins(0.1)
    name = NAMES[found.method]
    shares = [f" ({share:.0%} of variance)" for share in found.explained or ()] or ["", ""]
    axis.set_xlabel(f"{name} 1{shares[0]}", fontsize=9)
    axis.set_ylabel(f"{name} 2{shares[1]}", fontsize=9)
    axis.set_title(title, fontsize=11, fontweight="bold")


def _method(found: Map) -> str:
    details = [f"{k} {found.parameters[k]}" for k in ("n_neighbors",) if k in found.parameters]
    details += [f"seed {found.seed}"] if found.method == "umap" else []
    return ", ".join([NAMES[found.method], *details])


def _counted(found: Map) -> str:
    frame = found.coordinates
    own = [name for name in ("item", "domain") if name in frame and frame[name].is_unique]
    return f"{len(frame)} {own[0]}s" if own else f"{len(frame)} points"


class _Style(NamedTuple):
    colour: str
    marker: str


def _styles(maps: Sequence[Map], column: str) -> dict[str, _Style]:
    """Give every group a colour and a marker; neighbours in the list differ in colour."""
    names = dict.fromkeys(str(n) for found in maps for n in found.coordinates[column].dropna())
    return {
        name: _Style(COLOURS[k % len(COLOURS)], MARKERS[k // len(COLOURS) % len(MARKERS)])
        for k, name in enumerate(names)
    }


def _size(n: int) -> float:
    """Return a marker area in square points: smaller where there are many."""
    return float(np.clip(9_000 / n, 16, 110))


def _groups(axis: Any, frame: pd.DataFrame, column: str, styles: Mapping[str, _Style]) -> None:
    for name, some in frame.groupby(frame[column].astype("object").where(frame[column].notna())):
        style = styles[str(name)]
        look = {"color": style.colour, "marker": style.marker, "s": _size(len(frame))}
        axis.scatter(some["x"], some["y"], alpha=0.75, linewidths=0.3, edgecolors="white", **look)
    lost = frame[frame[column].isna()]
    axis.scatter(lost["x"], lost["y"], color=MISSING, s=_size(len(frame)), zorder=0)


def _norm(numbers: Sequence[Floats | None]) -> tuple[Colormap, Normalize]:
    """Return colours for values: diverging around 0 where both signs occur, else sequential."""
    values = np.concatenate([found for found in numbers if found is not None])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if low < 0 < high:
        largest = max(-low, high)
        return mpl.colormaps["RdBu_r"], Normalize(-largest, largest)
    if low == high:
        low, high = low - 0.5, high + 0.5
    return mpl.colormaps["viridis"], Normalize(low, high)


def _scale(axis: Any, frame: pd.DataFrame, values: Floats, how: tuple[Colormap, Normalize]) -> None:
    known = np.isfinite(values)
    look = {"s": _size(len(frame)), "linewidths": 0.4, "edgecolors": "#666666"}
    axis.scatter(frame["x"][~known], frame["y"][~known], color=MISSING, zorder=0, **look)
    colours = how[0](how[1](values[known]))
    axis.scatter(frame["x"][known], frame["y"][known], color=colours, **look)


def _colour_bar(figure: Figure, axes: Any, numbers: Sequence[Floats | None], label: str) -> None:
    """Draw the bar no longer than the values reach, and say what grey is."""
    colours, norm = _norm(numbers)
    values = np.concatenate([found for found in numbers if found is not None])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    ends = (low, high) if low < high else (norm.vmin, norm.vmax)
    mappable = mpl.cm.ScalarMappable(cmap=colours, norm=norm)
    bar = figure.colorbar(mappable, ax=axes, shrink=0.75, pad=0.01, aspect=28, label=label)
    bar.ax.set_ylim(*ends)


def _legend(figure: Figure, styles: Mapping[str, _Style], title: str) -> None:
    handles = [
        Line2D([], [], linestyle="", color=s.colour, marker=s.marker, markersize=7, label=_short(n))
        for n, s in styles.items()
    ]
    figure.legend(
        handles=handles, loc="outside right upper", title=title, frameon=False, fontsize=9
    )


def _grey_legend(figure: Figure, numbers: Sequence[Floats | None]) -> None:
    if any(found is not None and np.isnan(found).any() for found in numbers):
        grey = Line2D([], [], linestyle="", color=MISSING, marker="o", label="not measured")
        figure.legend(handles=[grey], loc="outside lower right", frameon=False, fontsize=9)


def _name_groups(
    figure: Figure,
    axis: Any,
    frame: pd.DataFrame,
    column: str,
    colour: str,
    styles: Mapping[str, _Style],
) -> None:
    """Write each group's name beside its middle point, the point nearest to its median."""
    middles, texts = {}, []
    for name, some in frame.groupby(column, sort=False):
        texts.append(_short(str(name)) + _value(some[colour]))
        points = some[["x", "y"]].to_numpy()
        away = np.linalg.norm(points - np.median(points, axis=0), axis=1)
        middles[str(name)] = points[away.argmin()]
    inks = [_dark(styles[name].colour) if column == colour else INK for name in middles]
    anchors, obstacles = np.array(list(middles.values())), frame[["x", "y"]].to_numpy()
    gap = _size(len(frame)) ** 0.5 / 2 + 3
    write_labels(figure, axis, anchors, texts, inks, obstacles, gap=gap, cover=1.2)


def _value(column: pd.Series) -> str:
    """Return the number of a group that is one point, to be read without the colours."""
    one = len(column) == 1 and pd.api.types.is_float_dtype(column) and column.notna().all()
    return f" {column.iloc[0]:z.2f}".replace("-", "−") if one else ""


def _dark(colour: str) -> Any:
    return 0.62 * np.array(mpl.colors.to_rgb(colour))


def _short(name: str) -> str:
    return name.removesuffix("-prose").replace("_", " ")


STARTS = 12  # layouts tried; the least cluttered is drawn
NUDGES = 400
LABELLED_UP_TO = 60  # nodes of a graph
LAID_BY_PATHS_UP_TO = 150  # nodes; the path layout takes too long for more


def draw_graph(
    graph: nx.Graph,
    transfer: pd.DataFrame,
    path: Path,
    *,
    seed: int = 0,
    unit: str = "nats/token",
    title: str | None = None,
) -> None:
    """Draw a concept graph: edge width by similarity, edge colour by transfer.

    Each edge has two halves. The half at a domain is coloured by what that domain, as source,
    transfers to the other; grey halves were not measured. Nodes are coloured by community and lie
    as near as their paths allow (Kamada & Kawai 1989, doi:10.1016/0020-0190(89)90102-6).

    Args:
        graph: from ``concept_graph``.
        transfer: ``(n_sources, n_targets)``; labels that are no nodes are passed over.
        path: the PNG to write.
        seed: of the layout's start and of the communities.
        unit: of transfer.
        title: of the picture.

    Raises:
        InputError: the graph has no edge, or none of its edges was measured.
        StoreError: the file cannot be written.
    """
    places = _layout(graph, seed)
    halves, values = _halves(graph, places, transfer)
    how = _norm([values])
    figure = _figure(10.5, 7.6)
    axis = figure.subplots()
    axis.set_axis_off()
    axis.margins(0.09)
    widths = np.repeat(_widths([s for *_, s in graph.edges(data="similarity")]), 2)
    _lines(axis, halves, values, widths, how)
    _nodes(axis, graph, places, seed)
    _colour_bar(figure, axis, [values], f"transfer from the domain at that end, {unit}")
    _width_legend(figure, graph)
    _grey_legend(figure, [values])
    figure.suptitle(title or _graph_title(graph), fontsize=13)
    _settle(figure)
    if len(graph) <= LABELLED_UP_TO:
        _name_nodes(figure, axis, places, halves)
    _save(figure, path)


def draw_items(
    graph: nx.Graph,
    path: Path,
    *,
    by: str = "domain",
    seed: int = 0,
    title: str | None = None,
) -> None:
    """Draw a graph of items: nodes in their group's colour, links between groups dark.

    Args:
        graph: from ``concept_graph``, its nodes with the attribute ``by``.
        path: the PNG to write.
        by: what nodes are coloured by.
        seed: of the layout's start.
        title: of the picture.

    Raises:
        InputError: the graph has no edge, or a node lacks the attribute.
        StoreError: the file cannot be written.
    """
    home = nx.get_node_attributes(graph, by)
    if lost := len(graph) - len(home):
        raise InputError(f"{lost} of {len(graph)} nodes have no '{by}' to be coloured by")
    places = _layout(graph, seed)
    frame = pd.DataFrame([(*places[n], home[n]) for n in graph], columns=["x", "y", by])
    styles = _styles([Map(frame, "pca", seed, {})], by)
    figure = _figure(9.5, 7.6)
    axis = figure.subplots()
    axis.set_axis_off()
    axis.margins(0.09)
    _groups(axis, frame, by, styles)
    for points in axis.collections:
        points.set_alpha(1)  # or the links would show through
    handles = []
    for between, (words, colour) in enumerate(LINKS.items()):
        pairs = [(a, b) for a, b in graph.edges if (home[a] != home[b]) == between]
        lines: Any = [(places[a], places[b]) for a, b in pairs]
        axis.add_collection(LineCollection(lines, zorder=0, linewidth=1.0, color=colour))
        handles.append(Line2D([], [], linewidth=1.0, color=colour, label=f"link {words} {by}"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    _legend(figure, styles, by)
    figure.suptitle(title or f"Items as a graph, coloured by {by}", fontsize=13)
    _settle(figure)
    _save(figure, path)


LINKS = {"within one": "#c4c4c4", "to another": "#666666"}


def _graph_title(graph: nx.Graph) -> str:
    kind = f"mutual {graph.graph['k']}-nearest neighbours" if "k" in graph.graph else "graph"
    return f"Transfer along the edges of the concept graph ({kind})"


def _layout(graph: nx.Graph, seed: int) -> dict[str, Floats]:
    if not graph.number_of_edges():
        raise InputError("the graph has no edge to draw; take a larger k")
    far = _nearer(-path_similarity(graph))
    if len(graph) > LAID_BY_PATHS_UP_TO:
        return dict(nx.spring_layout(graph, weight="weight", seed=seed))
    if far.isna().any(axis=None):
        return dict(nx.circular_layout(graph))
    floor = 0.15 * far.to_numpy()[~np.eye(len(far), dtype=bool)].mean()  # or twins would coincide
    lengths = far.clip(lower=floor).T.to_dict()
    starts = range(seed, seed + (STARTS if len(graph) <= LABELLED_UP_TO else 1))
    found: list[dict[str, Floats]] = [
        nx.kamada_kawai_layout(graph, dist=lengths, pos=nx.random_layout(graph, seed=start))
        for start in starts
    ]
    return _eased(graph, min(found, key=lambda places: _clutter(graph, places)), seed)


def _nearer(far: pd.DataFrame) -> pd.DataFrame:
    """Draw what no path joins less far off than the rule for tests puts it: paper is small."""
    if not far.attrs["disconnected_pairs"]:
        return far
    values = far.to_numpy()
    lost = values >= values.max() * (1 - 1e-9)
    return far.mask(lost, 0.7 * float(values[~lost].max()))


def _eased(graph: nx.Graph, places: dict[str, Floats], seed: int) -> dict[str, Floats]:
    """Nudge single nodes, at random and a little, wherever that unclutters the picture."""
    rng = np.random.default_rng(seed)
    size = 0.05 * np.ptp(np.array(list(places.values())), axis=0)
    least = _clutter(graph, places)
    for name in rng.choice(list(graph), NUDGES):
        tried = {**places, str(name): places[str(name)] + size * rng.normal(size=2)}
        if (clutter := _clutter(graph, tried)) < least:
            places, least = tried, clutter
    return places


def _clutter(graph: nx.Graph, places: Mapping[str, Floats]) -> float:
    """Count what misleads the eye: edges that cross, that pass a third node, nodes that touch."""
    at = {name: k for k, name in enumerate(graph)}
    spots = np.array([places[name] for name in graph])
    spots = (spots - spots.min(axis=0)) / np.maximum(np.ptp(spots, axis=0), 1e-9)
    ends = np.array([[at[a], at[b]] for a, b in graph.edges])
    start, way = spots[ends[:, 0]], spots[ends[:, 1]] - spots[ends[:, 0]]
    to = spots[None] - start[:, None]
    share = (to * way[:, None]).sum(axis=2) / np.maximum((way**2).sum(axis=1), 1e-12)[:, None]
    off = np.linalg.norm(to - np.clip(share, 0, 1)[..., None] * way[:, None], axis=2)
    off[np.arange(len(ends))[:, None], ends] = 1.0
    side = np.sign(way[:, None, 0] * to[..., 1] - way[:, None, 1] * to[..., 0])
    split = side[:, ends[:, 0]] * side[:, ends[:, 1]] < 0
    apart = np.linalg.norm(spots[:, None] - spots, axis=2) + np.eye(len(spots))
    passing, touching = (np.maximum(1 - gap, 0).sum() for gap in (off / 0.05, apart / 0.1))
    return float((split & split.T).sum() / 2 + 6 * passing + 6 * touching)


def _halves(
    graph: nx.Graph, places: Mapping[str, Floats], transfer: pd.DataFrame
) -> tuple[Floats, Floats]:
    """Return ``(2 · edges, 2, 2)`` segments, each from its source to the middle, and transfer."""
    both = [pair for a, b in graph.edges for pair in ((a, b), (b, a))]
    segments = np.array([[places[a], (places[a] + places[b]) / 2] for a, b in both])
    table = transfer.rename(index=str, columns=str).reindex(index=list(graph), columns=list(graph))
    values = np.array([table.loc[a, b] for a, b in both], dtype=float)
    if np.isnan(values).all():
        raise InputError("no edge of the graph was measured: transfer has other labels, or is NaN")
    return segments, values


def _widths(similarities: Sequence[float]) -> Floats:
    """Return line widths in points, from 2 for the least to 8 for the greatest similarity."""
    values = np.array(similarities, dtype=float)
    low, spread = values.min(), np.ptp(values)
    share = (values - low) / spread if spread > 0 else np.full(len(values), 0.5)
    return np.asarray(2.0 + 6.0 * share)


def _lines(
    axis: Any, halves: Floats, values: Floats, widths: Floats, how: tuple[Colormap, Normalize]
) -> None:
    known = np.isfinite(values)
    colours = how[0](how[1](np.where(known, values, 0.0)))
    colours[~known] = mpl.colors.to_rgba(MISSING)
    lines: Any = list(halves)
    look: dict[str, Any] = {"capstyle": "butt", "zorder": 1}
    axis.add_collection(LineCollection(lines, colors="#8a8a8a", linewidths=widths + 0.9, **look))
    axis.add_collection(LineCollection(lines, colors=colours, linewidths=widths, **look))
    axis.autoscale_view()


def _nodes(axis: Any, graph: nx.Graph, places: Mapping[str, Floats], seed: int) -> None:
    groups = find_communities(graph, seed=seed).groups
    for number, group in enumerate(groups):
        x, y = np.array([places[name] for name in group]).T
        alone = len(group) == 1
        colour = MISSING if alone else COLOURS[number % len(COLOURS)]
        look = {"edgecolors": INK, "linewidths": 1.0, "zorder": 2}
        axis.scatter(x, y, s=150 if len(graph) <= LABELLED_UP_TO else 30, color=colour, **look)


def _width_legend(figure: Figure, graph: nx.Graph) -> None:
    values = [float(s) for *_, s in graph.edges(data="similarity")]
    marks = sorted({min(values), (min(values) + max(values)) / 2, max(values)})
    digits = 2 if np.ptp(values) == 0 else max(2, 1 - int(np.floor(np.log10(np.ptp(values)))))
    handles = [
        Line2D([], [], color="#777777", linewidth=w, label=f"similarity {m:.{digits}f}")
        for m, w in zip(marks, _widths(marks), strict=True)
    ]
    node: dict[str, Any] = {
        "marker": "o",
        "color": "white",
        "markeredgecolor": INK,
        "markersize": 10,
    }
    handles.append(Line2D([], [], linestyle="", label="node colour: community", **node))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)


def _name_nodes(figure: Figure, axis: Any, places: Mapping[str, Floats], halves: Floats) -> None:
    """Write the nodes' names, off the nodes and, where there is room, off the edges."""
    steps = np.linspace(0, 1, 12)[:, None, None]
    along = (halves[:, 0] + steps * (halves[:, 1] - halves[:, 0])).reshape(-1, 2)
    anchors = np.array(list(places.values()))
    texts = [_short(name) for name in places]
    write_labels(figure, axis, anchors, texts, [INK] * len(texts), along, gap=9.0, cover=2.0)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _settle(figure: Figure) -> None:
    """Lay the figure out for good, so that labels stay where they are put."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def _save(figure: Figure, path: Path) -> None:
    with writing(path):
        figure.savefig(path, dpi=DPI, bbox_inches="tight", metadata={"Software": None})
