"""Decoding on a CUDA device without the host between operations: the pass over one new token is recorded, as a CUDA
graph, and replayed for the tokens that follow.

A token of a small batch takes a device less time than the host takes to launch its some thousand operations.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from weakref import WeakSet

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from selfteach.policy.cache import GrowingLayer, masks_by_key
from selfteach.policy.loading import bare
from selfteach.policy.reader import Reader

log = logging.getLogger(__name__)
Compute = Callable[[], Float[Tensor, "N V"]]
Record = Callable[[Compute], Compute]
"""From what computes to what does the same again, from and to the same memory."""
WORTH = 32
"""New tokens from which on recording pays: it takes as long as some two or three of them."""
AHEAD, STEP = 256, 16
"""Least tokens that a recording has room for beyond those that are cached, and what its room is a multiple of
(attention's kernels want masks so aligned)."""
ON_THE_HOST = ("dynamic", "longrope")
"""Rotary embeddings whose frequencies follow from the longest position, which the host must look at."""
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
REFUSED: WeakSet[nn.Module] = WeakSet()
"""Models whose pass was tried and cannot be recorded."""


def can_record(model: nn.Module, new: int) -> bool:
    """Whether a recording of ``model``'s pass over one token is worth trying for ``new`` of them: on CUDA, with plain
    attention, and with nothing that the host is known to look at on the way."""
    policy = bare(model)
    config = policy.config.get_text_config()
    rotary = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    static = rotary not in ON_THE_HOST and not any(getattr(config, name, None) for name in EXPERTS)
    whole = bool(getattr(policy, "_can_compile_fullgraph", False))
    here = policy.device.type == "cuda" and policy not in REFUSED
    return here and new >= WORTH and whole and static and masks_by_key(model)


def graph(compute: Compute) -> Compute:
    """A CUDA graph of ``compute``, on the device that it computes on."""
    here = torch.cuda.current_stream()
    stream = aside(here.device)
    stream.wait_stream(here)
    with torch.cuda.stream(stream):  # libraries make their workspaces on first use
        compute()
    here.wait_stream(stream)
    recorded = torch.cuda.CUDAGraph()
    # Within a stream of its own accord: a capture that fails does not come back from the one that it records on.
    with (
        torch.cuda.stream(here),
        torch.cuda.graph(recorded, stream=stream, capture_error_mode="thread_local"),
    ):
        logits = compute()

    def replayed() -> Tensor:
        recorded.replay()
        return logits

    return replayed


@cache
def aside(device: torch.device) -> torch.cuda.Stream:
    """The one stream that is recorded on: libraries keep a workspace for each."""
    return torch.cuda.Stream(device)


class RecordedReader(Reader):
    """A ``Reader`` whose new tokens are read by a recording; ``record`` makes one (``graph``). A model whose pass
    proves impossible to record is read as a ``Reader`` reads it, with a warning."""

    leaving = 1 / 2
    record: Record = staticmethod(graph)
    recording: Recording | None = None
    tried = False

    def token(self, token: Int[Tensor, "N"]) -> Float[Tensor, "N V"]:
        """[N, V] logits of what follows each row's new token [N]. The next call overwrites them."""
        if self.recording is None or self.recording.full:
            self.close()
            self.recording = None if self.tried else self._recording()
        return super().token(token) if self.recording is None else self.recording(token)

    def _recording(self) -> Recording | None:
        made = Recording(self)
        try:
            with on_device(self.length.device):
                made.begin()
        except Exception as problem:  # whatever a capture forbids, or has no memory for, is told so
            made.end()
            self.tried = True
            log.warning("tokens are computed one by one, as no CUDA graph of them can be made: %s", problem)
            if not isinstance(problem, torch.OutOfMemoryError):
                with self.in_place() as policy:
                    REFUSED.add(bare(policy.model))
            return None
        return made

    def keep(self, rows: Int[Tensor, "n"]) -> None:
        self.close()
        super().keep(rows)

    def close(self) -> None:
        """No recording, whose memory is free then, and all that it has read noted in this reader."""
        if self.recording is not None:
            self.recording.end()
            self.recording = None


def on_device(device: torch.device) -> AbstractContextManager[object]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


class Recording:
    """The pass over one more token of every row of ``reader``, from and to memory that stays where it is, until
    ``room`` tokens are cached."""

    replay: Compute

    def __init__(self, reader: RecordedReader) -> None:
        self.reader = reader
        self.layers = [one for one in reader.cache.layers if isinstance(one, GrowingLayer)]
        self.cached = self.layers[0].length
        self.room = room_for(self.cached, self.layers[0].limit)
        rows, device = len(reader.length), reader.length.device
        self.ids = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self.position = reader.length[:, None].clone()
        self.column = torch.tensor([self.cached], device=device)
        self.mask: Bool[Tensor, "N 1 1 room"] = torch.zeros(
            rows, 1, 1, self.room, dtype=torch.bool, device=device
        )
        self.mask[:, 0, 0, : self.cached] = reader.attended.bool()

    def begin(self) -> None:
        """Whatever ``record`` raises where the pass cannot be recorded."""
        for layer in self.layers:
            layer.hold(self.room, self.column)
        self.replay = type(self.reader).record(lambda: self.reader._read(self.ids, self.position, self.mask))

    @property
    def full(self) -> bool:
        return self.cached == self.room

    def __call__(self, token: Int[Tensor, "N"]) -> Float[Tensor, "N V"]:
        self.ids.copy_(token[:, None])
        self.position.copy_(self.reader.length[:, None])
        self.column.fill_(self.cached)
        self.mask[..., self.cached] = True
        self.cached += 1
        self.reader.length += 1
        return self.replay()

    def end(self) -> None:
        """Hand the reader what was read, and let go of what was recorded."""
        self.__dict__.pop("replay", None)
        for layer in self.layers:
            layer.release(self.cached)
        self.reader.attended = self.mask[:, 0, 0, : self.cached].long()


def room_for(cached: int, limit: int | None) -> int:
    """Tokens that a recording has room for when so many are cached, and ``limit`` of them at most are to come."""
    room = cached + max(AHEAD, cached // 2)
    room = room if limit is None else min(room, max(limit, cached + 1))
    return -(-room // STEP) * STEP
