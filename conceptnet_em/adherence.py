"""Hold a run to its plan: take from it what the study leaves open, and label every number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from conceptnet_em.config import StudyConfig
from conceptnet_em.errors import DataError, InputError, raise_all
from conceptnet_em.planned import CASE, INTERCEPT_MARGIN, MARGIN, Planned
from conceptnet_em.registration import (
    FILE,
    Difference,
    Registration,
    compare,
    numbers_of,
    statuses,
)
from conceptnet_em.store import RunFolder
from conceptnet_em.verdicts import Verdict

SHOWN = 3
"""Differences that are named before a run."""
SIDES = "two-sided"
"""How a verdict tests its slopes, whatever was registered."""
OPEN = {
    "permutations": "analysis.permutations",
    "seed": "analysis.seed",
    "layer": "primaries.P2.layer",
    "embedder": "primaries.P1.embedder",
}
"""Settings of a study that a plan fills in where the study does not say otherwise."""
_TAKEN = ("margin", "intercept_margin", "primaries", "scale", "part", "resamples")
_ASKED = ("case", "margin", "intercept_margin")


@dataclass(frozen=True)
class Conduct:
    """How a run's verdict is made, and how it was planned."""

    plan: Registration | None
    options: dict[str, Any]
    """Of ``inference.verdict``: as asked, else as registered, else as usual."""

    def fill(self, study: Planned) -> tuple[StudyConfig, list[Difference]]:
        """Fill in from the plan what a study leaves open; return what else it does otherwise.

        The model must be at hand, or its middle layer is not known.
        """
        config = study.config
        if self.plan is None:
            return config, []
        asked = {name: self.options[name] for name in _ASKED}
        found = compare(self.plan, study, alternative=SIDES, **asked)
        planned = {one.field: one.registered for one in found}
        left = {
            name: planned[place]
            for name, place in OPEN.items()
            if place in planned and name not in config.model_fields_set
        }
        filled = {OPEN[name] for name in left}
        rest = [one for one in found if one.field not in filled]
        return config.model_copy(update=left), rest

    def with_the_folder(self, found: Sequence[Difference], folder: Path) -> list[Difference]:
        """Add what only a run folder tells: its date, its model as loaded, what it scored."""
        known = {one.field for one in found}
        more = [] if self.plan is None else compare(self.plan, folder)
        return [*found, *(one for one in more if one.field not in known)]

    def label(self, verdict: Verdict, found: Sequence[Difference]) -> Verdict:
        """Say of every number whether it was planned, and which planned ones there are not."""
        names = numbers_of(verdict)
        told = statuses(self.plan, verdict.settings, numbers=names, also=found)
        lost = [name for name in self.plan.numbers if name not in names] if self.plan else []
        notes = [f"Registered, but not in this verdict: {', '.join(lost)}."] if lost else []
        return replace(verdict, registration=told, notes=(*verdict.notes, *notes))


def conduct(
    given: str | Path | Registration | None,
    folder: RunFolder,
    config: StudyConfig,
    asked: Mapping[str, Any],
) -> Conduct:
    """Settle how a verdict will be made, before anything is computed.

    Args:
        given: a plan or its file; the folder's own copy when none.
        folder: the run folder, which may not be there yet.
        config: the study's settings.
        asked: case, margin and intercept margin; none where not asked for.

    Raises:
        DataError: a registration was changed after it was made.
        InputError: the folder was registered otherwise, or a margin is not positive.
    """
    plan = plan_of(folder, given)
    usual: dict[str, Any] = {"case": CASE, "margin": MARGIN, "intercept_margin": INTERCEPT_MARGIN}
    said = {name: value for name, value in asked.items() if value is not None}
    found = usual | _registered(plan, config, said) | said
    margins = ("margin", "intercept_margin")
    wrong = [name.replace("_", " ") for name in margins if not found[name] > 0]
    raise_all([f"the {name} must be above 0" for name in wrong])
    return Conduct(plan, found)


def _registered(
    plan: Registration | None, config: StudyConfig, said: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the verdict's options as they were planned; another case has other controls."""
    if plan is None:
        return {}
    analysis = plan["analysis"]
    found = {name: analysis[name] for name in _TAKEN}
    if analysis["case"] is None:
        return found
    controls = [trait for trait in analysis["controls"] if trait in config.traits]
    same = said.get("case", analysis["case"]) == analysis["case"]
    return found | {"case": analysis["case"], "controls": controls or None if same else None}


def plan_of(
    folder: RunFolder, given: str | Path | Registration | None = None
) -> Registration | None:
    """Return the one plan of a run folder: its own copy, or the one that came.

    Raises:
        DataError: either was changed after it was made.
        InputError: they are not the same.
    """
    came = _intact(given)
    path = folder.file(FILE)
    if not path.is_file():
        return came
    kept = Registration.load(path)
    if came is not None and came.sha256 != kept.sha256:
        raise InputError(
            f"{folder.path} was registered on {kept['registered']} with sha256 {kept.sha256}; the "
            f"registration given now is another, of {came['registered']} with sha256 "
            f"{came.sha256}. Leave it out to go on with the folder's own, or give another --out"
        )
    return kept


def _intact(given: str | Path | Registration | None) -> Registration | None:
    """Return a registration that is as it was made."""
    if not isinstance(given, Registration):
        return None if given is None else Registration.load(given)
    if not given.intact:
        raise DataError(
            f"the registration with sha256 {given.sha256} was changed after it was made: nothing "
            "in it counts as registered"
        )
    return given


def told(found: Sequence[Difference]) -> list[str]:
    """Say what is not as registered, the first few by name, while a run can still be stopped."""
    named = [f"not as registered: {one}" for one in found[:SHOWN]]
    more = len(found) - SHOWN
    return [*named, f"not as registered: {more} more"] if more > 0 else named
