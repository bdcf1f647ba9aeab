"""Tell before training what else a fine-tune would teach: calibrate on a run, then forecast.

The response is ``contrast``, the scale of every comparison of traits in this library: how much more
a trait's answers gain than the run's other traits' do, net of what training on neutral answers
does. ``scale="net"``, the gain over the neutral answer alone, is less fit for "what else does it
teach?": data that depart from neutral in any way raise nearly every trait's ``net``, so that all of
them seem to be taught. ``contrast`` in turn is relative to the run's traits: it sums to zero over
them and the neutral one, and a trait that loses need not become rarer in what the model says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from conceptnet_em.cells import organisms
from conceptnet_em.chatdata import ChatData, ChatRow
from conceptnet_em.corpus import REFERENCE, Corpus, other_sample
from conceptnet_em.departures import (
    FEATURES,
    Departure,
    Key,
    Landmarks,
    Seen,
    cosines,
    layers_of,
    look,
    survey,
)
from conceptnet_em.errors import InputError, raise_all, unknown
from conceptnet_em.leftout import LEAST_R2, Cells, Fit, Validation, fit
from conceptnet_em.models import LanguageModel
from conceptnet_em.records import nulls
from conceptnet_em.store import read_json
from conceptnet_em.study import Result

SCALES = ("contrast", "net")
OK, NOT_ESTIMABLE = "ok", "not_estimable"
NEAREST = 5
"""Organisms shown beside a forecast."""


@dataclass(frozen=True)
class About:
    """What a calibration was made from."""

    run: str
    model: str
    recipe: str
    steps: int
    batch_size: int
    rows: int
    """Training rows of an organism."""
    scale: str
    layer: int
    """Entry of ``hidden_states`` that was chosen."""
    n_organisms: int
    n_domains: int
    """Source domains."""
    traits: tuple[str, ...]
    """Traits measured."""


@dataclass(frozen=True)
class Calibration:
    """Finished organisms, turned into a model that forecasts others; see :func:`calibrate`."""

    about: About
    fitted: Fit
    model: LanguageModel = field(repr=False)
    landmarks: Landmarks = field(repr=False)
    layers: tuple[int, ...]
    """Entries of ``hidden_states`` looked at."""
    embedder: str
    organisms: Mapping[Key, Departure] = field(repr=False)
    """Each organism's training rows, treated like anybody's data set."""
    questions: Mapping[str, str] = field(repr=False)
    """The corpus' questions and their domains."""
    notes: tuple[str, ...] = ()

    @property
    def validation(self) -> Validation:
        """How well left-out source domains were predicted."""
        return self.fitted.validation

    def __str__(self) -> str:
        """Return what it was made from and how good it is."""
        words = [_made_from(self.about), str(self.validation)]
        return "\n".join([*words, *_poor(self.validation), *(f"note: {n}" for n in self.notes)])


@dataclass(frozen=True)
class Forecast:
    """What a fine-tune on a data set would teach, for every target domain and trait."""

    name: str
    """The data set's name."""
    n_rows: int
    """Rows looked at."""
    status: str
    """``ok``, or ``not_estimable`` where the calibration is too poor to give numbers."""
    reason: str
    """Why it is not estimable."""
    table: pd.DataFrame
    """See :meth:`to_table`."""
    nearest: pd.DataFrame
    """The organisms whose training rows are most like the data set; descriptive."""
    validation: Validation
    about: About
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    """What speaks against relying on the numbers."""

    def to_table(self) -> pd.DataFrame:
        """Return one row a target × trait.

        Columns ``target, trait``; ``value, low, high`` (transfer and its 90% interval, nats/token;
        NaN when not estimable); the features ``cosine, coefficient, text`` (no unit); ``outside``
        (whether they lie outside the calibration's support); ``status``.
        """
        return self.table.copy()

    def matrix(self, column: str = "value") -> pd.DataFrame:
        """Return one column of the table as a target × trait matrix, in their order."""
        return _squared(self.table, column)

    def to_json(self) -> str:
        """Return everything as one JSON document; NaN becomes null."""
        parts = {"data": self.name, "rows": self.n_rows, "status": self.status}
        parts |= {"reason": self.reason, "about": asdict(self.about)}
        parts |= {"validation": asdict(self.validation)}
        parts |= {"forecast": self.table.to_dict("records")}
        parts |= {"nearest": self.nearest.to_dict("records")}
        parts |= {"notes": self.notes, "warnings": self.warnings}
        return json.dumps(nulls(parts), indent=2, ensure_ascii=False, allow_nan=False)

    def __str__(self) -> str:
        """Return the matrix, the nearest organisms and the calibration's validation."""
        parts = [
            f"{self.name}, {self.n_rows} rows: {self.about.scale} transfer after training on it as "
            "the organisms were, nats/token",
            self._intervals().to_string() if self.status == OK else f"no forecast: {self.reason}",
            "nearest organisms, by what their training rows do (descriptive)",
            self.nearest.round(2).to_string(index=False, na_rep="–"),
            _made_from(self.about),
            str(self.validation),
        ]
        parts += [f"warning: {words}" for words in self.warnings]
        return "\n\n".join(parts) + "".join(f"\nnote: {n}" for n in self.notes)

    def _intervals(self) -> pd.DataFrame:
        shown = [
            f"{r.value:+.2f} [{r.low:+.2f}, {r.high:+.2f}]" + ("*" if r.outside else "")
            for r in self.table.itertuples()
        ]
        return _squared(self.table.assign(shown=shown), "shown")


