"""A verdict is made as asked, else as planned, else as usual; a folder keeps its one plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from conceptnet_em.adherence import Conduct, conduct, plan_of, told
from conceptnet_em.config import StudyConfig
from conceptnet_em.errors import DataError, InputError
from conceptnet_em.records import Slope
from conceptnet_em.registration import FILE, Difference, Registration
from conceptnet_em.store import RunFolder
from conceptnet_em.verdicts import Verdict

TRAITS = ("neutral", "misaligned", "sporty", "poetic")
CONFIG = StudyConfig(traits=TRAITS)
ANALYSIS = {
    "case": "sporty",
    "controls": ["misaligned", "poetic"],
    "margin": 0.3,
    "intercept_margin": 0.4,
    "primaries": ["text"],
    "scale": "net",
    "part": "all",
    "resamples": 500,
}


def plan(**analysis: Any) -> Registration:
    """A plan with one number, of no corpus and no model."""
    numbers = {"H1 text": {"hypothesis": "H1", "primary": "P1"}}
    content = {"registered": "2026-01-01T00:00:00+00:00", "analysis": ANALYSIS | analysis}
    content |= {"primaries": {"P1": {"predictor": "text"}}, "design": {}, "data": {}}
    return Registration(content | {"numbers": numbers})


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


def options(given: Registration | None, folder: RunFolder, **asked: Any) -> dict[str, Any]:
    return conduct(given, folder, CONFIG, asked).options


def test_without_a_plan_the_verdict_is_made_as_usual_or_as_asked(folder):
    usual = {"case": "misaligned", "margin": 0.2, "intercept_margin": 0.2}
    assert options(None, folder, case=None, margin=None) == usual
    assert options(None, folder, case="poetic") == usual | {"case": "poetic"}


def test_a_plan_gives_every_option_and_what_is_asked_for_wins(folder):
    assert options(plan(), folder) == ANALYSIS
    assert options(plan(), folder, margin=0.1) == ANALYSIS | {"margin": 0.1}


def test_another_case_has_all_other_traits_as_controls(folder):
    assert options(plan(), folder, case="poetic")["controls"] is None
    assert options(plan(), folder, case="sporty")["controls"] == ["misaligned", "poetic"]


def test_controls_that_the_study_lacks_are_left_out(folder):
    few = StudyConfig(traits=("neutral", "sporty", "poetic"))
    assert conduct(plan(), folder, few, {}).options["controls"] == ["poetic"]
    none = StudyConfig(traits=("neutral", "sporty"))
    assert conduct(plan(), folder, none, {}).options["controls"] is None


def test_a_plan_without_a_case_leaves_the_usual_one(folder):
    found = options(plan(case=None, controls=[]), folder)
    assert found["case"] == "misaligned"
    assert "controls" not in found


def test_both_margins_are_named_if_both_are_wrong(folder):
    with pytest.raises(InputError) as caught:
        options(None, folder, margin=0.0, intercept_margin=-1.0)
    assert "the margin must be above 0" in str(caught.value)
    assert "the intercept margin must be above 0" in str(caught.value)


def test_a_folder_keeps_its_plan_and_names_both_when_another_comes(folder):
    assert plan_of(folder) is None
    mine, other = plan(), plan(margin=0.5)
    assert plan_of(folder, mine) == mine
    mine.save(folder.file(FILE))
    assert plan_of(folder) == plan_of(folder, mine) == mine
    with pytest.raises(InputError) as caught:
        plan_of(folder, other)
    assert mine.sha256 in str(caught.value)
    assert other.sha256 in str(caught.value)


def test_a_copy_in_the_folder_that_was_changed_is_refused(folder):
    path = plan().save(folder.file(FILE))
    path.write_text(path.read_text().replace('"margin": 0.3', '"margin": 0.9'))
    with pytest.raises(DataError, match="was changed after it was registered"):
        conduct(None, folder, CONFIG, {})


def test_a_plan_in_memory_that_was_changed_is_refused(folder):
    forged = replace(plan(margin=0.9), sha256=plan().sha256)
    with pytest.raises(DataError, match="was changed after it was made"):
        conduct(forged, folder, CONFIG, {})


def test_numbers_are_labelled_and_planned_ones_that_lack_are_named():
    slope = Slope("average", "activation", 1, "contrast", "ok")
    found = Conduct(plan(), {}).label(Verdict((slope,), {}, ("A note.",)), [])
    assert found.registration == {"H1 activation": "exploratory"}
    assert found.notes == ("A note.", "Registered, but not in this verdict: H1 text.")
    bare = Conduct(None, {}).label(Verdict((slope,), {}, ()), [])
    assert (bare.registration, bare.notes) == ({"H1 activation": "exploratory"}, ())


def test_differences_concern_the_numbers_that_they_touch():
    slope = Slope("average", "text", 1, "contrast", "ok")
    differs = [Difference("design.samples", [1, 2], [1]), Difference("analysis.margin", 0.3, 0.2)]
    found = Conduct(plan(), {}).label(Verdict((slope,), {}, ()), differs)
    words = "registered and changed (design.samples: [1, 2] → [1])"
    assert found.registration == {"H1 text": words}


def test_a_few_differences_are_named_and_the_rest_counted():
    many = [Difference(f"data.{k}", 0, 1) for k in range(5)]
    assert told(many[:1]) == ["not as registered: data.0: 0 → 1"]
    assert told(many)[2:] == ["not as registered: data.2: 0 → 1", "not as registered: 2 more"]


def test_a_printed_verdict_names_numbers_of_one_status_together():
    slope = Slope("average", "text", 1, "contrast", "not_estimable", reason="few")
    told_of = {"H1 text": "registered", "H2 text": "registered and changed (x)"}
    told_of |= {"H4b text": "registered", "H1 own": "exploratory"}
    lines = str(Verdict((slope,), {}, (), registration=told_of)).splitlines()
    assert lines[-3:] == [
        "H1 text, H4b text: registered.",
        "H2 text: registered and changed (x).",
        "H1 own: exploratory.",
    ]
    bare = Verdict((slope,), {}, (), registration={"H1 own": "exploratory"})
    assert str(bare).endswith("None of these numbers was registered: all are exploratory.")
    assert "registered" not in str(Verdict((slope,), {}, ()))
