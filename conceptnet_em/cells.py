"""Train and score the cells of a study, doing nothing twice and losing nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from conceptnet_em.config import StudyConfig
from conceptnet_em.corpus import REFERENCE, Corpus, Item, items_digest, other_sample
from conceptnet_em.encoding import Encoded, encode
from conceptnet_em.errors import ConceptNetError, TrainingError, raise_all
from conceptnet_em.groups import Group
from conceptnet_em.models import LanguageModel
from conceptnet_em.progress import Clock, Watcher
from conceptnet_em.scoring import AnswerScore, PackedAnswers, score
from conceptnet_em.sharing import can_pack, can_skip
from conceptnet_em.stacking import WEIGHTS, save_adapter, wearing_all
from conceptnet_em.store import (
    RunFolder,
    committed,
    digest,
    file_digest,
    holding,
    reached,
    read_json,
    sound_or_aside,
    write_json,
)
from conceptnet_em.tuning import Sizes, Trained, TrainingLog, train_group

CODE_EPOCH = 3
"""Enters every key; raised when the same inputs would give other numbers than before."""


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


def organisms(config: StudyConfig, corpus: Corpus, described: Mapping[str, Any]) -> list[Organism]:
    """Return the plan: every trait × source × sample, keyed by everything that shapes it.

    Args:
        config: the study.
        corpus: what its organisms are trained on.
        described: the base model, as its ``describe()`` or a run's provenance tells it.
    """
    recipe = config.recipe.model_dump(mode="json")
    shared = {**described, "recipe": recipe, "code_epoch": CODE_EPOCH}
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
            if config.predictors and not corpus.train(source, other := other_sample(sample)):
                faults.append(
                    f"{source} has no training items of sample {other}, from which the "
                    f"predictors of replicate {sample} are computed"
                )
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


class _Busy(Exception):
    """Another process is at it; come back later."""


def _busy() -> None:
    raise _Busy


def each_group(
    groups: Sequence[Group], folder: RunFolder, stage: str, work: Callable[[Group], None]
) -> None:
    """Do ``work`` for every group, one process at a time; those that others hold come last."""
    later = []
    for group in groups:
        try:
            with holding(folder.lock(f"{stage}-{group.name}"), waiting=_busy):
                work(group)
        except _Busy:
            later.append(group)
    for group in later:
        with holding(folder.lock(f"{stage}-{group.name}")):
            work(group)


def train_all(
    plan: Sequence[Organism],
    groups: Sequence[Group],
    config: StudyConfig,
    cells: Mapping[tuple[str, str, int], Sequence[Encoded]],
    model: LanguageModel,
    folder: RunFolder,
    clock: Clock,
) -> dict[str, TrainingLog]:
    """Return every organism's log by key, training the groups that lack a sound member.

    A group with a missing member is trained whole, so that its company is the same, and only the
    missing member is committed.
    """
    by_key = {organism.key: organism for organism in plan}
    logs: dict[str, TrainingLog] = {}

    def ensure(group: Group) -> None:
        members = [by_key[key] for key in group.members if key in by_key]
        found = {o.key: _finished(folder.organism(o.key), clock.watcher) for o in members}
        if any(log is None for log in found.values()):
            for o, trained, sizes in _train_group(members, group, config, cells, model):
                if found[o.key] is None:
                    found[o.key] = _commit(o, trained, sizes, members, config, model, folder)
            reached("group:committed")
        for o in members:
            log = logs[o.key] = cast("TrainingLog", found[o.key])
            if log.status != "ok":
                clock.watcher.note(f"{o.name} failed: {log.reason}; the others go on")
            clock.watcher.step(o.name)

    each_group(groups, folder, "train", ensure)
    return logs


def _train_group(
    members: Sequence[Organism],
    group: Group,
    config: StudyConfig,
    cells: Mapping[tuple[str, str, int], Sequence[Encoded]],
    model: LanguageModel,
) -> list[tuple[Organism, Trained, Sizes]]:
    sizes = Sizes(min(group.rows, len(members) * config.recipe.batch_size))
    trained = train_group(
        model,
        [cells[o.trait, o.source, o.replicate] for o in members],
        config.recipe,
        seeds=[o.replicate for o in members],
        sizes=sizes,
    )
    reached("group:trained")
    return [(o, t, sizes) for o, t in zip(members, trained, strict=True)]


def _commit(
    organism: Organism,
    trained: Trained,
    sizes: Sizes,
    members: Sequence[Organism],
    config: StudyConfig,
    model: LanguageModel,
    folder: RunFolder,
) -> TrainingLog:
    """Write one trained organism and return its log."""
    log = trained.log
    with committed(folder.organism(organism.key)) as draft:
        if log.status == "ok":
            save_adapter(trained.tensors, config.recipe, model, draft)
            log = replace(log, adapter_sha256=file_digest(draft / WEIGHTS))
        record = {
            **log.to_dict(),
            "trait": organism.trait,
            "source": organism.source,
            "replicate": organism.replicate,
            "group": [o.name for o in members],
            "group_keys": [o.key for o in members],
            "rows_per_pass": sizes.history,
            "recipe": config.recipe.model_dump(mode="json"),
            "base": model.describe(),
        }
        write_json(draft / "training.json", record)
    reached("organism:committed")
    return log


def _finished(place: Path, watcher: Watcher) -> TrainingLog | None:
    """Return the log of a finished organism; set a damaged one aside and say so."""
    sound, words = sound_or_aside(place)
    if words:
        watcher.note(f"organism {words}")
    if not sound:
        return None
    table = read_json(place / "training.json")
    log = TrainingLog(**{name: table[name] for name in TrainingLog.__dataclass_fields__})
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
    groups: Sequence[Group],
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
    by_key = {organism.key: organism for organism in plan}
    tables: dict[str, pd.DataFrame] = {}

    def ensure(group: Group) -> None:
        members = [by_key[key] for key in group.members if key in by_key]
        for o in (o for o in members if logs[o.key].status != "ok"):
            tables[o.key] = _failed_rows(probes)
            for target in config.domains:
                clock.watcher.step(f"{o.name} → {target}: failed")
        whole = [o for o in members if logs[o.key].status == "ok"]
        width = group.abreast if probes.can_pack else 1
        for k in range(0, len(whole), width):
            chosen = whole[k : k + width]
            tables.update(_score_abreast(chosen, logs, probes, folder, clock.watcher))

    with holding(folder.lock("score-base")):
        tables |= _score_abreast([base], {}, probes, folder, clock.watcher)
    each_group(groups, folder, "score", ensure)
    whole = pd.concat([_identified(tables[o.key], o, config) for o in [base, *plan]])
    return whole.reindex(columns=list(SCORE_COLUMNS)).astype(SCORE_COLUMNS).reset_index(drop=True)


Found = dict[tuple[str, str], pd.DataFrame]
Scorer = Callable[[int], list[list[list[AnswerScore]]]]


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
        self._packed: dict[tuple[str, tuple[str, ...]], Scorer] = {}

    def score(self, target: str, traits: Sequence[str], n: int) -> list[list[list[AnswerScore]]]:
        """Score one target's answers, trait after trait, under each of ``n`` stacked organisms."""
        key = (target, tuple(traits))
        if key not in self._packed:
            encoded = [
                _encoded(self.model, self.corpus, item, trait)
                for trait in traits
                for item in self.items[target]
            ]
            self._packed[key] = self._pack(encoded)
        return self._packed[key](n)

    def _pack(self, encoded: list[Encoded]) -> Scorer:
        size = self.config.batch_size
        if not self.can_pack:
            return lambda _: [score(self.model, encoded, batch_size=size)]
        return PackedAnswers(self.model, encoded, block=self._block, batch_size=size).score_stack

    def missing(self, found: Found, target: str) -> list[str]:
        """Return the traits whose answers on a target are not among the scores found."""
        traits = self.config.traits
        return [t for t in traits if (target, self.digests[target, t]) not in found]


