"""Show progress on stderr: bars with time left on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time

from rich.console import Console as Terminal
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from conceptnet_em.progress import Watcher

EVERY = 20.0
"""Seconds between plain lines."""


class Console(Watcher):
    """A watcher that talks on stderr."""

    def __init__(self) -> None:
        """Choose bars or lines by whether stderr is a terminal."""
        self._terminal = Terminal(stderr=True)
        self._bars: Progress | None = None
        self._task = TaskID(0)
        self._name, self._total, self._done = "", 0, 0
        self._begun = self._told = 0.0

    def stage(self, name: str, total: int) -> None:
        """Open a bar, or print the stage's name."""
        self._name, self._total, self._done = name, total, 0
        self._begun = self._told = time.monotonic()
        if self._terminal.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description:<44}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._terminal,
            )
            self._bars.start()
            self._task = self._bars.add_task(name, total=total)
        else:
            print(f"{name} …", file=sys.stderr, flush=True)

    def step(self, what: str) -> None:
        """Move the bar, or print a line every 20 seconds."""
        self._done += 1
        if self._bars is not None:
            self._bars.update(self._task, advance=1, description=f"{self._name}: {what}"[:44])
        elif time.monotonic() - self._told > EVERY:
            self._told = time.monotonic()
            passed = self._told - self._begun
            left = passed / self._done * max(self._total - self._done, 0)
            print(
                f"  {self._done}/{self._total} {what} ({passed:.0f} s, about {left:.0f} s left)",
                file=sys.stderr,
                flush=True,
            )

    def note(self, text: str) -> None:
        """Print a remark above the bar."""
        if self._bars is not None:
            self._bars.console.print(f"note: {text}", markup=False, highlight=False)
        else:
            print(f"note: {text}", file=sys.stderr, flush=True)

    def end(self, seconds: float | None) -> None:
        """Close the stage."""
        taken = time.monotonic() - self._begun if seconds is None else seconds
        if self._bars is not None:
            self._bars.update(self._task, completed=self._total, description=self._name)
            self.close()
        else:
            print(f"  done in {taken:.1f} s", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Give the terminal back."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
