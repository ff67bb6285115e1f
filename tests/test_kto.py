"""KTO as a recipe: its formula, the point of reference and the mismatched rows, labels of the data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arrays import arrays, log_softmax, slopes
from selfteach.errors import UserError
from selfteach.recipes.kit import Grade, Prompt, Trajectory
from selfteach.recipes.kto import KTO, mismatched
from selfteach.task.example import Example
from selfteach.testing import evaluate

OWN, OTHER = [0, 1, 3, 5], [2, 4]
GOOD = np.array([True, False, True, False])


def gaps(given: dict[str, Any], logits: np.ndarray | None = None) -> np.ndarray:
    def total(x: np.ndarray) -> np.ndarray:
        return (np.take_along_axis(log_softmax(x), given["ids"][..., None], -1)[..., 0] * given["mask"]).sum(
            1
        )

    own = given["student_logits"] if logits is None else logits
    return total(own) - total(given["teacher_logits"]["reference"])


def loss(gap: np.ndarray, z: float, beta: float = 0.1, good: float = 1.0, bad: float = 1.0) -> float:
    margin = beta * (gap[OWN] - z) * np.where(GOOD, 1, -1)
    return float((np.where(GOOD, good, bad) / (1 + np.exp(margin))).mean())


def with_reference(sign: int) -> dict[str, Any]:
    """A batch whose mismatched rows have gained (1) or lost (−1) on the reference."""
    given = arrays(teachers=("reference",))
    if np.sign(gaps(given)[OTHER].mean()) != sign:
        reference = given["teacher_logits"]["reference"]
        own = given["student_logits"]
        given["student_logits"] = np.where(np.isin(np.arange(6), OTHER)[:, None, None], reference, own)
        reference[OTHER] = own[OTHER]
    return given


@pytest.mark.parametrize("sign", [1, -1])
def test_the_loss_is_the_papers_with_a_reference_point_that_is_never_negative(sign: int) -> None:
    given = with_reference(sign)
    mean = gaps(given)[OTHER].mean()
    assert np.sign(mean) == sign
    out = evaluate("kto", given, overrides={"beta": 0.4, "desirable_weight": 1.3, "undesirable_weight": 0.6})
    assert out["loss"] == pytest.approx(loss(gaps(given), max(0.0, mean), 0.4, 1.3, 0.6), rel=1e-12)
    assert out["metrics"]["kto/kl"] == pytest.approx(max(0.0, mean), rel=1e-12)


def test_no_gradient_goes_through_the_reference_point() -> None:
    given = with_reference(1)
    z = gaps(given)[OTHER].mean()
    out = evaluate("kto", given)
    assert (out["grad"][OTHER] == 0).all()
    for place, slope in slopes(given["student_logits"], lambda moved: loss(gaps(given, moved), z)):
        assert out["grad"][place] == pytest.approx(slope, abs=1e-8)


def test_apo_zero_takes_all_rows_and_no_reference_point() -> None:
    given = with_reference(1)
    margin = 0.1 * gaps(given) * np.where(given["reward"] > 0.5, 1, -1)
    out = evaluate(
        "kto", {k: v for k, v in given.items() if k != "marks"}, overrides={"loss": "apo_zero_unpaired"}
    )
    assert out["loss"] == pytest.approx((1 / (1 + np.exp(margin))).mean(), rel=1e-12)


def answers(prompts: int, each: int) -> list[Trajectory]:
    return [
        Trajectory.written(
            Example(f"e{p}", ({"role": "user", "content": str(p)},), {"label": "true"}), [p], [10 * p + n], f"{p}.{n}",
            group=p, finished=True, behavior=[-0.5], grade=Grade(float(n)),
        )
        for p in range(prompts)
        for n in range(each)
    ]  # fmt: skip


@pytest.mark.parametrize("each", [1, 3])
def test_every_answer_stands_once_behind_another_prompt(each: int) -> None:
    own = answers(3, each)
    found = mismatched(own, each)
    assert [one.ids for one in found] == [one.ids for one in own]
    assert [one.prompt_ids for one in found] == [[(one.group + 1) % 3] for one in own]
    for one, of in zip(found, own, strict=True):
        assert one.example.key == f"e{(of.group + 1) % 3}"
        assert (one.group, one.grade, one.text) == (of.group, of.grade, of.text)
        assert one.marks == {"mismatched": [True]}
        assert one.authors == ["mismatched"]
        assert not one.sampled  # nobody drew it behind this prompt


def test_one_prompt_has_no_other() -> None:
    with pytest.raises(UserError, match="raise prompts"):
        mismatched(answers(1, 4), 4)
    assert mismatched([], 1) == []


class Data:
    def quote(self, prompts: Any, field: str) -> list[Trajectory]:
        return [
            Trajectory.written(one.example, one.prompt_ids, [i], field, group=i, finished=True)
            for i, one in enumerate(prompts)
        ]


def prompts(*labels: str, field: str = "label") -> list[Prompt]:
    told = ({"role": "user", "content": "?"},)
    return [
        Prompt(Example(f"e{i}", told, {"completion": "c", field: label}), [i], i)  # type: ignore[arg-type]
        for i, label in enumerate(labels)
    ]


def test_the_datas_labels_are_the_rewards() -> None:
    rows = KTO().rollout(Data(), prompts("true", "false"), 0)  # type: ignore[arg-type]
    assert [one.grade for one in rows] == [Grade(1.0), Grade(0.0)] * 2
    assert [bool(one.marks) for one in rows] == [False, False, True, True]
    assert len(KTO(loss="apo_zero_unpaired").rollout(Data(), prompts("true"), 0)) == 1  # type: ignore[arg-type]


def test_rows_without_labels_are_refused() -> None:
    with pytest.raises(UserError, match="field 'label' is 'good'"):
        KTO().rollout(Data(), prompts("true", "good"), 0)  # type: ignore[arg-type]
    bare = [Prompt(Example("e", ()), [0], 0)]
    with pytest.raises(UserError, match=r"no 'completion': .*unpaired.*--labels rollouts"):
        KTO().rollout(Data(), bare, 0)  # type: ignore[arg-type]
