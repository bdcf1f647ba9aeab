"""A plan names only what its verdict can hold fixed, and says why it names no more."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from conceptnet_em import planned
from conceptnet_em.config import StudyConfig
from conceptnet_em.inference import verdict
from conceptnet_em.records import Similarity
from conceptnet_em.registration import Registration, statuses

WORDS = ("cars", "diet", "garden", "law", "money", "sleep")
PROSE = {name: (name, "prose") for name in WORDS}
LONE = PROSE | {"law": ("law", "code")}
TWO = LONE | {"money": ("money", "code")}
CROSSED = {f"{t}-{f}": (t, f) for t in WORDS[:3] for f in ("prose", "code")}


def table(topics: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """Transfer of two traits on these domains, 1 at home."""
    rng, rows = np.random.default_rng(0), []
    for trait in ("misaligned", "sporty"):
        for source in topics:
            for target in topics:
                value = 1 + 0.1 * rng.normal() if source == target else rng.normal()
                rows.append((trait, source, 1, target, trait, "all", "contrast", value))
    keys = ["trait", "source", "replicate", "target", "answer_trait", "part", "scale", "value"]
    return pd.DataFrame(rows, columns=keys).assign(se=0.1, n_items=6, status="ok")


def likeness(topics: Mapping[str, Any]) -> Similarity:
    place = np.random.default_rng(1).normal(size=(len(topics), 3))
    values = -np.linalg.norm(place[:, None] - place[None], axis=2)
    return Similarity("text", pd.DataFrame(values, list(topics), list(topics)))


def plan(topics: Mapping[str, tuple[str, str]]) -> tuple[dict[str, Any], list[str]]:
    """Settings and notes of a plan on these domains, without a corpus or a model."""
    domains = {d: SimpleNamespace(topic=topic, format=form) for d, (topic, form) in topics.items()}
    config = StudyConfig(domains=tuple(topics), traits=("neutral", "misaligned", "sporty"))
    item = SimpleNamespace(id="x", pairs={})
    corpus = SimpleNamespace(domains=domains, probe=lambda d: [item], train=lambda d, s: [item])
    study = SimpleNamespace(config=config, corpus=corpus)
    found = planned.settings(study)
    return found, planned.notes_on(study, found)


@pytest.fixture(autouse=True)
def no_files(monkeypatch):
    """Leave model and items out: only the domains matter here."""
    monkeypatch.setattr(planned, "_model", lambda config: ({"template_digest": "x"}, 15))
    monkeypatch.setattr(planned, "items_digest", lambda items, trait: "x")


@pytest.mark.parametrize(
    ("topics", "held"),
    [
        (PROSE, []),
        (LONE, []),
        (TWO, ["format mismatch"]),
        (CROSSED, ["format mismatch", "same topic"]),
    ],
)
def test_the_registered_covariates_are_those_that_the_verdict_holds(topics, held):
    found, _ = plan(topics)
    told = verdict(table(topics), [likeness(topics)], topics=topics, permutations=99)
    assert found["analysis"]["covariates"] == told.settings["covariates"] == held
    assert {row.held for row in told.slopes if row.predictor == "text" and row.cells == "all"} == {
        tuple(held)
    }
    numbers = {"H1 text": {"hypothesis": "H1", "primary": "P1"}}
    kept = Registration({"numbers": numbers, "registered": "", **found})
    used = {"covariates": told.settings["covariates"]}
    assert statuses(kept, used) == {"H1 text": "registered"}


def test_a_lone_code_domain_is_said_to_be_held_fixed_by_the_effects_in_plan_and_verdict():
    _, notes = plan(LONE)
    told = verdict(table(LONE), [likeness(LONE)], topics=LONE, permutations=99)
    (note,) = [note for note in notes if "format mismatch" in note]
    assert "source and target effects, which hold it fixed already" in note
    assert "several domains of each format" in note
    assert note in told.notes
    assert not told.select(predictor="format mismatch")


def test_a_plan_in_one_format_says_that_there_is_no_mismatch():
    _, notes = plan(PROSE)
    assert any("in one format (prose): there is no mismatch" in note for note in notes)
    assert not any("mismatch" in note for note in plan(TWO)[1])


def test_a_plan_that_claimed_the_mismatch_of_a_lone_code_domain_is_shown_to_be_changed():
    """Registrations of another program, or written by hand, may claim what cannot be held."""
    found, _ = plan(LONE)
    found["analysis"]["covariates"] = ["format mismatch"]
    numbers = {"H1 text": {"hypothesis": "H1", "primary": "P1"}}
    kept = Registration({"numbers": numbers, "registered": "", **found})
    (status,) = statuses(kept, {"covariates": []}).values()
    assert status.startswith("registered and changed (analysis.covariates")
