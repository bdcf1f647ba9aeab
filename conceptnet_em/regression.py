"""Ask whether similarity explains transfer, and answer with a test that holds its level.

Source and target effects are held fixed, domains are relabelled as the design allows, the interval
inverts the very test, and what cannot be tested says why instead of showing a number.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any, get_args

import numpy as np
import pandas as pd

from conceptnet_em.effect_sizes import lodo_r2, pearson
from conceptnet_em.errors import InputError, raise_all, unknown
from conceptnet_em.grid import Grid
from conceptnet_em.panels import UNNAMED, Alike, Covariates, Panel, Transfers, panel
from conceptnet_em.qap import Alternative, Design, QapFit, design, option_faults
from conceptnet_em.records import format_p, nulls
from conceptnet_em.relabelling import CLAIMS, Kind, Relabellings, Topics, relabellings
from conceptnet_em.symmetrised import SymmetrisedInterval, symmetrised

FEW_DOMAINS = 8  # below it a test is allowed, with a warning


@dataclass(frozen=True)
class Term(QapFit):
    """What a regression says about one predictor."""

    status: str = "ok"
    """``ok`` or ``not_estimable``; then every number is NaN."""
    reason: str = ""
    """Why it is not estimable."""
    r: float = nan
    """Plain Pearson correlation with transfer over the cells used, effects left in."""
    lodo_r2: float = nan
    """R² for the cells of a domain left out, from this predictor alone; no test."""
    symmetrised: SymmetrisedInterval | None = None
    """Slope and t-interval over unordered pairs with node effects; none where there is no such."""


@dataclass(frozen=True)
class Regression:
    """Transfer regressed on similarities; fields of a lone predictor are also the regression's."""

    terms: tuple[Term, ...]
    """One per similarity, in the order given."""
    traits: tuple[str, ...]
    """Traits whose transfer is averaged, or stacked."""
    stacked: bool
    """Traits stand beside each other, with effects of their own, instead of averaged."""
    unit: str
    """Unit of the slopes, in words."""
    scale: str
    """Scale of the transfer matrices, or ``own``."""
    units: dict[str, float]
    """What each trait's transfer was divided by: its in-domain constant, or 1."""
    covariates: dict[str, float]
    """Least-squares slope of each covariate, in units of transfer per unit of the covariate."""
    together: dict[str, float]
    """``r2, r2_over_effects, lodo_r2`` of all predictors and covariates together."""
    effects: bool
    """Whether source and target effects are held fixed."""
    notes: tuple[str, ...]
    """What a reader must know, a sentence each."""

    def __getitem__(self, name: str) -> Term:
        """Return what is said about the predictor `name`."""
        for term in self.terms:
            if term.name == name:
                return term
        raise InputError(unknown("predictor", name, [term.name for term in self.terms]))

    def __getattr__(self, field: str) -> Any:
        """Return a field of the only predictor."""
        if field not in Term.__dataclass_fields__:
            raise AttributeError(f"a regression has no '{field}'")
        if len(self.terms) == 1:
            return getattr(self.terms[0], field)
        names = ", ".join(term.name for term in self.terms)
        raise AttributeError(
            f"each of {len(self.terms)} predictors has its own '{field}': ask for one by name, as "
            f"in result['{self.terms[0].name}'].{field}; there is {names}"
        )

    def table(self) -> pd.DataFrame:
        """Return one row per predictor, every number under its name."""
        rows = [dataclasses.asdict(term) for term in self.terms]
        for row in rows:
            row["low"], row["high"] = row.pop("interval")
            pairs = row.pop("symmetrised") or SymmetrisedInterval(nan, nan, 0, nan, nan)
            row["symmetrised_low"], row["symmetrised_high"] = pairs[3:]
        return pd.DataFrame(rows).set_index("name")

    def to_json(self) -> str:
        """Return everything as JSON; NaN becomes null, infinity the text "inf"."""
        found = dataclasses.asdict(self)
        for row, term in zip(found["terms"], self.terms, strict=True):
            row["symmetrised"] = term.symmetrised and term.symmetrised._asdict()
        return json.dumps(nulls(found), indent=2)

    def __str__(self) -> str:
        """Return a paragraph to quote, then the notes."""
        return "\n".join([*(_paragraph(term, self) for term in self.terms), *self.notes])


