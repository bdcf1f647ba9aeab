"""Train and score the cells of a study, doing nothing twice and losing nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from conceptnet_em.config import StudyConfig
from conceptnet_em.corpus import REFERENCE, Corpus, Item, items_digest
from conceptnet_em.encoding import Encoded, encode
from conceptnet_em.errors import ConceptNetError, TrainingError, raise_all
from conceptnet_em.models import LanguageModel
from conceptnet_em.progress import Clock, Watcher
from conceptnet_em.scoring import AnswerScore, PackedAnswers, score
from conceptnet_em.stacking import can_pack, can_skip
from conceptnet_em.store import (
    RunFolder,
    committed,
    digest,
    file_digest,
    read_json,
    set_aside,
    write_json,
)
from conceptnet_em.tuning import WEIGHTS, TrainingLog, train


@dataclass(frozen=True)
class Organism:
    """One planned organism: what it is trained on and the key it is kept under."""

    key: str
    trait: str
    source: str
    replicate: int

    @property
    def name(self) -> str:
        """Return trait, source and replicate in one word."""
        return f"{self.trait}/{self.source}/{self.replicate}" if self.trait else "base"


def organisms(config: StudyConfig, corpus: Corpus, model: LanguageModel) -> list[Organism]:
    """Return the plan: every trait × source × sample, keyed by everything that shapes it."""
    shared = {**model.describe(), "recipe": config.recipe.model_dump(mode="json")}
    return [
        Organism(
            digest(
                shared
                | {"trait": trait, "source": source, "sample": sample, "seed": sample}
                | {"items": items_digest(corpus.train(source, sample), trait)}
            ),
            trait,
            source,
            sample,
        )
        for sample in config.samples
        for source in config.domains
        for trait in sorted(config.traits, key=lambda name: name != REFERENCE)
    ]


def encode_training(
    config: StudyConfig, corpus: Corpus, model: LanguageModel
) -> dict[tuple[str, str, int], list[Encoded]]:
    """Encode every training conversation before anything is trained, so that faults come first."""
    cells: dict[tuple[str, str, int], list[Encoded]] = {}
    faults = [
        f"{target} has no probe items" for target in config.domains if not corpus.probe(target)
    ]
    for sample in config.samples:
        for source in config.domains:
            items = corpus.train(source, sample)
            if not items:
                faults.append(f"{source} has no training items of sample {sample}")
            for trait in config.traits:
                try:
                    cells[trait, source, sample] = [
                        _encoded(model, corpus, item, trait, config.recipe.max_tokens)
                        for item in items
                    ]
                except ConceptNetError as error:
                    faults.append(f"{trait}/{source}: {error}")
    raise_all(faults, TrainingError)
    return cells


def _encoded(
    model: LanguageModel, corpus: Corpus, item: Item, trait: str, max_tokens: int | None = None
) -> Encoded:
    return encode(
        model,
        item.question,
        item.answers[trait],
        answer_format=corpus.domains[item.domain].format,
        max_tokens=max_tokens,
    )


def ensure_organism(
    organism: Organism,
    config: StudyConfig,
    cells: Mapping[tuple[str, str, int], Sequence[Encoded]],
    model: LanguageModel,
    folder: RunFolder,
    clock: Clock,
) -> TrainingLog:
    """Return the organism's log, training it unless a sound one is there."""
    place = folder.organism(organism.key)
    log = _sound(place, clock.watcher)
    if log is None:
        encoded = cells[organism.trait, organism.source, organism.replicate]
        with committed(place) as draft:
            log = train(model, encoded, config.recipe, out=draft, seed=organism.replicate)
            record = {
                **log.to_dict(),
                "trait": organism.trait,
                "source": organism.source,
                "replicate": organism.replicate,
                "recipe": config.recipe.model_dump(mode="json"),
                "base": model.describe(),
            }
            write_json(draft / "training.json", record)
        if log.status != "ok":
            clock.watcher.note(f"{organism.name} failed: {log.reason}; the others go on")
    clock.watcher.step(organism.name)
    return log


