"""The whole method, top to bottom: corpus, organisms, scores, transfer, similarity, verdict."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from conceptnet_em.adherence import Conduct, conduct, plan_of, told
from conceptnet_em.cells import encode_training, organisms, score_all, train_all
from conceptnet_em.config import (
    CORE_TRAITS,
    RECIPES,
    StudyConfig,
    build_recipe,
    read_toml,
    study_faults,
)
from conceptnet_em.corpus import (
    REFERENCE,
    Corpus,
    available,
    common_domains,
    load_corpus,
    name_faults,
)
from conceptnet_em.embeddings import load_embedder
from conceptnet_em.errors import InputError, ModelError, StoreError, raise_all
from conceptnet_em.groups import fitting_rows, settle_groups
from conceptnet_em.inference import verdict
from conceptnet_em.models import LanguageModel, load_model, recipe_faults, skeleton
from conceptnet_em.multiverse import multiverse
from conceptnet_em.predictor_store import Kept
from conceptnet_em.progress import Clock, Watcher
from conceptnet_em.provenance import provenance
from conceptnet_em.records import Reliability, Similarity, TransferMatrix
from conceptnet_em.registration import FILE, Registration
from conceptnet_em.similarity import from_table, to_table
from conceptnet_em.store import (
    RunFolder,
    reached,
    read_json,
    replacing,
    using,
    write_json,
    write_text,
)
from conceptnet_em.transfer import item_effects, matrix, split_half, traits_trained, transfer_table
from conceptnet_em.verdicts import Verdict

WAYS = "multiverse.parquet"


class Study:
    """One study: settings that were checked and the corpus they are about."""

    def __init__(self, *, root: str | Path | None = None, **settings: Any) -> None:
        """Check settings (see ``StudyConfig`` for every one) against corpus and model.

        Args:
            root: a corpus folder; the shipped one when none.
            **settings: fields of :class:`conceptnet_em.config.StudyConfig`.

        Raises:
            InputError: any setting is wrong; every fault is named at once.
        """
        config = _checked(settings, root)
        found = load_corpus(root, traits=config.traits, domains=config.domains)
        self.corpus: Corpus = found
        self.config: StudyConfig = config

    @classmethod
    def load(cls, path: str | Path, *, root: str | Path | None = None) -> Study:
        """Read a study file (TOML).

        Raises:
            InputError: the file is missing or malformed, or any setting is wrong.
        """
        return cls(root=root, **read_toml(path))


def _checked(settings: Mapping[str, Any], root: str | Path | None) -> StudyConfig:
    config, faults = study_faults(settings)
    cells = available(root)
    traits = _names(settings.get("traits", CORE_TRAITS))
    domains = _names(settings.get("domains", ()))
    faults += name_faults(cells, traits, domains)
    faults += _architecture_faults(settings, bool(faults))
    raise_all(faults)
    assert config is not None
    if config.domains:
        return config
    shared = common_domains(cells, config.traits)
    if not shared:
        raise InputError(f"no domain has all of {', '.join(config.traits)}")
    described = load_corpus(root, traits=[REFERENCE], domains=shared).domains
    prose = [name for name, domain in described.items() if domain.format == "prose"]
    return config.model_copy(update={"domains": tuple(prose or described)})


def _names(value: Any) -> list[str]:
    return [v for v in value if isinstance(v, str)] if isinstance(value, list | tuple) else []


def _architecture_faults(settings: Mapping[str, Any], others: bool) -> list[str]:
    """Check modules and layers against the model's skeleton, unless a shipped recipe stands."""
    recipe = settings.get("recipe", "rank1")
    if not others and isinstance(recipe, str) and recipe in RECIPES:
        return []
    table = recipe if isinstance(recipe, Mapping) else {}
    asked = {key: table[key] for key in ("modules", "layers") if key in table}
    try:
        network, n_layers = skeleton(
            str(settings.get("model", "smollm2-135m")), revision=settings.get("revision")
        )
        return recipe_faults(build_recipe(asked), network, n_layers) if asked else []
    except ModelError as error:
        return [str(error)]
    except InputError:
        return []  # already named by study_faults


