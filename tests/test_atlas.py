"""Maps and graphs of a run whose truth was put in: kept, repeated, read back, refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import typer
from matplotlib.collections import LineCollection
from pandas.testing import assert_frame_equal
from typer.testing import CliRunner
from typer.testing import Result as Called

from conceptnet_em import atlas, cli_atlas, mapplots, maps, study
from conceptnet_em.atlas import domain_map, item_map, typical_transfer
from conceptnet_em.config import study_faults
from conceptnet_em.corpus import Corpus, load_corpus
from conceptnet_em.errors import DataError, InputError
from conceptnet_em.graph import concept_graph, edge_order, path_similarity
from conceptnet_em.mapplots import draw_graph, draw_items, draw_map
from conceptnet_em.maps import sent_and_received
from conceptnet_em.networks import FORMS, read_graph
from conceptnet_em.records import Similarity
from conceptnet_em.rungraphs import (
    domain_graph,
    graph_ks,
    item_graph,
    network_similarity,
    run_similarity,
)
from conceptnet_em.study import Result

NAMES = [f"{name}-prose" for name in ("alpha", "beta", "gamma", "delta", "epsilon", "zeta")]
TRAITS = ("neutral", "sporty", "sycophantic")
AT = np.array([0.0, 1.0, 2.0, 10.0, 11.0, 12.0])
NEAR = pd.DataFrame(np.exp(-np.abs(AT[:, None] - AT) / 4), NAMES, NAMES)
"""Two groups of three: alpha, beta, gamma and delta, epsilon, zeta."""


def letters(texts: Any, *, embedder: str) -> np.ndarray:
    """Embed by letter counts."""
    counts = [[text.lower().count(c) for c in "abcdefghijklmnopqrstuvwxyz019"] for text in texts]
    found = np.array(counts, float)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def flat(unit: np.ndarray, seed: int, settings: Any) -> np.ndarray:
    """Stand in for UMAP, which compiles for ten seconds."""
    return unit @ np.random.default_rng(seed).normal(size=(unit.shape[1], 2))


@pytest.fixture(autouse=True)
def _quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atlas, "embed", letters)
    atlas.embedded.cache_clear()
    monkeypatch.setattr(mapplots, "DPI", 40)
    if "slow" not in request.keywords:
        monkeypatch.setattr(maps, "_umap", flat)


@pytest.fixture
def root(make_corpus: Callable[..., Path]) -> Path:
    return make_corpus(traits=TRAITS, domains=tuple(NAMES))


@pytest.fixture
def corpus(root: Path) -> Corpus:
    return load_corpus(root)


def cells(trait: str, values: pd.DataFrame, replicate: int) -> pd.DataFrame:
    """Return rows of the transfer table."""
    rows = [(s, t, values.loc[s, t]) for s in values.index for t in values.columns]
    fixed = {"trait": trait, "answer_trait": trait, "replicate": replicate, "scale": "contrast"}
    found = pd.DataFrame(rows, columns=["source", "target", "value"])
    return found.assign(**fixed, part="all", se=0.1, n_items=4, status="ok")


@pytest.fixture
def result(tmp_path: Path) -> Result:
    """A run with two traits; sycophantic has ten times sporty's effects; near domains transfer."""
    settings = {"name": "made", "traits": TRAITS, "domains": NAMES, "samples": [1, 2]}
    config, faults = study_faults(settings)
    assert config is not None, faults
    noise = np.random.default_rng(0).normal(scale=0.01, size=(6, 6))
    table = pd.concat(
        cells(trait, size * (NEAR + noise), replicate)
        for trait, size in (("sporty", 0.1), ("sycophantic", 1.0))
        for replicate in (1, 2)
    )
    alike = [Similarity("text", NEAR, replicate=1), Similarity("text", NEAR**2, replicate=2)]
    alike += [Similarity("direction", NEAR, trait=t, replicate=1) for t in TRAITS[1:]]
    alike += [Similarity("nearest", NEAR + np.triu(np.full((6, 6), 0.2), 1), replicate=1)]
    none: Any = None
    return Result(tmp_path / "run", config, pd.DataFrame(), table, tuple(alike), none, {}, {})


