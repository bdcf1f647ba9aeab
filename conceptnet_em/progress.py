"""Tell how far a run is, and how long each stage took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Watcher:
    """What a run tells while it works. This one is silent; the command line has another."""

    def stage(self, name: str, total: int) -> None:
        """Say that a stage of ``total`` steps begins."""

    def step(self, what: str) -> None:
        """Say that one step of the stage is done."""

    def note(self, text: str) -> None:
        """Say something a reader should know."""

    def end(self, seconds: float | None) -> None:
        """Say that the stage is over and, if it was measured, how long it took."""


class Clock:
    """Time each stage and pass its steps on to the watcher."""

    def __init__(self, watcher: Watcher) -> None:
        """Start with no stage."""
        self.watcher = watcher
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[None]:
        """Time the block under ``name``."""
        start = time.perf_counter()
        self.watcher.stage(name, total)
        try:
            yield
        finally:
            self.seconds[name] = round(time.perf_counter() - start, 2)
            self.watcher.end(self.seconds[name])
