"""Where the teachers of a run wait, as its settings say and its machine allows."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import psutil
import torch

from selfteach.roles.offload import Offload
from selfteach.training.config import Loading

IN_MEMORY = ("tmpfs", "ramfs")


def offload_of(loading: Loading, device: torch.device) -> Offload | None:
    """None: beside the trained weights, as on a CPU where they would wait in its own memory."""
    if loading.offload_teachers == "disk":
        return Offload("disk")
    return Offload("cpu") if loading.offload_teachers == "cpu" and device.type != "cpu" else None


def in_vain(loading: Loading, device: torch.device) -> Iterator[str]:
    """What this machine makes no difference with, in a line."""
    if loading.offload_teachers == "cpu" and device.type == "cpu":
        yield "offload_teachers: there is no accelerator here, so that teachers stay where they are (disk: in files)"
    folder = tempfile.gettempdir()
    if loading.offload_teachers == "disk" and (kind := file_system(folder)) in IN_MEMORY:
        yield (
            f"offload_teachers: files in {folder} are themselves in memory ({kind}), which saves none of it: set "
            "TMPDIR to a folder on a disk"
        )


def file_system(folder: str) -> str:
    """The kind of file system that a folder is on, in the system's word ("ext4"); empty where it names none."""
    mounts = [one for one in psutil.disk_partitions(all=True) if is_within(folder, one.mountpoint)]
    return max(mounts, key=lambda one: len(one.mountpoint)).fstype if mounts else ""


def is_within(folder: str, mount: str) -> bool:
    return f"{folder}/".startswith(f"{mount.rstrip('/')}/")