def _sound(place: Path, watcher: Watcher) -> TrainingLog | None:
    """Return the log of a finished organism; set a damaged one aside and say so."""
    if not place.is_dir():
        return None
    try:
        table = read_json(place / "training.json")
        log = TrainingLog(**{name: table[name] for name in TrainingLog.__dataclass_fields__})
        if log.status == "ok" and file_digest(place / WEIGHTS) != log.adapter_sha256:
            raise ValueError("its adapter does not match its checksum")
    except (OSError, ValueError, KeyError, TypeError) as error:
        aside = set_aside(place)
        watcher.note(f"organism {place.name} is damaged ({error}); set aside as {aside.name}")
        return None
    return replace(log, losses=tuple(log.losses), learning_rates=tuple(log.learning_rates))


# --- scores -------------------------------------------------------------------------------------

SCORE_COLUMNS = {
    "organism": "str",
    "trait": "str",
    "source": "str",
    "recipe": "str",
    "replicate": "Int64",
    "seed": "Int64",
    "target": "str",
    "item": "str",
    "answer_trait": "str",
    "part": "str",
    "n_tokens": "Int64",
    "logprob": "float64",
    "status": "str",
}


def score_all(
    plan: Sequence[Organism],
    logs: Mapping[str, TrainingLog],
    config: StudyConfig,
    corpus: Corpus,
    model: LanguageModel,
    folder: RunFolder,
    clock: Clock,
) -> pd.DataFrame:
    """Score base and organisms on every target, reading what is there, and return the table."""
    probes = _Probes(config, corpus, model)
    if not probes.can_pack:
        clock.watcher.note("this architecture does not take packed answers: scored one by one")
    base = Organism(f"base-{digest(model.describe())}", "", "", 0)
    tables = [_score_one(base, None, probes, folder, clock)]
    for organism in plan:
        log = logs[organism.key]
        tables.append(_score_one(organism, log, probes, folder, clock))
    whole = pd.concat(
        [_identified(t, o, config) for t, o in zip(tables, [base, *plan], strict=True)]
    )
    return whole.reindex(columns=list(SCORE_COLUMNS)).astype(SCORE_COLUMNS).reset_index(drop=True)


class _Probes:
    """Probe items, encoded when first needed, and the digests they are kept under."""

    def __init__(self, config: StudyConfig, corpus: Corpus, model: LanguageModel) -> None:
        self.config, self.corpus, self.model = config, corpus, model
        self.items = {target: corpus.probe(target) for target in config.domains}
        self.digests = {
            (target, trait): items_digest(found, trait)
            for target, found in self.items.items()
            for trait in config.traits
        }
        lowest = config.recipe.layer_numbers(model.n_layers)[0]
        self._block = lowest if can_skip(model, lowest) else 0
        self.can_pack = can_pack(model)
        self._packed: dict[tuple[str, tuple[str, ...]], Callable[[], list[list[AnswerScore]]]] = {}

    def score(self, target: str, traits: Sequence[str]) -> list[list[AnswerScore]]:
        """Score one target's answers, trait after trait, under what the model now wears."""
        key = (target, tuple(traits))
        if key not in self._packed:
            encoded = [
                _encoded(self.model, self.corpus, item, trait)
                for trait in traits
                for item in self.items[target]
            ]
            self._packed[key] = self._pack(encoded)
        return self._packed[key]()

    def _pack(self, encoded: list[Encoded]) -> Callable[[], list[list[AnswerScore]]]:
        size = self.config.batch_size
        if not self.can_pack:
            return lambda: score(self.model, encoded, batch_size=size)
        return PackedAnswers(self.model, encoded, block=self._block, batch_size=size).score


