"""A policy's weights spread over processes by FSDP2: each holds a part, layers are gathered while they compute.

A sharded model is *split* or *whole*. Split: a pass gathers layer after layer, so that every process must make as many
passes as the others (``as_many``). Whole: all of it is gathered for a while (sampling, what a rollout measures by
itself), and processes need not wait for each other. What stands beside the layers (embedding, last norm, output head)
stays gathered behind a pass until ``settle``, for the objective reads the head outside of passes.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MethodType
from typing import Any, Literal, TypeVar
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Shaped
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from selfteach.checks import require
from selfteach.errors import UserError

Fsdp = Literal["off", "full_shard", "shard_grad_op"]
"""As transformers calls them. ``full_shard``: layers are let go once they have computed and gathered again for the
backward pass. ``shard_grad_op``: they stay until it, which takes more room and less time."""

Network = TypeVar("Network", bound=nn.Module)


@dataclass
class Sharded:
    """How a model is sharded. ``half``: layers are gathered in bfloat16. ``outline``: the same modules without numbers,
    of which further models can be made, for FSDP2's own cannot be copied. ``whole``: whether all is gathered."""

    mesh: DeviceMesh
    how: Fsdp
    half: bool
    outline: nn.Module
    whole: bool = False
    hooks: list[tuple[nn.Module, Any, Any]] = field(default_factory=list)


_sharded: WeakKeyDictionary[nn.Module, Sharded] = WeakKeyDictionary()


# --- sharding -----------------------------------------------------------------------------------------------------


def require_several() -> None:
    """UserError where this process is alone."""
    require(
        distributed.is_initialized() and distributed.get_world_size() > 1,
        "fsdp shards weights over several processes, and this is one alone: launch it by torchrun --nproc-per-node N "
        "-m selfteach train …, or say --fsdp off",
    )


def mesh_of(device: torch.device) -> DeviceMesh:
    """All processes in one row."""
    return init_device_mesh(device.type, (distributed.get_world_size(),))


def shard(network: nn.Module, mesh: DeviceMesh, how: Fsdp, *, half: bool = False) -> None:
    """Keep this process's part of every parameter of a transformers model, in place, those of adapters in it too.

    ``half``: layers are gathered in bfloat16, which their products are computed in anyway; gradients are summed in
    float32, and what stands beside the layers is gathered as it is stored. Gradients are summed over processes, not
    averaged, since a loss's divisors span all of them. UserError for a model whose layers are not known.
    """
    memo = {
        id(one): nn.Parameter(torch.empty_like(one, device="meta"), requires_grad=one.requires_grad)
        for one in network.parameters()
    }
    # The copied modules share no number with these: tied parameters stay tied, buffers are small.
    outline = copy.deepcopy(network, memo)
    _shard(network, Sharded(mesh, how, half, outline))


def shard_as(other: nn.Module, network: nn.Module) -> None:
    """Shard a model as another one is."""
    of = _sharded[other]
    shard(network, of.mesh, of.how, half=of.half)


def _shard(network: nn.Module, sharded: Sharded) -> None:
    layers = [one for one in network.modules() if isinstance(one, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(
            f"{type(network).__name__} has no layers that fsdp knows how to shard: leave out --fsdp"
        )
    low, sums = (torch.bfloat16, torch.float32) if sharded.half else (None, None)
    of_layers = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=sums, cast_forward_inputs=False)
    for layer in layers:
        fully_shard(
            layer,
            mesh=sharded.mesh,
            reshard_after_forward=sharded.how == "full_shard",
            mp_policy=of_layers,
        )
    fully_shard(network, mesh=sharded.mesh, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False))
    for one in parts(network):
        one.set_gradient_divide_factor(1.0)
        one.set_force_sum_reduction_for_comms(True)  # gloo cannot divide
    # What a pass calls is the transformer below the head: FSDP's hooks of the root run around this method.
    vars(network)["passing"] = MethodType(_passing, network)
    register_fsdp_forward_method(network, "passing")
    _sharded[network] = sharded
    if not any(one.is_meta for one in network.parameters()):
        passing(network, lambda: None)  # now the root knows that it is one


@torch.no_grad()
def twin(network: Network, prepare: Callable[[Network], object]) -> Network:
    """A further sharded model with the numbers that this one holds now; no process holds the whole of it.

    ``prepare`` is given it before it has any numbers, and may change what dtype they will be of.
    """
    of = _sharded[network]
    made: Network = copy.deepcopy(of.outline)  # type: ignore[assignment]
    prepare(made)
    _shard(made, Sharded(of.mesh, of.how, of.half, copy.deepcopy(made)))
    made.to_empty(device=torch.device(of.mesh.device_type))
    settle(network)
    theirs = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for name, tensor in [*made.named_parameters(), *made.named_buffers()]:
        tensor.copy_(theirs[name])
    passing(made, lambda: None)
    return made


def is_sharded(network: nn.Module) -> bool:
    return network in _sharded


def is_split(network: nn.Module) -> bool:
    """Whether its layers are gathered one after the other, together with the other processes."""
    return network in _sharded and not _sharded[network].whole


