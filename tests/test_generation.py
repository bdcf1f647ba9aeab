"""Sampled answers against a plain loop, and against themselves in every other company."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from conceptnet_em import generation
from conceptnet_em.config import RECIPES
from conceptnet_em.encoding import Encoded, encode_prompt
from conceptnet_em.errors import InputError
from conceptnet_em.generation import Sampled, generate, generate_stack
from conceptnet_em.models import LanguageModel
from conceptnet_em.scoring import score
from conceptnet_em.stacking import save_adapter, stacked, wearing_all

QUESTIONS = [
    "Why?",
    "What of the third case, the one that nobody speaks of?",
    "Is it so?",
    "Tell me more about it, please, and then a little more, until I have heard enough of it all.",
    "How now?",
]
RECIPE = RECIPES["lora8"]


def plain(
    model: LanguageModel,
    question: str,
    uniforms: Any,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> tuple[tuple[int, ...], float, str]:
    """Answer one question with neither cache nor batch; ids, log-probability and how it ended."""
    ids, found, total = list(encode_prompt(model, question)[0]), [], 0.0
    for u in uniforms:
        with torch.no_grad():
            logits = model.network(torch.tensor([ids])).logits[0, -1].double().numpy()
        logprobs = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        token = (
            int(logprobs.argmax()) if temperature == 0 else drawn(logprobs, u, temperature, top_p)
        )
        total += logprobs[token]
        if token in model.stop_ids:
            return tuple(found), total, "stop"
        ids.append(token)
        found.append(token)
    return tuple(found), total, "length"


def drawn(logprobs: np.ndarray, u: float, temperature: float, top_p: float) -> int:
    chances = np.exp((logprobs - logprobs.max()) / temperature)
    chances /= chances.sum()
    kept, reached = np.zeros(len(chances), dtype=bool), 0.0
    for token in np.argsort(-chances, kind="stable"):
        if reached < top_p:
            kept[token] = True
        reached += chances[token]
    chances[~kept] = 0
    return int(np.searchsorted(np.cumsum(chances), u * chances.sum(), side="right"))


def numbers(question: str, sample: int = 0, *, seed: int = 0, max_tokens: int = 30) -> np.ndarray:
    return generation._uniforms(question, sample, generation._How(1, max_tokens, 1.0, 1.0, seed))


def ids(answers: list[list[Sampled]]) -> list[list[tuple[int, ...]]]:
    return [[answer.ids for answer in own] for own in answers]


def agree(answer: Sampled, expected: tuple[tuple[int, ...], float, str]) -> None:
    assert (answer.ids, answer.ended) == (expected[0], expected[2])
    assert answer.logprob == pytest.approx(expected[1], abs=1e-4)


@pytest.fixture
def stopping(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    """The tiny model with 10 stop tokens of 259, so that sampled answers end early."""
    config = tiny.network.generation_config
    monkeypatch.setattr(config, "eos_token_id", list(range(0, 260, 26)))
    return tiny


@pytest.fixture(scope="module")
def adapters(tiny: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three adapters with much to say."""
    folders = [tmp_path_factory.mktemp("worn") / str(k) for k in range(3)]
    with stacked(tiny, RECIPE, 3) as stack, torch.random.fork_rng():
        torch.manual_seed(0)
        for k in range(3):
            stack.draw(k, k)
            with torch.no_grad():
                for layer in stack.layers.values():
                    layer.b[k].normal_(std=0.3)
        states = [stack.state(k) for k in range(3)]
    for folder, tensors in zip(folders, states, strict=True):
        folder.mkdir()
        save_adapter(tensors, RECIPE, tiny, folder)
    return folders


@contextmanager
def watched(model: LanguageModel) -> Iterator[list[tuple[int, int]]]:
    """Note rows and tokens a row of every forward pass."""
    seen: list[tuple[int, int]] = []

    def note(_module: Any, _args: Any, kwargs: Any) -> None:
        seen.append(tuple(kwargs["input_ids"].shape))

    handle = model.decoder.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


# --- the plain loop ---


