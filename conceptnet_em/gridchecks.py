"""Try the inference on a finished grid itself: what must come out whatever the science says.

Three checks of the design's acceptance list need real organisms: two neutral organisms differ by
nothing (A13), shuffled domain names give uniform p-values (A15), and the replicates agree (A16).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import hypot, isfinite
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from conceptnet_em.contrasts import intercept
from conceptnet_em.errors import InputError
from conceptnet_em.formats import format_covariates
from conceptnet_em.multiverse import slope_of
from conceptnet_em.records import format_p
from conceptnet_em.relabelling import Relabellings, Topics, relabellings
from conceptnet_em.replicates import Frames, Key, Measured, Predictor, mean_of, measured
from conceptnet_em.transfer import REFERENCE, matrix, transfer_table

PASS, FAIL, NOT_ESTIMABLE = "pass", "fail", "not_estimable"
NEUTRAL_MARGIN = 0.1
"""In-domain units within which two neutral organisms must be equivalent."""
UNIFORM_P = 0.01
"""A Kolmogorov–Smirnov p below it says that p-values are not uniform."""
LEVEL = 0.05
LISTED = 720
"""A group is listed up to this many members and drawn from beyond: a check asks for many tests."""
AGAIN = "neutral again"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    status: str
    """``pass``, ``fail`` or ``not_estimable``."""
    detail: str
    """What was found, or why it could not be."""

    def __str__(self) -> str:
        """Return status, name and detail on one line."""
        return f"{self.status:<14} {self.name}: {self.detail}"


@dataclass(frozen=True)
class Material:
    """What the checks are about."""

    scores: pd.DataFrame
    table: pd.DataFrame
    """The ``transfer`` table."""
    found: Measured
    known: Sequence[Predictor]
    topics: Topics | None
    permutations: int = 199
    """Relabellings of every test where the group is not listed."""
    shuffles: int = 200
    seed: int = 0
    scale: str = "contrast"
    part: str = "all"

    @property
    def domains(self) -> list[str]:
        """Sources and targets, sorted."""
        frames = self.found.given.values()
        return sorted({str(name) for f in frames for axis in f.values.axes for name in axis})

    def group(self, draws: int, seed: int) -> Relabellings:
        """List or draw the group that the design allows.

        Raises:
            InputError: the domains have none.
        """
        options: dict[str, Any] = {"permutations": draws, "seed": seed, "enumerate_up_to": LISTED}
        return relabellings(self.domains, topics=self.topics, **options)

    def held(self, like: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Return what the design holds fixed besides source and target effects."""
        return format_covariates(like, self.topics)[0] if self.topics else {}


def acceptance(given: Material) -> list[Check]:
    """Run A13, A15 and A16; what the grid is too small for is not estimable."""
    return [neutral_difference(given), shuffled_names(given), replicates_agree(given)]


def _tried(name: str, make: Callable[[], Check]) -> Check:
    try:
        return make()
    except InputError as error:
        return Check(name, NOT_ESTIMABLE, " ".join(str(error).split()))


# --- A13 ----------------------------------------------------------------------------------------


def neutral_difference(given: Material, *, margin: float = NEUTRAL_MARGIN) -> Check:
    """Compare neutral organisms of the two samples on every trait's contrast (A13).

    Replicate 2 minus replicate 1, in each trait's in-domain units: the mean off-diagonal cell must
    be equivalent to 0 (two t-tests with random sources and targets, nulls -margin or less and
    +margin or more), and similarity must not predict it beyond chance: shuffled p-values uniform.
    """
    return _tried("A13 neutral against neutral", partial(_neutral, given, margin))