def _score_one(
    organism: Organism,
    log: TrainingLog | None,
    probes: _Probes,
    folder: RunFolder,
    clock: Clock,
) -> pd.DataFrame:
    """Return one organism's rows on all targets, scoring only pairs that are not there yet."""
    targets = probes.config.domains
    if log is not None and log.status != "ok":
        for target in targets:
            clock.watcher.step(f"{organism.name} → {target}: failed")
        return _failed_rows(probes)
    adapter = "" if log is None else log.adapter_sha256
    found = _read_scores(folder, organism.key, adapter, clock.watcher)
    missing = {
        target: [
            t for t in probes.config.traits if (target, probes.digests[target, t]) not in found
        ]
        for target in targets
    }
    if any(missing.values()):
        with _dressed(probes.model, organism, log, folder):
            for target in targets:
                if missing[target]:
                    found |= _score_target(
                        organism, target, missing[target], adapter, probes, folder
                    )
                clock.watcher.step(f"{organism.name} → {target}")
    else:
        for target in targets:
            clock.watcher.step(f"{organism.name} → {target}")
    wanted = [found[target, probes.digests[target, t]] for target, t in probes.digests]
    return pd.concat(wanted)


@contextmanager
def _dressed(
    model: LanguageModel, organism: Organism, log: TrainingLog | None, folder: RunFolder
) -> Iterator[None]:
    if log is None:
        yield
    else:
        with model.wearing(folder.organism(organism.key)):
            yield


Found = dict[tuple[str, str], pd.DataFrame]


def _read_scores(folder: RunFolder, key: str, adapter: str, watcher: Watcher) -> Found:
    """Return committed scores by (target, digest of the answers); set damaged ones aside."""
    found: Found = {}
    for place in folder.score_folders(key):
        if ".damaged-" in place.name:
            continue
        try:
            about = read_json(place / "target.json")
            rows = pd.read_parquet(place / "scores.parquet")
        except (OSError, ValueError) as error:
            aside = set_aside(place)
            watcher.note(f"scores {key}/{place.name} are damaged ({error}); set aside as {aside}")
            continue
        if about["adapter_sha256"] != adapter:
            continue
        for trait, answers in about["answers"].items():
            found[about["target"], answers] = rows[rows["answer_trait"] == trait]
    return found


def _score_target(
    organism: Organism,
    target: str,
    traits: Sequence[str],
    adapter: str,
    probes: _Probes,
    folder: RunFolder,
) -> Found:
    """Score one target's answers of ``traits`` and commit them."""
    asked = [(trait, item) for trait in traits for item in probes.items[target]]
    found = probes.score(target, traits)
    rows = pd.DataFrame(
        [
            (target, item.id, trait, s.part, s.n_tokens, s.logprob, "ok")
            for (trait, item), parts in zip(asked, found, strict=True)
            for s in parts
        ],
        columns=["target", "item", "answer_trait", "part", "n_tokens", "logprob", "status"],
    )
    answers = {trait: probes.digests[target, trait] for trait in traits}
    about = {"target": target, "answers": answers, "adapter_sha256": adapter}
    with committed(folder.scores(organism.key, digest(about))) as draft:
        rows.to_parquet(draft / "scores.parquet", index=False)
        write_json(draft / "target.json", about)
    return {(target, answers[trait]): rows[rows["answer_trait"] == trait] for trait in traits}


def _failed_rows(probes: _Probes) -> pd.DataFrame:
    rows = [
        (target, item.id, trait, "all", 0, np.nan, "failed")
        for target, items in probes.items.items()
        for item in items
        for trait in probes.config.traits
    ]
    columns = ["target", "item", "answer_trait", "part", "n_tokens", "logprob", "status"]
    return pd.DataFrame(rows, columns=columns)


def _identified(rows: pd.DataFrame, organism: Organism, config: StudyConfig) -> pd.DataFrame:
    if not organism.trait:
        return rows.assign(organism="base")  # the other columns stay empty
    return rows.assign(
        organism=organism.key,
        trait=organism.trait,
        source=organism.source,
        recipe=config.recipe.name,
        replicate=organism.replicate,
        seed=organism.replicate,
    )