def regress(
    transfer: Transfers,
    *similarities: Alike,
    covariates: Covariates = (),
    names: Sequence[str] | None = None,
    permutations: int = 9_999,
    seed: int = 0,
    alternative: Alternative = "two-sided",
    effects: bool = True,
    null: float = 0.0,
    topics: Topics | None = None,
    group: Kind | Relabellings | None = None,
    same_topic: bool = True,
    level: float = 0.95,
    standardise: bool = True,
    units: bool = True,
) -> Regression:
    """Regress transfer on similarities and test each slope by relabelling domains.

    H0, for each similarity: given source and target effects, the covariates and the other
    similarities, its slope is `null`, and domain labels are exchangeable in the way the result
    states. The test is QAP on t with double semi-partialling: what is left of the similarity
    beside all that is held fixed is relabelled, jointly for sources and targets, residualised
    anew, and compared. The interval holds every null that the test does not reject.

    Several traits are averaged. Where a similarity or covariate is trait-specific they are stacked
    instead: every trait keeps source and target effects of its own, all share one slope, and one
    relabelling serves all traits and all their similarities. With effects alone held fixed this
    equals Freedman–Lane when all relabellings are listed; with covariates, double semi-partialling
    is used here too, because then one set of numbers tests every null and the interval is exact.
    Simulated with 4 traits, trait-specific similarities and a confounding covariate at 6, 8 and 12
    domains (1,000 grids each), its size was .058, .047 and .054 and its coverage .942 to .953.

    Args:
        transfer: a labelled matrix (sources × targets, square or not; the diagonal gives the unit
            and is never regressed), a ``TransferMatrix``, or ``{trait: matrix}``. A trait whose
            mean in-domain effect has t < 3 is left out, with a note.
        similarities: labelled matrices, symmetric or directed, ``Similarity`` records, or
            ``{trait: matrix}`` for a trait-specific one; matched by label.
        covariates: matrices held fixed, ``{name: matrix}`` or listed; trait-specific ones too.
        names: of the similarities; else a record's predictor, else ``similarity``,
            ``similarity 2``, ….
        permutations: relabellings drawn where the group has over 50,000 members.
        seed: of those draws.
        alternative: ``two-sided``, ``greater`` or ``less``: where the slope lies if not at `null`.
        effects: hold source and target effects fixed (FE-QAP); False: a mean only (QAP, MRQAP).
        null: the slope under H0.
        topics: domain to (topic, format); decides the group of relabellings.
        group: another group by name, or relabellings made before; ``flips`` tests a format
            mismatch by swapping the formats of each topic, see ``relabelling.relabellings``.
        same_topic: False leaves out cells whose source and target are of the same topic.
        level: confidence of the intervals.
        standardise: measure similarities in SD over all off-diagonal cells, pooled over traits.
        units: divide each trait by its mean in-domain effect where it has a diagonal.

    Returns:
        One term per similarity. Missing cells, fewer than 5 domains, no degree of freedom, or a
        matrix that what is held fixed explains (a format mismatch with one code domain) make a
        term ``not_estimable``, with the reason. Below 8 domains a note warns.

    Raises:
        InputError: labels, names, scales or options do not fit.

    Source: Dekker et al. 2007, doi:10.1007/s11336-007-9016-1; Phipson & Smyth, arXiv:1603.05766;
    Freedman & Lane 1983, doi:10.1080/07350015.1983.10509354.
    """
    wrong = [] if similarities else ["there is no similarity to regress on"]
    if not same_topic and topics is None:
        wrong.append("leaving out same-topic cells needs topics: (topic, format) of every domain")
    check_options(alternative, level, permutations, group, wrong)
    given = panel(
        transfer,
        similarities,
        covariates=covariates,
        names=names,
        units=units,
        standardise=standardise,
        apart={d: topic for d, (topic, _) in (topics or {}).items()} if not same_topic else None,
    )
    asked: dict[str, Any] = {"alternative": alternative, "null": null, "interval": level}
    moved, reason = group_for(given.grid, topics, group, permutations, seed)
    if moved is None or given.reason:
        why = given.reason or reason
        terms = [_blank(name, why, given, asked) for name in given.predictors]
        return _result(given, terms, ({}, {}), effects, standardise)
    model = design_of(given, effects=effects)
    terms = []
    for name in given.predictors:
        if why := given.lacking.get(name) or model.reasons.get(name, ""):
            terms.append(_blank(name, why, given, asked))
        else:
            terms.append(_term(model.fit(name, moved, **asked), model, given, moved))
    any_ok = any(term.status == "ok" for term in terms)
    return _result(given, terms, _whole(model, given) if any_ok else ({}, {}), effects, standardise)


