"""Put every predictor on one footing: how well each explains the transfer of a finished run.

A screen looks at many predictors, so its p-values are corrected for all of them at once. It is
exploration: what a study claims is settled by its two primaries.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import nan
from pathlib import Path

import numpy as np
import pandas as pd

from conceptnet_em.cells import organisms
from conceptnet_em.corpus import Corpus, load_corpus
from conceptnet_em.errors import InputError, raise_all
from conceptnet_em.models import LanguageModel
from conceptnet_em.predictor_store import Kept
from conceptnet_em.predictors import POST_HOC, TABLE, Predictor, chosen
from conceptnet_em.records import Similarity, Slope, format_p, nulls
from conceptnet_em.replicates import Predictor as Sorted
from conceptnet_em.replicates import measured
from conceptnet_em.replicates import predictors as sort_out
from conceptnet_em.sensitivity import Ceilings
from conceptnet_em.slopes import all_slopes, how_for
from conceptnet_em.stacking import WEIGHTS
from conceptnet_em.store import RunFolder
from conceptnet_em.study import Result, load_base
from conceptnet_em.transfer import item_effects, own_items
from conceptnet_em.verdicts import EXPLORATORY, GIVEN_WORDS, WORDS, lead_of


@dataclass(frozen=True)
class Screened:
    """One predictor's line in a screen."""

    predictor: str
    kind: str
    directed: bool
    specific: bool
    status: str
    """``ok`` or ``not_estimable``."""
    reason: str = ""
    slope: float = nan
    """Of the average trait: in-domain units per SD of similarity."""
    low: float = nan
    """Lower end of the 95% interval."""
    high: float = nan
    r: float = nan
    """Correlation with transfer, source and target effects left in."""
    r_within: float = nan
    """Correlation with transfer, source and target effects taken out."""
    r_disattenuated: float = nan
    """``r_within`` over the noise ceiling."""
    p: float = nan
    """FE-QAP, as if this were the only predictor."""
    p_search: float = nan
    """Compared with the largest abs(t) over all predictors of the screen."""
    p_given_words: float = nan
    """Of a trait-specific predictor, the overlap of trait words held fixed."""
    lodo_r2: float = nan
    """R² for the cells of a domain left out, from this predictor alone."""
    reliability: float = nan
    """Split-half over items, mean over traits and replicates."""
    seconds: float = nan
    """What it took to compute, with its share of what several predictors read."""
    basis: str = ""
    """What it was computed from."""


