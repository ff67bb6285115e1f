"""A policy's weights under the names of its model's folder, as another engine reads them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import peft
import torch
from jaxtyping import Shaped
from safetensors.torch import save_file
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from selfteach.policy.adapter import refuse_tied
from selfteach.policy.loading import Policy, bare


@torch.no_grad()
def checkpoint_weights(
    policy: Policy, *, untied: bool = False, state: Mapping[str, Shaped[Tensor, "..."]] | None = None
) -> dict[str, Shaped[Tensor, "..."]]:
    """Name → tensor, as ``save_pretrained`` would write them; a LoRA adapter is added in (in a copy).

    A head that is the input embedding is left out, or (``untied``) there under its own name. The tensors of full
    weights are the policy's own: they change with it. ``state``: those of a sharded model (``sharding.whole_state``).
    """
    model: Any = policy.model
    if isinstance(model, peft.PeftModel):
        refuse_tied(model, policy.name)
        model = cast(Any, copy.deepcopy(model)).merge_and_unload()
    network = bare(model)
    found = dict(network.state_dict() if state is None else state)
    head, embedding = network.get_output_embeddings(), network.get_input_embeddings()
    names = [name for name, module in network.named_modules() if module is head]
    if head.weight is embedding.weight and names and not untied:
        found.pop(f"{names[0]}.weight", None)
    return dict(revert_weight_conversion(network, found))


def is_tied(policy: Policy) -> bool:
    """Whether the head is the input embedding."""
    network = bare(policy.model)
    return network.get_output_embeddings().weight is network.get_input_embeddings().weight


def write_weights(weights: Mapping[str, Shaped[Tensor, "..."]], folder: str | Path) -> None:
    """As ``folder``/model.safetensors, which lets no tensor lie in another one's memory."""
    seen: set[int] = set()
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        held = tensor.detach().contiguous().cpu()
        place = held.untyped_storage().data_ptr()
        found[name] = held.clone() if place in seen else held
        seen.add(place)
    save_file(found, str(Path(folder) / "model.safetensors"), metadata={"format": "pt"})
