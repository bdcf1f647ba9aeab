"""The commands that make pictures of a finished run: its maps and its concept graphs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptnet_em.cli_shared import Json, Root, print_json, say
from conceptnet_em.errors import DataError, raise_all, unknown

if TYPE_CHECKING:
    from conceptnet_em.corpus import Corpus
    from conceptnet_em.maps import Map
    from conceptnet_em.records import Similarity
    from conceptnet_em.rungraphs import RunGraph
    from conceptnet_em.study import Result

Drawn = tuple[Path, list[str]]
"""A picture and a line about each map in it."""
MUD = 200
"""Edges above which a drawing of a graph of items shows nothing."""
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A finished run folder.")]
Seed = Annotated[int, typer.Option(help="Of the layouts, the communities and the relabellings.")]


def register(app: typer.Typer) -> None:
    """Add ``map`` and ``graph`` to a command line."""
    app.command("map")(map_run)
    app.command()(graph)


# --- map ---


def map_run(
    folder: Folder,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where pictures and coordinates go; DIR/maps.")
    ] = None,
    seed: Seed = 0,
    sample: Annotated[int, typer.Option(help="The training sample to lay out, 1 or 2.")] = 1,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Draw maps of a run's items and domains; coordinates are kept and used again."""
    from conceptnet_em.console import Console
    from conceptnet_em.study import Result

    result = Result.load(folder)
    corpus = _corpus(result, root)
    place = out or folder / "maps"
    how = {"seed": seed, "sample": sample, "folder": place, "watcher": Console()}
    drawn = [*_draw_items(result, corpus, place, how), *_draw_domains(result, corpus, place, how)]
    _told([path for path, _ in drawn])
    if as_json:
        print_json([{"picture": str(path), "maps": maps} for path, maps in drawn])
    else:
        print("\n".join(f"{path.name}: {'; '.join(maps)}" for path, maps in drawn))


def _draw_items(
    result: Result, corpus: Corpus, place: Path, how: dict[str, Any]
) -> Iterator[Drawn]:
    """Draw questions by domain and answers by trait, UMAP and PCA side by side."""
    from conceptnet_em.atlas import item_map
    from conceptnet_em.mapplots import draw_map

    colours: dict[Any, str] = {"questions": "domain", "answers": "trait"}
    methods: tuple[Any, ...] = ("umap", "pca")
    for of, colour in colours.items():
        maps = [item_map(result, corpus, of=of, method=method, **how) for method in methods]
        title = f"{len(maps[0].coordinates)} {of} by sentence embedding, coloured by {colour}"
        draw_map(maps, place / f"{of}.png", colour=colour, title=title)
        yield place / f"{of}.png", list(map(str, maps))


def _draw_domains(
    result: Result, corpus: Corpus, place: Path, how: dict[str, Any]
) -> Iterator[Drawn]:
    """Draw domains by transfer sent and received: the mean over traits, then trait by trait."""
    from conceptnet_em.atlas import domain_map, typical_transfer
    from conceptnet_em.maps import FEWEST, NAMES

    n = len(result.config.domains)
    methods: list[Any] = [method for method in ("umap", "pca") if n >= FEWEST[method]]
    for method in {"umap", "pca"}.difference(methods):
        say(f"no {NAMES[method]} of the domains: {n} are too few, it takes {FEWEST[method]}")
    several = len(result.traits) > 1
    for number, trait in enumerate((None, *result.traits) if several else result.traits):
        found = typical_transfer(result, trait=trait)
        how = how | ({"watcher": None} if number else {})  # the same coordinates again
        for note in found.notes:
            say(f"note: {note}")
        for method in methods if trait is None or not several else methods[-1:]:
            laid = domain_map(result, corpus, trait=trait, method=method, **how)
            path = place / f"domains-{trait or 'mean'}-{method}.png"
            title = f"Transfer that domains send and receive, {found.words}"
            if _draw_sent_received(laid, path, found.unit, title):
                yield path, [str(laid)]
            else:
                say(f"no {path.name}: nothing off the diagonal was measured")


def _draw_sent_received(found: Map, path: Path, unit: str, title: str) -> bool:
    """Draw what domains send beside what they receive, on one scale, if any was measured."""
    from conceptnet_em.mapplots import draw_map
    from conceptnet_em.maps import NAMES

    frame = found.coordinates
    if frame[["sent", "received"]].isna().all(axis=None):
        return False
    column = "mean off-diagonal transfer"
    sides = {side: frame.assign(**{column: frame[side]}) for side in ("sent", "received")}
    maps = [replace(found, coordinates=side) for side in sides.values()]
    method = NAMES[found.method] + (f", seed {found.seed}" if found.method == "umap" else "")
    names = [f"{side} ({method})" for side in sides]
    draw_map(maps, path, colour=column, unit=unit, title=title, names=names)
    return True


# --- graph ---


