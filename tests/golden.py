"""Golden values: what every recipe gave, recorded once, so that a change of the house is no change of a loss.

Two kinds. *Evaluated*: ``testing.evaluate`` of every recipe, preset and stage on fixed float64 arrays. *Replayed*: a
10-step float64 run of every recipe in the arena; its rollouts were recorded and are put in the sampler's place, so that
each step's loss and gradient can be held against the recorded ones. ``python tests/golden.py NAME…`` records the named
recipes (anew), ``python tests/golden.py --same-rollouts NAME…`` replays theirs; a difference that is meant is named in
CHANGELOG.md.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from arrays import arrays, laptop
from selfteach.policy.loading import Policy
from selfteach.recipes import RECIPES, Recipe, knobs, with_knobs
from selfteach.studies.laptop import laptop_of, presets
from selfteach.task.trajectory import Trajectory
from selfteach.testing import evaluate
from selfteach.training.config import Bookkeeping, Evaluation, TrainConfig
from selfteach.training.launch import settings_of
from selfteach.training.progress import Silent
from selfteach.training.text.learner import TextLearner
from selfteach.training.text.writing import Writing
from selfteach.training.trainer import Trainer

HOME = Path(__file__).parent / "data" / "golden"
EVALUATED = HOME / "evaluated.safetensors"
STEPS_EVALUATED = (0, 12)
DIRECTIONS = 8

SMALL = {"prompts": 4, "warmup": 0, "optim": "sgd"}
"""Warm-up is left out: schedule "constant" ignored it when these were recorded. Adam divides each element of a gradient
by its size, so one that is nothing but rounding moves as far as any other: the same code on two processors, 1e-13 apart
in the first step, was 1e-4 apart in the tenth. Runs that were recorded under Adam and drifted so were renumbered."""
CHANGES: Mapping[str, Mapping[str, Any]] = {
    "opsd": {}, "pw-opsd": {}, "avsd": {}, "sft": {}, "vopd": {}, "exopd": {},
    "trace": {"per_prompt": 4, "prompts": 2, "kl_hold": 3, "kl_decay": 4, "sync_every": 3},
    "atesd": {"probe_examples": 4},
    "sd-zero": {"srt_steps": 4, "srt_drafts": 12, "steps": 6, "sync_every": 3},
    "mixsd": {"stored": 6},
    "srpo": {"per_prompt": 4, "prompts": 2},
    "cepo": {"per_prompt": 4, "prompts": 2, "mix_steps": 7},
    "sdpo": {"per_prompt": 4, "prompts": 2},
    "scope": {"per_prompt": 4, "prompts": 2},
    "lightning-opd": {"sft_steps": 4, "sft_prompts": 12, "sft_batch": 4, "stored": 12, "steps": 6},
    "grpo": {"per_prompt": 4, "prompts": 2, "kl": 0.04},
    "gkd": {"lmbda": 0.5},
    "rlad": {"per_prompt": 4, "prompts": 2},
    "dgrpo": {"per_prompt": 4, "prompts": 2},
    "sod": {"per_prompt": 4, "prompts": 2},
    "uni-opd": {"per_prompt": 4, "prompts": 2},
    "pi-distill": {"per_prompt": 4, "prompts": 2},
    "unmasking": {"completions": 2, "nodes": 1, "candidates": 2},
    "dpo": {"per_prompt": 4, "prompts": 2},
    "kto": {"per_prompt": 2, "prompts": 2},
    "rft": {"stored": 6},
    "soda": {"sft_steps": 4, "stored": 12, "steps": 6},
    "dp-opd": {"poisson_records": 12, "delta": 1e-2},
    "effopd": {"validation": 4, "trials": 1},
    "brts": {"prompts": 2}, "vpd": {"per_prompt": 4, "prompts": 2},
    "reinforce-plus-plus": {"per_prompt": 4, "prompts": 2}, "reopold": {"per_prompt": 4, "prompts": 2},
    "distillm": {"probe_examples": 4}, "sdft-rewrite": {"stored": 6},
    "erpd": {"rounds": 2, "stored": 10, "per_prompt": 4, "prompts": 2, "steps": 3, "extreme_steps": 2},
    "many-faces": {"per_prompt": 2, "prompts": 2},
    "unisd": {"prompts": 4},
    "pu-rl": {"per_prompt": 4, "prompts": 2, "imitate_steps": 4, "steps": 6},
    "selfci": {},
    "caopd": {"per_prompt": 4, "prompts": 2},
    "kepo": {"per_prompt": 4, "prompts": 2, "hinted": 2},
    "rltf": {"per_prompt": 4, "prompts": 2, "critique_weight": 0.1, "optim": "sgd"},
    "skill-sd": {"per_prompt": 4, "prompts": 2},
    "genevolve": {"per_prompt": 4, "prompts": 2, "kl": 1e-3, "margin": 0.0},
    "sleep": {"per_prompt": 3, "prompts": 2, "steps": 6, "wake_steps": 4, "lmbda": 0.5},
    "oracle": {"gate": "early"},
    "pi-play": {"rounds": 2, "steps": 3, "examiner_steps": 2, "per_prompt": 2, "prompts": 9, "tries": 4},
    "tt-opd": {"per_prompt": 4, "prompts": 2, "flip": True, "clip_distill": True, "kl": 0.01},
}  # fmt: skip


# --- evaluated --------------------------------------------------------------------------------------------------


def cases() -> Iterator[tuple[str, Recipe, int]]:
    """(label, recipe, step) of every recipe, preset and stage, at an early and a late step."""
    for name, kind in RECIPES.items():
        for preset, recipe in presets(kind).items():
            for stage, one in recipe.stages.items():
                for step in STEPS_EVALUATED:
                    yield f"{name}:{preset}:{stage}:{step}", one, step


def different_cases() -> list[tuple[str, Recipe, int]]:
    """Those of ``cases`` whose recorded values no earlier case of the same recipe has: presets that differ in a rate or
    a length alone are one loss."""
    recorded, seen, kept = recorded_evaluations(), set(), []
    for label, recipe, step in cases():
        values = {part: value.tobytes() for part, value in recorded.get(label, {}).items()}
        known = (type(recipe), tuple(sorted(values.items())))
        if not values or known not in seen:
            kept.append((label, recipe, step))
        seen.add(known)
    return kept


def evaluated(recipe: Recipe, step: int) -> dict[str, np.ndarray]:
    out = evaluate(recipe, arrays(teachers=tuple(recipe.teachers)), step)
    terms = {f"terms/{name}": np.float64(value) for name, value in out["terms"].items()}
    return {
        "loss": np.asarray(out["loss"]),
        "grad": out["grad"],
        **{k: np.asarray(v) for k, v in terms.items()},
    }


def recorded_evaluations() -> dict[str, dict[str, np.ndarray]]:
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, value in load_file(EVALUATED).items():
        label, _, part = name.partition("|")
        found.setdefault(renamed(label), {})[renamed(part)] = value
    return found


# --- replayed ---------------------------------------------------------------------------------------------------


def recipe_of(name: str) -> Recipe:
    changes = {"steps": 10, **SMALL, **CHANGES.get(name, {})}
    return with_knobs(laptop(name), changes)


def fingerprint(learner: TextLearner) -> dict[str, Any]:
    """Norm of the gradient, and its products with fixed random directions."""
    trained = [learner.models.policies[name] for name in learner.recipe.trained]
    flat = torch.cat([p.grad.flatten() for one in trained for p in one.trainable().values()])
    directions = torch.randn(
        DIRECTIONS, len(flat), generator=torch.Generator().manual_seed(7), dtype=flat.dtype
    )
    return {"norm": float(flat.norm()), "along": (directions @ flat).tolist()}


class Watched(TextLearner):
    """A learner in float64 that writes down its rollouts, or takes recorded ones, and what each step gave."""

    def __init__(
        self, name: str, recipe: Recipe, folder: Path, replayed: list[dict[str, Any]] | None
    ) -> None:
        self.replayed, self.done = replayed, 0
        config = TrainConfig(
            recipe, name, "arena", laptop_of(RECIPES[name]).world, folder,
            evaluation=Evaluation(eval_problems=0),
            bookkeeping=Bookkeeping(samples_every=0, alarms=False),
        )  # fmt: skip
        super().__init__(config, Silent())
        for policy in self.models.policies.values():
            policy.model.double()
        load = self.models.weights.load
        self.models.weights.load = lambda model: doubled(load(model))
        self.writing.rollouts = self.replayed_rollouts  # type: ignore[method-assign]

    def cut(self, micro_batch: int | None) -> None:
        """Score so many rows at once from now on."""
        book = replace(self.config.bookkeeping, micro_batch=micro_batch)
        self.now.config = replace(self.config, bookkeeping=book)

    def replayed_rollouts(self, step: int, progress: Any) -> tuple[list[Trajectory], int]:
        if self.replayed is None:
            written, spent = Writing.rollouts(self.writing, step, progress)
            if not self.recipe.rollouts.stored:
                written = [dealt(one, i + self.done) for i, one in enumerate(self.writing.judged(written))]
        else:
            written, spent = [trajectory_of(row) for row in self.replayed[self.done]["rollouts"]], 0
        self.written = [one.to_json() for one in self.writing.judged(written)]
        return written, spent

    def set_knobs(self, step: int) -> None:
        """A replay sets the knobs as they were: what a controller draws is tested elsewhere."""
        if self.replayed is None:
            super().set_knobs(step)
        else:
            self.now.recipe = with_knobs(self.recipe, self.replayed[self.done]["knobs"])

    def backward(self, batch: Any, update: Any, several: bool) -> Any:
        self.numbers = super().backward(batch, update, several)
        self.gradient = fingerprint(self)
        return self.numbers

    def stepped(self) -> dict[str, Any]:
        """What the step that is just over gave."""
        self.done += 1
        terms = {name.removeprefix("terms/"): v for name, v in self.numbers.items() if name != "loss"}
        return {
            "stage": self.now.stage,
            "knobs": {knob: getattr(self.recipe, knob) for knob in self.controllers},
            "rollouts": self.written,
            "loss": self.numbers["loss"],
            "terms": terms,
            "gradient": self.gradient,
        }


def doubled(policy: Policy) -> Policy:
    policy.model.double()
    return policy


def trajectory_of(row: dict[str, Any]) -> Trajectory:
    """A recorded trajectory; the first ones were recorded before there were segments."""
    if "segments" in row:
        return Trajectory.from_json(row)
    segment = {
        "ids": row["ids"], "author": "student", "trains": True, "behavior": row["behavior"] or [],
        "turn": 0, "media": [], "context": None, "messages": [],
    }  # fmt: skip
    flat = ("ids", "mask", "turn", "behavior")
    since = {
        "numbers": {}, "origin": "student", "pair": None, "parent": None, "fork": None,
        "temperature": 1.0, "trajectory": None,
    }  # fmt: skip
    kept = {name: value for name, value in row.items() if name not in flat}
    return Trajectory.from_json({**kept, **since, "segments": [segment]})


def dealt(one: Any, nth: int) -> Any:
    """The rollout with a reward that is dealt out: groups of a few tiny answers would be all right or all wrong. An
    examiner's texts have rewards that differ."""
    if "posed" in one.grade.numbers:
        return one
    return replace(one, grade=replace(one.grade, reward=float(nth % 3 == 0)))