def run(
    study: Study,
    *,
    out: str | Path,
    registration: str | Path | Registration | None = None,
    case: str | None = None,
    margin: float | None = None,
    intercept_margin: float | None = None,
    watcher: Watcher | None = None,
) -> Result:
    """Run a study, or finish or extend one: what ``out`` already holds is not computed again.

    A registration gives the verdict's settings (and permutations, seed, layer and embedder, where
    the study leaves them open), and every number of the verdict says whether it was registered.
    The folder keeps a copy, which later runs in it go by.

    Args:
        study: what to run.
        out: the run folder.
        registration: the plan, or its file; the folder's own copy when none. Without either, every
            number is exploratory.
        case: the trait compared with the others; as registered, else ``misaligned``, when none.
        margin: of equivalence of slopes, in-domain units per SD of similarity; as registered, else
            .2, when none.
        intercept_margin: of equivalence at equal similarity, in-domain units; likewise.
        watcher: told about stages, steps and notes.

    Returns:
        The result, also written to ``out``.

    Raises:
        DataError: the registration was changed after it was made.
        InputError: ``out`` was registered otherwise, or a margin is not positive.
        StoreError: ``out`` cannot be written.
        ModelError: the model or the embedder is missing or cannot be used.
        TrainingError: the data cannot be trained on as asked.
    """
    clock = Clock(watcher or Watcher())
    asked = {"case": case, "margin": margin, "intercept_margin": intercept_margin}
    folder = RunFolder(out)
    how = conduct(registration, folder, study.config, asked)
    folder.prepare()
    with using(folder.path):
        return _run(study, folder, clock, how)


def _run(study: Study, folder: RunFolder, clock: Clock, how: Conduct) -> Result:
    """Run the stages, one a paragraph."""
    corpus = study.corpus

    with clock.stage("load the model", 1):
        model = load_base(study.config)
        config, differs = how.fill(study)
        cells = encode_training(config, corpus, model)
        if "text" in config.predictors:
            load_embedder(config.embedder)  # so that a missing one is found before the training
    for note in [*corpus.notes, *told(differs)]:
        clock.watcher.note(note)
    plan = organisms(config, corpus, model.describe())
    write_text(folder.file("study.toml"), config.dump())
    if how.plan is not None:
        how.plan.save(folder.file(FILE))
    earlier = _history(folder)
    record = provenance(model, config, [o.key for o in plan]) | {"history": earlier}
    write_json(folder.file("provenance.json"), record)

    with clock.stage("train organisms", len(plan)):
        longest = max(len(e.ids) for encoded in cells.values() for e in encoded)
        rows = fitting_rows(model, config.recipe, longest, memory=config.memory)
        groups = settle_groups([o.key for o in plan], config.recipe, rows, model, folder)
        logs = train_all(plan, groups, config, cells, model, folder, clock)

    with clock.stage("score answers", (len(plan) + 1) * len(config.domains)):
        scores = score_all(plan, groups, logs, config, corpus, model, folder, clock)
        _write_table(folder.file("scores.parquet"), scores)

    with clock.stage("measure transfer", 1):
        table = transfer_table(scores)
        _write_table(folder.file("transfer.parquet"), table)

    with clock.stage("compute similarities", len(config.samples) * len(config.predictors)):
        alike = _similarities(config, corpus, model, folder, clock)
        _write_table(folder.file("similarities.parquet"), to_table(alike))

    with clock.stage("regress transfer on similarity", 1):
        differs = how.with_the_folder(differs, folder.path)
        shared = _shared(config, corpus)
        answer = verdict(table, alike, items=item_effects(scores), **shared, **how.options)
        answer = how.label(answer, differs)
        ways = _ways(table, alike, how.plan, shared)
        _write_table(folder.file(WAYS), ways)
        write_text(folder.file("verdict.json"), answer.to_json() + "\n")
    reached("tables:written")

    failed = {o.name: logs[o.key].reason for o in plan if logs[o.key].status != "ok"}
    record |= {"seconds": clock.seconds, "failed": failed, "notes": list(corpus.notes)}
    record |= {"differences": list(map(str, differs))} if how.plan else {}
    record["history"] = [*earlier, {"made": record["made"], "seconds": clock.seconds}]
    write_json(folder.file("provenance.json"), record)
    made = (scores, table, tuple(alike), answer, failed, clock.seconds)
    return Result(folder.path, config, *made, ways, how.plan)


