"""What a recipe's rollout found out about a trajectory (a critique, a verdict, a demonstration), shown to a role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from selfteach.roles.view import Messages, begun, filled, in_system, reworded
from selfteach.task.trajectory import Trajectory


@dataclass(frozen=True)
class Told:
    """A text that names what ``Trajectory.told`` or ``Prompt.told`` added to the example's private fields.

    ``template`` holds {problem}, private fields, and {attempt}, the trajectory's own text (empty before it is written).
    ``place``: in the last user message's stead, at the beginning of the system prompt, or in the assistant's mouth.
    Where a field that it names is missing or empty the role sees nothing, or with ``otherwise`` "plain" the bare
    prompt. The task's wording of ``name``, if there is one, is taken instead of the template. The data need have none
    of these fields, so that preflight waits for them.
    """

    template: str
    name: str = "told"
    place: Literal["user", "system", "mouth"] = "user"
    otherwise: Literal["nothing", "plain"] = "nothing"
    fields: ClassVar[tuple[str, ...]] = ()

    def __call__(
        self, trajectory: Trajectory, group: Sequence[Trajectory], wording: Mapping[str, str]
    ) -> Messages | None:
        example = trajectory.example
        text = filled(example, wording.get(self.name, self.template), attempt=trajectory.text)
        if text is None:
            return example.prompt if self.otherwise == "plain" else None
        if self.place == "mouth":
            return begun(example, text)
        return in_system(example, text) if self.place == "system" else reworded(example, text)
