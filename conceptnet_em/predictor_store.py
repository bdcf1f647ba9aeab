"""Compute a study's similarities once: what a run folder holds is read, not computed again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from conceptnet_em.config import StudyConfig
from conceptnet_em.corpus import Corpus, items_digest, other_sample
from conceptnet_em.models import LanguageModel
from conceptnet_em.predictor_inputs import Inputs, inputs_for
from conceptnet_em.predictors import ANSWERS, EXTERNAL, POST_HOC, TABLE, Predictor, chosen
from conceptnet_em.records import Similarity
from conceptnet_em.similarity import from_table, to_table
from conceptnet_em.store import (
    RunFolder,
    committed,
    digest,
    holding,
    read_json,
    sound_or_aside,
    write_json,
)

CODE_EPOCH = 1
"""Enters every key; raised when the same inputs would give other similarities than before."""
FILE = "similarities.parquet"


def similarities(names: Sequence[str | Predictor], inputs: Inputs) -> list[Similarity]:
    """Compute predictors for the organisms of one replicate.

    Args:
        names: of :data:`predictors.TABLE`, or predictors of one's own.
        inputs: see :func:`inputs_for`.

    Raises:
        InputError: an unknown predictor.
    """
    return [
        replace(found, basis=_basis(one, found.basis, inputs))
        for one in chosen(names)
        for found in one.compute(inputs)
    ]


def _basis(one: Predictor, note: str, inputs: Inputs) -> str:
    """Say what a similarity was computed from, and what was odd about it."""
    sizes = sorted({len(items) for items in inputs.items.values()})
    span = "–".join(str(n) for n in dict.fromkeys([sizes[0], sizes[-1]]))
    said = f"{one.kind}; {one.reads}, {span} training items a domain, sample "
    return "; ".join(filter(None, [f"{said}{other_sample(inputs.replicate)}", note]))


@dataclass(frozen=True)
class Kept:
    """The similarities of one study in its run folder."""

    folder: RunFolder
    config: StudyConfig
    corpus: Corpus
    model: LanguageModel
    note: Callable[[str], None]
    organisms: Mapping[int, Mapping[str, Mapping[str, Path]]] = field(default_factory=dict)
    """Replicate to trait to source to adapter folder, for what is post hoc."""
    layers: tuple[int, ...] = ()
    """Layers of the internal predictors; the study's own when none."""

    def of(self, replicate: int) -> Inputs:
        """Return what the predictors of one replicate look at."""
        own = () if self.config.layer is None else (self.config.layer,)
        return inputs_for(
            self.corpus,
            self.model,
            traits=self.config.traits,
            domains=self.config.domains,
            replicate=replicate,
            embedder=self.config.embedder,
            layers=self.layers or own,
            recipe=self.config.recipe,
            organisms=self.organisms.get(replicate),
        )

    def ensure(self, name: str | Predictor, inputs: Inputs) -> tuple[list[Similarity], float]:
        """Return one predictor's similarities and the seconds they took, when they were computed.

        What the folder holds is read. A predictor of one's own is computed every time: its code has
        no name to keep it under.
        """
        if isinstance(name, Predictor) and TABLE.get(name.name) is not name:
            return inputs.timed(lambda: similarities([name], inputs))
        (one,) = chosen([name])
        place = self.folder.similarity(digest(self._about(one, inputs)))
        cost = self.folder.path / "seconds" / f"{place.name}.json"  # not of what is committed
        with holding(self.folder.lock(f"similarity-{place.name}")):
            sound, words = sound_or_aside(place)
            if words:
                self.note(f"similarities {words}")
            if sound:
                spent = float(read_json(cost)) if cost.is_file() else float("nan")
                return from_table(pd.read_parquet(place / FILE)), spent
            found, seconds = inputs.timed(lambda: similarities([one], inputs))
            if not found:
                return [], seconds
            with committed(place) as draft:
                to_table(found).to_parquet(draft / FILE, index=False)
            cost.parent.mkdir(exist_ok=True)
            write_json(cost, seconds)
            return found, seconds

    def _about(self, one: Predictor, inputs: Inputs) -> dict[str, Any]:
        """Return everything that shapes a predictor's similarities."""
        about: dict[str, Any] = {
            "predictor": one.name,
            "code_epoch": CODE_EPOCH,
            "replicate": inputs.replicate,
            "model": self.model.describe(),
            "embedder": inputs.embedder,
            "layers": inputs.layers if one.layered else None,
            "formats": inputs.formats,
            "questions": {
                domain: digest([(item.id, item.question) for item in items])
                for domain, items in inputs.items.items()
            },
        }
        if one.kind != EXTERNAL:
            about["recipe"] = self.config.recipe.model_dump(mode="json")
        if one.kind != EXTERNAL or one.reads == ANSWERS:  # a model sees questions before answers
            about["traits"] = inputs.traits
            about["answers"] = {
                domain: [items_digest(items, trait) for trait in inputs.traits]
                for domain, items in inputs.items.items()
            }
        if one.kind == POST_HOC:
            about["organisms"] = {
                trait: {source: place.name for source, place in found.items()}
                for trait, found in inputs.organisms.items()
            }
        return about