def _squared(table: pd.DataFrame, column: str) -> pd.DataFrame:
    wide = table.pivot(index="target", columns="trait", values=column)
    targets, traits = (list(dict.fromkeys(table[name])) for name in ("target", "trait"))
    return wide.reindex(index=targets, columns=traits)


def _made_from(about: About) -> str:
    return (
        f"calibrated on {about.n_organisms} organisms of {about.n_domains} source domains in "
        f"{about.run}: {about.model}, recipe {about.recipe}, {about.steps} steps of "
        f"{about.batch_size} rows, {about.rows} rows each; hidden states {about.layer}"
    )


def _poor(validation: Validation) -> list[str]:
    return [f"too poor to forecast: {'; '.join(validation.reasons)}"] if validation.reasons else []


# --- calibration ----------------------------------------------------------------------------------


def calibrate(
    result: Result, corpus: Corpus, model: LanguageModel, *, scale: str = "contrast"
) -> Calibration:
    """Fit and validate a forecast on the organisms of a finished run.

    Each organism's training rows are treated like a user's data set: without their label, their
    matched neutral answers, or anything of their source domain but themselves. Validation leaves
    source domains out, see :func:`conceptnet_em.leftout.fit`.

    Args:
        result: the finished run.
        corpus: the corpus that it was run on, with the run's traits; further domains with neutral
            answers help.
        model: the run's base model.
        scale: ``contrast`` or ``net`` (see the module).

    Raises:
        InputError: another model or system prompt than the run's, an unknown scale, a corpus
            without the run's cells, or a run without transfer.
        ModelError: the embedder is missing.
    """
    config = result.config
    raise_all([] if scale in SCALES else [unknown("scale", scale, SCALES)])
    record = read_json(result.path / "provenance.json")
    _refuse_other(record["model"], model.describe(), str(result.path))
    measured = _measured(result.table, scale)
    layers = layers_of(model)
    cells, landmarks = survey(
        model,
        corpus,
        traits=config.traits,
        targets=config.domains,
        samples=config.samples,
        scale=scale,
        layers=layers,
        embedder=config.embedder,
    )
    departures = _departures(measured, cells, landmarks)
    fitted = fit(_cells(measured, departures, landmarks))
    about = About(
        run=str(result.path),
        model=model.name,
        recipe=config.recipe.name,
        steps=config.recipe.steps,
        batch_size=config.recipe.batch_size,
        rows=_typical(cells, departures),
        scale=scale,
        layer=layers[fitted.layer],
        n_organisms=len(departures),
        n_domains=fitted.validation.n_domains,
        traits=landmarks.traits,
    )
    questions = {i.question.strip(): d for d, items in corpus.items.items() for i in items}
    notes = _changed(record, result, corpus)
    return Calibration(
        about, fitted, model, landmarks, layers, config.embedder, departures, questions, notes
    )


def _refuse_other(ran: Mapping[str, Any], here: Mapping[str, Any], run: str) -> None:
    words = {
        "sha256": "weights",
        "system": "system prompt",
        "template_digest": "chat template",
        "tokenizer_digest": "tokenizer",
    }
    other = [
        f"{run} was run with another {name} ({str(ran.get(key))[:60]!r}) than {here['model']} has "
        f"({str(here.get(key))[:60]!r}); a calibration holds for one model: run a study with it"
        for key, name in words.items()
        if ran.get(key) != here.get(key)
    ]
    raise_all(other)


