"""Which tensors of modules change in training, and so belong into a checkpoint."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from selfteach.errors import UserError
from selfteach.policy.sharding import as_sharded, settle

Named = dict[str, dict[str, Shaped[Tensor, "..."]]]
"""Module name → tensor name → tensor."""


def kept(modules: Mapping[str, nn.Module], also: Mapping[str, Collection[str]] | None = None) -> Named:
    """The parameters that want a gradient and the buffers that ``state_dict`` has, of every module.

    ``also`` (module name → names) are further parameters: those that an earlier stage trained and this one does not.
    """
    found: Named = {}
    for place, module in modules.items():
        settle(module)
        before = (also or {}).get(place, ())
        own = {name: p for name, p in module.named_parameters() if p.requires_grad or name in before}
        persistent = module.state_dict(keep_vars=True).keys()
        found[place] = own | {name: b for name, b in module.named_buffers() if name in persistent}
    return found


def trainable(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """The parameters that want a gradient, as MODULE.NAME; of sharded modules this process's parts."""
    for module in modules.values():
        settle(module)
    return {
        f"{place}.{name}": parameter
        for place, module in modules.items()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def names(named: Mapping[str, Mapping[str, Shaped[Tensor, "..."]]]) -> dict[str, set[str]]:
    """Module name → the names of its tensors."""
    return {place: set(own) for place, own in named.items()}


@torch.no_grad()
def load(modules: Mapping[str, nn.Module], saved: Mapping[str, Mapping[str, Shaped[Tensor, "..."]]]) -> None:
    """Put what ``kept`` found back in place, bit for bit.

    Raises ``UserError`` if the modules, their tensors, shapes or dtypes are not the saved ones.
    """
    here, values = flat(kept(modules, names(saved))), flat(saved)
    if odd := here.keys() ^ values.keys():
        raise UserError(f"the checkpoint holds other weights ({min(odd)}); {SAME}")
    for name, tensor in here.items():
        value = values[name]
        if (value.shape, value.dtype) != (tensor.shape, tensor.dtype):
            raise UserError(
                f"the checkpoint's {name} is {value.dtype} {list(value.shape)}, here {tensor.dtype} "
                f"{list(tensor.shape)}; {SAME}"
            )
        tensor.copy_(as_sharded(value, tensor))


SAME = "resume with the saved model and settings"


def flat(named: Mapping[str, Mapping[str, Shaped[Tensor, "..."]]]) -> dict[str, Shaped[Tensor, "..."]]:
    """The same as MODULE.NAME → tensor."""
    return {f"{place}.{name}": tensor for place, own in named.items() for name, tensor in own.items()}