def steps_of(
    name: str,
    folder: Path,
    replayed: list[dict[str, Any]] | None,
    recipe: Recipe,
    micro_batches: Sequence[int | None] = (None,),
) -> Iterator[dict[str, Any]]:
    """What each step gives; the steps take the sizes of ``micro_batches`` in turn."""
    torch.manual_seed(0)
    learner = Watched(name, recipe, folder, replayed)
    run = Trainer(learner, None, Silent(), settings_of(learner.config))
    while run.done < run.steps:
        if run.stage_done == run.stages[run.stage].steps:
            run.enter(run.stage + 1)
        learner.cut(micro_batches[run.done % len(micro_batches)])
        run.step()
        yield learner.stepped()


NAMES = {"behaviour": "behavior", "distil": "distill"}
"""What was called otherwise when the values were recorded."""


def renamed(value: Any) -> Any:
    """A recorded value with today's names: keys of mappings, and parts of labels."""
    if isinstance(value, str):
        return re.sub(r"\w+", lambda word: NAMES.get(word[0], word[0]), value)
    if isinstance(value, dict):
        return {
            NAMES.get(key, key): renamed(part) if isinstance(part, dict | list) else part
            for key, part in value.items()
        }
    return [renamed(part) if isinstance(part, dict | list) else part for part in value]


