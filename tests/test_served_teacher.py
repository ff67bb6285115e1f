"""A teacher on a server: what it teaches, what preflight finds out, and what becomes of answers that are none."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from chat_server import serving
from logprobs import Spoil, vllm
from runs import TextRun
from selfteach.cli import main
from selfteach.cli.train import configured
from selfteach.errors import UserError
from selfteach.objective.listed import Listed
from selfteach.policy.chat_server import ChatServer
from selfteach.policy.loading import load_policy
from selfteach.policy.logprob_server import listed_by, model_named, position
from selfteach.task.trajectory import Trajectory
from selfteach.training.text.teachers.handed import Piece
from tiny import tiny_model_folder

WORDS = (
    "--task", "table", "--device", "cpu", "--prompts", "3", "--max-tokens", "9", "--steps", "3", "--lr", "0.5",
    "--optim", "sgd", "--max-grad-norm", "none", "--eval-problems", "0", "--samples-every", "0",
    "--max-unavailable", "1", "--teacher-top-k", "4", "--clip-entry", "none", "--loss-temperature", "1",
)  # fmt: skip


def trained(tiny: str, *more: str) -> TextRun:
    run = TextRun(configured(["opsd", "--model", tiny, *WORDS, *more])[0])
    for _ in range(3):
        run.stepped()
    return run


def weights(run: TextRun) -> torch.Tensor:
    return torch.cat([one.detach().flatten() for one in run.learner.policy.trainable().values()])


def test_a_served_teacher_teaches_what_the_local_one_does(tiny: str) -> None:
    with serving(vllm(tiny), models=("t",)) as (url, requests):
        served = trained(tiny, "--teacher-server", url, "--teacher-top-logprobs", "8")
    local = trained(tiny)
    start = weights(TextRun(configured(["opsd", "--model", tiny, *WORDS])[0]))
    moved = (weights(local) - start).norm()
    assert moved > 1e-2
    assert (weights(served) - weights(local)).norm() < 1e-4 * moved
    assert len(requests) == 9  # a row, once
    assert {one["prompt_logprobs"] for one in requests} == {8}
    assert {one["max_tokens"] for one in requests} == {1}
    assert served.progress.rows[0]["unscored/teacher"] == 0
    assert not served.learner.models.weights.copies


class Unwell:
    """What hands over scores by the protocol and nothing beside it, and has none."""

    roles: tuple[str, ...] = ("teacher",)
    stored: tuple[Trajectory, ...] = ()
    k = 8

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary

    def scores(self, role: str, pieces: Sequence[Piece]) -> list[Listed | str]:
        return [f"it is asleep, and so is {role}" for _ in pieces]

    def forget(self) -> None:
        pass

    def describe(self, role: str) -> str:
        return "nothing"


def test_whoever_hands_over_scores_says_why_there_are_none(tiny: str) -> None:
    run = TextRun(configured(["opsd", "--model", tiny, *WORDS])[0])
    run.learner.models.handed = Unwell(run.learner.policy.vocabulary)
    said = r"no scores by 'teacher' of 3 of 3 rollouts \(it is asleep, and so is teacher\): more"
    with pytest.raises(UserError, match=said):
        run.stepped()


def test_another_model_on_a_server_is_not_loaded(tiny: str, tmp_path: Path) -> None:
    other = str(tiny_model_folder(tmp_path / "other", seed=5))
    words = ["lightning-opd", "--sft-steps", "0", "--stored", "4", "--teacher", other, "--model", tiny]
    common = [word for word in WORDS[: WORDS.index("--teacher-top-k")]]
    with serving(vllm(other), models=("t",)) as (url, requests):
        run = TextRun(configured([*words, *common, "--teacher-server", url])[0])
        for _ in range(3):
            run.stepped()
    assert len(requests) == 4  # stored answers have what it said of their tokens
    (policy,) = run.learner.models.weights.external.values()
    assert {one.device.type for one in policy.model.parameters()} == {"meta"}
    assert math.isfinite(run.progress.rows[-1]["loss"])


def lose_some(told: dict[str, Any], number: int) -> Any:
    return (500, b"{}") if number % 3 == 1 else told


def test_rows_without_scores_are_left_out_and_counted(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfteach.training.text.teachers.given.ChatServer", patient)
    with serving(vllm(tiny, lose_some), models=("t",)) as (url, _):
        run = trained(tiny, "--teacher-server", url, "--max-unscored", "0.5")
        assert [row["unscored/teacher"] for row in run.progress.rows] == pytest.approx([1 / 3] * 3)
        assert all(math.isfinite(row["loss"]) for row in run.progress.rows)
        with pytest.raises(UserError, match=r"no scores by 'teacher' of 1 of 3 rollouts .*max-unscored 0.1"):
            trained(tiny, "--teacher-server", url)


def patient(url: str, model: str) -> ChatServer:
    """Without the retries, whose pauses a test need not wait for."""
    return ChatServer(url, model, seconds=2, retries=0)


def entry(told: dict[str, Any], change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """The answer with its last position changed."""
    listed = told["choices"][0]["prompt_logprobs"]
    listed[-1] = change(listed[-1])
    return told


BROKEN: dict[str, tuple[Spoil, str]] = {
    "fewer": (
        lambda told, _: entry(told, lambda one: dict(list(one.items())[:3])),
        "3 log-probs at a position",
    ),
    "none": (lambda told, _: entry(told, lambda one: None), "no log-probs at a position"),
    "nan": (
        lambda told, _: entry(told, lambda one: {k: {"logprob": math.nan} for k in one}),
        "a log-prob that is nan",
    ),
    "text": (
        lambda told, _: entry(told, lambda one: {k: {"logprob": "low"} for k in one}),
        "a log-prob that is 'low'",
    ),
    "positive": (lambda told, _: entry(told, lambda one: {k: {"logprob": 0.0} for k in one}), "add up to"),
    "beyond": (
        lambda told, _: entry(told, lambda one: {**dict(list(one.items())[:-1]), "999": {"logprob": -9.0}}),
        "ids must lie in",
    ),
    "no number": (
        lambda told, _: entry(told, lambda one: {**dict(list(one.items())[:-1]), "x": {"logprob": -9.0}}),
        "invalid literal",
    ),
    "short": (
        lambda told, _: {"choices": [{"prompt_logprobs": told["choices"][0]["prompt_logprobs"][:-1]}]},
        "for",
    ),
    "plain": (lambda told, _: {"choices": [{"text": "x"}]}, "without prompt_logprobs"),
    "garbage": (lambda told, _: (200, b"<html>"), "Expecting value"),
    "a list": (lambda told, _: [1], "without prompt_logprobs"),
    "fault": (lambda told, _: (500, b"{}"), "500"),
    "silence": (lambda told, _: None, "timed out"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_answer_is_no_scores(case: str, tiny: str) -> None:
    spoil, said = BROKEN[case]
    with serving(vllm(tiny, spoil), models=("t",)) as (url, _):
        (found,) = listed_by(patient(url, "t"), [([5, 6, 7, 8], [1, 2, 3])], 4, load_policy(tiny).vocabulary)
    assert isinstance(found, str)
    assert said in found


def test_an_answer_is_the_models_own_log_probs(tiny: str) -> None:
    policy, ids = load_policy(tiny), [5, 6, 7, 8]
    with serving(vllm(tiny), models=("t",)) as (url, _):
        (found,) = listed_by(patient(url, "t"), [(ids, [1, 3])], 4, policy.vocabulary)
    assert isinstance(found, Listed)
    with torch.no_grad():
        logits = policy.model(torch.tensor([ids])).logits[0, [0, 2], : policy.vocabulary].double()
    exact = logits.log_softmax(-1)
    torch.testing.assert_close(found.states, exact.topk(4).values)
    assert found.ids.equal(exact.topk(4).indices)
    torch.testing.assert_close(found.sampled, exact[[0, 1], [6, 8]])
    torch.testing.assert_close(found.tail.exp(), 1 - found.states.exp().sum(-1))


def test_a_server_that_refuses_everything_or_is_another_is_a_refusal(tiny: str) -> None:
    def other(told: dict[str, Any], _: int) -> Any:
        return {**told, "model": "else"}

    asked = [([5, 6], [1])]
    with (
        serving(vllm(tiny, other), models=("t",)) as (url, _),
        pytest.raises(UserError, match="answers for the model 'else', not 't'"),
    ):
        listed_by(patient(url, "t"), asked, 4, 102)
    with (
        serving(lambda request: (401, b"{}"), models=("t",)) as (url, _),
        pytest.raises(UserError, match="refuses"),
    ):
        listed_by(patient(url, "t"), asked, 4, 102)
    with serving(vllm(tiny), models=("a", "b")) as (url, _):
        assert model_named(url, "b") == "b"
        with pytest.raises(UserError, match="has 2 models"):
            model_named(url, None)


def test_the_mass_of_the_rest_is_never_less_than_the_sampled_token() -> None:
    sure = {"1": {"logprob": -1e-9}, "2": {"logprob": -11.0}, "7": {"logprob": -12.0}}
    values, ids, tail, own = position(sure, 7, 2, 100)
    assert ids == [1, 2]
    assert values == [-1e-9, -11.0]
    assert own == -12
    assert tail == pytest.approx(-12.0)
    assert position({"1": {"logprob": 0.0}, "2": {"logprob": -40.0}}, 1, 2, 100)[2] == pytest.approx(
        math.log(1e-6)
    )
    half = math.log(0.5)
    assert position({"0": {"logprob": half}, "1": {"logprob": half}}, 1, 5, 2)[2] == -math.inf


@pytest.mark.parametrize(
    ("entries", "own", "said"),
    [({"1": -0.7, "2": -3.0, "7": -1.0}, 7, "likelier than those"), ({"0": -1.5, "1": -1.5}, 1, "add up to 0.44"),
     ({"1": -0.7, "2": -math.inf}, 2, "-inf of the token")],
)  # fmt: skip
def test_log_probs_that_cannot_be_are_refused(entries: dict[str, float], own: int, said: str) -> None:
    vocabulary = 2 if "add up" in said else 100
    with pytest.raises(ValueError, match=said):
        position({token: {"logprob": one} for token, one in entries.items()}, own, 2, vocabulary)


# --- preflight --------------------------------------------------------------------------------------------------------


def checked(tiny: str, capsys: pytest.CaptureFixture[str], url: str, *more: str) -> tuple[int, str]:
    capsys.readouterr()
    code = main(["doctor", "opsd", "--model", tiny, *WORDS, "--teacher-server", url, *more])
    found = capsys.readouterr()
    return code, found.out + found.err


def test_preflight_finds_the_server_sound(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(vllm(tiny), models=("t",)) as (url, _):
        code, said = checked(tiny, capsys, url)
    assert code == 0, said
    assert "has the model 't'" in said
    assert "teacher: tokenizer: a probe text has the same ids" in said
    assert "teacher: determinism: the same request twice" in said
    assert "ok    teacher: gap:" in said


def test_preflight_names_the_flag_of_a_server_that_lists_too_few(
    tiny: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(vllm(tiny, most=5), models=("t",)) as (url, _):
        code, said = checked(tiny, capsys, url, "--teacher-top-logprobs", "8")
    assert code == 2
    assert "start it with --max-logprobs 8, or lower --teacher-top-logprobs" in said


def test_preflight_finds_other_weights_and_another_tokenizer(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def sharpened(told: dict[str, Any], _: int) -> Any:
        for one in told["choices"][0]["prompt_logprobs"][1:]:
            for each in one.values():
                each["logprob"] -= 3.0
        return told

    with serving(vllm(tiny, sharpened), models=("t",)) as (url, _):
        code, said = checked(tiny, capsys, url)
    assert code == 2
    assert "the server has other weights, or another context" in said

    right = vllm(tiny)

    def other(request: dict[str, Any]) -> Any:
        return (200, b'{"tokens": [1, 2]}') if "add_special_tokens" in request else right(request)

    with serving(other, models=("t",)) as (url, _):
        code, said = checked(tiny, capsys, url)
    assert code == 2
    assert "a probe text has other ids at the server" in said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ("--weights", "ema"),
            "no teacher that a server can stand for: the weights of role 'teacher' follow",
        ),
        (("--weights", "live"), "follow the training (Live)"),
        (("--teacher-cache", "x"), "two ways to one thing"),
        (("--teacher-top-k", "9", "--teacher-top-logprobs", "8"), "the top 9 of 'teacher' is read"),
        (("--teacher-model", "none-such"), "has no model 'none-such'"),
    ],
)
def test_what_a_server_cannot_stand_for_is_refused(
    more: tuple[str, ...], said: str, tiny: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(vllm(tiny), models=("t",)) as (url, _):
        code, told = checked(tiny, capsys, url, *more)
    assert code == 2
    assert said in told


def test_a_server_that_is_not_there_is_one_line(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = checked(tiny, capsys, "http://127.0.0.1:9/v1")
    assert code == 2
    assert "does not answer" in told
    assert "Traceback" not in told
