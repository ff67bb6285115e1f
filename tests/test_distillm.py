"""DistiLLM and DistiLLM-2: skewed losses, whose text, the adaptive share, replay, a skew for each answer."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from arrays import arrays, log_softmax
from selfteach.control.rising_share import RisingShare
from selfteach.errors import UserError
from selfteach.recipes import with_knobs
from selfteach.recipes.distillm import DistiLLM
from selfteach.recipes.distillm2 import DistiLLM2
from selfteach.testing import evaluate


def kl(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (np.exp(one) * (one - other)).sum(-1)


def skl(p: np.ndarray, q: np.ndarray, alpha: Any) -> np.ndarray:
    return kl(p, np.log(alpha * np.exp(p) + (1 - alpha) * np.exp(q)))


def both(given: dict[str, Any], temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Teacher p and student q."""
    logits = (given["teacher_logits"]["teacher"], given["student_logits"])
    return log_softmax(logits[0], temperature), log_softmax(logits[1], temperature)


@pytest.mark.parametrize("alpha", [0.1, 0.5])
@pytest.mark.parametrize("loss", ["skl", "srkl"])
def test_the_loss_is_the_skewed_divergence(loss: str, alpha: float) -> None:
    given = arrays()
    p, q = both(given)
    each = skl(p, q, alpha) if loss == "skl" else skl(q, p, alpha)
    out = evaluate("distillm", given, overrides={"loss": loss, "alpha": alpha})
    assert out["loss"] == pytest.approx((each * given["mask"]).sum() / given["mask"].sum(), rel=1e-12)


@dataclass(frozen=True)
class Written:
    number: int
    group: int


