"""Copies of trained weights: a module of their own, adapter tensors to exchange, or the adapters switched off."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeVar, cast

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from transformers import PreTrainedModel

from selfteach.errors import UserError
from selfteach.policy.loading import Policy, bare
from selfteach.policy.sharding import as_sharded, gathered, is_sharded, is_whole, settle, shard_as, twin
from selfteach.roles.offload import Offload

Network = TypeVar("Network", bound=nn.Module)


class Copy(Protocol):
    """Weights held apart from the trained ones. ``size`` counts it among the copies in memory, 0 or 1."""

    size: int

    def scoring(self) -> AbstractContextManager[Policy]:
        """Within it the given policy computes with these weights."""

    def take(self, share: float = 1.0) -> None:
        """Move by ``share`` of the way to the trained weights as they are now; buffers follow all the way."""

    def tensors(self) -> dict[str, Shaped[Tensor, "..."]]: ...

    def load(self, tensors: Mapping[str, Shaped[Tensor, "..."]]) -> None: ...


class ModuleCopy:
    """All weights and buffers in a module of its own, for policies whose weights are all trained.

    ``dtype``: of its parameters (none: as they are trained). Buffers keep theirs: a rotary embedding's frequencies in
    bfloat16 would place tokens wrongly. ``offload``: where it waits until it scores (none: beside the trained ones).
    """

    size = 1

    def __init__(
        self, trained: Policy, dtype: torch.dtype | None = None, offload: Offload | None = None
    ) -> None:
        self.trained = trained
        self.policy = replace(trained.teaching(), model=copied(trained.model, dtype, offload))

    @contextmanager
    def scoring(self) -> Iterator[Policy]:
        yield self.policy

    def take(self, share: float = 1.0) -> None:
        move(self.tensors(), dict(named(self.trained.model)), share)

    def tensors(self) -> dict[str, Shaped[Tensor, "..."]]:
        return dict(named(self.policy.model))

    def load(self, tensors: Mapping[str, Shaped[Tensor, "..."]]) -> None:
        move(self.tensors(), tensors)


def sampler_copy(trained: Policy, dtype: torch.dtype) -> ModuleCopy:
    """A copy to sample from, which computes in its own dtype. UserError for a policy with adapters: theirs is the
    base's."""
    if trained.adapted:
        raise UserError(
            "sampler_dtype is for full weights: with LoRA use --precision bfloat16, which stores the base so."
        )
    made = ModuleCopy(trained, dtype)
    made.policy = replace(made.policy, precision="float32")  # no casts of what is stored so already
    return made


class Exchange:
    """Puts adapter tensors and buffers into a LoRA policy for a while, by copying in place.

    No graph of the policy may be alive within it: backward would find weights that have changed since forward.
    Exchanging them twice at a time raises RuntimeError, since the inner one would keep the outer one's weights as the
    trained ones.
    """

    def __init__(self, trained: Policy) -> None:
        self.trained, self.entered = trained, False

    def own(self) -> dict[str, Shaped[Tensor, "..."]]:
        """What is exchanged: what is trained, and the buffers."""
        model = self.trained.model
        present = named_as_now(model) if is_whole(bare(model)) else named(model)
        return {
            name: tensor
            for name, tensor in present
            if tensor.requires_grad or not isinstance(tensor, nn.Parameter)
        }

    def refuse_entered(self) -> None:
        if self.entered:
            raise RuntimeError("another role's weights are in the policy: leave that scoring first")

    @contextmanager
    def __call__(self, tensors: Mapping[str, Shaped[Tensor, "..."]]) -> Iterator[None]:
        self.refuse_entered()
        kept = {name: tensor.detach().clone() for name, tensor in self.own().items()}
        self.entered = True
        try:
            move(self.own(), tensors)
            yield
        finally:
            move(self.own(), kept)
            self.entered = False


