"""Make the concept graphs of a finished run, and say how well their edges order transfer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import networkx as nx
import pandas as pd

from conceptnet_em.atlas import TypicalTransfer, embedded, texts_of, typical_transfer
from conceptnet_em.corpus import Corpus, other_sample
from conceptnet_em.errors import InputError, raise_all, unknown
from conceptnet_em.graph import (
    Communities,
    EdgeOrder,
    Ordering,
    concept_graph,
    edge_order,
    find_communities,
    possible_k,
)
from conceptnet_em.maps import sent_and_received
from conceptnet_em.networks import external_distances
from conceptnet_em.records import Similarity
from conceptnet_em.study import Result


@dataclass(frozen=True)
class RunGraph:
    """A concept graph of a run, with what is said of it."""

    graph: nx.Graph
    """Nodes carry ``community`` and, of domains, ``sent`` and ``received``; of items, ``domain``.
    Edges carry ``similarity``, ``length``, ``weight`` and, of domains, ``transfer`` (mean of both
    directions)."""
    what: str
    """What the graph is of, in words."""
    communities: Communities
    transfer: TypicalTransfer | None = None
    """What the edges are compared with; none for items."""
    order: EdgeOrder | None = None
    """How well the edges order transfer; none for items."""
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """A name for files: what it is of and k."""
        about = self.graph.graph
        parts = [about["predictor"], about.get("trait"), f"k{about['k']}"]
        parts.insert(2, f"r{about['replicate']}" if "replicate" in about else None)
        return re.sub(r"[^A-Za-z0-9_-]+", "-", "-".join(["graph", *filter(None, parts)]))

    def __str__(self) -> str:
        """Return everything but the edges."""
        lines = [f"{self.what}, k = {self.graph.graph['k']}", self.graph.graph["note"]]
        lines += [self._groups()]
        if self.transfer and self.order:
            lines += [f"transfer, {self.transfer.words}, {self.transfer.unit}: {self.order}"]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def _groups(self) -> str:
        """Name the members of each community, or count items by domain."""
        home = nx.get_node_attributes(self.graph, "domain")
        if not home:
            return str(self.communities)
        lines = [str(self.communities).partition("\n")[0]]
        several = [group for group in self.communities.groups if len(group) > 1]
        for group in several:
            counts = pd.Series([home[name] for name in group]).value_counts()
            lines.append(", ".join(f"{n} × {domain}" for domain, n in counts.items()))
        alone = len(self.communities.groups) - len(several)
        return "\n".join(lines + [f"{alone} alone"] * bool(alone))

    def to_dict(self) -> dict[str, Any]:
        """Return the same as JSON-able values."""
        told = {"what": self.what, "k": self.graph.graph["k"], "about": self.graph.graph["note"]}
        more = {"communities": asdict(self.communities), "notes": list(self.notes)}
        if self.transfer and self.order:
            more |= {"traits": list(self.transfer.traits), "unit": self.transfer.unit}
            more |= {"edge_order": {n: _plain(v) for n, v in vars(self.order).items()}}
        return told | more


def _plain(value: Any) -> Any:
    return value._asdict() if isinstance(value, Ordering) else value


def fitting_ks(n: int) -> tuple[int, ...]:
    """Return those of 5, 10 and 20 that are at most two thirds of the other labels.

    Nearer to the whole a graph has hardly any structure left.
    """
    return possible_k(2 * (n - 1) // 3 + 1)


def graph_ks(similarity: pd.DataFrame) -> tuple[int, ...]:
    """Return the k for which graphs of this matrix are worth looking at.

    They are those of :func:`fitting_ks`; where there is none, the smallest k from 2 whose graph
    hangs together, or two thirds of the other labels if none does. The choice looks at the
    similarity only, never at transfer.
    """
    largest = 2 * (len(similarity) - 1) // 3
    if found := fitting_ks(len(similarity)):
        return found
    small = range(min(2, largest), largest + 1)
    return (next((k for k in small if _is_whole(similarity, k)), max(largest, 1)),)


def _is_whole(similarity: pd.DataFrame, k: int) -> bool:
    return bool(k and nx.is_connected(concept_graph(similarity, k)))


def run_similarity(
    result: Result,
    predictor: str = "text",
    *,
    trait: str | None = None,
    replicate: int | None = None,
) -> Similarity:
    """Return one similarity of a run.

    Args:
        result: a finished run.
        predictor: its name.
        trait: needed by, and only used for, trait-specific predictors.
        replicate: the replicate it may predict; the first when none.

    Raises:
        InputError: there is none such, or the trait is not said; names what there is.
    """
    if not (there := [s for s in result.similarities if s.predictor == predictor]):
        known = {s.predictor for s in result.similarities}
        raise InputError(unknown("predictor in this run", predictor, known))
    traits = [s.trait for s in there if s.trait]
    replicates = sorted({s.replicate for s in there if s.replicate is not None})
    faults = []
    if traits and trait not in traits:
        asked = f"has none for '{trait}'" if trait else "has a similarity for each trait"
        faults.append(
            f"{predictor} {asked}; choose --trait from {', '.join(dict.fromkeys(traits))}"
        )
    if replicate is not None and replicates and replicate not in replicates:
        faults.append(f"no replicate {replicate}; there is {', '.join(map(str, replicates))}")
    raise_all(faults)
    first = replicate if replicate is not None else next(iter(replicates), None)
    return next(s for s in there if s.trait in (None, trait) and s.replicate in (None, first))


def domain_graph(
    result: Result,
    similarity: Similarity | None = None,
    *,
    trait: str | None = None,
    replicate: int | None = None,
    k: int | None = None,
    permutations: int = 9_999,
    seed: int = 0,
) -> RunGraph:
    """Join each domain with its mutual nearest neighbours and ask whether edges order transfer.

    A directed similarity is replaced by the mean of its two directions, and a note says so;
    transfer stays directed.

    Args:
        result: a finished run.
        similarity: of its domains; the text similarity of the run when none.
        trait: whose transfer; the mean over traits when none, see :func:`typical_transfer`.
        replicate: of transfer; the similarity's when none, so that no item is in both.
        k: neighbours; the first of :func:`graph_ks` when none.
        permutations: relabellings drawn for ``edge_order``, which states the null hypothesis.
        seed: of those and of the communities.

    Raises:
        InputError: an unknown name, an impossible k, or a similarity with missing cells.
    """
    alike = similarity or run_similarity(result, replicate=replicate)
    measured = alike.replicate if replicate is None else replicate
    transfer = typical_transfer(result, trait=trait or alike.trait, replicate=measured)
    graph = concept_graph(alike.values, graph_ks(alike.values)[0] if k is None else k)
    groups = find_communities(graph, seed=seed)
    order = edge_order(graph, transfer.values, permutations=permutations, seed=seed)
    notes = list(transfer.notes)
    if graph.graph["symmetrised"]:
        notes.append(f"{alike.predictor} is directed; its two directions are averaged")
    if replicate is None and measured is not None and len(result.config.samples) > 1:
        there = ", ".join(map(str, result.config.samples))
        notes.append(f"this is replicate {measured} of {there}; --replicate takes another")
    notes += [alike.values.attrs["note"]] if alike.values.attrs.get("note") else []
    _add_transfer(graph, transfer.values)
    about = {"predictor": alike.predictor, "trait": trait or alike.trait, "replicate": measured}
    _mark(graph, groups, **about, transfer_of=transfer.words, transfer_unit=transfer.unit)
    return RunGraph(graph, _named(alike), groups, transfer, order, tuple(notes))


def _add_transfer(graph: nx.Graph, transfer: pd.DataFrame) -> None:
    """Put transfer into nodes and edges, where it was measured."""
    for name, row in sent_and_received(transfer).iterrows():
        graph.nodes[str(name)].update({str(key): float(v) for key, v in row.dropna().items()})
    both = (transfer + transfer.T) / 2
    for a, b, edge in graph.edges(data=True):
        if pd.notna(value := both.loc[a, b]):
            edge["transfer"] = float(value)


def _mark(graph: nx.Graph, groups: Communities, **about: str | int | None) -> None:
    """Put what is known of a graph into it, so that its files say so."""
    numbers = {name: int(group) + 1 for name, group in groups.membership.items()}
    nx.set_node_attributes(graph, numbers, "community")
    everything = {**about, "modularity": groups.modularity}
    graph.graph.update({name: value for name, value in everything.items() if pd.notna(value)})


def _named(found: Similarity) -> str:
    details = [found.trait] if found.trait else []
    details += [f"layer {found.layer}"] if found.layer is not None else []
    details += [f"replicate {found.replicate}"] if found.replicate is not None else []
    return f"{found.predictor} similarity of domains" + f" ({', '.join(details)})" * bool(details)


def network_similarity(
    path: str | Path, terms: Mapping[str, Sequence[str]], *, language: str = "en"
) -> Similarity:
    """Return 1 − distance of domains in a concept network from a file, for :func:`domain_graph`.

    So the length of an edge of the graph is the distance.

    Args:
        path: a file that :mod:`conceptnet_em.networks` reads.
        terms: domain to the words that stand for it, for instance its topic.
        language: of ConceptNet.

    Raises:
        InputError: no term of a domain is in the network, or all domains are equally far.
        DataError: malformed lines.
        StoreError: the file cannot be read.
    """
    far = external_distances(path, terms, language=language)
    if far.isna().any(axis=None):
        raise InputError(f"{Path(path).name}: {far.attrs['note']}; give other or more terms")
    alike = 1.0 - far
    alike.attrs["note"] = far.attrs["note"]
    return Similarity(f"network {Path(path).name}", alike)


def item_graph(
    result: Result, corpus: Corpus, *, k: int = 5, replicate: int | None = None, seed: int = 0
) -> RunGraph:
    """Join each question with its mutual nearest neighbours, by cosine of sentence embeddings.

    Args:
        result: a finished run; its domains and embedder are taken.
        corpus: the corpus it ran on.
        k: neighbours.
        replicate: whose predictors see these items: they are of the other training sample. The
            run's first when none.
        seed: of the communities.

    Raises:
        InputError: no such sample, or an impossible k.
        ModelError: the embedder is missing.
    """
    sample = other_sample(result.config.samples[0] if replicate is None else replicate)
    texts, labels = texts_of(result, corpus, "questions", sample)
    own = labels["item"].is_unique
    names = list(labels["item"] if own else labels["domain"] + "/" + labels["item"])
    vectors = embedded(texts, result.config.embedder).astype(float)
    graph = concept_graph(pd.DataFrame(vectors @ vectors.T, names, names), k)
    groups = find_communities(graph, seed=seed)
    home = dict(zip(names, map(str, labels["domain"]), strict=True))
    nx.set_node_attributes(graph, home, "domain")
    _mark(graph, groups, predictor="text of items")
    what = f"text similarity of questions (training sample {sample})"
    return RunGraph(graph, what, groups, notes=(_at_home(graph, home),))


def _at_home(graph: nx.Graph, home: Mapping[str, str]) -> str:
    """Say how many edges stay within a domain, and how many would by chance."""
    sizes = pd.Series(home).value_counts()
    chance = float((sizes * (sizes - 1)).sum()) / (len(home) * (len(home) - 1))
    inside = sum(home[a] == home[b] for a, b in graph.edges)
    share = f"{inside} of {graph.number_of_edges()}"
    return f"{share} edges join items of one domain; {chance:.0%} of all pairs are of one domain"