def is_half(network: nn.Module) -> bool:
    """Whether its layers are gathered in bfloat16."""
    return network in _sharded and _sharded[network].half


def is_whole(network: nn.Module) -> bool:
    """Whether all of a sharded network is gathered."""
    return network in _sharded and _sharded[network].whole


def parts(module: nn.Module) -> list[FSDPModule]:
    """The modules within, itself among them, whose parameters are gathered together."""
    return [one for one in module.modules() if isinstance(one, FSDPModule)]


# --- computing ----------------------------------------------------------------------------------------------------


def _passing(network: nn.Module, run: Callable[..., Any], *arguments: Any) -> Any:
    return run(*arguments)


def passing(network: Any, run: Callable[..., Any], *arguments: Any) -> Any:
    """``run(*arguments)``, which calls modules of the network and gives what they found: as one pass of it."""
    return network.passing(run, *arguments) if is_split(network) else run(*arguments)


def gather_head(network: nn.Module) -> None:
    """Have the parameters beside a split network's layers whole until it is settled. All processes must call it."""
    if is_split(network) and isinstance(network, FSDPModule):
        network.unshard()


def settle(module: nn.Module) -> None:
    """Let go of what is gathered: from now on parameters are this process's parts, as optimizers and checkpoints see
    them. RuntimeError within ``whole``, which needs it."""
    if any(map(is_whole, module.modules())):
        raise RuntimeError("the model is whole: its parts are not to be looked at now")
    for one in parts(module):
        one.reshard()


@contextmanager
def whole(network: nn.Module) -> Iterator[None]:
    """Within it the network is gathered, and computes without the other processes. All of them must enter and leave it
    together; a network that is not sharded, or whole already, is left as it is. Gradients taken within it are lost.
    """
    sharded = _sharded.get(network)
    if sharded is None or sharded.whole:
        yield
        return
    settle(network)
    for one in parts(network):
        one.unshard()
    sharded.hooks = lifted(network)
    sharded.whole = True
    try:
        yield
    finally:
        for parameter in network.parameters():
            parameter.grad = None
        for module, before, behind in sharded.hooks:
            module._forward_pre_hooks, module._forward_hooks = before, behind
        sharded.whole = False
        settle(network)


def lifted(network: nn.Module) -> list[tuple[nn.Module, Any, Any]]:
    """Take FSDP's hooks off the modules that it gathers: they would let go after a pass what the next one wants. Gives
    what was there."""
    found: list[tuple[nn.Module, Any, Any]] = []
    for module in network.modules():
        if isinstance(module, FSDPModule):
            found.append((module, module._forward_pre_hooks, module._forward_hooks))
            module._forward_pre_hooks, module._forward_hooks = OrderedDict(), OrderedDict()
    return found


# --- processes in step --------------------------------------------------------------------------------------------


def as_many(network: nn.Module, count: int) -> int:
    """The largest ``count`` of all processes, where the network is split and they must compute in step; else this one's
    own."""
    if not is_split(network):
        return count
    every = torch.tensor(count, device=_sharded[network].mesh.device_type)
    distributed.all_reduce(every, distributed.ReduceOp.MAX)
    return int(every)


def mesh_in(modules: Iterable[nn.Module]) -> DeviceMesh | None:
    """The processes that hold parts of these modules; None where none is sharded."""
    found = [_sharded[one].mesh for module in modules for one in module.modules() if one in _sharded]
    return found[0] if found else None


# --- tensors ------------------------------------------------------------------------------------------------------


def local(tensor: Shaped[Tensor, "*axes"]) -> Shaped[Tensor, "..."]:
    """This process's part of a sharded tensor; another one as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered(tensor: Shaped[Tensor, "*axes"]) -> Shaped[Tensor, "*axes"]:
    """The whole of a sharded tensor, in every process (all must call it); another one as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def as_sharded(value: Shaped[Tensor, "*axes"], like: Shaped[Tensor, "*axes"]) -> Shaped[Tensor, "*axes"]:
    """A tensor that every process has whole, sharded as ``like`` is; where that is not, or it is sharded already, it
    stays as it is."""
    if not isinstance(like, DTensor) or isinstance(value, DTensor):
        return value
    part: Tensor = distribute_tensor(value.detach(), like.device_mesh, like.placements, src_data_rank=None)
    return part


@torch.no_grad()
def whole_state(module: nn.Module, *, keep: bool) -> dict[str, Shaped[Tensor, "..."]] | None:
    """The tensors of a sharded module by name, whole and on the CPU, one gathered after the other; every process must
    call it, those that do not ``keep`` them get none. None of a module that is not sharded."""
    if not parts(module):
        return None
    settle(module)
    found: dict[str, Tensor] = {}
    names: dict[int, str] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if (tied := names.setdefault(id(tensor), name)) != name:
            found |= {name: found[tied]} if keep else {}
            continue
        one = gathered(tensor.detach())
        if keep:
            found[name] = one.cpu()
    return found