def _changed(record: Mapping[str, Any], result: Result, corpus: Corpus) -> tuple[str, ...]:
    """Say so when the run's organisms were not trained on this corpus' rows."""
    keys = [organism.key for organism in organisms(result.config, corpus, record["model"])]
    other = len(set(keys) - set(record["organisms"]))
    return (
        f"{other} of {len(keys)} organisms were trained on other rows than this corpus has, or by "
        "another version: the calibration sees the present rows",
    ) * bool(other)


def _measured(table: pd.DataFrame, scale: str) -> pd.DataFrame:
    """Return the cells with numbers: trained and measured on a trait, whole answers."""
    good = table[
        (table["scale"] == scale)
        & (table["part"] == "all")
        & (table["status"] == "ok")
        & (table["trait"] != REFERENCE)
        & (table["answer_trait"] != REFERENCE)
        & table["value"].notna()
    ]
    if good.empty:
        raise InputError(
            f"the run has no {scale} transfer to calibrate on: it takes traits besides "
            f"{REFERENCE}, whose organisms were trained and scored"
        )
    return good.reset_index(drop=True)


def _departures(
    measured: pd.DataFrame, cells: Mapping[Key, Seen], landmarks: Landmarks
) -> dict[Key, Departure]:
    keys = measured[["trait", "source", "replicate"]].drop_duplicates().itertuples(index=False)
    return {
        key: landmarks.departure(
            cells[key], samples=[other_sample(key[2])], without={key[1]}, size=len(cells[key])
        )
        for trait, source, replicate in keys
        for key in [(str(trait), str(source), int(replicate))]
    }


def _typical(cells: Mapping[Key, Seen], departures: Mapping[Key, Departure]) -> int:
    return int(np.median([len(cells[key]) for key in departures]))


def _cells(
    measured: pd.DataFrame, departures: Mapping[Key, Departure], landmarks: Landmarks
) -> Cells:
    """Lay measured transfer out beside the features of the organism that made it."""
    trait = {name: k for k, name in enumerate(landmarks.traits)}
    target = {name: k for k, name in enumerate(landmarks.targets)}
    places = ["trait", "source", "replicate", "answer_trait", "target"]
    rows = [
        departures[taught, source, replicate].features[:, trait[shown], target[where]]
        for taught, source, replicate, shown, where in measured[places].itertuples(index=False)
    ]
    features = np.stack(rows, axis=1)
    whole = np.isfinite(features).all(axis=(0, 2))
    if not whole.any():
        raise InputError("the traits' answers do not differ inside the model: nothing to compare")
    measured, features = measured.iloc[np.flatnonzero(whole)], features[:, whole]
    return Cells(
        features=features,
        response=measured["value"].to_numpy(float),
        domain=pd.factorize(measured["source"])[0].astype(np.intp),
        taught=np.array([trait[name] for name in measured["trait"]], dtype=np.intp),
        kind=np.array([trait[name] for name in measured["answer_trait"]], dtype=np.intp),
        home=(measured["source"] == measured["target"]).to_numpy(bool),
    )


# --- forecast -------------------------------------------------------------------------------------


def forecast(
    calibration: Calibration,
    rows: ChatData | Sequence[tuple[str, str]],
    *,
    traits: Sequence[str] = (),
) -> Forecast:
    """Forecast the transfer to every target and trait of a fine-tune on some rows.

    It is meant for training as the calibration's organisms were trained: same base model, recipe
    and number of steps.

    Args:
        calibration: what :func:`calibrate` returned.
        rows: what :func:`conceptnet_em.chatdata.read_chat` returned, or questions and answers.
        traits: the traits to tell about; all measured ones when empty.

    Returns:
        Numbers where the calibration is good enough; otherwise status ``not_estimable``, the
        reason, and the descriptive part alone.

    Raises:
        InputError: an unknown trait, or no rows.
        DataError: rows that the model's template cannot take; all are named.
    """
    known = calibration.landmarks.traits
    raise_all([unknown("trait", trait, known) for trait in traits if trait not in known])
    data = rows if isinstance(rows, ChatData) else _as_data(rows)
    pairs = [(row.question, row.answer) for row in data.rows]
    if not pairs:
        raise InputError("no rows to forecast from")
    seen, cut = look(
        calibration.model,
        pairs,
        calibration.layers,
        embedder=calibration.embedder,
        where=[row.where for row in data.rows],
    )
    shared = [calibration.questions[q] for q, _ in pairs if q in calibration.questions]
    landmarks = calibration.landmarks
    found = landmarks.departure(
        seen,
        samples=sorted(landmarks.directions),
        without=set(shared),
        size=calibration.about.rows,
    )
    table = _table(calibration, found)
    chosen = table[table["trait"].isin(traits or known)].reset_index(drop=True)
    reasons = calibration.validation.reasons
    return Forecast(
        name=data.name,
        n_rows=len(pairs),
        status=NOT_ESTIMABLE if reasons else OK,
        reason="; ".join(reasons),
        table=chosen,
        nearest=_nearest(calibration, found),
        validation=calibration.validation,
        about=calibration.about,
        notes=(*data.notes, *_notes(cut, shared, len(pairs)), *calibration.notes),
        warnings=tuple(_warnings(calibration, found, chosen, len(pairs))),
    )