def call(result: Result, monkeypatch: pytest.MonkeyPatch, *words: object) -> Called:
    """Run one of the commands on a result as the command line does."""
    monkeypatch.setattr(study.Result, "load", classmethod(lambda cls, path: result))
    app = typer.Typer()
    cli_atlas.register(app)
    return CliRunner().invoke(app, [str(word) for word in words])


def changed(result: Result, trait: str, change: Callable[[pd.Series], pd.Series]) -> Result:
    """Return the run with other values for a trait."""
    table = result.table.copy()
    chosen = table["trait"] == trait
    table.loc[chosen, "value"] = change(table.loc[chosen, "value"])
    return replace(result, table=table)


# --- transfer ---


def test_traits_are_averaged_in_units_of_their_own_effect(result: Result) -> None:
    found = typical_transfer(result)
    one = result.transfer("sporty").values
    expected = one / np.diag(one).mean()  # both traits are one matrix in other sizes
    assert_frame_equal(found.values, expected, check_names=False)
    assert (found.unit, found.traits, found.notes) == ("in-domain units", TRAITS[1:], ())


def test_one_trait_stays_in_its_unit(result: Result) -> None:
    found = typical_transfer(result, trait="sporty", replicate=2)
    assert_frame_equal(found.values, result.transfer("sporty", replicate=2).values)
    assert (found.unit, found.words) == ("nats/token", "sporty")


def test_a_trait_without_effect_at_home_is_left_out_and_said(result: Result) -> None:
    found = typical_transfer(changed(result, "sporty", lambda values: values * 0))
    assert found.traits == ("sycophantic",)
    assert "sporty is left out of the mean" in found.notes[0]


def test_without_any_unit_the_mean_is_in_nats(result: Result) -> None:
    weak = changed(changed(result, "sporty", lambda v: -v), "sycophantic", lambda v: -v)
    found = typical_transfer(weak)
    assert found.unit == "nats/token"
    assert "no trait can be put into in-domain units (sporty: its mean" in found.notes[0]
    both = [weak.transfer(trait).values for trait in TRAITS[1:]]
    assert_frame_equal(found.values, (both[0] + both[1]) / 2, check_names=False)


def test_an_unknown_trait_is_refused_with_what_there_is(result: Result) -> None:
    with pytest.raises(InputError, match=r"no trait 'sport' \(did you mean 'sporty'\?\)"):
        typical_transfer(result, trait="sport")


# --- maps ---


def test_questions_and_answers_are_all_there(result: Result, corpus: Corpus) -> None:
    questions = item_map(result, corpus, method="pca").coordinates
    assert list(questions) == ["x", "y", "domain", "item"]
    assert questions["domain"].value_counts().to_dict() == dict.fromkeys(NAMES, 4)
    answers = item_map(result, corpus, of="answers", method="pca", sample=2).coordinates
    assert answers.groupby("trait").size().to_dict() == dict.fromkeys(TRAITS, 24)
    assert not set(answers["item"]) & set(questions["item"])  # of the other sample


def test_a_domain_lies_where_the_mean_of_its_questions_lies(result: Result, corpus: Corpus) -> None:
    found = domain_map(result, corpus, method="pca")
    middles = {
        name: letters([i.question for i in corpus.train(name, 1)], embedder="").mean(axis=0)
        for name in NAMES
    }
    labels = pd.DataFrame({"domain": NAMES})
    expected = maps.embed_map(np.array(list(middles.values())), labels, method="pca")
    assert_frame_equal(found.coordinates[["x", "y", "domain"]], expected.coordinates)


def test_a_domain_carries_what_it_sends_and_receives(result: Result, corpus: Corpus) -> None:
    found = domain_map(result, corpus, method="pca", trait="sporty").coordinates
    expected = sent_and_received(result.transfer("sporty").values).loc[NAMES]
    assert_frame_equal(found.set_index("domain")[["sent", "received"]], expected, check_names=False)


