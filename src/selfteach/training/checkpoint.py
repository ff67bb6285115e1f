"""Training state on disk: exact, whole or absent, and never a pickle.

A state is a mapping of groups; a group is any nesting of mappings (string keys), lists, tuples, strings,
booleans, numbers, None and tensors. On disk a checkpoint is a folder::

    checkpoints/step-N/  GROUP.safetensors   the tensors of one group, named by their place in it (RFC 6901)
                         shards/             those of all groups that are sharded over processes (``shards.py``)
                         state.json          everything else
                         manifest.json       size and SHA-256 of each file

It is written aside, synced to the disk and renamed: a process killed at any moment leaves whole checkpoints.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from selfteach.errors import UserError
from selfteach.outside import blamed, parsed_json, require_file, said_by
from selfteach.policy.sharding import as_sharded
from selfteach.training import shards
from selfteach.training.reduce import gather_rows

State = Mapping[str, Any]
Tensors = dict[str, dict[str, Shaped[Tensor, "..."]]]

FORMAT = 1
SHARDS = "shards"
"""The folder of what is sharded; no group can be called so."""
SLACK_BYTES = 1 << 20
NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}

log = logging.getLogger(__name__)


def save(folder: Path, step: int, state: State, keep: int = 2, *, writes: bool = True) -> Path:
    """Write ``state`` as ``folder/checkpoints/step-N`` and return that path.

    Where it holds sharded tensors every process must call it, each on the same folder: the first one ``writes``, the
    others write their parts alone. Else a process that does not write does nothing.

    Tensors that are one in memory (tied weights) stay one; views that merely overlap are stored one by one.
    Only when the new checkpoint is safely on disk are others removed: all but the ``keep - 1`` before it, and
    any of a later step (the abandoned future of a resumed run).
    Raises ``UserError`` if the disk refuses (nothing else is lost), ``ValueError`` for what cannot be stored.
    """
    if keep < 1:
        raise ValueError(f"keep: at least 1 checkpoint has to stay, got {keep}")
    tree, tensors = flatten(state)
    home = Path(folder) / "checkpoints"
    final, partial = home / f"step-{step}", home / f".step-{step}.partial"
    if not (writes or SHARDS in tensors):
        return final
    text = json.dumps(tree, allow_nan=False)
    needed = len(text) + SLACK_BYTES + sum(t.nbytes for group in tensors.values() for t in group.values())
    parts = tensors.pop(SHARDS, {})

    def begin() -> None:
        home.mkdir(parents=True, exist_ok=True)
        _tidy(home)
        if shutil.disk_usage(home).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        _write(partial, text, tensors)

    def add_parts() -> None:
        if parts:
            shards.write(partial / SHARDS, parts)

    def finish() -> None:
        _close(partial, step)
        _publish(partial, final)

    def refusing(act: Callable[[], None]) -> str | None:
        """What went wrong, in words."""
        try:
            act()
        except (OSError, SafetensorError, CheckpointException) as error:
            return _refusal(home, step, needed, error)
        return None

    for act, everybody in ((begin, False), (add_parts, True), (finish, False)):
        fault = refusing(act) if everybody or writes else None
        faults = gather_rows([fault]) if parts else [fault]
        if told := next((one for one in faults if one is not None), None):
            if writes:
                shutil.rmtree(partial, ignore_errors=True)
            raise UserError(told)
    if writes:
        _prune(home, step, keep)
    return final


def latest(folder: Path) -> Path | None:
    """The newest checkpoint of a run that verifies; None if the run has none at all.

    A damaged one is named in a logged warning and passed over. Raises ``UserError`` if all are damaged: to
    begin at step 0 again would be a silent loss.
    """
    saved = _saved(Path(folder) / "checkpoints")
    for step in sorted(saved, reverse=True):
        fault = damage(saved[step])
        if fault is None:
            return saved[step]
        log.warning("checkpoint %s is damaged (%s); trying the one before it", saved[step], fault)
    if saved:
        raise UserError(f"every checkpoint in {folder}/checkpoints is damaged; start anew with another --out")
    return None


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, in words (file and fault); None if every file is as it was written."""
    try:
        manifest = json.loads(require_file(path / "manifest.json", "manifest.json").read_bytes())
        format_, step, files = manifest["format"], manifest["step"], manifest["files"]
        if format_ != FORMAT or step != step_of(path):
            return f"manifest.json: format {format_} of step {step}"
        for name, written in files.items():
            if (size := (path / name).stat().st_size) != written["bytes"]:
                return f"{name}: {size} bytes instead of {written['bytes']}"
            if _digest(path / name) != written["sha256"]:
                return f"{name}: its content has changed"
    except OSError as error:
        return f"{Path(error.filename or path).name}: {error.strerror}"
    except (UserError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "manifest.json: unreadable"
    return None if "state.json" in files else "manifest.json: incomplete"


def load(path: Path, groups: Collection[str] | None = None, mesh: DeviceMesh | None = None) -> dict[str, Any]:
    """The state ``save`` was given, bit for bit, tensors on the CPU; ``groups``: these alone, each of which shares no
    tensor with a group before it. ``mesh``: what was sharded is sharded over these processes, where it is computed.
    Raises ``UserError`` if damaged."""
    if (fault := damage(path)) is not None:
        raise UserError(f"checkpoint {path} is damaged ({fault}); resume from an older one")
    with blamed(f"checkpoint {path}", "resume from an older one"):
        files = [file for file in sorted(path.glob("*.safetensors")) if groups is None or file.stem in groups]
        tensors = {file.stem: load_file(file) for file in files}
        if (path / SHARDS).is_dir():
            tensors[SHARDS] = shards.read(
                path / SHARDS, lambda name: groups is None or name.partition("/")[0] in groups, mesh
            )
        tree = parsed_json((path / "state.json").read_bytes(), most=None)
        wanted = {group: part for group, part in tree.items() if groups is None or group in groups}
        return {group: _joined(part, tensors) for group, part in wanted.items()}


def step_of(path: Path) -> int:
    """The step a checkpoint folder is named after."""
    return int(path.name.removeprefix(".").removesuffix(".replaced").removeprefix("step-"))


# --- a state taken apart: what JSON can hold, and the tensors


def flatten(state: State) -> tuple[dict[str, Any], Tensors]:
    """A state as strict JSON and its tensors by group and place. Raises ``ValueError`` if it holds more."""
    for group in state:
        if not re.fullmatch(r"\w[\w.-]*", group) or group == SHARDS:
            raise ValueError(f"state: the group name {group!r} cannot be a file name")
    tensors: Tensors = {}
    seen: dict[Any, list[str]] = {}
    tree = {group: _parted(value, group, "", tensors, seen) for group, value in state.items()}
    return tree, tensors


def _parted(value: Any, group: str, place: str, tensors: Tensors, seen: dict[Any, list[str]]) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, Tensor):
        return {"$tensor": _noted(value, group, place, tensors, seen)}
    if isinstance(value, list | tuple):
        parts = [_parted(part, group, f"{place}/{i}", tensors, seen) for i, part in enumerate(value)]
        return parts if isinstance(value, list) else {"$tuple": parts}
    if isinstance(value, Mapping):
        if bad := [key for key in value if not isinstance(key, str) or key.startswith("$")]:
            raise ValueError(
                f"state: {group}{place} has a key {bad[0]!r}; a key is a string without a leading $"
            )
        return {k: _parted(v, group, f"{place}/{_escaped(k)}", tensors, seen) for k, v in value.items()}
    raise ValueError(f"state: {group}{place} is a {type(value).__name__}, neither JSON nor a tensor")


