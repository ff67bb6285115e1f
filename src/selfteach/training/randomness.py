"""Every global random generator of a process: seeded, captured and restored together."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy
import torch

log = logging.getLogger(__name__)


def seed_all(seed: int) -> None:
    """Seed Python, NumPy and torch (CPU and every accelerator); NumPy takes the seed modulo 2**32."""
    random.seed(seed)
    numpy.random.seed(seed % 2**32)  # noqa: NPY002  (libraries draw from the global generator)
    torch.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """What torch draws on the CPU within depends on ``seed`` alone; its global generator goes on afterwards as if
    nothing was drawn. For initial weights, which are made before the Trainer seeds (see ``training.learner``)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def capture() -> dict[str, Any]:
    """The generators' states as plain data and tensors, as ``checkpoint.save`` takes them."""
    legacy = numpy.random.get_state(legacy=False)  # noqa: NPY002
    assert isinstance(legacy, dict)
    return {
        "python": random.getstate(),
        "numpy": {**legacy, "state": {**legacy["state"], "key": legacy["state"]["key"].tolist()}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore(state: Mapping[str, Any]) -> None:
    """Put every generator back where ``capture`` found it.

    With another number of CUDA devices than before, those both have are restored and a warning is logged.
    """
    random.setstate(state["python"])
    key = numpy.array(state["numpy"]["state"]["key"], dtype=numpy.uint32)
    numpy.random.set_state({**state["numpy"], "state": {**state["numpy"]["state"], "key": key}})  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if devices != len(state["cuda"]):
        log.warning(
            "random states of %d CUDA devices were saved, %d are here: the run will not repeat bit for bit",
            len(state["cuda"]),
            devices,
        )
    for device, device_state in zip(range(devices), state["cuda"], strict=False):
        torch.cuda.set_rng_state(device_state, device)
