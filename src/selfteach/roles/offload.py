"""Where the weights of teachers wait until they score: in the machine's memory, or in files that are mapped into it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from mmap import MADV_DONTNEED, mmap
from typing import Literal
from weakref import WeakSet

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from selfteach.errors import UserError

ALIGNMENT = 64
"""Bytes: in a file a tensor begins at a multiple of it, as one does that torch allocates."""


class Offload:
    """Where weights wait that are not trained: in memory (``cpu``), or in files (``disk``).

    A file has no name (``tempfile.TemporaryFile``, in the folder that TMPDIR names), so that it is gone with the
    process, however that ends, or once its weights are let go. Its pages are read as they are computed with, written
    as an average moves, and given back after each pass (``release``): then they are the machine's page cache, which
    yields to whatever needs the memory. ``mappings``: of the files that are held.
    """

    def __init__(self, to: Literal["cpu", "disk"]) -> None:
        self.to = to
        self.mappings: WeakSet[mmap] = WeakSet()

    @property
    def nbytes(self) -> int:
        """Bytes of the files."""
        return sum(map(len, self.mappings))

    def put(self, model: nn.Module) -> None:
        """Have the model's own tensors wait. UserError where there is no room for a file."""
        if self.to == "cpu":
            model.to("cpu")
            return
        held = self.held(model)
        for tensor in tensors_of(model):
            tensor.data = held.get(id(tensor), tensor).data

    def held(self, model: nn.Module, dtype: torch.dtype | None = None) -> dict[int, Shaped[Tensor, "..."]]:
        """Copies of the model's tensors that wait, by the ``id`` of each, its parameters in ``dtype`` (none: as they
        are): what ``copy.deepcopy`` wants to know of them. UserError where there is no room for a file."""
        tensors = [one for one in tensors_of(model) if one.numel()]
        values = (
            one.detach().to("cpu", dtype if isinstance(one, nn.Parameter) else None, copy=self.to == "cpu")
            for one in tensors
        )
        waiting = self.on_disk(values) if self.to == "disk" else list(values)
        return {
            id(one): nn.Parameter(new, requires_grad=False) if isinstance(one, nn.Parameter) else new
            for one, new in zip(tensors, waiting, strict=True)
        }

    def on_disk(self, values: Iterable[Shaped[Tensor, "..."]]) -> list[Shaped[Tensor, "..."]]:
        """Tensors of these values, all in one file, each a storage of its own. Values are written, not copied into the
        mapping: where a page of that finds the disk full, the process ends without a word."""
        places: list[tuple[int, torch.dtype, Sequence[int]]] = []
        try:
            with tempfile.TemporaryFile() as file:
                for one in values:
                    file.write(bytes(-file.tell() % ALIGNMENT))
                    places.append((file.tell(), one.dtype, one.shape))
                    file.write(one.contiguous().reshape(-1).view(torch.uint8).numpy().data)
                file.flush()
                mapping = mmap(file.fileno(), file.tell())
        except OSError as problem:
            raise UserError(
                f"offload_teachers disk: a teacher's weights cannot be written to a file in {tempfile.gettempdir()} "
                f"({problem.strerror}): set TMPDIR to a folder with room for them, or offload_teachers to none"
            ) from problem
        self.mappings.add(mapping)
        return [
            torch.frombuffer(mapping, dtype=dtype, count=torch.Size(shape).numel(), offset=start).view(shape)
            for start, dtype, shape in places
        ]

    @contextmanager
    def lent(self, model: nn.Module, device: torch.device) -> Iterator[None]:
        """Within it the model's tensors are on ``device``; after it they wait again."""
        try:
            with lent(model, device):
                yield
        finally:
            self.release()

    def release(self) -> None:
        """Give back the memory that files' pages take in this process; what was written to them stays."""
        for mapping in self.mappings:
            mapping.madvise(MADV_DONTNEED)


@contextmanager
def lent(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Within it the model's tensors are on ``device``; after it they are where they were. They must not move within it:
    what is lent is thrown away."""
    away = [tensor for tensor in tensors_of(model) if tensor.device != device]
    home = [tensor.data for tensor in away]
    try:
        for tensor in away:
            tensor.data = tensor.data.to(device, non_blocking=True)
        yield
    finally:
        for tensor, kept in zip(away, home, strict=True):
            tensor.data = kept


def tensors_of(model: nn.Module) -> Iterator[Shaped[Tensor, "..."]]:
    """Parameters and buffers, each once."""
    yield from model.parameters()
    yield from model.buffers()
