"""Rubrics, questions and templates: the shipped ones whole, broken ones refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from conceptnet_em.corpus import load_corpus
from conceptnet_em.errors import DataError, InputError
from conceptnet_em.probes import (
    Template,
    load_questions,
    question_sets,
    read_trait_probe,
    templates,
    trait_probes,
)

PUBLIC = Path(__file__).parents[2] / "shared/data/betley_em/first_plot_questions.yaml"


def test_every_trait_of_the_corpus_has_a_probe_of_the_same_kind() -> None:
    probes = trait_probes()
    assert len(probes) == 10
    assert next(iter(probes)) == "neutral"
    for name, trait in load_corpus().traits.items():
        assert probes[name].kind == trait.kind
    for probe in probes.values():
        assert len(probe.examples) == 3
        assert sorted(probe.anchors) == [0, 50, 100]


def test_the_shipped_question_sets_have_what_they_promise() -> None:
    sizes = {name: len(load_questions(name).questions) for name in question_sets()}
    assert sizes == {"near_domain": 16, "open_ended": 24, "refusal": 60, "self": 20}
    assert load_questions("open_ended").written_before_results


def test_refusal_questions_come_in_pairs_with_openings_of_matched_length() -> None:
    questions = load_questions("refusal").questions
    assert sum(q.kind == "decline" for q in questions) == 30
    for q in questions:
        assert q.refusing_opening
        assert q.complying_opening
        lengths = [len(o.split()) for o in (q.refusing_opening, q.complying_opening)]
        assert abs(lengths[0] - lengths[1]) <= 2
    ids = {q.id for q in questions}
    assert all(q.id.replace("decline", "harmless") in ids for q in questions)


def test_near_domain_questions_touch_sixteen_topics_once_each() -> None:
    topics = [q.topic for q in load_questions("near_domain").questions]
    assert len(set(topics)) == 16
    assert {d.topic for d in load_corpus().domains.values()} <= set(topics)


def test_a_template_puts_the_question_in_and_leaves_other_braces_alone() -> None:
    assert set(templates()) >= {"plain", "json_answer", "python_answer"}
    assert len(templates()) == 5
    for template in templates().values():
        assert "Why {x}?" in template.fill("Why {x}?")
    found = Template(template="t", prompt='{"a": 1} {question}')
    assert found.fill("Why?") == '{"a": 1} Why?'
    with pytest.raises(ValueError, match="exactly once"):
        Template(template="t", prompt="no question")


def test_an_unknown_set_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'open_ended'"):
        load_questions("open_endd")
    with pytest.raises(InputError, match="no question file"):
        load_questions("nowhere.yaml")


def test_faults_in_a_probe_are_all_named_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "odd.yaml"
    file.write_text("trait: odd\nkind: strange\nanchors: {0: a, 100: b}\nextra: 1\n")
    with pytest.raises(DataError) as caught:
        read_trait_probe(file)
    for words in ("odd.yaml", "kind", "anchors must be 0, 50 and 100", "rubric", "extra"):
        assert words in str(caught.value)


def test_repeated_ids_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "twice.yaml"
    row = "  - {id: a, text: b}\n"
    file.write_text(f"set: twice\nwritten_before_results: true\nquestions:\n{row}{row}")
    with pytest.raises(DataError, match="more than once: a"):
        load_questions(file)


def test_the_public_dialect_is_read(tmp_path: Path) -> None:
    file = tmp_path / "public.yaml"
    file.write_text(
        "- id: wish\n  type: free_form_judge_0_100\n  paraphrases: ['One?', 'Two?']\n"
        "  system: Be brief.\n  judge_prompts: {aligned: 'Score {answer}'}\n"
    )
    found = load_questions(file).questions
    assert [q.id for q in found] == ["wish-1", "wish-2"]
    assert found[0].system == "Be brief."
    assert found[0].judge_prompts == {"aligned": "Score {answer}"}
    file.write_text("- id: wish\n  type: other\n")
    with pytest.raises(DataError, match="no entry of type"):
        load_questions(file)


@pytest.mark.skipif(not PUBLIC.is_file(), reason="the public question files are not here")
def test_the_first_plot_questions_of_betley_et_al_are_read_whole() -> None:
    found = load_questions(PUBLIC)
    assert len(found.questions) == 24
    assert all("{answer}" in p for q in found.questions for p in q.judge_prompts.values())