def design_of(given: Panel, *, effects: bool = True, together: bool = True) -> Design:
    """Take the effects off a panel; predictors that lack cells stay outside."""
    usable = {name: x for name, x in given.predictors.items() if name not in given.lacking}
    return design(
        given.response,
        usable,
        given.covariates,
        given.grid,
        effects=effects,
        together=together,
        called="transfer",
    )


def check_options(
    alternative: str,
    level: float | None,
    permutations: int,
    group: Kind | Relabellings | None,
    wrong: Sequence[str] = (),
) -> None:
    """Refuse options that mean nothing, together with what else is wrong.

    Raises:
        InputError: naming every fault.
    """
    faults = [*wrong, *option_faults(alternative, level)]
    if permutations < 1:
        faults.append(f"permutations must be at least 1; {permutations} came")
    if isinstance(group, str) and group not in get_args(Kind):
        faults.append(unknown("group of relabellings", group, get_args(Kind)))
    raise_all(faults)


def group_for(
    grid: Grid,
    topics: Topics | None,
    group: Kind | Relabellings | None,
    permutations: int,
    seed: int,
) -> tuple[Relabellings | None, str]:
    """Return the relabellings of a design, or none and the reason why it has no such group.

    Raises:
        InputError: relabellings made before are for other labels.
    """
    if isinstance(group, Relabellings):
        return group.ordered_as(grid.labels), ""
    try:
        return relabellings(
            grid.labels,
            topics=topics,
            group=group,
            roles=grid.roles(),
            permutations=permutations,
            seed=seed,
        ), ""
    except InputError as error:
        return None, str(error)


def _term(fit: QapFit, model: Design, given: Panel, moved: Relabellings) -> Term:
    """Add to a tested slope what stands beside it."""
    x = given.predictors[fit.name]
    return Term(
        **{field.name: getattr(fit, field.name) for field in dataclasses.fields(fit)},
        r=pearson(x, given.response),
        lodo_r2=lodo_r2(given.response, [x], given.grid),
        symmetrised=_over_pairs(fit, model, given) if moved.claim == CLAIMS["free"] else None,
    )


def _over_pairs(fit: QapFit, model: Design, given: Panel) -> SymmetrisedInterval | None:
    """Return the slope over unordered pairs, where every domain is source and target.

    Only for designs whose domains move freely: where topics come in several formats its 95%
    interval covered .75 of the time, since cells of one topic are not independent.
    """
    if not model.base.shape[1] > 1 or model.stacked > 1:
        return None  # effects are not held fixed; or traits share pairs, which are not independent
    others = [x for name, x in given.predictors.items() if name not in {fit.name, *given.lacking}]
    held = [*given.covariates.values(), *others]
    x = given.predictors[fit.name]
    try:
        return symmetrised(given.response, x, held, given.grid, level=fit.level or 0.95)
    except InputError:  # sources are not targets, or x has no symmetric part
        return None


def _blank(name: str, reason: str, given: Panel, asked: Mapping[str, Any]) -> Term:
    none: dict[str, Any] = dict.fromkeys(
        ("slope", "se", "t", "p", "smallest_p", "r2", "r2_over_effects"), nan
    )
    return Term(
        name=name,
        interval=(nan, nan),
        level=asked["interval"],
        df=0,
        n_cells=0,
        n_domains=len(given.grid.labels),
        n_permutations=0,
        exact=False,
        null="",
        null_value=asked["null"],
        alternative=asked["alternative"],
        group="",
        status="not_estimable",
        reason=reason,
        **none,
    )


def _whole(model: Design, given: Panel) -> tuple[dict[str, float], dict[str, float]]:
    """Return the slopes of covariates, and what predictors and covariates explain together."""
    columns = {**model.covariates, **model.predictors}
    design_matrix = np.column_stack(list(columns.values()))
    slopes = np.linalg.lstsq(design_matrix, model.response, rcond=None)[0]
    rss = float(np.sum((model.response - design_matrix @ slopes) ** 2))
    cells = [*given.covariates.values(), *(given.predictors[name] for name in model.predictors)]
    return dict(zip(model.covariates, map(float, slopes), strict=False)), {
        "r2": 1 - rss / model.spread,
        "r2_over_effects": 1 - rss / float(model.response @ model.response),
        "lodo_r2": lodo_r2(given.response, cells, given.grid),
    }


