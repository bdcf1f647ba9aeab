"""Count what a study still has to train and score, before anything is computed."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from conceptnet_em.calibration import Rates, calibrate, rows_tokens
from conceptnet_em.cells import Organism, encode_training, organisms
from conceptnet_em.config import Recipe, StudyConfig
from conceptnet_em.corpus import Corpus, items_digest
from conceptnet_em.encoding import Encoded, encode
from conceptnet_em.errors import StoreError, TrainingError
from conceptnet_em.following import base_key
from conceptnet_em.groups import fitting_rows
from conceptnet_em.models import LanguageModel, target_names
from conceptnet_em.sharing import can_pack, can_skip
from conceptnet_em.store import RunFolder, committed, damage, read_json, writing
from conceptnet_em.tuning import batches

Job = tuple[str, tuple[str, ...]]
"""A target and the traits whose answers are to be scored on it."""
SCORE_FOLDER_BYTES, SCORE_ROW_BYTES = 8192, 32
"""One committed target and one of its rows, with the row's copy in the whole table; measured."""
ADAPTER_FILES_BYTES, TENSOR_BYTES = 12_288, 160
"""The small files beside an adapter's weights, and one tensor's entry in the file; measured."""


class Work:
    """What a study still has to train and score, counted before anything is timed."""

    def __init__(
        self, config: StudyConfig, corpus: Corpus, model: LanguageModel, folder: RunFolder | None
    ) -> None:
        """Encode everything, and look at what the run folder holds, if there is one.

        Raises:
            TrainingError: the data cannot be trained on as asked.
        """
        self.config, self.corpus, self.model = config, corpus, model
        start = time.perf_counter()
        self.cells = encode_training(config, corpus, model)
        self.training_encoding_seconds = time.perf_counter() - start
        self.folder = folder
        self.plan = organisms(config, corpus, model.describe())
        logs = {o.key: self._log(o) for o in self.plan}
        self.new = [o for o in self.plan if logs[o.key] is None]
        self.damaged = sum(self._place(o).is_dir() for o in self.new) if folder else 0
        self.again = self._companions()
        self.tokens = self._training_tokens()
        start = time.perf_counter()
        self.packed = can_pack(model)
        self.jobs = self._jobs(logs)
        self.probes = {job: self._probes(*job) for job in self.jobs}
        self.rows = {j: rows_tokens(e, packed=self.packed) for j, e in self.probes.items()}
        self.encoding_seconds = time.perf_counter() - start

    def _place(self, organism: Organism) -> Path:
        assert self.folder is not None
        return self.folder.organism(organism.key)

    def _log(self, organism: Organism) -> Mapping[str, Any] | None:
        """Return the log of an organism that is there and sound."""
        try:
            if self.folder is None or damage(self._place(organism)) is not None:
                return None
            found: Mapping[str, Any] = read_json(self._place(organism) / "training.json")
            return found
        except StoreError:
            return None

    def _companions(self) -> list[Organism]:
        """Return sound organisms that are trained again, as company of a missing one."""
        try:
            table = read_json(self.folder.file("groups.json")) if self.folder else {"groups": []}
            groups = [set(map(str, group["members"])) for group in table["groups"]]
        except (StoreError, KeyError, TypeError):
            return []
        missing = {organism.key for organism in self.new}
        company = {key for group in groups if group & missing for key in group - missing}
        return [organism for organism in self.plan if organism.key in company]

    @property
    def trained(self) -> list[Organism]:
        """Return what goes through training, kept or not, in the order of the plan."""
        chosen = {organism.key for organism in [*self.new, *self.again]}
        return [organism for organism in self.plan if organism.key in chosen]

    def _training_tokens(self) -> tuple[int, int]:
        """Return all tokens and the supervised ones of every step to come."""
        steps = [
            batch
            for o in self.trained
            for batch in batches(
                self.cells[o.trait, o.source, o.replicate], self.config.recipe, seed=o.replicate
            )
        ]
        return (
            sum(len(e.ids) for batch in steps for e in batch),
            sum(e.n_answer + 1 for batch in steps for e in batch),
        )

    def _jobs(self, logs: Mapping[str, Mapping[str, Any] | None]) -> Counter[Job]:
        """Count, for each target and traits to score on it, under how many adapters."""
        wanted = {
            (target, trait): items_digest(self.corpus.probe(target), trait)
            for target in self.config.domains
            for trait in self.config.traits
        }
        adapters = [(base_key(self.folder) if self.folder else "", "")]
        for o in self.plan:
            log = logs[o.key] or {"status": "ok", "adapter_sha256": "none yet"}
            if log.get("status") == "ok":
                adapters.append((o.key, str(log.get("adapter_sha256"))))
        jobs: Counter[Job] = Counter()
        for key, adapter in adapters:
            there = self._scored(key, adapter)
            for target in self.config.domains:
                traits = [t for t in self.config.traits if (target, wanted[target, t]) not in there]
                jobs.update([(target, tuple(traits))] if traits else [])
        return jobs

    def _scored(self, key: str, adapter: str) -> set[tuple[str, str]]:
        """Return the targets and digests of answers that are scored under an adapter already."""
        found: set[tuple[str, str]] = set()
        for place in self.folder.score_folders(key) if self.folder and key else ():
            try:
                about = read_json(place / "target.json") if damage(place) is None else {}
            except StoreError:
                continue
            if about.get("adapter_sha256") == adapter:
                found |= {(about["target"], answers) for answers in about["answers"].values()}
        return found

    def _probes(self, target: str, traits: Sequence[str]) -> list[Encoded]:
        kind = self.corpus.domains[target].format
        return [
            encode(self.model, item.question, item.answers[trait], answer_format=kind)
            for trait in traits
            for item in self.corpus.probe(target)
        ]

    # --- what it takes ---

    @property
    def answers(self) -> int:
        """Answers to score, once under each adapter."""
        return sum(len(self.probes[job]) * times for job, times in self.jobs.items())

    @property
    def scoring_tokens(self) -> int:
        """Tokens of all rows to score."""
        return sum(self.rows[job] * times for job, times in self.jobs.items())

    def rates(self, seconds: float) -> tuple[Rates, list[str]]:
        """Time training and scoring, as far as there is any to do."""
        chosen = [(o.replicate, self.cells[o.trait, o.source, o.replicate]) for o in self.trained]
        probes = list(self.probes.values())
        longest = max(len(e.ids) for encoded in self.cells.values() for e in encoded)
        recipe, memory = self.config.recipe, self.config.memory
        rows = fitting_rows(self.model, recipe, longest, memory=memory)
        width = max(1, min(rows // recipe.batch_size, len(self.plan)))
        abreast = 1 if self.model.device.type == "cpu" else width
        try:
            rates = calibrate(
                self.config, self.model, chosen, probes, rows=rows, abreast=abreast, seconds=seconds
            )
            return rates, []
        except (torch.OutOfMemoryError, TrainingError) as error:
            return Rates(), [f"nothing could be timed, so the time is unknown: {error}"]

    def training_seconds(self, rates: Rates) -> float:
        """Return the time to train all organisms and to commit the new ones."""
        steps = _times(self.tokens[0], rates.token)
        around = _times(len(self.trained), rates.organism)
        return steps + around + len(self.new) * self.commit_seconds

    def scoring_seconds(self, rates: Rates) -> float:
        """Return the time to score everything, to encode it and to commit it."""
        adapters = max(self._adapters(target) for target in self.config.domains)
        once = _times(sum(self.rows.values()), rates.below_token)
        each = _times(self.scoring_tokens, rates.score_token) + _times(adapters, rates.wear)
        commits = sum(self.jobs.values()) * self.commit_seconds
        return self.encoding_seconds + once + each + commits

    def _adapters(self, target: str) -> int:
        return sum(times for (at, _), times in self.jobs.items() if at == target)

    @cached_property
    def commit_seconds(self) -> float:
        """Commit a table like those of a run, where they will go, and return how long it took."""
        rows = max((len(encoded) for encoded in self.probes.values()), default=1)
        table = pd.DataFrame({"target": ["x"] * rows, "logprob": [0.5] * rows})
        place = self.folder.path if self.folder else Path(tempfile.gettempdir())
        with (
            writing(place),
            tempfile.TemporaryDirectory(prefix=".try-", dir=standing(place)) as draft,
        ):
            start = time.perf_counter()
            with committed(Path(draft) / "scores") as inside:
                table.to_parquet(inside / "scores.parquet", index=False)
            return time.perf_counter() - start

    def disk_bytes(self) -> int:
        """Return what the run folder grows by."""
        scores = sum(self.jobs.values()) * SCORE_FOLDER_BYTES + self.answers * SCORE_ROW_BYTES
        return scores + len(self.new) * adapter_bytes(self.config.recipe, self.model)

    def kept_bytes(self) -> int:
        """Return the states below the lowest adapted block that scoring keeps, all targets'."""
        lowest = self.config.recipe.layer_numbers(self.model.n_layers)[0]
        if not (self.packed and can_skip(self.model, lowest)):
            return 0
        width = int(self.model.config.hidden_size)
        return sum(self.rows.values()) * width * self.model.dtype.itemsize


def adapter_bytes(recipe: Recipe, model: LanguageModel) -> int:
    """Return the size of one organism's folder, from the shapes of its adapter in float32."""
    names = target_names(recipe, model.network, model.n_layers)
    layers = [model.network.get_submodule(name) for name in names]
    numbers = sum(recipe.rank * sum(layer.weight.shape) for layer in layers)  # type: ignore[misc,arg-type]
    return 4 * numbers + 2 * len(names) * TENSOR_BYTES + ADAPTER_FILES_BYTES


def _times(number: float, seconds: float) -> float:
    """Return a product that is 0 for nothing to do, even if its rate is not known."""
    return number * seconds if number else 0.0


def standing(place: Path) -> Path:
    """Return the folder itself or the nearest one above it that is there already."""
    whole = place.absolute()
    return next(path for path in [whole, *whole.parents] if path.is_dir())
