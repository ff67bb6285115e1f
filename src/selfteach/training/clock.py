"""Where a step's time goes: seconds by phase, each second counted once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Clock:
    """Wall-clock seconds by phase since ``restart``. A phase within another is taken off the outer one, so that the
    phases of a step add up to the time it took."""

    seconds: dict[str, float] = field(default_factory=dict)
    stopped: str = ""
    """The innermost phase that an error has left."""
    _inner: list[float] = field(default_factory=lambda: [0.0])

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        began, self.stopped = time.perf_counter(), ""
        self._inner.append(0.0)
        try:
            yield
        except Exception:
            self.stopped = self.stopped or phase
            raise
        finally:
            spent, inner = time.perf_counter() - began, self._inner.pop()
            self.seconds[phase] = self.seconds.get(phase, 0.0) + spent - inner
            self._inner[-1] += spent

    def restart(self) -> None:
        """Forget all phases: a new step begins."""
        self.seconds = {}

    @property
    def total(self) -> float:
        """Seconds of all phases together."""
        return sum(self.seconds.values())