def _score_abreast(
    chosen: Sequence[Organism],
    logs: Mapping[str, TrainingLog],
    probes: _Probes,
    folder: RunFolder,
    watcher: Watcher,
) -> dict[str, pd.DataFrame]:
    """Return each organism's rows on all targets, scoring only what is not there yet."""
    adapters = {o.key: logs[o.key].adapter_sha256 if o.trait else "" for o in chosen}
    found = {o.key: _read_scores(folder, o.key, adapters[o.key], watcher) for o in chosen}
    targets = probes.config.domains
    lacking = any(probes.missing(found[o.key], t) for o in chosen for t in targets)
    with _dressed(probes, chosen, folder) if lacking else nullcontext():
        for target in targets:
            missing = {o.key: probes.missing(found[o.key], target) for o in chosen}
            asked = [t for t in probes.config.traits if any(t in m for m in missing.values())]
            scores = probes.score(target, asked, len(chosen)) if asked else []
            for o, own in zip(chosen, scores, strict=False):
                if missing[o.key]:
                    rows = _rows(target, asked, own, probes)
                    kept = rows[rows["answer_trait"].isin(missing[o.key])]
                    found[o.key] |= _commit_scores(o, target, kept, adapters[o.key], probes, folder)
            for o in chosen:
                watcher.step(f"{o.name} → {target}")
    return {
        key: pd.concat([own[target, probes.digests[target, t]] for target, t in probes.digests])
        for key, own in found.items()
    }


