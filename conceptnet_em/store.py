"""Keep a run on disk so that nothing computed is lost and nothing is computed twice.

Every object is committed once: written into a temporary folder beside its place and then renamed.
A reader therefore sees a whole object or none, and an interrupted run is resumed by running it
again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conceptnet_em.errors import StoreError


def digest(value: Any, *, length: int = 16) -> str:
    """Return a short sha256 of any JSON-able value, the same for equal values."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def file_digest(path: Path) -> str:
    """Return the whole sha256 of one file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "the disk quota is used up: free some space",
    errno.EACCES: "no permission to write there: choose another --out or change its owner",
    errno.EPERM: "no permission to write there: choose another --out or change its owner",
    errno.EROFS: "the file system is read-only: choose another --out",
    errno.EEXIST: "a file stands where a folder is needed: choose another --out",
    errno.ENOTDIR: "a file stands where a folder is needed: choose another --out",
}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an operating-system failure while writing ``path`` into one clear sentence.

    Raises:
        StoreError: any ``OSError`` in the block.
    """
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "see the message above")
        raise StoreError(
            error.errno,
            f"cannot write {path} ({error.strerror or error}); {advice}, then run the same command "
            "again: what is finished is kept",
        ) from error


@contextmanager
def committed(place: Path) -> Iterator[Path]:
    """Give a temporary folder that becomes ``place`` when the block ends without an error.

    Raises:
        StoreError: the folder cannot be written.
    """
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        with writing(place):
            yield draft
            _sync(draft)
            draft.chmod(0o755)
            if place.exists():
                shutil.rmtree(place)
            draft.rename(place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` whole or not at all.

    Raises:
        StoreError: the file cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            draft.write_text(text, encoding="utf-8")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as readable JSON; NaN and infinity become ``null``."""
    write_text(path, json.dumps(_plain(value), indent=2, ensure_ascii=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def read_json(path: Path) -> Any:
    """Read a JSON file of a run.

    Raises:
        StoreError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StoreError(error.errno, f"cannot read {path} ({error.strerror})") from error
    except ValueError as error:
        raise StoreError(
            errno.EINVAL, f"{path} is not JSON ({error}); delete it and run again"
        ) from error


def set_aside(place: Path) -> Path:
    """Rename a damaged object out of the way and return where it went."""
    number = 1
    while (target := place.with_name(f"{place.name}.damaged-{number}")).exists():
        number += 1
    with writing(place):
        place.rename(target)
    return target


class RunFolder:
    """One run on disk: where each object of it lives.

    ``organisms/<key>/`` holds a PEFT adapter and ``training.json``;
    ``scores/<key>/<target digest>/`` one organism's scores on one target domain.
    """

    def __init__(self, path: str | Path) -> None:
        """Point at a run folder without touching it."""
        self.path = Path(path).expanduser()

    def prepare(self) -> None:
        """Create the folder and prove that it can be written.

        Raises:
            StoreError: it cannot.
        """
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.path, prefix=".try-") as stream:
                stream.write(b"conceptnet-em")
                stream.flush()

    def organism(self, key: str) -> Path:
        """Return the folder of one organism."""
        return self.path / "organisms" / key

    def scores(self, key: str, target_digest: str) -> Path:
        """Return the folder of one organism's scores on one target."""
        return self.path / "scores" / key / target_digest

    def similarity(self, key: str) -> Path:
        """Return the folder of one predictor's matrices."""
        return self.path / "similarities" / key

    def score_folders(self, key: str) -> list[Path]:
        """Return every committed score folder of one organism, in a fixed order."""
        place = self.path / "scores" / key
        found = place.iterdir() if place.is_dir() else iter(())
        return sorted(path for path in found if path.is_dir() and not path.name.startswith("."))

    def file(self, name: str) -> Path:
        """Return the path of one of the run's own files."""
        return self.path / name