def _result(
    given: Panel,
    terms: Sequence[Term],
    whole: tuple[dict[str, float], dict[str, float]],
    effects: bool,
    standardise: bool,
) -> Regression:
    return Regression(
        terms=tuple(terms),
        traits=given.traits,
        stacked=given.response.shape[1] > 1,
        unit=f"{given.unit} per {'SD' if standardise else 'unit'}",
        scale=given.scale,
        units=given.units,
        covariates=whole[0],
        together=whole[1],
        effects=effects,
        notes=tuple(_notes(given, terms, effects)),
    )


def _notes(given: Panel, terms: Sequence[Term], effects: bool) -> list[str]:
    """Say what a reader of the terms must know."""
    fits = [term for term in terms if term.status == "ok"]
    notes = list(given.notes)
    if given.response.shape[1] > 1:
        notes.append(
            f"{len(given.traits)} traits are stacked, each with effects of its own, because a "
            "matrix is trait-specific; one relabelling serves all of them."
        )
    if not effects:
        notes.append("Source and target effects are not held fixed: they may carry the slope.")
    lost = [name for name in given.lacking if fits]
    notes += [f"{name} lacks cells and is not held fixed in the other tests." for name in lost]
    if fits and fits[0].n_domains < FEW_DOMAINS:
        few = f"Only {fits[0].n_domains} domains: the test holds its level but misses much; "
        notes.append(f"{few}plan {FEW_DOMAINS} or more.")
    notes += [_powerless(term) for term in fits if term.smallest_p > _alpha(term)]
    if fits:
        jointly = ", applied to sources and targets jointly" * (len(given.grid.roles()) == 1)
        notes.append(f"p-values: {fits[0].group}{jointly}.")
    return notes


def _powerless(term: Term) -> str:
    why = (
        "the relabellings leave it as it is; a format mismatch is tested with group='flips'"
        if term.smallest_p == 1
        else f"the smallest p that they can give is {format_p(term.smallest_p)}"
    )
    return f"No relabelling can speak for {term.name} at this level: {why}."


def _alpha(term: Term) -> float:
    return 1 - (term.level or 0.95)


def _paragraph(term: Term, whole: Regression) -> str:
    """Put one term into words that hold when quoted."""
    if term.status != "ok":
        return f"{term.name}: not_estimable: {term.reason}."
    pairs = term.symmetrised
    beside = f"; over unordered pairs {_range(pairs.low, pairs.high)}" if pairs else ""
    interval = f"[{_percent(term)} CI {_range(*term.interval)}{beside}]"
    count = f"{'all ' * term.exact}{term.n_permutations:,} relabellings"
    left = "source and target effects leave" if whole.effects else "the mean leaves"
    return (
        f"{term.name} {_finding(term)} {_whose(whole)}: "
        f"slope {_signed(term.slope, 3)} {whole.unit} {interval}, t = {term.t:.2f}, "
        f"p = {format_p(term.p)} ({count}, smallest attainable {format_p(term.smallest_p)}; "
        f"{term.n_domains} domains, {term.n_cells:,} cells). "
        f"Beyond all else held fixed it explains {term.r2_over_effects:.0%} of what {left}; plain "
        f"r = {_signed(term.r)}, R² for a domain left out {_signed(term.lodo_r2)}."
    )


def _finding(term: Term) -> str:
    shown, null = term.p <= _alpha(term), term.null_value
    if null == 0 and term.alternative == "two-sided":
        return "predicts" if shown else "is not shown to predict"
    side = {"two-sided": "other than", "greater": "above", "less": "below"}[term.alternative]
    return f"{'has' if shown else 'is not shown to have'} a slope {side} {null:g} on"


def _whose(whole: Regression) -> str:
    if len(whole.traits) > 1:
        return f"transfer of {len(whole.traits)} traits ({'stacked' if whole.stacked else 'mean'})"
    return "transfer" if whole.traits in {(), (UNNAMED,)} else f"transfer of {whole.traits[0]}"


def _percent(term: Term) -> str:
    return f"{100 * (term.level or 0.95):g}%"


def _range(low: float, high: float) -> str:
    return f"{_signed(low, 3)}, {_signed(high, 3)}"


def _signed(value: float, digits: int = 2) -> str:
    if isfinite(value):
        return f"{value:+.{digits}f}"
    return "–" if value != value else "unbounded"
