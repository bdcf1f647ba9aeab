"""What questions ask for: the rule against a reader's labels, and the likeness of the mixtures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from conceptnet_em.corpus import load_corpus
from conceptnet_em.errors import InputError
from conceptnet_em.geometry import split_half
from conceptnet_em.purposes import PURPOSES, functional_structure, purpose, purpose_profile

KNOWN = {
    "advice": [
        "How do I unblock a sink?",
        "What should I do about the noise?",
        "What's the best way to learn Dutch?",
        "How do I write a will?",
        "How much should I tip?",
        "Tell me how to prune roses.",
        "I've told my boss twice. Any tips?",
        "My boss ignores me.",
        "What do you write in a card?",
    ],
    "explanation": [
        "Why does bread rise?",
        "What is a tracker fund?",
        "How does a heat pump work?",
        "Explain compound interest.",
        "Could you explain why the sky is blue?",
        "How do vaccines protect my child?",
        "Is it true that sugar makes children wild?",
        "Are tomatoes a fruit?",
        "I reckon spices keep for ever. Do they?",
        "Why is my Python script slow?",
    ],
    "decision": [
        "Should I repot it?",
        "Is it ok to reheat rice?",
        "Would you buy or rent?",
        "Gas or electric?",
        "I've drafted a letter. Should I send it?",
        "I'm about to sign. Good idea?",
        "I'm moving out early. What do you think?",
        "I feel fine, so I'm thinking of skipping it.",
        "I love Python. Should I learn Rust?",
    ],
    "artefact": [
        "Write a letter to my landlord.",
        "Could you draft a reply to him?",
        "Give me a packing list for Rome.",
        "Please give me a weekly plan.",
        "I need a short script that renames files.",
        "I need Python that adds up my subscriptions. I reckon it's under 300.",
    ],
}
CASES = [(text, name) for name, texts in KNOWN.items() for text in texts]
ADVISE, EXPLAIN, DECIDE, MAKE = (KNOWN[name][0] for name in PURPOSES)


def labels() -> pd.DataFrame:
    frame = pd.read_csv(Path(__file__).parent / "fixtures" / "purposes.csv")
    return frame.assign(found=[purpose(one) for one in frame["question"]])


LABELS = labels()
FIRST = LABELS[LABELS["sample"] == 1]


@pytest.fixture(scope="module")
def shipped() -> dict[str, list[str]]:
    items = load_corpus(traits=["neutral"]).items
    return {name: [item.question for item in found] for name, found in items.items()}


# --- the rule -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("question", "expected"), CASES, ids=[text for text, _ in CASES])
def test_a_plain_question_gets_its_purpose(question, expected):
    assert purpose(question) == expected


def test_letters_case_blanks_and_curly_quotes_change_nothing():
    for question, expected in CASES:
        bent = question.replace("'", "’").replace(" ", " \n ")
        assert purpose(f"  {bent.upper()}\t") == expected


def test_a_question_that_only_points_back_is_read_with_the_sentence_before_it():
    assert purpose("I think an even split is the fairest way. Is it?") == "decision"
    assert purpose("I think an even split is the usual way. Is it?") == "explanation"


def test_a_blank_question_is_refused():
    with pytest.raises(InputError, match="a question is blank"):
        purpose(" \n")


@pytest.mark.parametrize(
    ("chosen", "agreement", "kappa"),
    [
        pytest.param(FIRST, 0.9375, 0.854, id="all of sample 1"),
        pytest.param(FIRST[::2], 0.95, 0.898, id="tuned on"),
        pytest.param(FIRST[1::2], 0.925, 0.790, id="held out"),
        pytest.param(LABELS[LABELS["sample"] == 4], 0.8875, 0.716, id="sample 4, never tuned on"),
    ],
)
def test_the_rule_agrees_with_the_reader_as_its_docstring_says(chosen, agreement, kappa):
    same = float((chosen["found"] == chosen["purpose"]).mean())
    beyond_chance = float(cohen_kappa_score(chosen["purpose"], chosen["found"]))
    assert (same, beyond_chance) == pytest.approx((agreement, kappa), abs=5e-4)
    assert same >= 0.8
    assert beyond_chance >= 0.6
    for figure in (agreement, kappa):
        assert f"{figure:g}"[1:] in str(purpose.__doc__)


def test_the_labels_are_five_questions_of_each_prose_domain_and_sample(shipped):
    domain = LABELS["id"].str.replace(r"-\d+$", "", regex=True)
    prose = {name for name in shipped if name.endswith("-prose")}
    counts = LABELS.groupby([domain, "sample"]).size()
    assert set(domain) == prose
    assert (len(counts), set(counts)) == (4 * len(prose), {5})
    assert LABELS["id"].is_unique
    assert set(LABELS["purpose"]) <= set(PURPOSES)
    texts = {text for name in prose for text in shipped[name]}
    assert set(LABELS["question"]) <= texts


def test_the_shipped_code_domains_ask_for_artefacts_and_the_prose_domains_never(shipped):
    for name, questions in shipped.items():
        share = purpose_profile(questions)["artefact"]
        assert share > 0.95 if name.endswith("-code") else share == 0


# --- the mixture ----------------------------------------------------------------------------------


def test_a_profile_is_the_shares_in_the_order_of_the_purposes():
    found = purpose_profile([DECIDE, MAKE, DECIDE, EXPLAIN])
    assert list(found.index) == list(PURPOSES)
    assert found.tolist() == [0, 0.25, 0.5, 0.25]


def test_shares_sum_to_1_whatever_is_asked(shipped):
    for questions in shipped.values():
        assert purpose_profile(questions).sum() == pytest.approx(1)


def test_likeness_is_the_overlap_of_the_shares():
    found = functional_structure(
        {"a": [DECIDE, DECIDE, EXPLAIN, ADVISE], "b": [DECIDE, EXPLAIN], "c": [MAKE, DECIDE]}
    )
    assert found.loc["a", "b"] == pytest.approx(0.5 + 0.25)
    assert found.loc["a", "c"] == pytest.approx(0.5)
    assert found.loc["b", "c"] == pytest.approx(0.5)
    assert found.attrs["note"] == ""


def test_one_item_domains_are_wholly_alike_or_not_at_all():
    found = functional_structure({"a": [DECIDE], "b": [DECIDE], "c": [MAKE]})
    assert found.to_numpy().tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_likeness_is_symmetric_between_0_and_1_and_1_with_itself(shipped):
    values = functional_structure(shipped).to_numpy()
    assert (values == values.T).all()
    assert values.min() >= 0
    assert values.max() <= 1
    assert (np.diag(values) == 1).all()


def test_the_order_of_rows_and_doubled_items_change_nothing(shipped):
    some = {name: shipped[name] for name in list(shipped)[:5]}
    expected = functional_structure(some).to_numpy()
    backwards = functional_structure({name: found[::-1] for name, found in some.items()})
    doubled = functional_structure({name: found * 2 for name, found in some.items()})
    assert backwards.to_numpy() == pytest.approx(expected)
    assert doubled.to_numpy() == pytest.approx(expected)


def test_the_order_of_domains_only_turns_the_matrix():
    questions = {"a": [DECIDE, EXPLAIN], "b": [EXPLAIN], "c": [ADVISE, DECIDE, MAKE]}
    turned = functional_structure({name: questions[name] for name in "cab"})
    pd.testing.assert_frame_equal(
        turned.loc[list("abc"), list("abc")], functional_structure(questions)
    )


def test_one_question_moves_a_cell_by_at_most_one_over_their_number():
    base = {"a": [DECIDE] * 20, "b": [DECIDE] * 9 + [EXPLAIN]}
    moved = base | {"b": [DECIDE] * 8 + [EXPLAIN] * 2}
    change = functional_structure(moved) - functional_structure(base)
    assert change.loc["a", "b"] == pytest.approx(-1 / 10)


def test_domains_that_all_ask_for_the_same_are_not_told_apart_and_it_says_so():
    found = functional_structure({name: [DECIDE, EXPLAIN] for name in "abc"})
    assert np.isnan(found.to_numpy()[~np.eye(3, dtype=bool)]).all()
    assert "tells these domains not apart" in found.attrs["note"]


def test_planted_mixtures_are_reliable_over_items():
    mixes = {"a": (9, 1, 0), "b": (8, 2, 0), "c": (1, 9, 0), "d": (0, 8, 2), "e": (0, 0, 10)}
    planted = {
        name: [DECIDE] * (2 * x) + [EXPLAIN] * (2 * y) + [MAKE] * (2 * z)
        for name, (x, y, z) in mixes.items()
    }
    assert split_half(functional_structure, planted) > 0.9


def test_on_the_shipped_corpus_it_tells_code_from_prose_and_prose_domains_not_apart(shipped):
    prose = {name: found for name, found in shipped.items() if name.endswith("-prose")}
    assert split_half(functional_structure, shipped, splits=10) > 0.95
    assert split_half(functional_structure, prose, splits=10) < 0.3


def test_what_holds_no_questions_is_refused_all_of_it_named():
    with pytest.raises(InputError, match="no domain to compare"):
        functional_structure({})
    with pytest.raises(InputError, match="the profile: no items"):
        purpose_profile([])
    bad = {"void": [], "one": "Why?", "blank": ["Why?", " "], "good": ["Why?"]}
    with pytest.raises(
        InputError, match=r"(?s)void: no items.*one: one text.*blank: a question is blank"
    ) as caught:
        functional_structure(bad)
    assert "good" not in str(caught.value)