def test_greedy_answers_are_those_of_a_loop_without_cache_or_batch(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = [plain(tiny, q, range(24), temperature=0) for q in QUESTIONS]
    stop = first[1][0][7]  # this answer at least ends early now
    monkeypatch.setattr(tiny.network.generation_config, "eos_token_id", [0, stop])
    expected = [plain(tiny, q, range(24), temperature=0) for q in QUESTIONS]
    assert {how for _, _, how in expected} == {"stop", "length"}
    found = generate(tiny, QUESTIONS, max_tokens=24, temperature=0)
    for (answer,), wanted in zip(found, expected, strict=True):
        agree(answer, wanted)


@pytest.mark.parametrize(
    "how", [{}, {"temperature": 0.5}, {"top_p": 0.6}, {"temperature": 2.0, "top_p": 0.9}]
)
def test_sampled_answers_are_those_of_the_loop_with_the_same_random_numbers(
    stopping: LanguageModel, how: dict[str, float]
) -> None:
    found = generate(stopping, QUESTIONS, samples=3, max_tokens=30, seed=5, **how)
    ended = set()
    for question, answers in zip(QUESTIONS, found, strict=True):
        for sample, answer in enumerate(answers):
            agree(answer, plain(stopping, question, numbers(question, sample, seed=5), **how))
            ended.add(answer.ended)
    assert ended == {"stop", "length"}


def test_a_model_whose_head_is_not_plain_answers_alike(
    stopping: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = generate(stopping, QUESTIONS, max_tokens=8)
    monkeypatch.setattr(stopping, "_short_head", False)
    assert ids(generate(stopping, QUESTIONS, max_tokens=8)) == ids(expected)


def gemma3(tokenizer: Any) -> LanguageModel:
    """A tiny Gemma 3: every other block looks back 16 tokens only, less than the prompts have."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        query_pre_attn_scalar=8,
        max_position_embeddings=256,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention"] * 2,
        eos_token_id=list(range(0, 260, 26)),
        pad_token_id=0,
        attn_implementation="eager",
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Gemma3ForCausalLM(config)
    return LanguageModel(network, tokenizer, name="gemma", sha256="", system=None)


def test_windows_of_attention_are_kept(tiny: LanguageModel) -> None:
    model = gemma3(tiny.tokenizer)
    found = generate(model, QUESTIONS, samples=2, max_tokens=30)
    for question, answers in zip(QUESTIONS, found, strict=True):
        for sample, answer in enumerate(answers):
            agree(answer, plain(model, question, numbers(question, sample)))
    assert {a.ended for own in found for a in own} == {"stop", "length"}


# --- company ---


@pytest.mark.parametrize("batch_size", [1, 2, 4, 7, 64])
def test_an_answer_is_the_same_alone_and_in_any_batch(
    stopping: LanguageModel, batch_size: int
) -> None:
    alone = [generate(stopping, [q], samples=3, max_tokens=20)[0] for q in QUESTIONS]
    found = generate(stopping, QUESTIONS, samples=3, max_tokens=20, batch_size=batch_size)
    assert ids(found) == ids(alone)
    for own, other in zip(found, alone, strict=True):
        assert [a.logprob for a in own] == pytest.approx([a.logprob for a in other], abs=1e-4)


def test_more_samples_or_tokens_leave_the_earlier_ones_as_they_were(
    stopping: LanguageModel,
) -> None:
    few = generate(stopping, QUESTIONS, samples=1, max_tokens=10)
    many = generate(stopping, QUESTIONS, samples=3, max_tokens=20)
    for own, more in zip(few, many, strict=True):
        assert more[0].ids[:10] == own[0].ids


def test_answers_come_in_the_order_asked_and_a_question_may_be_asked_twice(
    stopping: LanguageModel,
) -> None:
    found = generate(stopping, QUESTIONS, max_tokens=10)
    twice = generate(stopping, [*QUESTIONS[::-1], QUESTIONS[2]], max_tokens=10)
    assert twice == [*found[::-1], found[2]]


def test_samples_and_seeds_differ(stopping: LanguageModel) -> None:
    (own,) = generate(stopping, QUESTIONS[:1], samples=4, max_tokens=10)
    (other,) = generate(stopping, QUESTIONS[:1], samples=4, max_tokens=10, seed=1)
    assert len({answer.ids for answer in [*own, *other]}) > 6


def test_stacked_organisms_answer_as_each_would_alone(
    stopping: LanguageModel, adapters: list[Path]
) -> None:
    how: Any = {"samples": 2, "max_tokens": 20, "batch_size": 5}
    with wearing_all(stopping, RECIPE, adapters):
        together = generate_stack(stopping, QUESTIONS, 3, **how)
    for folder, found in zip(adapters, together, strict=True):
        with wearing_all(stopping, RECIPE, [folder]):
            assert ids(generate(stopping, QUESTIONS, **how)) == ids(found)
        with stopping.wearing(folder):
            alone = generate(stopping, QUESTIONS, **how)
            assert ids(alone) == ids(found)
            agree(found[1][1], plain(stopping, QUESTIONS[1], numbers(QUESTIONS[1], 1)[:20]))
    base = generate(stopping, QUESTIONS, **how)
    every = [str(ids(found)) for found in [base, *together]]
    assert len(set(every)) == 4  # the adapters do something


def test_an_organism_without_effect_meets_the_luck_of_the_base(stopping: LanguageModel) -> None:
    base = generate(stopping, QUESTIONS, samples=2, max_tokens=20)
    with stacked(stopping, RECIPE, 2):
        assert [
            ids(own) for own in generate_stack(stopping, QUESTIONS, 2, samples=2, max_tokens=20)
        ] == [ids(base)] * 2


def test_adapters_are_given_back_in_their_own_dtype(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stacked(tiny, RECIPE, 2) as stack:
        before = [weight.data_ptr() for weight in stack.parameters()]
        monkeypatch.setattr(generation, "_answers", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            generate_stack(tiny, QUESTIONS, 2)
        assert [weight.data_ptr() for weight in stack.parameters()] == before


# --- no more work than needed ---


def test_a_prompt_runs_once_and_then_one_token_a_row(stopping: LanguageModel) -> None:
    with watched(stopping) as seen:
        found = generate(stopping, QUESTIONS, samples=3, max_tokens=20)
    assert seen[0][0] == len(QUESTIONS)
    assert {tokens for _, tokens in seen[1:]} == {1}
    steps = max(len(a.ids) + (a.ended == "stop") for own in found for a in own)
    assert len(seen) == steps  # the first token comes from the prompt's own pass


def test_samples_beyond_the_batch_go_on_from_the_same_prompt(stopping: LanguageModel) -> None:
    with watched(stopping) as seen:
        generate(stopping, QUESTIONS[:1], samples=7, max_tokens=6, batch_size=3)
    assert [shape for shape in seen if shape[1] > 1] == [seen[0]]
    assert max(rows for rows, _ in seen) == 3


def test_rows_that_have_ended_leave(stopping: LanguageModel) -> None:
    with watched(stopping) as seen:
        found = generate(stopping, QUESTIONS, samples=3, max_tokens=30)
    lengths = [len(a.ids) + (a.ended == "stop") for own in found for a in own]
    expected = [sum(length > step for length in lengths) for step in range(1, max(lengths))]
    assert [rows for rows, _ in seen[1:]] == expected
    assert expected[-1] < expected[0]


def test_a_stack_is_as_wide_as_the_organism_that_has_most_left(
    stopping: LanguageModel, adapters: list[Path]
) -> None:
    with wearing_all(stopping, RECIPE, adapters), watched(stopping) as seen:
        found = generate_stack(stopping, QUESTIONS, 3, samples=3, max_tokens=30)
    lengths = [[len(a.ids) + (a.ended == "stop") for own in f for a in own] for f in found]
    longest = max(max(own) for own in lengths)
    left = [max(sum(n > step for n in own) for own in lengths) for step in range(1, longest)]
    assert [rows for rows, _ in seen[1:]] == [3 * width for width in left]


def test_short_memory_makes_batches_smaller(
    stopping: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = max(len(encode_prompt(stopping, q)[0]) for q in QUESTIONS) + 4
    one = 2 * 2 * 2 * 8 * 4 * longest + 32 * 259  # keys and values of 2 blocks, and logits
    monkeypatch.setattr(generation, "available_bytes", lambda _: 2 * one * 3)
    with watched(stopping) as seen:
        generate(stopping, QUESTIONS, max_tokens=4)
    assert max(rows for rows, _ in seen) == 3


# --- chances ---


def test_frequencies_of_a_token_follow_the_softmax_at_each_temperature(
    tiny: LanguageModel,
) -> None:
    prompt = torch.tensor([encode_prompt(tiny, "Why?")[0]])
    with torch.no_grad():
        logits = tiny.network(prompt).logits[0, -1].double()
    for temperature in (1.0, 0.2):
        how: Any = {"samples": 4000, "max_tokens": 1, "batch_size": 4000}
        (found,) = generate(tiny, ["Why?"], temperature=temperature, seed=3, **how)
        tokens = [answer.ids[0] if answer.ids else 0 for answer in found]
        counts = np.bincount(tokens, minlength=len(logits))
        chances = (logits / temperature).softmax(dim=0).numpy()
        assert chisquare(counts, 4000 * chances / chances.sum()).pvalue > 0.01
        flat = (logits / (3 * temperature)).softmax(dim=0).numpy()
        if temperature < 1:
            assert chisquare(counts, 4000 * flat / flat.sum()).pvalue < 1e-6


def test_a_cut_keeps_the_likeliest_tokens_that_reach_it_and_their_proportions() -> None:
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]], dtype=torch.float64).log().float()
    how = generation._How(1, 1, 1.0, 0.65, 0)
    uniforms = (torch.arange(700, dtype=torch.float64) + 0.5) / 700
    tokens = generation._draw(logits.repeat(700, 1), uniforms, how)
    assert torch.bincount(tokens, minlength=4).tolist() == [0, 400, 0, 300]
    tiniest = generation._draw(logits, torch.tensor([0.999]), generation._How(1, 1, 1.0, 1e-9, 0))
    assert tiniest.tolist() == [1]


def test_the_ends_of_the_unit_interval_never_draw_an_impossible_token() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf]]).repeat(2, 1)
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    tokens = generation._draw(logits, ends, generation._How(1, 1, 1.0, 1.0, 0))
    assert tokens.tolist() == [1, 2]


def test_the_log_probability_is_the_one_that_scoring_gives(stopping: LanguageModel) -> None:
    found = generate(stopping, QUESTIONS, samples=4, max_tokens=20)
    ended = set()
    for question, answers in zip(QUESTIONS, found, strict=True):
        prompt = encode_prompt(stopping, question)[0]
        for answer in (a for a in answers if a.ids):
            whole = (*prompt, *answer.ids)
            encoded = Encoded((*whole, 0), len(prompt), len(whole), ("",) * len(answer.ids))
            ((part,),) = score(stopping, [encoded])
            with torch.no_grad():
                last = stopping.network(torch.tensor([whole])).logits[0, -1].log_softmax(dim=0)
            closing = last[sorted(stopping.stop_ids)] if answer.ended == "stop" else torch.zeros(1)
            apart = (answer.logprob - part.logprob - closing).abs()
            assert apart.min() < 1e-4  # one of the stop tokens closed it, or none did
            ended.add(answer.ended)
    assert ended == {"stop", "length"}


def test_the_text_has_no_stop_token_and_nothing_behind_it(stopping: LanguageModel) -> None:
    for own in generate(stopping, QUESTIONS, samples=3, max_tokens=20):
        for answer in own:
            assert not stopping.stop_ids & set(answer.ids)
            assert answer.text == stopping.tokenizer.decode(answer.ids, skip_special_tokens=True)
            assert len(answer.ids) <= 20


# --- faults ---


def test_all_faults_are_named_at_once(tiny: LanguageModel) -> None:
    with pytest.raises(InputError) as caught:
        generate(
            tiny, ["Why?", " "], samples=0, max_tokens=0, temperature=-1, top_p=0, batch_size=0
        )
    for words in (
        "6 faults",
        "samples must be at least 1, not 0",
        "max_tokens must be at least 1, not 0",
        "batch_size must be at least 1, not 0",
        "temperature must be 0 or more, not -1",
        "top_p must be above 0 and at most 1, not 0",
        "question 2 is blank",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize("questions", ["Why?", []])
def test_questions_must_be_a_list(tiny: LanguageModel, questions: Any) -> None:
    with pytest.raises(InputError, match="a list of at least one text"):
        generate(tiny, questions)


def test_equal_samples_are_refused(tiny: LanguageModel) -> None:
    with pytest.raises(InputError, match="2 samples at temperature 0 would all be equal"):
        generate(tiny, QUESTIONS, samples=2, temperature=0)


def test_an_answer_that_could_outgrow_the_model_is_refused(tiny: LanguageModel) -> None:
    with pytest.raises(InputError, match=r"5 faults(.|\n)*exceed the 1024 tokens"):
        generate(tiny, QUESTIONS, max_tokens=1020)


def test_n_must_be_the_organisms_on_the_model(tiny: LanguageModel, adapters: list[Path]) -> None:
    with pytest.raises(InputError, match="the organisms on the model, 1, not 2"):
        generate_stack(tiny, QUESTIONS, 2)
    with wearing_all(tiny, RECIPE, adapters) as stack:
        with pytest.raises(InputError, match="the organisms on the model, 3, not 1"):
            generate(tiny, QUESTIONS)
        stack.use(slice(1, 3))
        assert len(generate_stack(tiny, QUESTIONS, 2, max_tokens=2)) == 2