class Writers:
    """Tools that write numbered answers and remember who was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.kept = SimpleNamespace(trajectories=[])

    def sample(self, prompts: Any, n: int) -> list[Written]:
        self.asked.append("student")
        return [Written(len(self.asked), prompt.group) for prompt in prompts for _ in range(n)]

    def quote(self, prompts: Any, field: str) -> list[Written]:
        self.asked.append(field)
        return []

    def store(self, name: str) -> Any:
        return self.kept

    def random(self, name: str) -> Random:
        return Random(f"{len(self.asked)} {name}")


PROMPTS: Any = [SimpleNamespace(group=group) for group in (3, 4)]


def test_the_data_speaks_at_share_0_and_the_student_at_1() -> None:
    tools: Any = Writers()
    for step in range(5):
        DistiLLM(reference="answer").rollout(tools, PROMPTS, step)
    assert set(tools.asked) == {"answer"}
    tools = Writers()
    for step in range(5):
        DistiLLM(student_share=1.0).rollout(tools, PROMPTS, step)
    assert tools.asked == ["student"] * 5


def test_what_is_replayed_is_what_was_kept_last_and_stands_in_the_steps_groups() -> None:
    tools: Any = Writers()
    recipe = with_knobs(DistiLLM(student_share=1.0), {"replay_capacity": 4, "steps": 100})
    for step in range(3):  # at the beginning all is fresh
        assert len(recipe.rollout(tools, PROMPTS, step)) == 2
    assert [one.number for one in tools.kept.trajectories] == [2, 2, 3, 3]
    again = recipe.rollout(tools, PROMPTS, 100)  # at the end nothing is
    assert len(tools.asked) == 3
    assert {one.number for one in again} <= {2, 3}  # type: ignore[attr-defined]
    assert [one.group for one in again] == [3, 4]


@pytest.mark.parametrize(("ratio", "shares"), [
    ("decreasing", [1.0, 0.75, 0.0, 0.0]), ("constant", [0.5] * 4), ("increasing", [0.0, 0.25, 1.0, 1.0]),
])  # fmt: skip
def test_the_share_of_fresh_answers_follows_the_step(ratio: str, shares: list[float]) -> None:
    recipe = with_knobs(DistiLLM(), {"replay_ratio": ratio, "steps": 8})
    assert [recipe.fresh(step) for step in (0, 2, 8, 9)] == shares


def watched(spec: RisingShare, losses: list[float]) -> list[float]:
    controller, found = spec.begun(0.0).start(0), []
    for loss in losses:
        found.append(controller.choose(0.0))
        controller.observe({"reference/student": loss})
    return found


def test_the_share_rises_where_the_held_out_loss_has_risen_and_nowhere_else() -> None:
    spec = RisingShare(check_every=2, tolerance=0.5, raise_by=0.4)
    # Looks after steps 2, 4, 6, 8: 1.4 is no rise of ½ over 1; 1.5 is; 1.9 is none over 1.5; 2.0 is.
    assert watched(spec, [1.0, 1.4, 9.0, 1.5, 9.0, 1.9, 9.0, 2.0, 2.0]) == [
        0,
        0,
        0,
        0,
        0.4,
        0.4,
        0.4,
        0.4,
        0.8,
    ]
    assert watched(spec, [float(i) for i in range(12)])[-1] == 1.0
    assert set(watched(spec, [1.0, 0.5] * 4)) == {0.0}


def test_a_controller_goes_on_as_it_was() -> None:
    spec, losses = RisingShare(check_every=2, tolerance=0.1), [1.0, 1.2, 1.3, 1.4, 1.1, 1.6]
    whole, first, second = (spec.begun(0.0).start(seed) for seed in (0, 0, 1))
    for loss in losses:
        whole.observe({"reference/student": loss})
    for loss in losses[:3]:
        first.observe({"reference/student": loss})
    second.load_state(first.state())
    for loss in losses[3:]:
        second.observe({"reference/student": loss})
    assert second.state() == whole.state()
    assert whole.choose(0.0) > 0


def test_without_adaptation_nothing_is_probed() -> None:
    assert DistiLLM().reference_probe is not None
    assert set(DistiLLM().controllers) == {"student_share"}
    fixed = DistiLLM(adaptive=False)
    assert fixed.reference_probe is None
    assert not fixed.controllers


# --- DistiLLM-2 --------------------------------------------------------------------------------------------------


def second_loss(given: dict[str, Any], alpha: np.ndarray, beta: float) -> float:
    p, q = both(given)
    own = given["origin"] == "student"
    rows = [
        ((skl(q[n], p[n], alpha[n]) if own[n] else skl(p[n], q[n], alpha[n])) * mask).sum() / mask.sum()
        for n, mask in enumerate(given["mask"])
    ]
    means = [np.mean([row for row, mine in zip(rows, own, strict=True) if mine == which]) for which in (0, 1)]
    return float(((2 - beta) * means[0] + beta * means[1]) / 2)


@pytest.mark.parametrize(("step", "beta"), [(0, 1.0), (25, 1.25), (50, 1.5), (90, 1.5)])
def test_each_text_has_its_own_loss_and_beta_rises(step: int, beta: float) -> None:
    given = arrays()
    out = evaluate("distillm2", given, step=step, overrides={"curriculum": False, "steps": 100})
    assert out["loss"] == pytest.approx(second_loss(given, np.full(6, 0.1), beta), rel=1e-12)


def test_the_skew_of_an_answer_is_the_papers() -> None:
    given, base = arrays(), 0.6
    own = given["origin"] == "student"
    for n, token in np.ndindex(given["ids"].shape):  # each finds its own likelier, by more from row to row
        writer = given["student_logits"] if own[n] else given["teacher_logits"]["teacher"]
        writer[n, token, given["ids"][n, token]] += 1 + n / 2
    p, q = (np.take_along_axis(x, given["ids"][..., None], -1)[..., 0] for x in both(given))
    likely = [np.exp((x * given["mask"]).sum(1) / given["mask"].sum(1)) for x in (p, q)]
    gap = np.where(own, likely[1] - likely[0], likely[0] - likely[1])
    mean = np.where(own, gap[own].mean(), gap[~own].mean())
    alpha = np.clip(1 - (1 - base) * mean / np.maximum(gap, 1e-5), 0.01, base)
    assert len(set(alpha.round(6))) > 2
    out = evaluate("distillm2", given, overrides={"alpha": base})
    assert out["loss"] == pytest.approx(second_loss(given, alpha, 1.0), rel=1e-10)


def test_both_write_an_answer_to_each_prompt() -> None:
    def sample(prompts: Any, n: int, role: str = "student") -> list[Any]:
        return [SimpleNamespace(group=one.group, origin=role) for one in prompts for _ in range(n)]

    tools: Any = SimpleNamespace(sample=sample)
    found = with_knobs(DistiLLM2(), {"per_prompt": 2}).rollout(tools, PROMPTS, 0)
    assert [(one.group, one.origin) for one in found] == [
        (group, role) for group in (3, 4) for role in ("teacher", "teacher", "student", "student")
    ]


@pytest.mark.parametrize(("kind", "change"), [
    (DistiLLM, {"alpha": 0}), (DistiLLM, {"student_share": 1.5}), (DistiLLM, {"replay_capacity": 0}),
    (DistiLLM2, {"lowest_alpha": 0.5}), (DistiLLM2, {"beta_end": 2.5}),
])  # fmt: skip
def test_what_cannot_be_meant_is_refused(kind: Any, change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(change))):
        with_knobs(kind(), change)