@dataclass(frozen=True)
class Result:
    """A finished run: its tables, matrices and verdict."""

    path: Path
    """The run folder."""
    config: StudyConfig
    scores: pd.DataFrame
    """The ``scores`` table."""
    table: pd.DataFrame
    """The ``transfer`` table."""
    similarities: tuple[Similarity, ...]
    verdict: Verdict
    failed: dict[str, str]
    """Organisms that could not be trained, with the reason."""
    seconds: dict[str, float]
    """Wall time by stage."""
    multiverse: pd.DataFrame = field(default_factory=pd.DataFrame)
    """One row for every way of asking, see ``multiverse.multiverse``; empty where there is none."""
    registration: Registration | None = None
    """What was planned."""

    @classmethod
    def load(cls, path: str | Path) -> Result:
        """Read a run folder.

        Raises:
            StoreError: a file is missing or damaged.
            DataError: the registration was changed after it was made.
        """
        folder = RunFolder(path)
        if not folder.file("verdict.json").is_file():
            raise StoreError(
                errno.ENOENT, f"{folder.path} holds no finished run: it has no verdict.json"
            )
        record = read_json(folder.file("provenance.json"))
        config, faults = study_faults(read_toml(folder.file("study.toml")))
        raise_all(faults)
        assert config is not None
        scores = _read_table(folder.file("scores.parquet"))
        alike = from_table(_read_table(folder.file("similarities.parquet")))
        answer = Verdict.from_json(json.dumps(read_json(folder.file("verdict.json"))))
        return cls(
            folder.path,
            config,
            scores,
            _read_table(folder.file("transfer.parquet")),
            tuple(alike),
            answer,
            record.get("failed", {}),
            record.get("seconds", {}),
            _read_table(folder.file(WAYS)) if folder.file(WAYS).is_file() else pd.DataFrame(),
            plan_of(folder),
        )

    @property
    def traits(self) -> list[str]:
        """The traits with transfer of their own: all but the reference."""
        return list(traits_trained(self.table))

    def transfer(
        self,
        trait: str,
        *,
        answer_trait: str | None = None,
        scale: str = "contrast",
        part: str = "all",
        replicate: int | None = None,
    ) -> TransferMatrix:
        """Return one source × target matrix; ``answer_trait`` other than ``trait`` gives leakage.

        Raises:
            InputError: there is none such; says what there is.
        """
        return matrix(
            self.table,
            trait,
            answer_trait=answer_trait,
            scale=scale,
            part=part,
            replicate=replicate,
        )

    def transfers(self, *, scale: str = "contrast") -> dict[str, TransferMatrix]:
        """Return every trait's own matrix, ready for :func:`conceptnet_em.regress`."""
        return {trait: self.transfer(trait, scale=scale) for trait in self.traits}

    def similarity(self, predictor: str, *, trait: str | None = None) -> Similarity:
        """Return the first similarity of that name, for ``trait`` where it is trait-specific.

        Raises:
            InputError: there is none such; says what there is.
        """
        for found in self.similarities:
            if found.predictor == predictor and (trait is None or found.trait in (None, trait)):
                return found
        there = {f"{s.predictor}" + (f" ({s.trait})" if s.trait else "") for s in self.similarities}
        asked = predictor + (f" ({trait})" if trait else "")
        raise InputError(f"no similarity {asked}; there is {', '.join(sorted(there))}")

    def reliability(self, trait: str, *, scale: str = "contrast") -> Reliability:
        """Return the split-half reliability of one trait's off-diagonal cells."""
        return split_half(item_effects(self.scores), trait, scale=scale, seed=self.config.seed)


# --- parts of the run ---


def _history(folder: RunFolder) -> list[Any]:
    """Return when earlier runs in this folder began and how long their stages took.

    A run that did not end has no stages; it counts, because a plan made after it came late.
    """
    path = folder.file("provenance.json")
    if not path.is_file():
        return []
    record = read_json(path)
    found = list(record.get("history", []))
    ended = record["made"] in [entry["made"] for entry in found]
    return found if ended else [*found, {"made": record["made"], "seconds": {}}]


def load_base(config: StudyConfig) -> LanguageModel:
    """Load a study's base model as its run does, with its number of threads.

    Raises:
        ModelError: the model is missing or cannot be used, or the recipe does not fit it.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    model = load_model(
        config.model,
        revision=config.revision,
        system=config.system,
        device=config.device,
        dtype=config.dtype,
    )
    raise_all(recipe_faults(config.recipe, model.network, model.n_layers), ModelError)
    return model


def _similarities(
    config: StudyConfig, corpus: Corpus, model: LanguageModel, folder: RunFolder, clock: Clock
) -> list[Similarity]:
    """Return every predictor for every replicate, reading what is there already."""
    kept = Kept(folder, config, corpus, model, clock.watcher.note)
    found: list[Similarity] = []
    for replicate in config.samples:
        inputs = kept.of(replicate)
        for name in config.predictors:
            found += kept.ensure(name, inputs)[0]
            clock.watcher.step(f"{name}, replicate {replicate}")
    return found


def _shared(config: StudyConfig, corpus: Corpus) -> dict[str, Any]:
    """Return what verdict and multiverse are both made with."""
    return {"topics": corpus.topics, "permutations": config.permutations, "seed": config.seed}


def _ways(
    table: pd.DataFrame,
    alike: Sequence[Similarity],
    plan: Registration | None,
    shared: Mapping[str, Any],
) -> pd.DataFrame:
    """Ask in every other way too; without a plan no way is the registered one."""
    if not alike or not traits_trained(table):
        return pd.DataFrame({"predictor": []})
    found = multiverse(table, alike, registration=plan, **shared)
    return found if plan else found.assign(registered=False)


def _write_table(path: Path, table: pd.DataFrame) -> None:
    with replacing(path) as draft:
        table.to_parquet(draft, index=False)


def _read_table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise StoreError(errno.EIO, f"cannot read {path}: {error}; run the study again") from error