def _noted(
    tensor: Shaped[Tensor, "..."], group: str, place: str, tensors: Tensors, seen: dict[Any, list[str]]
) -> list[str]:
    if isinstance(tensor, DTensor):
        tensors.setdefault(SHARDS, {})[f"{group}{place}"] = tensor.detach()
        return [SHARDS, f"{group}{place}"]
    plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout == torch.strided
    if not plain or tensor.is_quantized or tensor.device.type == "meta":
        raise ValueError(f"state: {group}{place} is no plain dense tensor; gather or convert it first")
    alias = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
    if tensor.numel() and alias in seen:
        return seen[alias]
    tensors.setdefault(group, {})[place or "/"] = tensor.detach()
    seen[alias] = [group, place or "/"]
    return seen[alias]


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _joined(tree: Any, tensors: Tensors) -> Any:
    match tree:
        case {"$tensor": [group, place]}:
            return tensors[group][place]
        case {"$float": text}:
            return NOT_FINITE[text]
        case {"$tuple": parts}:
            return tuple(_joined(part, tensors) for part in parts)
        case dict():
            return {key: _joined(part, tensors) for key, part in tree.items()}
        case list():
            return [_joined(part, tensors) for part in tree]
    return tree


# --- files


def _write(partial: Path, text: str, tensors: Tensors) -> None:
    partial.mkdir()
    (partial / "state.json").write_text(text, encoding="ascii")
    for group, named in tensors.items():
        save_file(storable(named), partial / f"{group}.safetensors")


