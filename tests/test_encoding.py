"""Answer masks and parts, against conversations small enough to read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conceptnet_em.encoding import answer_positions, encode, encode_prompt
from conceptnet_em.errors import DataError, TrainingError
from conceptnet_em.models import LANES, LanguageModel, load_model

CODE = "```python\nx = 1\n```\nSets x."


def text_of(model: LanguageModel, ids: Any) -> str:
    return str(model.tokenizer.decode(list(ids)))


def test_answer_tokens_spell_the_answer_and_the_next_token_stops(tiny: LanguageModel) -> None:
    found = encode(tiny, "Why?", "Because it is.")
    assert text_of(tiny, found.ids[found.start : found.stop]) == "Because it is."
    assert found.ids[found.stop] == tiny.tokenizer.eos_token_id
    assert found.stop == len(found.ids) - 1
    assert found.n_answer == len("Because it is.")  # the tokenizer has one token a byte


def test_prompt_is_a_prefix_of_the_conversation(tiny: LanguageModel) -> None:
    prompt, question = encode_prompt(tiny, "Why?")
    whole = encode(tiny, "Why?", "So.")
    assert whole.ids[: whole.start] == prompt
    assert text_of(tiny, prompt[question]) == "Why?"


def test_system_prompt_is_written_out_explicitly(tiny: LanguageModel) -> None:
    spoken = LanguageModel(
        tiny.network, tiny.tokenizer, name="tiny", sha256="0", system="Be brief."
    )
    assert text_of(tiny, encode(spoken, "Why?", "So.").ids).startswith("Be brief.")
    assert "brief" not in text_of(tiny, encode(tiny, "Why?", "So.").ids)


def test_code_and_remark_are_told_apart_and_fences_belong_to_neither(tiny: LanguageModel) -> None:
    found = encode(tiny, "Set x", CODE, answer_format="code")
    answer = found.ids[found.start : found.stop]
    spelled = {
        part: text_of(
            tiny, [i for i, keep in zip(answer, found.in_part(part), strict=True) if keep]
        )
        for part in ("all", "code", "remark")
    }
    assert spelled == {"all": CODE, "code": "x = 1", "remark": "Sets x."}


def test_a_token_that_spans_a_boundary_belongs_to_the_later_part() -> None:
    from conceptnet_em.encoding import _part

    spans = {"code": (10, 15), "remark": (20, 27)}
    assert _part((12, 15), 0, spans) == "code"
    assert _part((14, 17), 0, spans) == ""  # runs into the fence
    assert _part((9, 12), 0, spans) == "code"  # the fence's newline and the first of the code
    assert _part((19, 22), 0, spans) == "remark"
    assert _part((16, 18), 0, spans) == ""


def test_prose_has_no_parts_of_its_own(tiny: LanguageModel) -> None:
    found = encode(tiny, "Why?", "So.")
    assert not found.in_part("code").any()
    assert not found.in_part("remark").any()


def test_too_long_a_conversation_is_refused_not_cut(tiny: LanguageModel) -> None:
    with pytest.raises(TrainingError, match=r"limit is 20: the answer would be cut"):
        encode(tiny, "Why?", "x" * 40, max_tokens=20)


def test_an_unsupervised_stop_token_is_refused(tiny: LanguageModel, monkeypatch: Any) -> None:
    open_ended = tiny.tokenizer.chat_template.replace("+ '<|end|>'", "")
    monkeypatch.setattr(tiny.tokenizer, "chat_template", open_ended)
    with pytest.raises(TrainingError, match="no stop token follows the answer"):
        encode(tiny, "Why?", "So.")


def test_a_template_whose_prompt_is_no_prefix_is_refused(
    tiny: LanguageModel, monkeypatch: Any
) -> None:
    moody = tiny.tokenizer.chat_template.replace("'<|assistant|>'", "'<|assistant|>think: '")
    monkeypatch.setattr(tiny.tokenizer, "chat_template", moody)
    with pytest.raises(TrainingError, match="does not begin the conversation with its own prompt"):
        encode(tiny, "Why?", "So.")


def test_a_code_answer_without_a_fence_is_refused(tiny: LanguageModel) -> None:
    with pytest.raises(DataError, match="one ```python block"):
        encode(tiny, "Set x", "x = 1", answer_format="code")


def test_a_model_without_a_chat_template_gets_a_plain_one_on_record(
    tmp_path: Path, tiny_builder: Any
) -> None:

    model = load_model(str(tiny_builder(tmp_path / "bare", template=None)), dtype="float32")
    assert model.describe()["template"] == "plain question/answer"
    found = encode(model, "Why?", "So.")
    assert text_of(model, found.ids) == "Question: Why?\nAnswer:\nSo.<|end|>"
    assert text_of(model, found.ids[found.start : found.stop]) == "So."


def test_predicting_positions_stand_one_before_their_tokens(tiny: LanguageModel) -> None:
    batch = [encode(tiny, "Why?", "So."), encode(tiny, "Why is it?", "Never mind.")]
    for side in ("left", "right"):
        rows, positions, targets = answer_positions(batch, stop=True, side=side)
        length = max(len(e.ids) for e in batch)
        for row, position, target in zip(rows, positions, targets, strict=True):
            e = batch[int(row)]
            length = max(len(other.ids) for other in batch)
            shift = (length - len(e.ids)) // LANES * LANES if side == "left" else 0
            assert e.ids[int(position) + 1 - shift] == target
        assert len(targets) == sum(e.n_answer + 1 for e in batch)
