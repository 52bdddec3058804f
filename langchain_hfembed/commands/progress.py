"""A progress bar on the terminal, with an estimate of the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

if TYPE_CHECKING:
    from langchain_hfembed.ingestion import Step


@dataclass
class Pace:
    """How fast documents are embedded, and when the last one will be.

    What is skipped takes no time to speak of, and says nothing of how long the rest will take. The
    first batch loads the model, so that it is left out as soon as there is another.

    Args:
        total: Size of everything, in the unit of `Step.size`.
        clock: Tells the time, in seconds.

    Attributes:
        indexed: Documents embedded so far.
        skipped: Documents that were there already.
        done: Size of both.
    """

    total: float
    clock: Callable[[], float] = time.monotonic
    indexed: int = 0
    skipped: int = 0
    done: float = 0
    _steps: int = 0
    _documents: int = 0
    _embedded: float = 0
    _spent: float = 0
    _last: float = field(init=False)

    def __post_init__(self) -> None:
        self._last = self.clock()

    def add(self, step: Step) -> None:
        """Take note of what was done since the last call."""
        now = self.clock()
        self.done += step.size
        if step.what == "indexed":
            if self._steps == 1:
                self._documents, self._embedded, self._spent = 0, 0, 0
            self._steps += 1
            self.indexed += step.documents
            self._documents += step.documents
            self._embedded += step.size
            self._spent += now - self._last
        elif step.what == "skipped":
            self.skipped += step.documents
        self._last = now

    @property
    def rate(self) -> float | None:
        """Documents embedded a second; None before the first ones."""
        return self._documents / self._spent if self._spent else None

    @property
    def seconds_left(self) -> float | None:
        """Seconds until everything is embedded, if nothing more is skipped."""
        if not self._embedded:
            return None
        return max(0.0, self.total - self.done) * self._spent / self._embedded

    def __str__(self) -> str:
        parts = [f"{self.indexed:,} indexed"]
        if self.skipped:
            parts.append(f"{self.skipped:,} unchanged")
        if self.rate is not None:
            parts.append(f"{self.rate:.1f} a second")
        if self.seconds_left is not None:
            parts.append(f"{duration(self.seconds_left)} left")
        return ", ".join(parts)


@contextmanager
def progress_bar(title: str, total: float, console: Console) -> Iterator[Callable[[Step], None]]:
    """Show a bar on a terminal, and nothing elsewhere.

    Args:
        title: What is going on.
        total: Size of everything, in the unit of `Step.size`.
        console: Where to.

    Yields:
        What to call after each step.
    """
    pace = Pace(total)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    text = TextColumn("{task.fields[pace]}")
    is_shown = console.is_terminal
    with Progress(*columns, text, console=console, disable=not is_shown, transient=True) as bar:
        task = bar.add_task(title, total=total, pace=pace)

        def show(step: Step) -> None:
            pace.add(step)
            bar.update(task, completed=pace.done)

        yield show


def duration(seconds: float) -> str:
    """A time such as `12 s`, `3:05 min` or `1:02:05 h`."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02} h"
    return f"{minutes}:{rest:02} min" if minutes else f"{rest} s"
