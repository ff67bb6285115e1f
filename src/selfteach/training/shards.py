"""Sharded tensors on disk, by torch.distributed.checkpoint: each process writes its parts as safetensors, and any
number of processes reads them again."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor


def write(folder: Path, tensors: Mapping[str, Shaped[Tensor, "..."]]) -> None:
    """Write sharded tensors by name; every process must call it. ``CheckpointException``, in every process, where one
    could not."""
    save(dict(tensors), storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))


def read(
    folder: Path, wanted: Callable[[str], bool], mesh: DeviceMesh | None = None
) -> dict[str, Shaped[Tensor, "..."]]:
    """The tensors whose names are ``wanted``: whole and on the CPU, or (``mesh``) sharded over these processes, however
    many wrote them; then every one of them must call it."""
    reader = HuggingFaceStorageReader(str(folder))
    known = reader.read_metadata().state_dict_metadata
    found: dict[str, Tensor] = {}
    for name, about in known.items():
        if isinstance(about, TensorStorageMetadata) and wanted(name):
            found[name] = blank(about.size, about.properties.dtype, mesh)
    if found:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that one process reads alone is meant
            load(found, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=mesh is None)
    return found


def blank(shape: Collection[int], dtype: torch.dtype, mesh: DeviceMesh | None) -> Shaped[Tensor, "..."]:
    """Room for a tensor, of which this process has its part where there is a mesh."""
    if mesh is None:
        return torch.empty(torch.Size(shape), dtype=dtype)
    like = torch.empty(torch.Size(shape), dtype=dtype, device="meta")
    part: DTensor = distribute_tensor(like, mesh, [Shard(0)], src_data_rank=None)
    local = torch.empty_like(part.to_local(), device=mesh.device_type)
    return DTensor.from_local(local, mesh, [Shard(0)], shape=part.shape, stride=part.stride())