def test_a_second_call_draws_from_what_is_stored(
    result: Result, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = {"method": "umap", "seed": 3, "folder": tmp_path}
    first = item_map(result, corpus, **how), domain_map(result, corpus, **how)
    atlas.embedded.cache_clear()
    for name in ("embed", "embed_map"):
        monkeypatch.setattr(atlas, name, None)  # calling it would fail
    second = item_map(result, corpus, **how), domain_map(result, corpus, **how)
    for before, after in zip(first, second, strict=True):
        assert_frame_equal(after.coordinates, before.coordinates)
        assert (after.seed, after.parameters) == (3, before.parameters)


@pytest.mark.parametrize("change", ["seed", "sample", "items", "embedder", "damage"])
def test_a_stored_map_of_other_things_is_made_again(
    result: Result, corpus: Corpus, tmp_path: Path, change: str
) -> None:
    first = item_map(result, corpus, folder=tmp_path).coordinates
    how: dict[str, Any] = {"folder": tmp_path}
    path = tmp_path / "map-questions-umap.parquet"
    stored = path.read_bytes()
    if change in ("seed", "sample"):
        how[change] = 2
    elif change == "items":
        items = tuple(replace(i, question=f"{i.question} zz") for i in corpus.items[NAMES[0]])
        corpus = replace(corpus, items={**corpus.items, NAMES[0]: items})
    elif change == "embedder":
        result = replace(result, config=result.config.model_copy(update={"embedder": "other"}))
    else:
        path.write_bytes(stored[:100])
    second = item_map(result, corpus, **how).coordinates
    same = change in ("embedder", "damage")  # both are made again, of the same letters
    assert first.equals(second) == same
    assert (path.read_bytes() == stored) == (change == "damage")


def test_maps_repeat_with_the_seed(result: Result, corpus: Corpus, tmp_path: Path) -> None:
    for name in ("a", "b"):
        item_map(result, corpus, folder=tmp_path / name, seed=5)
    files = [(tmp_path / n / "map-questions-umap.parquet").read_bytes() for n in ("a", "b")]
    assert files[0] == files[1]


def test_all_that_is_wrong_with_a_map_is_said(result: Result, corpus: Corpus) -> None:
    wrong: Any = {"of": "texts", "method": "tsne"}
    with pytest.raises(InputError, match=r"(?s)no kind of text 'texts'.*no method 'tsne'"):
        item_map(result, corpus, **wrong)
    with pytest.raises(InputError, match=r"no training items of sample 3 in alpha-prose.*is 1, 2"):
        item_map(result, corpus, sample=3)


# --- graphs ---


def test_planted_groups_are_the_communities_and_near_pairs_transfer(result: Result) -> None:
    found = domain_graph(result, k=2, permutations=99)
    assert set(found.communities.groups) == {tuple(sorted(NAMES[:3])), tuple(sorted(NAMES[3:]))}
    assert found.order is not None
    assert found.order.auc.value == 1
    again = edge_order(concept_graph(NEAR, 2), typical_transfer(result, replicate=1).values)
    assert found.order.auc.value == again.auc.value
    assert "modularity 0.50" in str(found)


def test_nodes_and_edges_carry_transfer(result: Result) -> None:
    found = domain_graph(result, k=2, permutations=9)
    values = typical_transfer(result, replicate=1).values
    a, b = NAMES[:2]
    assert found.graph.edges[a, b]["transfer"] == pytest.approx(
        (values.loc[a, b] + values.loc[b, a]) / 2
    )
    expected = sent_and_received(values)
    for name in NAMES:
        node = found.graph.nodes[name]
        assert (node["sent"], node["received"]) == pytest.approx(tuple(expected.loc[name]))
    assert {found.graph.nodes[n]["community"] for n in NAMES} == {1, 2}


def test_what_was_not_measured_is_absent_not_zero(result: Result) -> None:
    table = result.table.copy()
    table.loc[table["source"] == NAMES[0], "value"] = np.nan
    found = domain_graph(replace(result, table=table), k=2, trait="sporty", permutations=9).graph
    assert "sent" not in found.nodes[NAMES[0]]
    assert "transfer" not in found.edges[NAMES[0], NAMES[1]]
    assert "received" in found.nodes[NAMES[0]]


def test_the_similarity_is_the_replicates_own(result: Result) -> None:
    assert run_similarity(result).replicate == 1
    assert_frame_equal(run_similarity(result, replicate=2).values, NEAR**2)
    found = domain_graph(result, run_similarity(result, replicate=2), k=2, permutations=9)
    assert found.graph.graph["replicate"] == 2
    assert "this is replicate 1 of 1, 2" in str(domain_graph(result, k=2, permutations=9))


def test_a_directed_similarity_is_averaged_and_said(result: Result) -> None:
    found = domain_graph(result, run_similarity(result, "nearest"), k=2, permutations=9)
    assert found.graph.graph["symmetrised"]
    assert "nearest is directed; its two directions are averaged" in found.notes
    assert not any("directed" in note for note in domain_graph(result, k=2, permutations=9).notes)


@pytest.mark.parametrize(
    ("n", "ks"), [(2, (1,)), (3, (1,)), (6, (3,)), (8, (4,)), (9, (5,)), (16, (5, 10)), (40, None)]
)
def test_k_is_as_the_size_allows(n: int, ks: tuple[int, ...] | None) -> None:
    at = np.arange(n) ** 2.0  # each is nearest to the one before it
    similarity = pd.DataFrame(-np.abs(at[:, None] - at))
    found = graph_ks(similarity)
    assert found == ((5, 10, 20) if ks is None else found)
    if n in (9, 16):
        assert found == ks
    elif n > 3:
        assert all(k <= 2 * (n - 1) / 3 for k in found)


def test_a_small_grid_gets_the_smallest_k_that_joins_all() -> None:
    ring = np.exp(-np.minimum(np.arange(6), 6 - np.arange(6)))
    near = pd.DataFrame(ring[(np.arange(6)[:, None] - np.arange(6)) % 6])
    assert graph_ks(near) == (2,)
    apart = concept_graph(NEAR, graph_ks(NEAR)[0])
    assert graph_ks(NEAR) == (3,)  # two groups of three: k = 2 leaves them apart
    assert apart.number_of_edges() < 15


def test_graphs_are_read_back_equal(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(result, monkeypatch, "graph", tmp_path, "--k", 2).exit_code == 0
    expected = domain_graph(result, k=2).graph
    for form in FORMS:
        found = read_graph(tmp_path / "graphs" / f"graph-text-r1-k2{form}")
        assert nx.utils.graphs_equal(found, expected)
        assert found.graph == expected.graph


def test_questions_join_questions_of_their_domain(result: Result, corpus: Corpus) -> None:
    found = item_graph(result, corpus, k=3)
    assert len(found.graph) == 24
    inside = [
        found.graph.nodes[a]["domain"] == found.graph.nodes[b]["domain"]
        for a, b in found.graph.edges
    ]
    count = f"{sum(inside)} of {len(inside)} edges join items of one domain; 13% of all pairs"
    assert found.notes[0].startswith(count)
    assert sum(inside) > len(inside) / 2
    sample = {int(name.split("-")[-1]) for name in found.graph}
    assert sample == {5, 6, 7, 8}  # replicate 1 is predicted from sample 2


# --- pictures ---


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Keep figures instead of saving them."""
    kept: list[Any] = []
    monkeypatch.setattr(mapplots, "_save", lambda figure, path: kept.append(figure))
    return kept


def test_maps_are_called_as_asked_and_single_points_carry_their_number(figures: list[Any]) -> None:
    places = {"x": [0.0, 1, 2], "y": [0.0, 1, 0], "domain": list("abc")}
    frame = pd.DataFrame({**places, "sent": [-0.021, -0.001, np.nan]})
    draw_map(maps.Map(frame, "pca", 0, {}), Path("x"), colour="sent", names=["here"])
    axis = figures[0].axes[0]
    assert axis.get_title() == "here"
    assert [text.get_text() for text in axis.texts] == ["a −0.02", "b 0.00", "c"]


def test_similarities_that_hardly_differ_are_told_apart(figures: list[Any]) -> None:
    graph = concept_graph(0.99 + NEAR / 1000, 3)
    draw_graph(graph, NEAR, Path("x"))
    marks = {text.get_text() for text in figures[0].legends[0].get_texts()[:3]}
    assert len(marks) == 3


def test_what_no_path_joins_is_drawn_near_and_grey_is_explained(figures: list[Any]) -> None:
    far = NEAR.copy()
    far.loc[NAMES[0], NAMES[1:]] = far.loc[NAMES[1:], NAMES[0]] = -1.0
    graph = concept_graph(far, 2)
    assert not graph[NAMES[0]]
    paths = -path_similarity(graph)
    drawn = mapplots._nearer(paths)
    joined = paths.loc[NAMES[3:], NAMES[3:]]
    assert drawn.loc[NAMES[0], NAMES[1]] < joined.max(axis=None) < paths.loc[NAMES[0], NAMES[1]]
    assert drawn.loc[NAMES[3], NAMES[4]] == paths.loc[NAMES[3], NAMES[4]]
    draw_graph(graph, NEAR.iloc[:5], Path("x"))
    assert [t.get_text() for t in figures[0].legends[1].get_texts()] == ["not measured"]


def test_links_of_items_are_grey_at_home_and_dark_abroad(figures: list[Any]) -> None:
    graph = nx.Graph([("a", "b"), ("b", "c"), ("c", "d")])
    nx.set_node_attributes(graph, {"a": "A", "b": "A", "c": "B", "d": "B"}, "domain")
    nx.set_edge_attributes(graph, 1.0, "length")
    nx.set_edge_attributes(graph, 1.0, "weight")
    draw_items(graph, Path("x"))
    lines = [c for c in figures[0].axes[0].collections if isinstance(c, LineCollection)]
    assert [len(c.get_segments()) for c in lines] == [2, 1]
    shown = [t.get_text() for legend in figures[0].legends for t in legend.get_texts()]
    assert shown == ["link within one domain", "link to another domain", "A", "B"]


def test_an_item_graph_without_homes_is_not_drawn(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="3 of 3 nodes have no 'domain'"):
        draw_items(nx.path_graph(3), tmp_path / "x.png")


# --- external networks ---


@pytest.fixture
def network(tmp_path: Path) -> Path:
    path = tmp_path / "net.tsv"
    topics = [name.removesuffix("-prose") for name in NAMES]
    weights = (1, 1, 0.1, 1, 0.5)  # of 1 / length
    rows = zip(pairwise(topics), weights, strict=True)
    path.write_text("".join(f"{a}\t{b}\t{weight}\n" for (a, b), weight in rows))
    return path


def test_the_length_of_an_edge_is_the_distance_in_the_network(
    result: Result, network: Path
) -> None:
    alike = network_similarity(network, {name: [name.split("-")[0]] for name in NAMES})
    found = domain_graph(result, alike, k=2, permutations=9).graph
    assert found.edges[NAMES[0], NAMES[1]]["length"] == 1
    assert found.edges[NAMES[3], NAMES[5]]["length"] == 3


def test_terms_replace_topics_and_are_checked(
    result: Result, root: Path, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["graph", tmp_path, "--root", root, "--network", network, "--k", 2, "--json"]
    terms = tmp_path / "terms.yaml"
    terms.write_text("alpha-prose: zeta\nbeta-prose: [beta, nowhere]\n")
    found = call(result, monkeypatch, *words, "--terms", terms)
    told = json.loads(found.stdout)[0]
    assert "beta-prose: nowhere" in told["notes"][-1]
    assert told["files"][0].endswith("graph-network-net-tsv-k2.graphml")
    terms.write_text("alfa-prose: x\nbeta-prose: 3\n")
    refused = call(result, monkeypatch, *words, "--terms", terms).exception
    assert isinstance(refused, InputError)
    assert "no domain 'alfa-prose' (did you mean 'alpha-prose'?)" in str(refused)
    assert "beta-prose must have a word or a list of words, not 3" in str(refused)
    terms.write_text("- a list\n")
    assert isinstance(call(result, monkeypatch, *words, "--terms", terms).exception, DataError)


# --- the command line ---


def test_map_leaves_pictures_and_coordinates(
    result: Result, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["map", tmp_path, "--root", root, "--out", tmp_path / "m"]
    first = call(result, monkeypatch, *words, "--json")
    told = json.loads(first.stdout)
    pictures = {"questions", "answers", "domains-mean-umap", "domains-mean-pca"}
    pictures |= {f"domains-{trait}-pca" for trait in TRAITS[1:]}
    assert {Path(entry["picture"]).stem for entry in told} == pictures
    stored = [
        f"map-{of}-{m}" for of in ("questions", "answers", "domains") for m in ("umap", "pca")
    ]
    assert {p.stem for p in (tmp_path / "m").iterdir()} == pictures | set(stored)
    monkeypatch.setattr(mapplots, "draw_map", lambda *maps, **options: None)
    again = call(result, monkeypatch, *words)
    assert [r.stderr.count("coordinates as stored") for r in (first, again)] == [0, 6]
    assert "questions.png: UMAP map (24 points, n_neighbors 15" in again.stdout


def test_map_of_few_domains_says_what_it_leaves_out(
    result: Result, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = NAMES[:4]
    table = result.table[result.table["source"].isin(kept) & result.table["target"].isin(kept)]
    few = replace(result, table=table, config=result.config.model_copy(update={"domains": kept}))
    monkeypatch.setattr(mapplots, "draw_map", lambda *maps, **options: None)
    found = call(few, monkeypatch, "map", tmp_path, "--root", root, "--json")
    assert "no UMAP of the domains: 4 are too few, it takes 5" in found.stderr
    drawn = {Path(entry["picture"]).stem for entry in json.loads(found.stdout)}
    assert "domains-mean-pca" in drawn
    assert "domains-mean-umap" not in drawn


def test_graph_prints_what_it_found(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = call(result, monkeypatch, "graph", tmp_path, "--trait", "sporty", "--permutations", 99)
    assert found.exit_code == 0
    assert "k = 3 is used" in found.stderr
    for words in ("modularity", "AUC without effects", "transfer, sporty, nats/token"):
        assert words in found.stdout
    names = {f"graph-text-sporty-r1-k3{form}" for form in (*FORMS, ".png")}
    assert {path.name for path in (tmp_path / "graphs").iterdir()} == names


def test_graph_of_items_is_drawn_unless_it_would_be_mud(
    result: Result, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["graph", tmp_path, "--items", "--root", root, "--k", 3]
    assert call(result, monkeypatch, *words).exit_code == 0
    assert (tmp_path / "graphs" / "graph-text-of-items-k3.png").exists()
    monkeypatch.setattr(cli_atlas, "MUD", 20)
    found = call(result, monkeypatch, *words, "--out", tmp_path / "b")
    assert "edges of 24 items cannot be told apart" in found.stderr
    assert "open the GEXF in Gephi" in found.stderr
    assert len(list((tmp_path / "b").iterdir())) == len(FORMS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--predictor", "txt"], "no predictor in this run 'txt' (did you mean 'text'?); there is"),
        (["--predictor", "direction"], "choose --trait from sporty, sycophantic"),
        (["--trait", "sport"], "no trait 'sport' (did you mean 'sporty'?)"),
        (["--replicate", "3"], "no replicate 3; there is 1, 2"),
        (["--k", "6"], "k = 6 with 6 labels; possible is from 1 to 5"),
        (["--items", "--trait", "sporty"], "no --predictor, --trait or --network"),
        (["--terms", "x"], "give it as --network FILE"),
        (["--network", "x", "--predictor", "nearest"], "--network or from --predictor nearest"),
        (["--network", "none.tsv"], "cannot read none.tsv"),
    ],
)
def test_what_graph_refuses(
    result: Result,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    said: str,
) -> None:
    refused = call(result, monkeypatch, "graph", tmp_path, "--root", root, *words).exception
    assert said in str(refused)
    assert not (tmp_path / "graphs").exists()


def test_too_few_domains_for_a_graph_are_refused(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = replace(result, similarities=(Similarity("text", NEAR.iloc[:2, :2], replicate=1),))
    refused = call(few, monkeypatch, "graph", tmp_path).exception
    assert isinstance(refused, InputError)
    assert "with 2 labels; possible is none below 3" in str(refused)


@pytest.mark.slow
def test_umap_of_a_run_repeats_to_the_byte(result: Result, corpus: Corpus, tmp_path: Path) -> None:
    for name in ("a", "b"):
        item_map(result, corpus, folder=tmp_path / name, seed=1)
        domain_map(result, corpus, folder=tmp_path / name, seed=1)
    for of in ("questions", "domains"):
        files = [(tmp_path / n / f"map-{of}-umap.parquet").read_bytes() for n in ("a", "b")]
        assert files[0] == files[1]
    other = item_map(result, corpus, folder=tmp_path / "a", seed=2)
    assert not other.coordinates.equals(item_map(result, corpus, seed=1).coordinates)
