"""How much of a model trains, and which kinds of its weights an adapter leaves as they are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from peft.tuners.lora import LoraLayer
from torch import nn

from selfteach.policy.loading import Policy
from selfteach.policy.lora import kind

WRAPPED = "base_layer."
PREFIX = "base_model.model."
DIRECT = ".weight"


@dataclass(frozen=True)
class Kind:
    """Matrices of one name in all layers: how many, their ``weights`` together, whether an adapter is on them."""

    name: str
    matrices: int
    weights: int
    adapted: bool


@dataclass(frozen=True)
class Coverage:
    """``trained`` of ``total`` weights want a gradient; ``kinds`` are the matrices between embeddings and head."""

    trained: int
    total: int
    kinds: list[Kind]

    @property
    def share(self) -> float:
        return self.trained / self.total

    def left_out(self, least: float = 0.0) -> list[tuple[Kind, float]]:
        """Kinds without an adapter that hold at least this share of all kinds' weights, the largest first, with it."""
        every = sum(one.weights for one in self.kinds)
        shares = [(one, one.weights / every) for one in self.kinds if not one.adapted]
        return sorted((each for each in shares if each[1] >= least), key=lambda each: -each[1])


def coverage(policy: Policy) -> Coverage:
    """Counts of a policy's weights. Norms, biases, embeddings and the head are of no kind: none expects an adapter."""
    parameters = dict(policy.model.named_parameters())
    apart = embeddings(policy.model) | adapters(policy.model)
    adapted = under_adapters(policy.model)
    count: Counter[tuple[str, bool]] = Counter()
    weights: Counter[tuple[str, bool]] = Counter()
    for name, parameter in parameters.items():
        if id(parameter) in apart or parameter.squeeze().ndim < 2 or "bias" in name.rpartition(".")[2]:
            continue
        plain = kind(name.removeprefix(PREFIX).replace(WRAPPED, "")).removesuffix(DIRECT)
        entry = (plain, parameter.requires_grad or id(parameter) in adapted)
        count[entry] += 1
        weights[entry] += parameter.numel()
    return Coverage(
        sum(one.numel() for one in parameters.values() if one.requires_grad),
        sum(one.numel() for one in parameters.values()),
        [Kind(name, count[name, on], weights[name, on], on) for name, on in count],
    )


def embeddings(model: nn.Module) -> set[int]:
    """Ids of the parameters of embeddings, of places too, and of the head."""
    tables = [one for one in model.modules() if isinstance(one, nn.Embedding)]
    head = getattr(model, "get_output_embeddings", lambda: None)()
    return {
        id(p) for one in (*tables, *([] if head is None else [head])) for p in one.parameters(recurse=False)
    }


def adapters(model: nn.Module) -> set[int]:
    return {id(p) for name, p in model.named_parameters() if ".lora_" in name}


def under_adapters(model: nn.Module) -> set[int]:
    """Ids of the parameters that an adapter adds to."""
    return {
        id(getattr(one.get_base_layer(), getattr(one, "parameter_name", "weight")))
        for one in model.modules()
        if isinstance(one, LoraLayer)
    }