def recorded_run(name: str) -> dict[str, Any]:
    run: dict[str, Any] = json.loads((HOME / "runs" / f"{name}.json").read_text())
    # AdamW went tensor by tensor: in one kernel it is equal to rounding, as a tiny gradient shows in the ninth digit.
    run["knobs"].setdefault("optim", "adamw_torch")
    for step in run["steps"]:
        step["stage"] = renamed(step["stage"])
    found: dict[str, Any] = renamed(run)
    return found


def record(names: Sequence[str], folder: Path) -> None:
    """The named recipes' values take the place of what was recorded of them; the others' stay."""
    kept = {at: value for at, value in load_file(EVALUATED).items() if at.partition(":")[0] not in names}
    values = {
        f"{label}|{part}": np.ascontiguousarray(value)
        for label, recipe, step in cases()
        if label.partition(":")[0] in names
        for part, value in evaluated(recipe, step).items()
    }
    save_file(kept | values, EVALUATED)
    for name in names:
        recipe = recipe_of(name)
        steps = list(steps_of(name, folder / name, None, recipe))
        run = {"recipe": name, "preset": "arena", "knobs": plain(knobs(recipe)), "steps": steps}
        (HOME / "runs" / f"{name}.json").write_text(json.dumps(run, separators=(",", ":")) + "\n")
        print(name, [round(step["loss"], 5) for step in steps], flush=True)


