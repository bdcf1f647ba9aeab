"""The run store: an object is there whole or not at all, and a full disk is a clear sentence."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from conceptnet_em.errors import StoreError
from conceptnet_em.store import (
    RunFolder,
    committed,
    digest,
    file_digest,
    read_json,
    set_aside,
    write_json,
    write_text,
    writing,
)


def tree(folder: Path) -> dict[str, str]:
    """Every file under a folder, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def commit_half(place: Path, error: BaseException) -> None:
    """Begin an object and fail half-way."""
    with committed(place) as draft:
        (draft / "a.txt").write_text("half")
        raise error


def refuse(number: int):
    def fail(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    return fail


def test_a_committed_object_appears_only_when_its_block_has_ended(tmp_path):
    place = tmp_path / "organisms" / "key"
    with committed(place) as draft:
        (draft / "a.txt").write_text("one")
        assert not place.exists()
    assert tree(tmp_path) == {"organisms/key/a.txt": "one"}
    assert place.stat().st_mode & 0o777 == 0o755


def test_an_error_in_the_block_leaves_nothing_not_even_a_draft(tmp_path):
    with pytest.raises(ZeroDivisionError):
        commit_half(tmp_path / "key", ZeroDivisionError())
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_block_leaves_the_earlier_object_as_it_was(tmp_path):
    place = tmp_path / "key"
    with committed(place) as draft:
        (draft / "a.txt").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        commit_half(place, KeyboardInterrupt())
    assert tree(tmp_path) == {"key/a.txt": "old"}


def test_a_second_commit_replaces_the_whole_object(tmp_path):
    place = tmp_path / "key"
    for name in ("a.txt", "b.txt"):
        with committed(place) as draft:
            (draft / name).write_text(name)
    assert tree(tmp_path) == {"key/b.txt": "b.txt"}


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EACCES, "choose another --out"),
        (errno.ENOSPC, "free some space"),
        (errno.EROFS, "read-only"),
    ],
)
def test_a_refused_draft_names_path_reason_and_what_is_kept(tmp_path, unwritable, number, advice):
    unwritable(number)
    with pytest.raises(StoreError) as caught, committed(tmp_path / "key"):
        pass
    message = str(caught.value)
    assert str(tmp_path / "key") in message
    assert os.strerror(number) in message
    assert advice in message
    assert "what is finished is kept" in message
    assert caught.value.errno == number


def test_a_disk_that_fills_while_an_object_is_written_leaves_no_draft(tmp_path):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(StoreError, match=r"No space left.*what is finished is kept"):
        commit_half(tmp_path / "key", full)
    assert list(tmp_path.iterdir()) == []


def test_a_rename_that_fails_leaves_no_draft(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "rename", refuse(errno.EACCES))
    with pytest.raises(StoreError, match="Permission denied"), committed(tmp_path / "key"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_store_error_inside_writing_is_not_wrapped_twice(tmp_path):
    inner = StoreError(errno.EIO, "the first sentence")
    with pytest.raises(StoreError) as caught, writing(tmp_path):
        raise inner
    assert caught.value is inner


def test_a_text_that_cannot_be_written_leaves_the_old_text(tmp_path, monkeypatch):
    path = tmp_path / "study.toml"
    write_text(path, "old")
    monkeypatch.setattr(Path, "replace", refuse(errno.ENOSPC))
    with pytest.raises(StoreError, match=r"study\.toml"):
        write_text(path, "new")
    assert tree(tmp_path) == {"study.toml": "old"}


@pytest.mark.parametrize("inside", ["study.toml", "deep/study.toml"])
def test_a_file_in_the_place_of_a_folder_is_said(tmp_path, inside):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(StoreError, match="a file stands where a folder is needed"):
        write_text(tmp_path / "run" / inside, "x")


def test_nan_is_written_as_null_at_every_depth(tmp_path):
    nan = float("nan")
    write_json(tmp_path / "x.json", {"a": nan, "b": [1.5, nan], "c": {"d": (nan, "–")}, 1: True})
    text = (tmp_path / "x.json").read_text("utf-8")
    assert "NaN" not in text
    assert json.loads(text) == {"a": None, "b": [1.5, None], "c": {"d": [None, "–"]}, "1": True}
    assert read_json(tmp_path / "x.json") == json.loads(text)


def test_damaged_json_names_the_file_and_the_next_step(tmp_path):
    path = tmp_path / "training.json"
    path.write_text('{"status": ')
    with pytest.raises(StoreError, match=r"training\.json is not JSON .* delete it and run again"):
        read_json(path)


def test_missing_json_is_a_store_error_with_its_errno(tmp_path):
    with pytest.raises(StoreError, match=r"cannot read .*training\.json") as caught:
        read_json(tmp_path / "training.json")
    assert caught.value.errno == errno.ENOENT


def test_damaged_objects_are_numbered_as_they_are_set_aside(tmp_path):
    gone = []
    for text in ("first", "second"):
        (tmp_path / "key").mkdir()
        (tmp_path / "key" / "a.txt").write_text(text)
        gone.append(set_aside(tmp_path / "key").name)
    assert gone == ["key.damaged-1", "key.damaged-2"]
    assert tree(tmp_path) == {"key.damaged-1/a.txt": "first", "key.damaged-2/a.txt": "second"}


def test_score_folders_are_sorted_and_leave_out_drafts_and_files(tmp_path):
    run = RunFolder(tmp_path)
    assert run.score_folders("key") == []
    for name in ("b2", "a1", ".c3-draft"):
        run.scores("key", name).mkdir(parents=True)
    (tmp_path / "scores" / "key" / "stray.txt").write_text("")
    assert [p.name for p in run.score_folders("key")] == ["a1", "b2"]


def test_a_draft_in_the_making_is_no_score_folder(tmp_path):
    run = RunFolder(tmp_path)
    with committed(run.scores("key", "a1")):
        assert run.score_folders("key") == []
    assert run.score_folders("key") == [run.scores("key", "a1")]


def test_preparing_a_run_folder_leaves_only_the_folder(tmp_path):
    RunFolder(tmp_path / "runs" / "first").prepare()
    assert list((tmp_path / "runs" / "first").iterdir()) == []


def test_preparing_an_unwritable_run_folder_is_a_store_error(tmp_path, unwritable):
    unwritable(errno.EACCES)
    with pytest.raises(StoreError, match="no permission to write there"):
        RunFolder(tmp_path / "run").prepare()


def test_equal_values_have_one_digest_whatever_their_order():
    assert digest({"a": 1, "b": [2, 3]}) == digest({"b": [2, 3], "a": 1})
    assert digest({"a": 1, "b": [2, 3]}) != digest({"a": 1, "b": [3, 2]})


def test_a_file_digest_is_the_known_sha256_of_its_bytes(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_digest(tmp_path / "abc") == known
