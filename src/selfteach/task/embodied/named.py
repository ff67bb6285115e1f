"""Environments by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from selfteach.checks import nearest, require
from selfteach.importing import is_reference, load_object, users_call
from selfteach.task.embodied.task import Array, EmbodiedTask, Infos

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

LONGEST = 1000
"""Steps of an episode whose environment names no bound of its own."""
SAID = ("success", "is_success")
"""What infos of environments call success."""


def point(name: str) -> EmbodiedTask:
    reach = import_module("selfteach.task.embodied.point_reach")
    flags = {flag: flag.replace("_", "-") in name for flag in ("dense", "two_ways", "jump", "slide", "back")}
    made: EmbodiedTask = reach.point_reach(name, reach.Variant(**flags))
    return made


POINTS = ("", "-dense", "-two-ways", "-jump", "-slide", "-slide-back")
OWN: Mapping[str, Callable[[str], EmbodiedTask]] = {f"point-reach{variant}": point for variant in POINTS}
FAMILIES = ("babyai:LEVEL", "gymnasium:ID", "FILE.py:NAME")


def task_named(name: str) -> EmbodiedTask:
    """A name of ``OWN``, ``babyai:LEVEL``, ``gymnasium:ID`` of any registered environment, or FILE.py:NAME of a
    function that gives an EmbodiedTask. UserError where there is none, a package is missing, or it is none that can be
    acted in."""
    require(
        find_spec("gymnasium") is not None,
        f"environment {name} needs the package gymnasium, which is not installed: pip install 'selfteach[embodied]'",
    )
    family, _, rest = name.partition(":")
    if name in OWN:
        task = OWN[name](name)
    elif family == "babyai":
        task = import_module("selfteach.task.embodied.grids").grid_task(name, rest)
    elif family == "gymnasium":
        task = registered(name, rest)
    else:
        require(is_reference(name), f"environment {name!r} is none{nearest(name, [*OWN, *FAMILIES])}")
        task = users_call(name, load_object(name))
        require(
            isinstance(task, EmbodiedTask),
            f"{name} gave {type(task).__name__}: give a selfteach.task.embodied.task.EmbodiedTask",
        )
    return task


def registered(name: str, wanted: str) -> EmbodiedTask:
    """Any environment that gymnasium knows."""
    gymnasium = import_module("gymnasium")
    known = gymnasium.registry
    require(wanted in known, f"gymnasium has no environment {wanted!r}{nearest(wanted, known)}")
    disabled = import_module("gymnasium.vector").AutoresetMode.DISABLED

    def make(n: int) -> VectorEnv:
        envs: VectorEnv = gymnasium.make_vec(
            wanted, n, vectorization_mode="sync", vector_kwargs={"autoreset_mode": disabled}
        )
        return envs

    try:
        one = gymnasium.make(wanted)
        _, infos = one.reset(seed=0)
        _, _, _, _, after = one.step(one.action_space.sample())
    except Exception as problem:  # whatever packages of strangers raise
        require(False, f"environment {wanted} cannot be made: {type(problem).__name__}: {problem}")
    says = next((key for key in SAID if key in {**infos, **after}), None)
    return EmbodiedTask(
        name,
        make,
        known[wanted].max_episode_steps or LONGEST,
        success=None if says is None else signal(says),
    )


def signal(says: str) -> Callable[[Infos, Array, Array], Array]:
    """Success as infos tell it; where they do not, none."""

    def success(infos: Infos, rewards: Array, terminated: Array) -> Array:
        told: Any = infos.get(says, np.zeros(len(rewards)))
        return np.asarray(told, float) > 0

    return success