def renumber(names: Sequence[str], folder: Path) -> None:
    """The named recipes' recorded rollouts are replayed, and what they give now takes the place of what they gave: for
    a change of rounding, which an optimizer that divides by the gradient's size enlarges from step to step."""
    for name in names:
        path = HOME / "runs" / f"{name}.json"
        run, known = json.loads(path.read_text()), recorded_run(name)
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in known["knobs"].items()}
        recipe = with_knobs(presets(RECIPES[name])[known["preset"]], values)
        for step, now in zip(
            run["steps"], steps_of(name, folder / name, known["steps"], recipe), strict=True
        ):
            step |= {part: now[part] for part in ("loss", "terms", "gradient")}
        path.write_text(json.dumps(run, separators=(",", ":")) + "\n")


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Knobs as JSON holds them; a nested settings object (a controller's) is left to the preset."""
    return {
        k: v for k, v in values.items() if v is None or isinstance(v, bool | int | float | str | list | tuple)
    }


if __name__ == "__main__":
    import tempfile

    names = [word for word in sys.argv[1:] if word != "--same-rollouts"]
    if not names or not set(names) <= set(RECIPES):
        sys.exit(f"which recipes? python tests/golden.py NAME…; known: {', '.join(RECIPES)}")
    with tempfile.TemporaryDirectory() as place:
        (renumber if len(names) < len(sys.argv) - 1 else record)(names, Path(place))