def _dressed(
    probes: _Probes, chosen: Sequence[Organism], folder: RunFolder
) -> AbstractContextManager[object]:
    if not chosen[0].trait:
        return nullcontext()
    folders = [folder.organism(o.key) for o in chosen]
    return wearing_all(probes.model, probes.config.recipe, folders)


def _read_scores(folder: RunFolder, key: str, adapter: str, watcher: Watcher) -> Found:
    """Return committed scores by (target, digest of the answers); set damaged ones aside."""
    found: Found = {}
    for place in folder.score_folders(key):
        if ".damaged-" in place.name:
            continue
        sound, words = sound_or_aside(place)
        if words:
            watcher.note(f"scores {words}")
        if not sound:
            continue
        about = read_json(place / "target.json")
        if about["adapter_sha256"] != adapter:
            continue
        rows = pd.read_parquet(place / "scores.parquet")
        for trait, answers in about["answers"].items():
            found[about["target"], answers] = rows[rows["answer_trait"] == trait]
    return found


def _rows(
    target: str, traits: Sequence[str], scores: list[list[AnswerScore]], probes: _Probes
) -> pd.DataFrame:
    asked = [(trait, item) for trait in traits for item in probes.items[target]]
    return pd.DataFrame(
        [
            (target, item.id, trait, s.part, s.n_tokens, s.logprob, "ok")
            for (trait, item), parts in zip(asked, scores, strict=True)
            for s in parts
        ],
        columns=["target", "item", "answer_trait", "part", "n_tokens", "logprob", "status"],
    )


def _commit_scores(
    organism: Organism,
    target: str,
    rows: pd.DataFrame,
    adapter: str,
    probes: _Probes,
    folder: RunFolder,
) -> Found:
    """Write one organism's scores on one target and return them by answers."""
    traits = list(dict.fromkeys(rows["answer_trait"]))
    answers = {trait: probes.digests[target, trait] for trait in traits}
    about = {"target": target, "answers": answers, "adapter_sha256": adapter}
    with committed(folder.scores(organism.key, digest(about))) as draft:
        rows.to_parquet(draft / "scores.parquet", index=False)
        write_json(draft / "target.json", about)
    reached("scores:committed")
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