def _close(partial: Path, step: int) -> None:
    """List what was written, and have all of it on the disk."""
    written = sorted(file for file in partial.rglob("*") if file.is_file())
    files = {
        file.relative_to(partial).as_posix(): {"bytes": file.stat().st_size, "sha256": _digest(file)}
        for file in written
    }
    manifest = {"format": FORMAT, "step": step, "files": files}
    (partial / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="ascii")
    for file in [*partial.rglob("*"), partial]:
        sync(file)


def storable(named: Mapping[str, Shaped[Tensor, "..."]]) -> dict[str, Shaped[Tensor, "..."]]:
    """The tensors as safetensors takes them: on the CPU, contiguous, no two in one storage."""
    result: dict[str, Shaped[Tensor, "..."]] = {}
    storages: set[int] = set()
    for name, tensor in named.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if storage in storages else tensor
        storages.add(storage)
    return result


def _publish(partial: Path, final: Path) -> None:
    replaced = final.with_name(f".{final.name}.replaced")
    if final.exists():
        final.rename(replaced)
    partial.rename(final)
    sync(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _tidy(home: Path) -> None:
    """Clear what a killed process left: half-written checkpoints go, one it was replacing comes back."""
    for replaced in home.glob(".step-*.replaced"):
        final = home / f"step-{step_of(replaced)}"
        shutil.rmtree(replaced) if final.exists() else replaced.rename(final)
    for partial in home.glob(".step-*.partial"):
        shutil.rmtree(partial)


def _saved(home: Path) -> dict[int, Path]:
    replaced = {step_of(path): path for path in home.glob(".step-*.replaced")}
    return replaced | {step_of(path): path for path in home.glob("step-*") if path.name[5:].isdecimal()}


def _prune(home: Path, newest: int, keep: int) -> None:
    saved = _saved(home)
    before = sorted(step for step in saved if step < newest)
    for step in set(saved) - {newest} - set(before[len(before) - keep + 1 :]):
        shutil.rmtree(saved[step], ignore_errors=True)


def _refusal(home: Path, step: int, needed: int, error: BaseException) -> str:
    reason = said_by(error)
    free = shutil.disk_usage(home).free if home.is_dir() else 0
    whole = [path.name for number, path in sorted(_saved(home).items()) if number != step]
    return (
        f"the checkpoint of step {step} could not be written to {home}: {reason} "
        f"(it needs {_size(needed)}, {_size(free)} are free); "
        f"{f'{whole[-1]} is kept' if whole else 'there is no earlier one'}; make room, then use --resume"
    )


def _size(count: float) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Force a file's or folder's content to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- optimizers


def optimizer_state(
    optimizer: torch.optim.Optimizer, names: Iterable[tuple[str, Shaped[Tensor, "..."]]]
) -> dict[str, Any]:
    """An optimizer's state by parameter name (``names`` = ``model.named_parameters()``), ready for ``save``.

    Unlike ``Optimizer.state_dict`` it does not depend on the order of parameters. An LR scheduler needs no
    helper: its ``state_dict()`` is plain data already. Raises ``ValueError`` for a parameter without a name.
    """
    name_of = {id(parameter): name for name, parameter in names}
    groups = []
    for number, group in enumerate(optimizer.param_groups):
        if any(id(parameter) not in name_of for parameter in group["params"]):
            raise ValueError(f"names: a parameter of optimizer group {number} has no name")
        hyperparameters = {key: value for key, value in group.items() if key != "params"}
        groups.append({"names": [name_of[id(parameter)] for parameter in group["params"]], **hyperparameters})
    return {
        "parameters": {name_of[id(parameter)]: dict(state) for parameter, state in optimizer.state.items()},
        "groups": groups,
    }


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, names: Iterable[tuple[str, Shaped[Tensor, "..."]]], state: State
) -> None:
    """Put ``optimizer_state``'s result into an optimizer built alike; no value is cast to another dtype.

    Raises ``UserError`` if its parameters are not the saved ones.
    """
    name_of = {id(parameter): name for name, parameter in names}
    here = [{str(name_of.get(id(p))) for p in group["params"]} for group in optimizer.param_groups]
    saved = [set(group["names"]) for group in state["groups"]]
    if here != saved:
        odd = sorted(set().union(*here) ^ set().union(*saved))
        raise UserError(
            "the optimizer trains other parameters than its checkpoint "
            f"({odd[0] if odd else 'in other groups'}); resume with the saved model and adapter settings"
        )
    optimizer.state.clear()
    for group, saved_group in zip(optimizer.param_groups, state["groups"], strict=True):
        for key, value in saved_group.items():
            if key in group and isinstance(group[key], int | float) is not isinstance(value, int | float):
                raise UserError(f"the checkpoint's optimizer has {key} {value!r}, here it is {group[key]!r}")
        group.update({key: value for key, value in saved_group.items() if key != "names"})
        step_on_device = group.get("capturable") or group.get("fused")
        for parameter in group["params"]:
            if (name := name_of[id(parameter)]) in state["parameters"]:
                refuse_odd_moments(name, parameter, state["parameters"][name])
                optimizer.state[parameter] = {
                    key: placed(value, parameter)
                    if isinstance(value, Tensor) and (key != "step" or step_on_device)
                    else value
                    for key, value in state["parameters"][name].items()
                }


