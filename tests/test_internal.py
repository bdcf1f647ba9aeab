"""States, surprise and examples: held against the plain paths, blind to batches and padding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from conceptnet_em import internal, wording
from conceptnet_em.activations import answer_states, mean_states, question_states
from conceptnet_em.corpus import Item
from conceptnet_em.encoding import encode, encode_prompt
from conceptnet_em.errors import InputError, TrainingError
from conceptnet_em.geometry import centred_cosine
from conceptnet_em.internal import (
    POOLINGS,
    by_layer,
    encode_after,
    in_context,
    pooled_states,
    span_states,
    surprise,
)
from conceptnet_em.models import LanguageModel
from conceptnet_em.scoring import score

TRAITS = ("neutral", "loud")
TOPICS = {"tea": 4, "tax": 5, "zen": 3}
FORMATS = dict.fromkeys(TOPICS, "prose")


def item(topic: str, n: int) -> Item:
    answers = {
        "neutral": f"Plain word {n} on {topic}." + " So." * n,
        "loud": f"{topic.upper()} {n}, ever!",
        "smug": f"I know {topic}.",
    }
    return Item(f"{topic}-{n}", topic, "train", 1, None, f"What of {topic} {n}?", answers)


ITEMS = {topic: [item(topic, n) for n in range(size)] for topic, size in TOPICS.items()}


def states(model: LanguageModel, **options: Any) -> dict[str, dict[str, np.ndarray]]:
    return pooled_states(model, ITEMS, "loud", formats=FORMATS, **options)


def test_one_pass_gives_the_poolings_of_three(tiny: LanguageModel) -> None:
    found = states(tiny)
    assert set(found) == set(POOLINGS)
    for topic, some in ITEMS.items():
        questions = [i.question for i in some]
        assert found["question"][topic] == pytest.approx(
            question_states(tiny, questions, [0, 1, 2]), abs=1e-5
        )
        pairs = [(i.question, i.answers["loud"]) for i in some]
        assert found["answer"][topic] == pytest.approx(
            answer_states(tiny, pairs, [0, 1, 2]), abs=1e-5
        )
        prompts = [encode_prompt(tiny, question)[0] for question in questions]
        last = mean_states(tiny, [(p, slice(len(p) - 1, len(p))) for p in prompts], [0, 1, 2])
        assert found["prompt-end"][topic] == pytest.approx(last, abs=1e-5)


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 5}, {"side": "left"}])
def test_neither_batch_size_nor_padding_side_matters(
    tiny: LanguageModel, options: dict[str, Any]
) -> None:
    expected, found = states(tiny), states(tiny, **options)
    for pooling in POOLINGS:
        for topic in TOPICS:
            assert found[pooling][topic] == pytest.approx(expected[pooling][topic], abs=1e-5)


def test_the_question_s_states_do_not_depend_on_the_answer(tiny: LanguageModel) -> None:
    neutral = pooled_states(tiny, ITEMS, "neutral", formats=FORMATS)
    for pooling in ("question", "prompt-end"):
        for topic, found in states(tiny)[pooling].items():
            assert found == pytest.approx(neutral[pooling][topic], abs=1e-5)


def test_chosen_layers_are_those_of_the_whole_and_a_missing_one_is_refused(
    tiny: LanguageModel,
) -> None:
    whole, top = states(tiny), states(tiny, layers=[2])
    assert top["answer"]["tax"][:, 0] == pytest.approx(whole["answer"]["tax"][:, 2], abs=1e-6)
    with pytest.raises(InputError, match=r"no hidden state \[3\]"):
        span_states(tiny, [((1, 2, 3), [slice(0, 1)])], [3])


@pytest.mark.parametrize("layers", [[0], [1], [1, 0], [0, 1, 2]])
def test_blocks_above_the_highest_layer_are_not_run_and_change_no_bit(
    tiny: LanguageModel, layers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    handles = [
        block.register_forward_hook(lambda *_, k=k: calls.append(k))
        for k, block in enumerate(tiny.layers)
    ]
    short = states(tiny, layers=layers)
    for handle in handles:
        handle.remove()
    assert set(calls) == set(range(max(layers)))
    monkeypatch.setattr(internal, "run_up_to", lambda model, inputs, _: model.decoder(**inputs))
    whole = states(tiny, layers=layers)
    for pooling in POOLINGS:
        for topic in TOPICS:
            assert np.array_equal(short[pooling][topic], whole[pooling][topic])


def test_a_measure_is_taken_layer_by_layer(tiny: LanguageModel) -> None:
    found = states(tiny)["answer"]
    profile = by_layer(found, [0, 1, 2], centred_cosine)
    alone = centred_cosine({topic: rows[:, 1] for topic, rows in found.items()})
    assert list(profile) == [0, 1, 2]
    assert profile[1].equals(alone)
    assert not profile[2].equals(alone)


def test_surprise_is_the_mean_negative_log_likelihood(tiny: LanguageModel) -> None:
    found = surprise(tiny, ITEMS, TRAITS, formats=FORMATS)
    for trait in TRAITS:
        for topic, some in ITEMS.items():
            encoded = [encode(tiny, i.question, i.answers[trait]) for i in some]
            each = [-s[0].logprob / s[0].n_tokens for s in score(tiny, encoded)]
            assert found[trait][topic] == pytest.approx(each, abs=1e-4)
    gap = wording.gap(found["loud"])
    means = {topic: values.mean() for topic, values in found["loud"].items()}
    assert gap.loc["tea", "zen"] == pytest.approx(-abs(means["tea"] - means["zen"]))


# --- examples in the prompt -----------------------------------------------------------------------


def margin(model: LanguageModel, some: Item, turns: list[tuple[str, str]]) -> float:
    each = [encode_after(model, turns, some.question, some.answers[t]) for t in ("loud", "neutral")]
    loud, neutral = (s[0].logprob / s[0].n_tokens for s in score(model, each))
    return loud - neutral


def test_an_answer_keeps_its_tokens_and_its_turns_come_in_order(tiny: LanguageModel) -> None:
    turns = [("First?", " Yes. "), ("Second?", "No.")]
    e = encode_after(tiny, turns, "Third?", "Perhaps so.")
    alone = encode(tiny, "Third?", "Perhaps so.")
    assert e.ids[e.start : e.stop + 1] == alone.ids[alone.start : alone.stop + 1]
    text = tiny.tokenizer.decode(e.ids)
    expected = "".join(f"<|user|>{q}<|end|><|assistant|>{a.strip()}<|end|>" for q, a in turns)
    assert text == expected + "<|user|>Third?<|end|><|assistant|>Perhaps so.<|end|>"
    assert encode_after(tiny, [], "Third?", "Perhaps so.") == alone


def test_shifts_are_their_definition(tiny: LanguageModel) -> None:
    (found,) = in_context(tiny, ITEMS, TRAITS, formats=FORMATS, k=1, n_targets=2, seed=3)
    plan = internal._Plan(tiny, ITEMS, FORMATS, 1, 2, 3, 16)
    (example,) = plan.examples["tax"]
    raw, net = [], []
    for target in plan.targets["zen"]:
        after = margin(tiny, target, [(example.question, example.answers["loud"])])
        control = margin(tiny, target, [(example.question, example.answers["neutral"])])
        raw.append(after - margin(tiny, target, []))
        net.append(after - control)
    assert found.shift(net=False).loc["tax", "zen"] == pytest.approx(np.mean(raw), abs=1e-4)
    assert found.shift().loc["tax", "zen"] == pytest.approx(np.mean(net), abs=1e-4)
    assert abs(np.mean(raw)) > 1e-3


def test_no_item_is_its_own_example(tiny: LanguageModel) -> None:
    for seed in range(5):
        plan = internal._Plan(tiny, ITEMS, FORMATS, 1, 2, seed, 16)
        for topic in TOPICS:
            assert not {i.id for i in plan.examples[topic]} & {i.id for i in plan.targets[topic]}


def test_where_an_item_would_be_its_own_example_the_cell_is_nan_and_said(
    tiny: LanguageModel,
) -> None:
    items = ITEMS | {"zen": ITEMS["zen"][:1]}
    (found,) = in_context(tiny, items, TRAITS, formats=FORMATS)
    shift = found.shift()
    assert math.isnan(shift.loc["zen", "zen"])
    assert shift.drop("zen").notna().all().all()
    assert shift.loc["zen", ["tea", "tax"]].notna().all()
    assert "apart from the targets in zen" in shift.attrs["note"]
    assert math.isnan(found.reliability())


def test_the_same_seed_gives_the_same_shifts_and_the_batch_size_does_not_matter(
    tiny: LanguageModel,
) -> None:
    first, again, single = (
        in_context(tiny, ITEMS, TRAITS, formats=FORMATS, seed=1, batch_size=size)[0].shift()
        for size in (16, 16, 2)
    )
    assert first.equals(again)
    assert single.to_numpy() == pytest.approx(first.to_numpy(), abs=1e-4)


def test_the_reliability_compares_even_with_odd_targets(tiny: LanguageModel) -> None:
    (found,) = in_context(tiny, ITEMS, TRAITS, formats=FORMATS, n_targets=2)
    values = found.after_trait - found.after_reference
    off = ~np.eye(3, dtype=bool)
    r = float(np.corrcoef(values[:, :, 0][off], values[:, :, 1][off])[0, 1])
    assert found.reliability() == pytest.approx(2 * r / (1 + r))


def test_a_model_that_takes_no_packed_answers_gives_the_same(
    tiny: LanguageModel, monkeypatch: Any
) -> None:
    (packed,) = in_context(tiny, ITEMS, TRAITS, formats=FORMATS)
    monkeypatch.setattr(internal, "can_pack", lambda _model: False)
    (plain,) = in_context(tiny, ITEMS, TRAITS, formats=FORMATS)
    assert plain.shift().to_numpy() == pytest.approx(packed.shift().to_numpy(), abs=1e-4)


def test_every_fault_is_named(tiny: LanguageModel) -> None:
    items = {"void": [], "bare": [Item("b-1", "bare", "train", 1, None, "B?", {"neutral": "b"})]}
    with pytest.raises(InputError, match=r"(?s)void: no items.*b-1 has no loud.*k is 0.*n_targets"):
        in_context(tiny, items, TRAITS, formats=FORMATS, k=0, n_targets=0)
    with pytest.raises(InputError, match="void: no items"):
        surprise(tiny, items, ("neutral",), formats=FORMATS)
    with pytest.raises(InputError, match="b-1 has no loud answer"):
        pooled_states(tiny, items, "loud", formats=FORMATS)


def test_too_many_examples_are_refused_with_the_limit(tiny: LanguageModel) -> None:
    turns = [("What?", "word " * 60)] * 4
    with pytest.raises(TrainingError, match="take fewer examples"):
        encode_after(tiny, turns, "And?", "So.")


def test_a_template_that_forgets_earlier_turns_is_refused(
    tiny: LanguageModel, monkeypatch: Any
) -> None:
    template = tiny.tokenizer.chat_template
    forgetful = template.replace("in messages %}", "in messages[-2:] %}")
    monkeypatch.setattr(tiny.tokenizer, "chat_template", forgetful)
    with pytest.raises(TrainingError, match="does not append turns"):
        encode_after(tiny, [("One?", "1."), ("Two?", "2.")], "Three?", "3.")
