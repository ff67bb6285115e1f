"""Whether there is room for the weights of teachers that wait on the disk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from selfteach.training.text.preflight.check import Check
from selfteach.training.text.preflight.memory import size, weights_bytes

if TYPE_CHECKING:
    from selfteach.training.text.learner import TextLearner


def offload_check(run: TextLearner) -> Iterator[Check]:
    """What waits in files now and what copies to come will add, against what is free in their folder."""
    store = run.models.weights
    if store.offload is None or store.offload.to != "disk":
        return
    folder = tempfile.gettempdir()
    free = free_room(folder)
    coming = store.copies_to_come * weights_bytes(run, waiting=True)
    detail = f"{size(store.offload.nbytes)} of teachers' weights in files in {folder}, {size(coming)} to come"
    advice = (
        "" if coming < free else "; set TMPDIR to a folder with room for them, or offload_teachers to none"
    )
    yield Check("offload", coming < free, f"{detail}; {size(free)} free there{advice}")


def free_room(folder: str) -> int:
    """Bytes that may still be written there."""
    return shutil.disk_usage(folder).free