def graph(
    folder: Folder,
    predictor: Annotated[str, typer.Option(help="A similarity of the run.")] = "text",
    trait: Annotated[
        str | None, typer.Option(help="One trait; the mean of transfer over traits if unset.")
    ] = None,
    k: Annotated[
        list[int] | None,
        typer.Option("--k", help="Neighbours; may be given several times. 5, 10, 20 if they fit."),
    ] = None,
    replicate: Annotated[
        int | None, typer.Option(help="Of transfer and similarity; the run's first if unset.")
    ] = None,
    items: Annotated[
        bool, typer.Option("--items", help="Join items instead of domains, by their questions.")
    ] = False,
    network: Annotated[
        Path | None,
        typer.Option(help="A concept network instead of a similarity: an edge list, ConceptNet 5."),
    ] = None,
    terms: Annotated[
        Path | None,
        typer.Option(help="YAML: the words that stand for each domain; its topic if unset."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where graphs and drawings go; DIR/graphs.")
    ] = None,
    seed: Seed = 0,
    permutations: Annotated[int, typer.Option(min=1, help="Relabellings of the p-values.")] = 9_999,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Join near domains, say how well the edges order transfer, and write the graph to files."""
    from conceptnet_em.study import Result

    _refuse_mixtures(predictor, trait, items, network, terms)
    result = Result.load(folder)
    place = out or folder / "graphs"
    if items:
        found = _item_graphs(result, _corpus(result, root), k, replicate, seed)
    else:
        how = {"trait": trait, "replicate": replicate, "permutations": permutations, "seed": seed}
        alike = _similarity(result, predictor, trait, replicate, network, terms, root)
        found = _domain_graphs(result, alike, k, how)
        say("note: p-values of graphs are exploratory and not corrected for how many are looked at")
    told = []
    for one in found:
        files = _write(one, place, seed)
        _told(files)
        told.append(one.to_dict() | {"files": list(map(str, files))})
        if not as_json:
            print(f"{one}\n")
    if as_json:
        print_json(told)


def _refuse_mixtures(
    predictor: str, trait: str | None, items: bool, network: Path | None, terms: Path | None
) -> None:
    faults = []
    if items and (predictor != "text" or trait or network):
        faults.append("--items joins questions by their text: no --predictor, --trait or --network")
    if network and predictor != "text":
        faults.append(f"a graph is made from --network or from --predictor {predictor}, not both")
    if terms and not network:
        faults.append("--terms are looked up in a concept network: give it as --network FILE")
    raise_all(faults)


def _similarity(
    result: Result,
    predictor: str,
    trait: str | None,
    replicate: int | None,
    network: Path | None,
    terms: Path | None,
    root: Path | None,
) -> Similarity:
    """Return the run's similarity, or that of a concept network."""
    from conceptnet_em.rungraphs import network_similarity, run_similarity

    if network is None:
        return run_similarity(result, predictor, trait=trait, replicate=replicate)
    described = _corpus(result, root).domains
    words = {name: [described[name].topic] for name in result.config.domains}
    return network_similarity(network, words | (_read_terms(terms, words) if terms else {}))


def _read_terms(path: Path, domains: dict[str, list[str]]) -> dict[str, list[str]]:
    """Read the words that stand for domains; those that the file leaves out keep their topic."""
    import yaml

    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if not isinstance(table, dict):
        raise DataError(f"{path} must map domains to words, for instance medical-prose: [medicine]")
    faults = [unknown("domain", str(name), domains) for name in table if name not in domains]
    found = {name: [v] if isinstance(v, str) else v for name, v in table.items()}
    for name, words in found.items():
        if not isinstance(words, list) or not all(isinstance(w, str) for w in words):
            faults.append(f"{path}: {name} must have a word or a list of words, not {words!r}")
    raise_all(faults)
    return found


def _domain_graphs(
    result: Result, alike: Similarity, ks: list[int] | None, how: dict[str, Any]
) -> list[RunGraph]:
    from conceptnet_em.rungraphs import domain_graph, fitting_ks, graph_ks

    n = len(alike.values)
    chosen = ks or graph_ks(alike.values)
    if not ks and not fitting_ks(n):
        say(f"note: 5, 10 and 20 are too many neighbours for {n} domains; k = {chosen[0]} is used")
    return [domain_graph(result, alike, k=k, **how) for k in chosen]


def _item_graphs(
    result: Result, corpus: Corpus, ks: list[int] | None, replicate: int | None, seed: int
) -> list[RunGraph]:
    from conceptnet_em.rungraphs import fitting_ks, item_graph

    n = sum(len(corpus.train(name, 1)) for name in result.config.domains)
    chosen = ks or fitting_ks(n) or (2,)
    return [item_graph(result, corpus, k=k, replicate=replicate, seed=seed) for k in chosen]


def _write(found: RunGraph, place: Path, seed: int) -> list[Path]:
    """Write a graph in every format, and draw it if a drawing can be read."""
    from conceptnet_em.mapplots import draw_graph, draw_items
    from conceptnet_em.networks import FORMS, write_graph

    files = [place / f"{found.name}{form}" for form in FORMS]
    for path in files:
        write_graph(found.graph, path)
    picture = place / f"{found.name}.png"
    if why := _no_drawing(found):
        say(f"no {picture.name}: {why}")
        return files
    what = found.what[:1].upper() + found.what[1:]
    title = f"{what}\nmutual {found.graph.graph['k']}-nearest neighbours"
    if found.transfer is None:
        draw_items(found.graph, picture, seed=seed, title=title)
    else:
        title += f"; transfer: {found.transfer.words}"
        how: dict[str, Any] = {"seed": seed, "unit": found.transfer.unit, "title": title}
        draw_graph(found.graph, found.transfer.values, picture, **how)
    return [*files, picture]


def _no_drawing(found: RunGraph) -> str:
    """Say why a drawing would show nothing, if so."""
    edges = found.graph.edges(data=True)
    if not edges:
        return "the graph has no edge; take a larger --k"
    if found.transfer is None and len(edges) > MUD:
        many = f"{len(edges)} edges of {len(found.graph)} items cannot be told apart on paper"
        return f"{many}; open the GEXF in Gephi, or draw the map of items (conceptnet-em map)"
    if found.transfer is not None and not any("transfer" in edge for *_, edge in edges):
        return "no edge of the graph was measured"
    return ""


def _corpus(result: Result, root: Path | None) -> Corpus:
    from conceptnet_em.corpus import load_corpus

    return load_corpus(root, traits=result.config.traits, domains=result.config.domains)


def _told(paths: Sequence[Path]) -> None:
    for path in paths:
        say(f"written: {path}")