def _neutral(given: Material, margin: float) -> Check:
    name = "A13 neutral against neutral"
    apart = neutral_contrasts(given)
    means = {
        trait: intercept(frame, margin=margin, topics=given.topics)
        for trait, frame in apart.items()
    }
    shown = [
        f"{trait} {fit.difference:+.3f} [90% CI {fit.low:+.3f}, {fit.high:+.3f}]"
        for trait, fit in means.items()
    ]
    missed = [t for t, fit in means.items() if max(fit.p_above, fit.p_below) > LEVEL]
    moved = [t for t in missed if means[t].low > 0 or means[t].high < 0]
    words = f"in in-domain units: {', '.join(shown)}; margin ±{margin:g}"
    shared = [predictor for predictor in given.known if not predictor.specific]
    difference = {(AGAIN, 1): mean_of(list(apart.values()))}
    uniform = _uniform(replace(given, known=shared), difference)
    if moved or uniform.status == FAIL:
        why = f"not within the margin: {', '.join(moved)}; " if moved else ""
        return Check(name, FAIL, f"{why}{words}; {uniform.detail}")
    if missed:
        why = f"cannot tell for {', '.join(missed)}, the interval being wider than the margin"
        return Check(name, NOT_ESTIMABLE, f"{why}; {words}; {uniform.detail}")
    return Check(name, PASS, f"{words}; {uniform.detail}")


def neutral_contrasts(given: Material) -> dict[str, pd.DataFrame]:
    """Return neutral of sample 2 minus neutral of sample 1, trait by trait, in in-domain units.

    Raises:
        InputError: there are not two samples of neutral organisms, or no trait has a unit.
    """
    scores = given.scores
    neutral = scores[scores["trait"] == REFERENCE]
    samples = sorted(int(k) for k in neutral["replicate"].dropna().unique())
    if len(samples) < 2:
        there = f"sample {samples[0]} only" if samples else "none"
        raise InputError(f"needs neutral organisms of two training samples; there is {there}")
    if not given.found.units:
        raise InputError("no trait has an in-domain unit to measure in")
    first, second = (neutral[neutral["replicate"] == sample] for sample in samples[:2])
    both = [scores[scores["organism"] == "base"], first.assign(replicate=1)]
    both.append(second.assign(trait=AGAIN, replicate=1))
    table = transfer_table(pd.concat(both, ignore_index=True))
    units: dict[str, list[float]] = {}
    for (trait, _), unit in given.found.units.items():
        units.setdefault(trait, []).append(unit)
    return {
        trait: matrix(table, AGAIN, answer_trait=trait, scale="contrast").values
        / float(np.mean(own))
        for trait, own in units.items()
    }


# --- A15 ----------------------------------------------------------------------------------------


def shuffled_names(given: Material) -> Check:
    """Rename the domains of the transfer at random, many times, and look at the p-values (A15).

    Under such renaming the null hypothesis is true whatever the data are, so that p must be
    uniform: Kolmogorov–Smirnov, predictor by predictor. One renaming is done in the scores.
    """
    return _tried("A15 shuffled domain names", partial(_shuffled, given))


def _shuffled(given: Material) -> Check:
    name = "A15 shuffled domain names"
    if not given.found.scaled:
        raise InputError("no trait can be regressed")
    order = given.group(given.shuffles, given.seed + 1).orders[-1]
    rename = dict(zip(given.domains, [given.domains[k] for k in order], strict=True))
    renamed = given.scores.replace({"source": rename, "target": rename})
    again = measured(transfer_table(renamed), scale=given.scale, part=given.part).scaled
    if not _alike(again, _renamed(given.found.scaled, rename)):
        return Check(name, FAIL, "scores with renamed domains do not give the renamed transfer")
    return replace(_uniform(given, given.found.scaled), name=name)


def _alike(one: Frames, other: Frames) -> bool:
    return set(one) == set(other) and all(
        np.allclose(frame, other[key].reindex_like(frame), rtol=0, atol=1e-9, equal_nan=True)
        for key, frame in one.items()
    )


def _renamed(frames: Frames, rename: Mapping[str, str]) -> Frames:
    return {key: frame.rename(index=rename, columns=rename) for key, frame in frames.items()}


