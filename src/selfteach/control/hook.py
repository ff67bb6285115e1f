"""What may happen to the weights between two optimizer steps (Sleep, EffOPD)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from jaxtyping import Shaped
from torch import Tensor


class Hook(Protocol):
    """Looks at the trained weights after an optimizer step, and may set them in place.

    ``state`` is any nesting of plain values and tensors; a hook with that state goes on exactly as before.
    """

    def after_step(
        self, step: int, weights: Mapping[str, Shaped[Tensor, "..."]], evaluate: Callable[[], float]
    ) -> None:
        """``step`` = 1, 2 … within the stage; ``weights``: the live trained tensors by name (``NAME.parameter``);
        ``evaluate()``: held-out accuracy with the weights as they are now."""

    def state(self) -> dict[str, Any]: ...

    def load_state(self, state: Mapping[str, Any]) -> None: ...


class HookSpec(Protocol):
    """What a recipe declares: the hook's settings, from which a run starts one."""

    def start(self, seed: int) -> Hook: ...