class AdapterCopy:
    """Adapter tensors and buffers of a LoRA policy, exchanged with its own while they are scored with."""

    size = 1

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.held = {name: tensor.detach().clone() for name, tensor in exchange.own().items()}
        self.gathered: dict[str, Tensor] | None = None

    @contextmanager
    def scoring(self) -> Iterator[Policy]:
        with self.exchange(self.gathered or self.held):
            yield self.exchange.trained.teaching()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Within it sharded tensors are held whole, to be exchanged with those of a policy that is whole itself; every
        process must enter it."""
        before = self.gathered
        self.gathered = before or {name: gathered(tensor) for name, tensor in self.held.items()}
        try:
            yield
        finally:
            self.gathered = before

    def take(self, share: float = 1.0) -> None:
        move(self.held, self.exchange.own(), share)

    def tensors(self) -> dict[str, Shaped[Tensor, "..."]]:
        return dict(self.held)

    def load(self, tensors: Mapping[str, Shaped[Tensor, "..."]]) -> None:
        move(self.held, tensors)


class AdaptersOff:
    """A LoRA policy before any training: its base, at no cost. It cannot follow."""

    size = 0

    def __init__(self, trained: Policy) -> None:
        self.trained = trained

    @contextmanager
    def scoring(self) -> Iterator[Policy]:
        with self.trained.adapters_off():
            yield self.trained.teaching()

    def take(self, share: float = 1.0) -> None:
        raise TypeError("a policy with its adapters switched off stays what it was before training")

    def tensors(self) -> dict[str, Shaped[Tensor, "..."]]:
        return {}

    def load(self, tensors: Mapping[str, Shaped[Tensor, "..."]]) -> None:
        if tensors:
            raise ValueError(
                "there are weights to load, but this role is the policy with its adapters switched off"
            )


def named(model: nn.Module) -> Iterator[tuple[str, Shaped[Tensor, "..."]]]:
    """Parameters and buffers by name; of a sharded model this process's parts."""
    settle(model)
    yield from named_as_now(model)


def named_as_now(model: nn.Module) -> Iterator[tuple[str, Shaped[Tensor, "..."]]]:
    """The same as they are now: of a sharded model those that are gathered as a whole."""
    yield from model.named_parameters()
    yield from model.named_buffers()


@torch.no_grad()
def move(
    tensors: Mapping[str, Shaped[Tensor, "..."]],
    towards: Mapping[str, Shaped[Tensor, "..."]],
    share: float = 1.0,
) -> None:
    """Move parameters in place by ``share`` of the way; buffers (counters, statistics, frequencies) all the way.

    What waits elsewhere than what it goes towards is averaged there, and so to the same bits as if it were there."""
    for name, tensor in tensors.items():
        goal = as_sharded(towards[name], tensor)
        if share == 1 or not isinstance(towards[name], nn.Parameter):
            tensor.copy_(goal)
        elif tensor.device == goal.device:
            tensor.lerp_(goal.detach().to(tensor.dtype), share)
        else:
            tensor.copy_(tensor.to(goal.device).lerp_(goal.detach().to(tensor.dtype), share))


def copied(model: Network, dtype: torch.dtype | None = None, offload: Offload | None = None) -> Network:
    """A copy that never trains, its parameters of ``dtype``, in memory or where ``offload`` has it wait; of a sharded
    model one that is sharded alike."""
    if is_sharded(model):
        return twin(model, partial(at_rest, dtype=dtype))
    held = {} if offload is None else offload.held(model, dtype)
    return at_rest(copy.deepcopy(model, dict(held)), dtype)


def at_rest(model: Network, dtype: torch.dtype | None = None) -> Network:
    """The model in evaluation mode, without gradients, its parameters of ``dtype``."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        if dtype is not None:
            parameter.data = parameter.data.to(dtype)
    model.eval()
    return model


def untrained(trained: Policy, seed: int) -> Policy:
    """The same architecture, freshly initialized; torch's own random state stays where it is."""
    network = bare(trained.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh: nn.Module = type(network)(copy.deepcopy(network.config))
    resting = at_rest(fresh, trained.storage).to(network.device)
    if is_sharded(network):
        shard_as(network, resting)
    return replace(trained.teaching(), model=cast(PreTrainedModel, resting))