def _as_data(rows: Sequence[tuple[str, str]]) -> ChatData:
    made = [ChatRow(f"row {k}", q.strip(), a.strip()) for k, (q, a) in enumerate(rows, start=1)]
    empty = [f"{row.where} is empty" for row in made if not (row.question and row.answer)]
    raise_all(empty)
    return ChatData("the rows", tuple(made), len(made))


def _table(calibration: Calibration, found: Departure) -> pd.DataFrame:
    fitted, landmarks = calibration.fitted, calibration.landmarks
    features = found.features[fitted.layer]
    flat = features.transpose(1, 0, 2).reshape(-1, len(FEATURES))
    known = np.isfinite(flat).all(axis=1)
    value, outside = np.full(len(flat), np.nan), np.ones(len(flat), dtype=bool)
    if known.any():
        value[known], outside[known] = fitted.predict(flat[known])
    if fitted.validation.reasons:
        value[:] = np.nan
    half = fitted.width(value)
    table = pd.DataFrame(
        [(target, trait) for target in landmarks.targets for trait in landmarks.traits],
        columns=["target", "trait"],
    )
    table = table.assign(value=value, low=value - half, high=value + half)
    table[list(FEATURES[:3])] = flat[:, :3]
    return table.assign(outside=outside, status=np.where(np.isnan(value), NOT_ESTIMABLE, OK))


def _nearest(calibration: Calibration, found: Departure) -> pd.DataFrame:
    layer, known = calibration.fitted.layer, calibration.organisms
    directions = np.stack([d.direction[layer] for d in known.values()])
    texts = np.stack([d.text for d in known.values()])
    table = pd.DataFrame(list(known), columns=["trait", "source", "replicate"])
    table["direction"] = cosines(directions, found.direction[layer])
    table["text"] = cosines(texts, found.text)
    return table.sort_values("direction", ascending=False).head(NEAREST).reset_index(drop=True)


def _notes(cut: int, shared: Sequence[str], n: int) -> list[str]:
    notes = [f"{cut} of {n} rows were cut at the end, too long for the model"] if cut else []
    if shared:
        whose = ", ".join(sorted(set(shared)))
        notes.append(
            f"{len(shared)} of {n} questions stand in the corpus ({whose}): the neutral answers of "
            "these domains were not looked at"
        )
    return notes


def _warnings(calibration: Calibration, found: Departure, table: pd.DataFrame, n: int) -> list[str]:
    layer, rows, words = calibration.fitted.layer, calibration.about.rows, list[str]()
    if not calibration.validation.r2_new >= LEAST_R2:
        words.append(
            "it holds for data that answer in one of the run's ways "
            f"({', '.join(calibration.landmarks.traits)}); for other ways the calibration predicts "
            "too little"
        )
    if outside := int(table["outside"].sum()):
        words.append(
            f"{outside} of {len(table)} cells lie farther from every calibration cell than any of "
            "those from the other domains' (marked *): there the forecast extrapolates"
        )
    lengths = [np.linalg.norm(d.direction[layer]) for d in calibration.organisms.values()]
    share = float(np.linalg.norm(found.direction[layer]) / np.median(lengths))
    if share < min(lengths) / np.median(lengths):
        words.append(
            f"its answers depart from neutral ones {share:.2f} times as far as an organism's do, "
            "less than any of them: nothing so weak was calibrated on"
        )
    if n < rows:
        words.append(
            f"{n} rows are fewer than the {rows} of an organism: cosines come out too small"
        )
    return words