@dataclass(frozen=True)
class Screen:
    """Predictors of one run's transfer, side by side."""

    rows: tuple[Screened, ...]
    """In the order computed."""
    run: str
    group: str
    """The relabelling group, in words."""
    n_domains: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the table, the largest correlation with transfer first."""
        order = sorted(self.rows, key=lambda row: -abs(row.r_within) if row.status == "ok" else 1)
        head = (
            f"{'predictor':<21}{'kind':<10}{'slope':>7}{'95% interval':>17}{'r':>7}{'within':>8}"
            f"{'p':>8}{'p all':>8}{'|words':>8}{'rel.':>7}{'s':>8}"
        )
        lines = [f"{self.run}: {len(self.rows)} predictors, {self.n_domains} domains", head]
        lines += [_line(row) for row in order]
        return "\n".join([*lines, "", *_LEGEND, f"Group: {self.group}.", *self.notes])

    def to_table(self) -> pd.DataFrame:
        """Return one row a predictor."""
        return pd.DataFrame([asdict(row) for row in self.rows])

    def to_json(self) -> str:
        """Return the screen as JSON; NaN becomes null."""
        return json.dumps(nulls(asdict(self)), ensure_ascii=False, indent=1)


_LEGEND = (
    "slope: in-domain units per SD of similarity, average over traits. r: correlation with",
    "transfer; within: the same, source and target effects taken out. p: FE-QAP; p all: the same,",
    "allowing for every predictor looked at; |words: with trait-word overlap held fixed. rel.:",
    "split-half reliability over items. s: seconds to compute, shared passes counted for each.",
    "Post hoc predictors read the organisms themselves: they explain, they do not forecast.",
)


def _line(row: Screened) -> str:
    if row.status != "ok":
        return f"{row.predictor:<21}{row.kind:<10}  not_estimable: {row.reason}"[:110]
    span = f"[{row.low:+.2f}, {row.high:+.2f}]"
    words = _p(row.p_given_words) if row.specific and row.predictor != WORDS else ""
    return (
        f"{row.predictor:<21}{row.kind:<10}{row.slope:>+7.2f}{span:>17}{_two(row.r):>7}"
        f"{_two(row.r_within):>8}{_p(row.p):>8}{_p(row.p_search):>8}{words:>8}"
        f"{_two(row.reliability):>7}{_seconds(row.seconds):>8}"
    )


def _two(value: float) -> str:
    return "–" if value != value else f"{value:+.2f}"


def _p(value: float) -> str:
    return "–" if value != value else format_p(value)


def _seconds(value: float) -> str:
    return "–" if value != value else f"{value:.1f}"


# --- computing ------------------------------------------------------------------------------------


def screen(
    run: str | Path,
    names: Sequence[str | Predictor] = (),
    *,
    root: str | Path | None = None,
    permutations: int = 9_999,
    layers: Sequence[int] = (),
    note: Callable[[str], None] = lambda _: None,
) -> Screen:
    """Compute predictors for a finished run and regress its transfer on each.

    H0 of each p: given source and target effects the slope is 0, and domain labels are
    exchangeable. ``p_search`` compares with the largest abs(t) over all predictors.

    Args:
        run: the run folder; what it holds already is read, the rest is added to it.
        names: of :data:`predictors.TABLE`, or predictors of one's own; all of the table when none.
        root: the corpus folder the run was made from; the shipped one when none.
        permutations: relabellings drawn where the group is too large to list.
        layers: of the internal predictors; the study's own when none.
        note: told what is being computed.

    Raises:
        InputError: an unknown predictor.
        StoreError: the folder holds no finished run.
        ModelError: the base model is missing.
    """
    wanted = chosen(names or list(TABLE))
    result, kept = _opened(run, root, note)
    kept = replace(kept, layers=tuple(layers))
    found: dict[str, list[Similarity]] = {}
    seconds: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for replicate in result.config.samples:
        inputs = kept.of(replicate)
        for one in wanted:
            note(f"{one.name}, replicate {replicate}")
            try:
                alike, spent = kept.ensure(one, inputs)
            except InputError as error:
                reasons[one.name] = " ".join(str(error).split())
                continue
            if lost := [s for s in alike if not s.values.notna().to_numpy().any()]:
                reasons[one.name] = f"it holds no value at all ({lost[0].basis})"
                continue
            found.setdefault(one.name, []).extend(alike)
            seconds[one.name] = seconds.get(one.name, 0.0) + spent
    for name in reasons:
        found.pop(name, None)  # in one replicate at least it could not be had
    return compare(result, kept.corpus, wanted, found, seconds, reasons, permutations=permutations)


def at_all_layers(
    run: str | Path,
    name: str,
    *,
    root: str | Path | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> tuple[Result, Corpus, list[Similarity]]:
    """Compute one predictor at every layer for a finished run; one forward pass serves them all.

    Args:
        run: the run folder; what it holds already is read, the rest is added to it.
        name: of a predictor that is computed at a layer.
        root: the corpus folder the run was made from; the shipped one when none.
        note: told what is being computed.

    Raises:
        InputError: no such predictor, or one that has no layers.
        StoreError: the folder holds no finished run.
        ModelError: the base model is missing.
    """
    (one,) = chosen([name])
    there = [known.name for known in TABLE.values() if known.layered]
    raise_all([] if one.layered else [f"{name} has no layers; {', '.join(there)} have"], InputError)
    result, kept = _opened(run, root, note)
    layers = tuple(range(kept.model.n_layers + 1))
    kept, found = replace(kept, layers=layers), []
    for replicate in result.config.samples:
        note(f"{name} at {len(layers)} layers, replicate {replicate}")
        found += kept.ensure(one, kept.of(replicate))[0]
    return result, kept.corpus, found


def _opened(
    run: str | Path, root: str | Path | None, note: Callable[[str], None]
) -> tuple[Result, Kept]:
    """Return a finished run, and its similarities with the base and what organisms it holds."""
    result = Result.load(run)
    corpus = load_corpus(root, traits=result.config.traits, domains=result.config.domains)
    model = load_base(result.config)
    adapters = adapters_of(result, corpus, model)
    return result, Kept(RunFolder(run), result.config, corpus, model, note, adapters)


def adapters_of(
    result: Result, corpus: Corpus, model: LanguageModel
) -> dict[int, dict[str, dict[str, Path]]]:
    """Return replicate to trait to source to adapter folder, of what the run still holds."""
    found: dict[int, dict[str, dict[str, Path]]] = {}
    folder = RunFolder(result.path)
    for organism in organisms(result.config, corpus, model.describe()):
        place = folder.organism(organism.key)
        if (place / WEIGHTS).is_file():
            traits = found.setdefault(organism.replicate, {})
            traits.setdefault(organism.trait, {})[organism.source] = place
    return found


def compare(
    result: Result,
    corpus: Corpus,
    wanted: Sequence[Predictor],
    found: Mapping[str, Sequence[Similarity]],
    seconds: Mapping[str, float],
    reasons: Mapping[str, str],
    *,
    permutations: int,
) -> Screen:
    """Regress a run's transfer on similarities that were computed, and line them up."""
    transfer = measured(result.table)
    raise_all([] if transfer.scaled else ["no trait's transfer can be used", *transfer.notes()])
    seed = result.config.seed
    how, notes = how_for(transfer, corpus.topics, permutations=permutations, seed=seed)
    known = sort_out([s for some in found.values() for s in some], transfer)
    slopes = all_slopes(transfer, known, how, ())
    own = own_items(item_effects(result.scores))
    ceilings = Ceilings(transfer, own, scale="contrast", part="all", seed=seed)
    words = {row.predictor: row.p for row in slopes if row.cells == GIVEN_WORDS}
    homes = {s.predictor: name for name, some in found.items() for s in some}
    by_name = {one.name: one for one in wanted}
    rows = [_blank(one, reasons.get(one.name, "")) for one in wanted if not found.get(one.name)]
    for one in known:
        home = by_name[homes[one.name.split(" (layer ")[0]]]
        row = _row(home, one, lead_of([s for s in slopes if s.predictor == one.name]), ceilings)
        row = replace(row, seconds=seconds.get(home.name, nan), basis=found[home.name][0].basis)
        row = replace(row, p_given_words=words.get(one.name, nan))
        rows.append(row)
    group = how.moved.group if how.moved else "none: the design has no valid relabelling"
    said = tuple(dict.fromkeys([*transfer.notes(), *notes]))
    return Screen(tuple(rows), str(result.path), group, len(result.config.domains), said)


def _blank(one: Predictor, reason: str) -> Screened:
    nothing = "the run folder holds no adapters of every domain"
    why = reason or (nothing if one.kind == POST_HOC else "it gave no similarity")
    return Screened(one.name, one.kind, one.directed, one.specific, "not_estimable", why)


def _row(home: Predictor, one: Sorted, lead: Slope | None, ceilings: Ceilings) -> Screened:
    """Take a predictor's numbers from its main slope and its noise ceiling."""
    if lead is None or lead.status != "ok":
        return replace(_blank(home, lead.reason if lead else ""), predictor=one.name)
    ceiling = ceilings.of(one, EXPLORATORY)
    return Screened(
        one.name,
        home.kind,
        home.directed,
        one.specific,
        "ok",
        slope=lead.slope,
        low=lead.low,
        high=lead.high,
        r=lead.r,
        r_within=ceiling.r,
        r_disattenuated=ceiling.r_disattenuated,
        p=lead.p,
        p_search=lead.p_search,
        lodo_r2=lead.lodo_r2,
        reliability=_mean(list(one.reliability.values())),
    )


def _mean(values: Sequence[float]) -> float:
    fine = np.array([value for value in values if value == value])
    return float(fine.mean()) if len(fine) else nan