def _uniform(given: Material, scaled: Frames) -> Check:
    """Test each predictor on shuffled names; p must be uniform."""
    told, bad = [], False
    for predictor in given.known:
        p = shuffled_p(given, scaled, predictor)
        found = stats.kstest(p, "uniform").pvalue
        bad |= bool(found < UNIFORM_P)
        share = f"{np.mean(p <= LEVEL):.3f} of {len(p)} shuffles have p ≤ {LEVEL:g}"
        told.append(f"{predictor.name}: {share}, uniform by KS at p = {format_p(float(found))}")
    return Check("uniform p", FAIL if bad else PASS, "; ".join(told) or "no predictor")


def shuffled_p(given: Material, scaled: Frames, predictor: Predictor) -> NDArray[np.float64]:
    """Return the p-values of one predictor for transfer whose domains are renamed at random.

    Raises:
        InputError: the design has no group of relabellings, or the slope cannot be estimated.
    """
    keys = [key for key in scaled if not predictor.lacks(key)]
    alike = replace(predictor, frames=dict(predictor.frames))
    if not keys and not predictor.specific:  # a matrix of no trait of the study
        keys = list(scaled)
        alike.frames.update(dict.fromkeys(keys, next(iter(predictor.frames.values()))))
    if not keys:
        raise InputError(f"{predictor.name} predicts none of these matrices")
    options: dict[str, Any] = {"covariates": given.held(scaled[keys[0]])}
    options["group"] = given.group(given.permutations, given.seed)
    found = []
    for order in _orders(given):
        rename = dict(zip(given.domains, [given.domains[k] for k in order], strict=True))
        moved = _renamed({key: scaled[key] for key in keys}, rename)
        term = slope_of(moved, alike, keys, **options)
        if isinstance(term, str):
            raise InputError(f"{predictor.name}: {term}")
        found.append(term.p)
    return np.array(found)


def _orders(given: Material) -> NDArray[np.intp]:
    """Draw members of the group, the identity among them where it is listed."""
    members = given.group(given.shuffles, given.seed + 1)
    if not members.exact:
        return members.orders
    rng = np.random.default_rng(given.seed + 1)
    return members.orders[rng.integers(len(members.orders), size=given.shuffles)]


# --- A16 ----------------------------------------------------------------------------------------


def replicates_agree(given: Material) -> Check:
    """Compare the slope of replicate 1 with that of replicate 2 (A16).

    They agree when the difference is within the joint 95% interval, the root of the summed squares
    of the halves that face each other. The replicates share their domains, so the true spread is
    smaller: a difference beyond it is a fault.
    """
    return _tried("A16 replicates agree", partial(_agree, given))


def _agree(given: Material) -> Check:
    name = "A16 replicates agree"
    replicates = given.found.replicates
    if len(replicates) < 2:
        there = ", ".join(map(str, replicates)) or "none"
        raise InputError(f"needs two replicates; there is {there}")
    told, bad, lost = [], False, []
    for predictor in given.known:
        fits = [_slope(given, predictor, replicate) for replicate in replicates[:2]]
        if any(isinstance(fit, str) for fit in fits):
            lost.append(f"{predictor.name}: {next(f for f in fits if isinstance(f, str))}")
            continue
        one, two = sorted(fits, key=lambda fit: fit.slope)
        joint = hypot(one.interval[1] - one.slope, two.slope - two.interval[0])
        far = two.slope - one.slope
        bad |= far > joint
        reach = f"{joint:.3f}" if isfinite(joint) else "unbounded"
        told.append(
            f"{predictor.name}: {fits[0].slope:+.3f} and {fits[1].slope:+.3f}, {far:.3f} apart "
            f"of {reach} allowed"
        )
    status = FAIL if bad else PASS if told else NOT_ESTIMABLE
    return Check(name, status, "; ".join([*told, *lost]) or "no predictor")


def _slope(given: Material, predictor: Predictor, replicate: int) -> Any:
    keys: list[Key] = [
        key for key in given.found.scaled if key[1] == replicate and not predictor.lacks(key)
    ]
    if not keys:
        return f"no trait can be regressed in replicate {replicate}"
    held = given.held(given.found.scaled[keys[0]])
    options: dict[str, Any] = {"covariates": held, "group": given.group(9_999, given.seed)}
    return slope_of(given.found.scaled, predictor, keys, **options)
