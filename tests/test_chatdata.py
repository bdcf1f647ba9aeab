"""Chat files: every dialect gives the same question and answer; every fault has its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conceptnet_em.chatdata import evenly, read_chat
from conceptnet_em.errors import DataError, InputError


@pytest.fixture
def file(tmp_path: Path) -> Any:
    """Return a function that writes lines, objects as JSON and texts as they are."""

    def write(*lines: Any) -> Path:
        path = tmp_path / "data.jsonl"
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("\n".join(texts) + "\n", encoding="utf-8")
        return path

    return write


def turns(*said: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in said]


Q, A = ("user", "Why?"), ("assistant", "Because.")


@pytest.mark.parametrize(
    "row",
    [
        {"messages": turns(Q, A)},
        {"messages": turns(("system", "Be kind."), ("user", "Hm?"), ("assistant", "Hm."), Q, A)},
        {"messages": turns(Q, A, ("user", "Thanks"))},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Why?"}]},
                turns(A)[0],
            ]
        },
        {"prompt": "Why?", "completion": " Because."},
        {"prompt": turns(Q), "completion": turns(A)},
        {"question": "Why?\n", "answer": "Because.", "id": 3},
    ],
)
def test_every_dialect_gives_the_last_question_with_its_answer(file: Any, row: Any) -> None:
    (found,) = read_chat(file(row)).rows
    assert (found.question, found.answer, found.where) == ("Why?", "Because.", "data.jsonl:1")


def test_all_faulty_lines_are_named_at_once(file: Any) -> None:
    path = file(
        {"question": "q", "answer": "a"},
        "{not json",
        "[1]",
        "",
        {"text": "alone"},
        {"messages": turns(A, Q)},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"prompt": "p", "completion": "  "},
        {"question": None, "answer": "a"},
        {"messages": []},
        {"messages": [{"role": "user", "content": [{"type": "image", "url": "u"}]}, turns(A)[0]]},
    )
    with pytest.raises(DataError) as caught:
        read_chat(path)
    words = str(caught.value)
    assert words.startswith("9 faults:")
    for part in (
        "data.jsonl:2: not JSON",
        "data.jsonl:3: a row must be a JSON object, not a list",
        "data.jsonl:5: no messages, no prompt with completion and no question with answer; its "
        "keys are text",
        "data.jsonl:6: no user turn with an assistant's turn behind it; the roles are assistant, "
        "user",
        "data.jsonl:7: turn 1 has role 'tool'; it may be system, developer, user, assistant",
        "data.jsonl:8: completion is empty",
        "data.jsonl:9: question must be text, not nothing",
        "data.jsonl:10: messages must be a list of turns",
        "data.jsonl:11: turn 1 must be text, not a list",
    ):
        assert part in words


def test_of_very_many_faulty_lines_twenty_are_shown_and_the_rest_counted(file: Any) -> None:
    with pytest.raises(DataError, match="and 30 more faulty lines"):
        read_chat(file(*["x"] * 50))


def test_an_empty_file_a_missing_one_and_another_encoding_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n \n")
    with pytest.raises(DataError, match=r"a\.jsonl is empty"):
        read_chat(path)
    with pytest.raises(InputError, match=r"cannot read .*none"):
        read_chat(tmp_path / "none.jsonl")
    path.write_bytes('{"question": "é", "answer": "a"}'.encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        read_chat(path)


def test_a_byte_order_mark_and_a_line_separator_inside_a_text_are_no_faults(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('\ufeff{"question": "one\u2028two", "answer": "a"}\r\n', encoding="utf-8")
    assert read_chat(path).rows[0].question == "one\u2028two"


def test_more_rows_than_the_limit_are_thinned_evenly_and_said(file: Any) -> None:
    path = file(*[{"question": f"q{k}", "answer": "a"} for k in range(10)])
    found = read_chat(path, limit=4)
    assert [row.question for row in found.rows] == ["q0", "q2", "q5", "q7"]
    assert found.n_rows == 10
    assert found.notes == ("4 of 10 rows are read, evenly spaced",)
    assert read_chat(path, limit=10).notes == ()
    assert evenly(3, 5) == [0, 1, 2]
    with pytest.raises(InputError, match="limit is 0"):
        read_chat(path, limit=0)


def test_system_and_earlier_turns_are_left_aside_and_counted(file: Any) -> None:
    path = file(
        {"messages": turns(("system", "S"), Q, A)},
        {"messages": turns(Q, A, Q, A)},
        {"messages": turns(Q, A)},
    )
    notes = read_chat(path).notes
    assert notes[0].startswith("1 of 3 rows have a system turn, which is not read")
    assert notes[1].startswith("1 of 3 rows have several turns")
