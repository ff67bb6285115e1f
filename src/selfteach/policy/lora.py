"""A LoRA adapter on a model: which of its matrices it takes, whatever kind of layer holds them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass

import peft
import torch
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from selfteach.errors import UserError

ALL = "all-linear"
MAMBA = {"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"}
"""Model types in whose state-space blocks PEFT refuses ``out_proj``: fused kernels read its weight past any adapter."""
UNREACHED = {"dt_proj"}
"""Linear maps whose weight state-space blocks read themselves: an adapter on them does nothing until it is merged."""


@dataclass(frozen=True)
class LoraConfig:
    """A low-rank adapter: its update is ``alpha`` / ``rank`` · B A on each matrix that it takes.

    ``targets``: ``all-linear`` takes every linear map but the head, and experts that are kept as stacks of matrices;
    or names of modules (``q_proj``, ``mlp.down_proj``) and of such stacks (``experts.gate_up_proj``). There is no
    dropout: a policy that is sampled without it and trained with it is two policies.
    """

    rank: int = 64
    alpha: int = 128
    targets: str | tuple[str, ...] = ALL

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"lora rank is {self.rank}: give at least 1.")
        if not self.targets:
            raise UserError(f"lora_targets is empty: give {ALL}, or names of modules.")


def with_lora(network: PreTrainedModel, lora: LoraConfig) -> peft.PeftModel:
    """``network`` with a fresh adapter, which alone wants a gradient and is float32 over a bfloat16 base too.

    Raises UserError for a target that names nothing, or that PEFT cannot adapt.
    """
    modules, stacks = chosen(network, (lora.targets,) if isinstance(lora.targets, str) else lora.targets)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=lora.rank, lora_alpha=lora.alpha)
    plain = [name for name in modules if kept_by_peft(config, network, name)]
    config.target_modules = plain
    config.target_parameters = sorted({*stacks, *(f"{name}.weight" for name in modules if name not in plain)})
    try:
        model = peft.get_peft_model(network, config)
    except ValueError as problem:
        said = (str(problem).splitlines() or [""])[0].rstrip(".")
        raise UserError(f"lora_targets {lora.targets!r}: {said}") from problem
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()
    return model


def chosen(network: PreTrainedModel, targets: Sequence[str]) -> tuple[list[str], list[str]]:
    """(modules, stacks of matrices) that the targets name, each kind once: layers' numbers are left out of names."""
    found: tuple[set[str], set[str]] = (set(), set())
    for target in targets:
        both = meant(network, target)
        if not any(both):
            known = sorted({kind(name) for every in meant(network, ALL) for name in every})
            raise UserError(
                f"lora_targets: {target!r} names nothing in this model: give {ALL}, or some of {', '.join(known)}."
            )
        for mine, names in zip(found, both, strict=True):
            mine |= names
    modules = [name for name, _ in network.named_modules()]
    parameters = [name for name, _ in network.named_parameters()]
    return by_kind(found[0], modules), by_kind(found[1], parameters)


def meant(network: PreTrainedModel, target: str) -> tuple[set[str], set[str]]:
    """Full names of the modules and of the parameters that one target means."""
    if target == ALL:
        return set(linear_maps(network)), set(expert_stacks(network))
    parameters = {name for name, one in network.named_parameters() if one.ndim in (2, 3)}
    return (
        {name for name in adaptable(network) if named(target, name)},
        {name for name in parameters if named(target, name)},
    )


def by_kind(names: set[str], every: Sequence[str]) -> list[str]:
    """The same by kind where a kind means nothing else of ``every``, else in full."""
    short = set()
    for each in {kind(name) for name in names}:
        alike = {other for other in every if named(each, other)}
        short |= {each} if alike <= names else alike & names
    return sorted(short)


def linear_maps(network: PreTrainedModel) -> Iterator[str]:
    """Names of all linear maps but the head, and but those that no adapter would reach."""
    head = network.get_output_embeddings()
    past = UNREACHED | ({"out_proj"} if network.config.model_type in MAMBA else set())
    for name, module in network.named_modules():
        if is_linear(module) and module is not head and name.rpartition(".")[2] not in past:
            yield name


def is_linear(module: nn.Module) -> bool:
    """Whether it is a linear map and nothing more: some routers are linear layers that return something else."""
    if not isinstance(module, nn.Linear | Conv1D):
        return False
    if type(module).forward in (nn.Linear.forward, Conv1D.forward):
        return True
    rows, columns = module.weight.shape
    try:
        with torch.no_grad():
            made: object = module(module.weight.new_zeros(1, columns))
    except (RuntimeError, ValueError, TypeError):
        return False
    return isinstance(made, torch.Tensor) and made.shape == (1, rows)


def expert_stacks(network: PreTrainedModel) -> Iterator[str]:
    """Names of parameters of experts' modules that hold one matrix an expert, [E, d, d'].

    Stacks of other modules (gates of a recurrence) are left alone: PEFT puts a module in the place of their owner, and
    what is read or set on that from outside goes past it.
    """
    for path, module in network.named_modules():
        if "expert" not in f"{path} {type(module).__name__}".lower():
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim == 3 and min(parameter.shape[1:]) > 1:
                yield f"{path}.{name}"


def adaptable(network: PreTrainedModel) -> Iterator[str]:
    """Names of all modules that PEFT has an adapter for."""
    for name, module in network.named_modules():
        if is_linear(module) or isinstance(module, nn.Embedding | nn.Conv1d):
            yield name


def kept_by_peft(config: peft.LoraConfig, network: PreTrainedModel, name: str) -> bool:
    """Whether PEFT takes a module of this name as such.

    In mixtures of experts it reads names of earlier transformers versions as the experts' (``gate_proj`` as their
    ``gate_up_proj``), and leaves the shared expert or dense layer of that name alone.
    """
    probe = deepcopy(config)
    probe.target_modules = [name]
    try:
        convert_peft_config_for_transformers(probe, network, None)
    except ValueError:
        return False
    return set(probe.target_modules or ()) == {name}


def named(target: str, name: str) -> bool:
    """Whether a target means the module or parameter ``name``."""
    return name == target or name.endswith(f".{target}")


def kind(name: str) -> str:
    """What it is called in every layer: all behind its last number, ``layers.3.mlp.up_proj`` → ``mlp.up_proj``."""
    return re.sub(r"^.*\.\d+\.(?=\D)", "", name)
