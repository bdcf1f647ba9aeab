"""Say before a run what it will take and afterwards how far off that was."""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from conceptnet_em.calibration import BUDGET, UNKNOWN, Rates
from conceptnet_em.config import StudyConfig, read_toml, study_faults
from conceptnet_em.corpus import REFERENCE, Corpus
from conceptnet_em.embeddings import load_embedder
from conceptnet_em.errors import InputError, StoreError
from conceptnet_em.following import changed, duration, without_nan
from conceptnet_em.following import status as status
from conceptnet_em.models import LanguageModel
from conceptnet_em.predictor_inputs import inputs_for
from conceptnet_em.predictors import FAST, TABLE
from conceptnet_em.store import RunFolder, read_json, write_json
from conceptnet_em.study import Study, load_base
from conceptnet_em.workload import Work, standing

PLAN = "plan.json"
LOAD, TRAIN, SCORE, ALIKE = (
    "load the model",
    "train organisms",
    "score answers",
    "compute similarities",
)
"""The stages that are estimated, under the names that :func:`conceptnet_em.run` times them by."""
GOAL = 0.30
"""How far off an estimate may be."""


@dataclass(frozen=True)
class Plan:
    """What a study will train and score, and what that takes."""

    name: str
    about: str
    """Model, device, dtype, threads and grid in words."""
    made: str
    """Date and time, UTC."""
    organisms: int
    """In the whole plan."""
    done: int
    """Sound in the run folder already, those among them that failed included."""
    damaged: int
    """In the run folder, but not as they were written: they are trained again."""
    again: int
    """Sound organisms that are trained again as company of a missing one, and not kept."""
    new_keys: tuple[str, ...]
    """The organisms to train."""
    steps: int
    """Training steps of one organism."""
    training_tokens: int
    """In all training steps to come, prompts counted, padding not."""
    supervised_tokens: int
    """Those among them that are answer or stop tokens."""
    answers: int
    """Answers to score, counted once under each organism and the base."""
    scoring_tokens: int
    """In all rows to score, answers to one question behind one prompt where the model can."""
    seconds: dict[str, float]
    """Estimated wall time by stage; NaN where there is no estimate."""
    disk_bytes: int
    """What the run folder grows by."""
    disk_free_bytes: int
    memory_bytes: float
    """Peak, measured up to the calibration, and the states that scoring keeps; NaN if unknown."""
    memory_free_bytes: float
    rates: Rates
    notes: tuple[str, ...] = field(default=())

    @property
    def new(self) -> int:
        """Organisms to train."""
        return len(self.new_keys)

    @property
    def total(self) -> float:
        """Return the estimated wall time, seconds; NaN when any stage has no estimate."""
        return sum(self.seconds.values())

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, null where a number is not known."""
        return without_nan({**asdict(self), "new": self.new, "total": self.total})

    def __str__(self) -> str:
        """Return the plan in seven lines and its notes."""
        redone = f", {self.damaged} of them damaged before" if self.damaged else ""
        redone += f"; {self.again} trained again as company" if self.again else ""
        stages = ", ".join(f"{name} {duration(s)}" for name, s in self.seconds.items())
        lines = [
            f"{self.name}: {self.about}",
            f"organisms  {self.organisms}: {self.done} done, {self.new} new{redone}",
            f"training   {self.steps} steps each; {self.training_tokens:,} tokens, "
            f"{self.supervised_tokens:,} of them supervised",
            f"scoring    {self.answers:,} answers, {self.scoring_tokens:,} tokens",
            f"time       {duration(self.total)} ({stages}); without figures and regression",
            f"disk       {_size(self.disk_bytes)} needed, {_size(self.disk_free_bytes)} free",
            f"memory     {_size(self.memory_bytes)} needed, "
            f"{_size(self.memory_free_bytes)} available",
        ]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def _size(amount: float) -> str:
    if not math.isfinite(amount):
        return "unknown"
    return f"{amount / 1e9:.1f} GB" if amount >= 1e8 else f"{amount / 1e6:.1f} MB"


def plan(study: Study, out: str | Path | None = None, *, seconds: float = BUDGET) -> Plan:
    """Count what a study still has to do and time a little of it on this device.

    Leaves ``out`` as it was. Similarities count as done when ``out`` was last run with the same
    grid and holds them. The estimate supposes that the machine stays as busy as it is now.

    Args:
        study: the study, checked.
        out: its run folder, begun or not; when none, everything is new.
        seconds: how long to time training and scoring, together.

    Raises:
        ModelError: the model or the embedder is missing or cannot be used.
        TrainingError: the data cannot be trained on as asked.
        StoreError: ``out`` cannot be written.
    """
    config, start = study.config, time.perf_counter()
    model = _loaded(config)
    spent = {LOAD: time.perf_counter() - start}
    folder = RunFolder(out) if out is not None else None
    work = Work(study.config, study.corpus, model, folder)
    spent[LOAD] += work.training_encoding_seconds
    rates, notes = work.rates(seconds)
    spent[TRAIN] = work.training_seconds(rates)
    spent[SCORE] = work.scoring_seconds(rates)
    spent[ALIKE] = _similarity_seconds(config, study.corpus, model, folder)
    found = _written_down(work, spent, rates)
    return replace(found, notes=(*study.corpus.notes, *notes, *_warnings(found)))


def _written_down(work: Work, spent: Mapping[str, float], rates: Rates) -> Plan:
    place = standing(work.folder.path if work.folder else Path.cwd())
    return Plan(
        name=work.config.name,
        about=_about(work.config, work.model),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        organisms=len(work.plan),
        done=len(work.plan) - len(work.new),
        damaged=work.damaged,
        again=len(work.again),
        new_keys=tuple(organism.key for organism in work.new),
        steps=work.config.recipe.steps,
        training_tokens=work.tokens[0],
        supervised_tokens=work.tokens[1],
        answers=work.answers,
        scoring_tokens=work.scoring_tokens,
        seconds={stage: round(s, 2) for stage, s in spent.items()},
        disk_bytes=work.disk_bytes(),
        disk_free_bytes=shutil.disk_usage(place).free,
        memory_bytes=_peak_memory(work.model) + work.kept_bytes(),
        memory_free_bytes=_free_memory(work.model),
        rates=rates,
    )


def write_plan(found: Plan, out: str | Path) -> Path:
    """Write a plan into its run folder, for the report, and return where.

    Raises:
        StoreError: the folder cannot be written.
    """
    place = RunFolder(out).file(PLAN)
    write_json(place, found.to_dict())
    return place


def read_plan(run_folder: str | Path) -> Plan | None:
    """Return the plan that was written into a run folder; none when there is none to read."""
    try:
        table = _restored(read_json(RunFolder(run_folder).file(PLAN)))
        table |= {name: tuple(table[name]) for name in ("new_keys", "notes")}
        table["rates"] = Rates(**table["rates"])
        return Plan(**{entry.name: table[entry.name] for entry in fields(Plan)})
    except (StoreError, KeyError, TypeError, AttributeError):
        return None


def _restored(table: Mapping[str, Any]) -> dict[str, Any]:
    inner = {k: _restored(v) if isinstance(v, dict) else v for k, v in table.items()}
    return {key: UNKNOWN if value is None else value for key, value in inner.items()}


# --- how far off it was -------------------------------------------------------------------------


def accuracy(predicted: Mapping[str, float], actual: Mapping[str, float]) -> str:
    """Say in one sentence how far a plan's estimate was from what the run took.

    Args:
        predicted: seconds by stage; a stage that is NaN or missing in either is left out.
        actual: seconds by stage.
    """
    known = [s for s, p in predicted.items() if math.isfinite(p) and s in actual]
    before, after = (sum(times[stage] for stage in known) for times in (predicted, actual))
    if not known or before <= 0 or after <= 0:
        return "Nothing was estimated that could be compared with what the run took."
    stages = ", ".join(f"{s} {_off(predicted[s], actual[s])}" for s in known if predicted[s] > 0)
    judged = "within" if abs(after / before - 1) <= GOAL else "outside"
    return (
        f"The plan said {duration(before)}, the run took {duration(after)}: "
        f"{_off(before, after)}, {judged} the goal of {GOAL:.0%} ({stages})."
    )


def _off(before: float, after: float) -> str:
    change = after / before - 1
    return f"{abs(change):.0%} {'longer' if change >= 0 else 'shorter'}"


def compared(run_folder: str | Path) -> str:
    """Return :func:`accuracy` for a finished run's own plan, or why they cannot be compared.

    They can when the plan was made before the run, for the same organisms, and one undisturbed
    run trained everything that the plan called new.
    """
    folder, found = RunFolder(run_folder), read_plan(run_folder)
    if found is None:
        return "No plan was made before the run, so no estimate can be compared."
    try:
        record = read_json(folder.file("provenance.json"))
        begun, took = datetime.fromisoformat(record["made"]), record["seconds"]
        trained = [changed(folder.organism(key) / "training.json") for key in found.new_keys]
    except (StoreError, KeyError, TypeError, ValueError):
        return "The run is not finished, so its plan cannot be compared yet."
    if datetime.fromisoformat(found.made) > begun or len(record["organisms"]) != found.organisms:
        return "The plan in the run folder is not this run's, so no estimate can be compared."
    if not all(when >= begun.timestamp() for when in trained):
        return "The run was interrupted and gone on with, so its plan cannot be compared."
    return accuracy(found.seconds, took)


def _similarity_seconds(
    config: StudyConfig, corpus: Corpus, model: LanguageModel, folder: RunFolder | None
) -> float:
    """Return the time of all predictors, 0 when the run folder has them for this very grid."""
    if folder is not None and _has_similarities(config, folder):
        return 0.0
    each = [_predictor_seconds(name, config, corpus, model) for name in config.predictors]
    return sum(each) * len(config.samples)


def _has_similarities(config: StudyConfig, folder: RunFolder) -> bool:
    try:
        before, _ = study_faults(read_toml(folder.file("study.toml")))
    except InputError:
        return False
    fields = ("traits", "domains", "samples", "predictors", "layer", "embedder", "model", "dtype")
    same = before is not None and all(getattr(before, f) == getattr(config, f) for f in fields)
    times = [changed(folder.file(name)) for name in ("study.toml", "similarities.parquet")]
    return same and times[1] >= times[0]


def _predictor_seconds(
    name: str, config: StudyConfig, corpus: Corpus, model: LanguageModel
) -> float:
    """Return the seconds that one predictor of one replicate takes.

    What takes seconds is done in full; else one domain and two traits are timed, and the time per
    domain and per trait is taken to be the same for all, where answers of every trait are read.
    """
    one = TABLE[name]
    whole = one.cost == FAST
    inputs = inputs_for(
        corpus,
        model,
        traits=sorted(config.traits, key=lambda t: t != REFERENCE)[: None if whole else 2],
        domains=config.domains[: None if whole else 1],
        replicate=config.samples[0],
        embedder=config.embedder,
        layers=() if config.layer is None else (config.layer,),
        recipe=config.recipe,
    )
    _, spent = inputs.timed(lambda: one.compute(inputs))
    share = len(config.traits) / len(inputs.traits) if one.specific else 1.0
    pairs = len(config.domains) if name == "in-context" else 1
    return spent * share * pairs * len(config.domains) / len(inputs.items)


# --- the machine --------------------------------------------------------------------------------


def _loaded(config: StudyConfig) -> LanguageModel:
    """Load what a run loads before it trains."""
    model = load_base(config)
    if "text" in config.predictors:
        load_embedder(config.embedder)
    return model


def _about(config: StudyConfig, model: LanguageModel) -> str:
    dtype = str(model.dtype).removeprefix("torch.")
    where = f"{model.device.type}, {dtype}, {torch.get_num_threads()} threads"
    grid = f"{len(config.traits)} traits × {len(config.domains)} domains"
    return f"{grid}, samples {list(config.samples)}, {config.recipe.name} on {model.name} ({where})"


def _peak_memory(model: LanguageModel) -> float:
    """Return the most memory taken so far, bytes: the GPU's if the model is there."""
    if model.device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(model.device))
    try:
        import resource
    except ImportError:  # Windows
        return UNKNOWN
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)


def _free_memory(model: LanguageModel) -> float:
    """Return the memory that this process has or could take, bytes."""
    if model.device.type == "cuda":
        free = torch.cuda.mem_get_info(model.device)[0]
        return float(free + torch.cuda.memory_reserved(model.device))
    import psutil

    return float(psutil.virtual_memory().available + psutil.Process().memory_info().rss)


def _warnings(found: Plan) -> list[str]:
    """Say what stands in the way of the plan or of its estimate."""
    notes = []
    if found.disk_bytes > found.disk_free_bytes:
        notes.append("the disk is too full for this run: free some space or choose another --out")
    if found.memory_bytes > found.memory_free_bytes:
        notes.append("there is less memory than this run needs: close other programs")
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    others = busy - torch.get_num_threads()
    if others > 0.5:
        notes.append(
            f"{busy:.1f} processes were busy in the last minute, so the estimate holds only if the "
            "machine stays as busy"
        )
    return notes
