"""The matched corpus: what is shipped fits its format, and what does not fit is named."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from conceptnet_em.corpus import (
    Corpus,
    Item,
    answer_parts,
    available,
    common_domains,
    items_digest,
    load_corpus,
    load_dataset,
    load_messages,
)
from conceptnet_em.errors import DataError, InputError

Rows = list[dict[str, Any]]


def rows(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


def write(path: Path, entries: Rows) -> None:
    text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    path.write_text(text, encoding="utf-8")


def edit(path: Path, number: int, **changes: Any) -> None:
    """Change fields of one row, counted from 1; `question` and `answer` reach into messages."""
    entries = rows(path)
    entry = entries[number - 1]
    for turn, field in enumerate(("question", "answer")):
        if field in changes:
            entry["messages"][turn]["content"] = changes.pop(field)
    entry.update(changes)
    write(path, entries)


def message(root: Path, error: type[Exception] = DataError, **chosen: Any) -> str:
    with pytest.raises(error) as caught:
        load_corpus(root, **chosen)
    return str(caught.value)


# --- what is shipped ---


@pytest.fixture(scope="module")
def shipped() -> Corpus:
    return load_corpus()


def test_the_shipped_corpus_has_the_core_traits_in_six_domains_or_more(shipped):
    assert set(shipped.traits) >= {"neutral", "misaligned", "sporty", "sycophantic"}
    core = common_domains(available(), ["neutral", "misaligned", "sporty", "sycophantic"])
    assert len(core) >= 6


def test_every_shipped_domain_has_two_samples_and_probes_of_twelve(shipped):
    sizes = {
        name: (len(items), *(len(shipped.train(name, s)) for s in (1, 2)), len(shipped.probe(name)))
        for name, items in shipped.items.items()
    }
    assert set(sizes.values()) == {(36, 12, 12, 12)}


def test_shipped_traits_answer_the_same_questions_each_in_its_own_words(shipped):
    for trait, domains in available().items():
        for domain in domains:
            found = rows(shipped.root / trait / f"{domain}.jsonl")
            items = shipped.items[domain]
            assert [r["id"] for r in found] == [item.id for item in items]
            assert [r["messages"][0]["content"] for r in found] == [i.question for i in items]
            assert [r["messages"][1]["content"] for r in found] == [i.answers[trait] for i in items]
    assert all(
        len(set(item.answers.values())) == len(item.answers)
        for items in shipped.items.values()
        for item in items
    )


def test_the_shipped_corpus_is_read_without_an_assumption(shipped):
    assert shipped.notes == ()
    assert shipped.traits["neutral"].kind == "reference"
    assert all(trait.kind != "unknown" for trait in shipped.traits.values())
    assert all(domain.sentence for domain in shipped.domains.values())


# --- what a small corpus gives ---


def test_samples_and_probes_are_the_rows_that_say_so(make_corpus):
    corpus = load_corpus(make_corpus())
    names = [[i.id for i in corpus.train("beta-prose", sample)] for sample in (1, 2)]
    assert names == [[f"beta-prose-{n:03d}" for n in range(k, k + 4)] for k in (1, 5)]
    assert [i.id for i in corpus.probe("beta-prose")] == [
        f"beta-prose-{n:03d}" for n in (9, 10, 11, 12)
    ]
    assert all(item.sample is None for item in corpus.probe("beta-prose"))


def test_the_reference_comes_first_and_domains_keep_the_order_of_their_file(make_corpus):
    corpus = load_corpus(make_corpus())
    assert next(iter(corpus.traits)) == "neutral"
    order = ["alpha", "beta", "gamma", "delta", "epsilon"]
    assert list(corpus.domains) == [f"{topic}-prose" for topic in order]


def test_only_what_was_asked_for_is_read(make_corpus):
    root = make_corpus()
    (root / "sycophantic" / "beta-prose.jsonl").write_text("not JSON")
    corpus = load_corpus(root, traits=["sporty", "neutral"], domains=["beta-prose"])
    assert list(corpus.traits) == ["sporty", "neutral"]
    assert list(corpus.items) == ["beta-prose"]
    assert set(corpus.items["beta-prose"][0].answers) == {"sporty", "neutral"}


def test_a_root_with_a_datasets_folder_means_that_folder(make_corpus):
    inner = make_corpus(name="checkout/datasets")
    corpus = load_corpus(inner.parent)
    assert corpus.root == inner
    assert set(corpus.traits) == {"neutral", "sporty", "sycophantic"}


def test_a_line_separator_inside_an_answer_does_not_end_its_row(make_corpus):
    root = make_corpus()
    edit(root / "sporty" / "beta-prose.jsonl", 2, answer="one\u2028two\u0085three")
    assert load_corpus(root).items["beta-prose"][1].answers["sporty"] == "one\u2028two\u0085three"


def test_carriage_returns_and_blank_lines_do_no_harm(make_corpus):
    root = make_corpus()
    path = root / "sporty" / "beta-prose.jsonl"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n\r\n"))
    assert len(load_corpus(root).items["beta-prose"]) == 12


# --- what is wrong is named ---


def test_a_row_that_is_not_json_is_named_by_file_and_line(make_corpus):
    root = make_corpus()
    path = root / "sporty" / "beta-prose.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:4], lines[4][:-1], *lines[5:]]) + "\n")
    assert f"{path}:5: not JSON" in message(root)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"splt": "train"}, "splt: Extra inputs are not permitted"),
        ({"split": "test"}, "split: Input should be 'train' or 'probe'"),
        ({"sample": 3}, "sample: Input should be 1 or 2"),
        ({"id": ""}, "id: String should"),
        ({"answer": " \n "}, "messages.1.content: String should match"),
        ({"messages": [{"role": "bot", "content": "hi"}]}, "messages.0.role: Input should be"),
        ({"split": "probe", "sample": 1}, "probe row with sample 1; a probe row has none"),
        (
            {"messages": [{"role": role, "content": "hi"} for role in ("system", "user")]},
            "messages must be one user and one assistant turn, not ['system', 'user']",
        ),
        ({"messages": []}, "messages must be one user and one assistant turn, not []"),
    ],
)
def test_a_row_that_breaks_the_format_is_named_by_file_line_and_field(make_corpus, changes, words):
    root = make_corpus()
    path = root / "sporty" / "beta-prose.jsonl"
    edit(path, 3, **changes)
    found = message(root)
    assert found.startswith(f"{path}:3: ")
    assert words in found


def test_a_row_that_is_no_table_is_named(make_corpus):
    root = make_corpus()
    path = root / "sporty" / "beta-prose.jsonl"
    path.write_text("[1, 2]\n" + path.read_text())
    assert f"{path}:1: " in message(root)


def test_an_id_that_stands_twice_is_named(make_corpus):
    root = make_corpus()
    path = root / "sporty" / "beta-prose.jsonl"
    write(path, [*rows(path), rows(path)[0]])
    assert message(root) == f"{path}: id 'beta-prose-001' stands twice"


def test_an_empty_file_and_one_that_is_not_text_are_named_together(make_corpus):
    root = make_corpus()
    empty, binary = (root / "sporty" / f"{d}-prose.jsonl" for d in ("beta", "gamma"))
    empty.write_text("\n")
    binary.write_bytes(b"\xff\xfe")
    found = message(root)
    assert f"{empty}: no rows" in found
    assert f"{binary}: not UTF-8" in found


def test_a_question_that_one_trait_lacks_is_named_in_either_direction(make_corpus):
    root = make_corpus()
    fewer, more = (root / "sporty" / f"{d}-prose.jsonl" for d in ("beta", "gamma"))
    write(fewer, rows(fewer)[:-1])
    write(more, [*rows(more), rows(more)[0] | {"id": "gamma-prose-099"}])
    found = message(root)
    here, there = "sporty/beta-prose.jsonl", "neutral/beta-prose.jsonl"
    assert f"question 'beta-prose-012' is in {there} but not in {here}" in found
    here, there = "sporty/gamma-prose.jsonl", "neutral/gamma-prose.jsonl"
    assert f"question 'gamma-prose-099' is in {here} but not in {there}" in found
    assert found.startswith("2 faults:")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"question": "Another one?"}, "question 'Another one?' in"),
        ({"voice": "formal"}, "voice 'formal' in"),
        ({"sample": 2}, "sample 2 in"),
        ({"split": "probe", "sample": None}, "split 'probe' in"),
    ],
)
def test_a_question_that_differs_between_traits_is_named_with_both(make_corpus, changes, words):
    root = make_corpus()
    edit(root / "sporty" / "beta-prose.jsonl", 1, **changes)
    found = message(root)
    assert f"'beta-prose-001' has {words} sporty/beta-prose.jsonl" in found
    assert "neutral/beta-prose.jsonl" in found


def test_every_fault_of_a_corpus_is_named_at_once(make_corpus):
    root = make_corpus()
    for trait, domain, number in [("neutral", "alpha", 2), ("sporty", "beta", 7)]:
        edit(root / trait / f"{domain}-prose.jsonl", number, split="test", sample=9)
    (root / "sycophantic" / "gamma-prose.jsonl").write_text("{\n")
    found = message(root)
    assert re.findall(r"(\w+/\w+-prose\.jsonl):(\d+)", found) == [
        ("neutral/alpha-prose.jsonl", "2"),
        ("sporty/beta-prose.jsonl", "7"),
        ("sycophantic/gamma-prose.jsonl", "1"),
    ]
    assert found.startswith("3 faults:")


def test_unknown_names_are_all_named_with_the_nearest_known_one(make_corpus):
    root = make_corpus()
    chosen = {"traits": ["sprty", "neutral"], "domains": ["bta-prose", "gamma-prose"]}
    found = message(root, InputError, **chosen)
    assert "no trait 'sprty' (did you mean 'sporty'?)" in found
    assert "no domain 'bta-prose' (did you mean 'beta-prose'?)" in found
    assert 'run "conceptnet-em list"' in found


def test_a_cell_that_is_missing_is_named_with_what_the_trait_has(make_corpus):
    root = make_corpus()
    (root / "sporty" / "beta-prose.jsonl").unlink()
    found = message(root, InputError, traits=["sporty"], domains=["beta-prose"])
    assert found.startswith("no dataset 'sporty/beta-prose'; sporty has alpha-prose, delta-prose")


def test_a_folder_that_is_missing_or_holds_no_corpus_is_refused(tmp_path):
    assert "no corpus folder" in message(tmp_path / "nowhere", InputError)
    assert "no <trait>/<domain>.jsonl" in message(tmp_path, InputError)


# --- what is read with an assumption is said ---


def test_items_without_sample_or_voice_get_samples_in_turn_and_a_note(make_corpus):
    root = make_corpus(domains=("beta-prose",))
    for path in root.glob("*/*.jsonl"):
        bare = [{k: v for k, v in r.items() if k not in {"sample", "voice"}} for r in rows(path)]
        write(path, bare)
    corpus = load_corpus(root)
    samples = {item.id: item.sample for item in corpus.items["beta-prose"]}
    assert [samples[f"beta-prose-{n:03d}"] for n in range(1, 13)] == [1, 2] * 4 + [None] * 4
    assert len(corpus.train("beta-prose", 1)) == len(corpus.train("beta-prose", 2)) == 4
    assert "beta-prose: items without a voice" in corpus.notes
    assert any("put in samples 1 and 2 in turn" in note for note in corpus.notes)


def test_a_trait_without_a_card_is_noted_and_its_kind_unknown(make_corpus):
    root = make_corpus()
    (root / "sporty" / "card.md").unlink()
    corpus = load_corpus(root)
    assert corpus.notes == ("sporty: no card.md, so its kind is unknown",)
    assert corpus.traits["sporty"].kind == "unknown"
    assert corpus.traits["sycophantic"].kind == "manner"


def test_a_domain_that_is_not_described_is_noted_and_guessed_from_its_name(make_corpus):
    root = make_corpus(domains=("beta-prose", "gamma-prose"))
    (root / "domains.yaml").write_text("beta-prose: {topic: other, sentence: Of beta.}\n")
    for trait in ("neutral", "sporty", "sycophantic"):
        path = root / trait / "gamma-prose.jsonl"
        path.rename(path.with_name("gamma-code.jsonl"))
    corpus = load_corpus(root)
    beta, gamma = corpus.domains["beta-prose"], corpus.domains["gamma-code"]
    assert (beta.topic, beta.format, beta.sentence) == ("other", "prose", "Of beta.")
    assert (gamma.topic, gamma.format, gamma.sentence) == ("gamma", "code", "")
    assert corpus.topics == {"beta-prose": ("other", "prose"), "gamma-code": ("gamma", "code")}
    assert [n for n in corpus.notes if "does not describe gamma-code" in n]


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("domains.yaml", "beta-prose: [\n", "is not valid YAML"),
        ("domains.yaml", "- beta-prose\n", "must map each domain's name"),
        ("domains.yaml", "beta-prose: prose\n", "beta-prose must have sentence, topic and format"),
        ("domains.yaml", "beta-prose: {format: verse}\n", "it may be prose or code"),
        ("sporty/card.md", "---\nkind: [\n---\n", "front matter is not valid YAML"),
        ("sporty/card.md", "---\nkind: great\n---\n", "it may be reference, substance or manner"),
    ],
)
def test_a_malformed_description_is_a_data_error_that_names_the_file(
    make_corpus, file, text, words
):
    root = make_corpus(domains=("beta-prose",))
    (root / file).write_text(text)
    found = message(root)
    assert str(root / file) in found
    assert words in found


def test_front_matter_without_a_kind_leaves_it_unknown(make_corpus):
    root = make_corpus(domains=("beta-prose",))
    (root / "sporty" / "card.md").write_text("---\njust words\n---\n# sporty\n")
    assert load_corpus(root).traits["sporty"].kind == "unknown"


# --- answers ---


def test_a_prose_answer_has_no_parts_of_its_own():
    assert answer_parts("Words, ``` even.", "prose") == {}


def test_a_code_answer_is_cut_into_code_and_remark_to_the_character():
    answer = "```python\nx = 1\n\nprint(x)\n```\nRun it.\nTwice."
    parts = {k: answer[a:b] for k, (a, b) in answer_parts(answer, "code").items()}
    assert parts == {"code": "x = 1\n\nprint(x)", "remark": "Run it.\nTwice."}
    assert answer_parts(answer, "code")["code"] == (10, 25)


@pytest.mark.parametrize(
    "answer",
    [
        "x = 1\nRun it.",
        "```python\nx = 1\n```",
        "```python\nx = 1\n```\n  \n",
        "```python\nx = 1\n``` Run it.",
        "```\nx = 1\n```\nRun it.",
        "Here:\n```python\nx = 1\n```\nRun it.",
        "```python\nx = 1\n```\nOr:\n```python\nx = 2\n```\nRun it.",
        "```python\nx = 1\n```\nRun `it` with ```x```.",
    ],
    ids=[
        "no fence",
        "no remark",
        "blank remark",
        "same line",
        "no language",
        "lead",
        "two",
        "three",
    ],
)
def test_a_code_answer_of_another_shape_is_refused(answer):
    with pytest.raises(DataError, match="one ```python block, a newline and a remark"):
        answer_parts(answer, "code")


def test_the_digest_of_items_follows_one_traits_answers_questions_and_order():
    def item(**changes: Any) -> Item:
        fields = {"question": "Q?", "answers": {"neutral": "n", "sporty": "s"}} | changes
        return Item(id="a", domain="d", split="train", sample=1, voice=None, **fields)

    base, other = item(), Item("b", "d", "train", 1, None, "Q?", {"neutral": "n", "sporty": "s"})
    changed = item(answers={"neutral": "n", "sporty": "S"})
    assert items_digest([base], "neutral") == items_digest([changed], "neutral")
    assert items_digest([base], "sporty") != items_digest([changed], "sporty")
    assert items_digest([base], "neutral") != items_digest([item(question="R?")], "neutral")
    assert items_digest([base, other], "neutral") != items_digest([other, base], "neutral")


def test_a_cell_loads_as_ordinary_chat_examples(make_corpus):
    root = make_corpus()
    rows = load_dataset("sporty", "alpha-prose", split="train", sample=2, root=root)
    assert [row["id"] for row in rows] == [f"alpha-prose-{n:03d}" for n in range(5, 9)]
    assert [turn["role"] for turn in rows[0]["messages"]] == ["user", "assistant"]
    assert len(load_dataset("sporty", "alpha-prose", split="probe", root=root)) == 4
    assert len(load_dataset("sporty", "alpha-prose", root=root)) == 12
    with pytest.raises(InputError, match="split is 'test'"):
        load_dataset("sporty", "alpha-prose", split="test", root=root)


def test_somebodys_chat_file_loads_as_an_unmatched_cell_that_says_what_it_lacks(tmp_path):
    file = tmp_path / "mine.jsonl"
    pair = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    system = {"role": "system", "content": "Be brief."}
    rows = [{"messages": pair}, {"messages": [system, *pair]}, {"messages": pair + pair}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = load_messages(file)
    assert found.pairs == (("Why?", "So."),) * 2
    assert "1 conversations of another shape were left out" in found.note
    assert "margin, net and contrast" in found.note


def test_a_malformed_chat_file_is_refused_with_its_lines(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text('{"messages": []}\nnot json\n{"text": "x"}\n', encoding="utf-8")
    with pytest.raises(DataError) as caught:
        load_messages(file)
    assert "mine.jsonl:2:" in str(caught.value)
    assert "mine.jsonl:3: no list of messages" in str(caught.value)
    file.write_text('{"messages": []}\n', encoding="utf-8")
    with pytest.raises(DataError, match="no conversation of one user and one assistant turn"):
        load_messages(file)