def placed(value: Shaped[Tensor, "..."], parameter: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """A copy of a saved moment where its parameter is: on its device, and sharded as it is."""
    moved = value.to(parameter.device, copy=True)
    return as_sharded(moved, parameter) if value.shape == parameter.shape else moved


TABLES_OF_8_BITS = ("absmax", "qmap")
"""How bitsandbytes calls what its 8-bit moments are read with."""
MEANS = ("row_var", "col_var")
"""How torch's Adafactor calls its moments' means over an axis."""


def refuse_odd_moments(name: str, parameter: Shaped[Tensor, "..."], moments: Mapping[str, Any]) -> None:
    """UserError where an optimizer's tensors for a parameter are not of its shape (Adafactor's: means over some of its
    axes), which a fused kernel would read all the same; counts and tables of 8-bit moments aside."""
    for key, value in moments.items():
        if not isinstance(value, Tensor) or not value.dim() or key.startswith(TABLES_OF_8_BITS):
            continue
        least = [1] * parameter.dim() if key in MEANS else parameter.shape
        fits = value.dim() == parameter.dim() and all(
            here in (some, whole)
            for here, some, whole in zip(value.shape, least, parameter.shape, strict=True)
        )
        if not fits:
            raise UserError(
                f"the checkpoint's {key} of {name} is of shape {list(value.shape)}, the parameter of "
                f"{list(parameter.shape)}; resume with the saved model and settings"
            )
