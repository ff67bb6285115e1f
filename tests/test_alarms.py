"""Every alarm on a run that really goes wrong that way, and silence on runs that do not."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import pytest

from learners import Ridge
from runs import Row, TextRun, with_task
from selfteach.api.progress import Lines, Silent
from selfteach.cli.train import configured
from selfteach.objective.statistics import Statistics
from selfteach.objective.support import TopK
from selfteach.objective.terms import Term
from selfteach.recipes.r01_opsd import OPSD
from selfteach.roles.role import Role
from selfteach.roles.view import Plain
from selfteach.roles.weights import External
from selfteach.task.arena import model_folder, open_world
from selfteach.task.example import Example, Grade
from selfteach.task.segment import DATA, Segment
from selfteach.task.trajectory import Trajectory
from selfteach.training.advice import ADVICE
from selfteach.training.alarm_rules import AT_ONCE, RULES, looked_at
from selfteach.training.alarms import (
    START,
    WINDOW,
    Memory,
    after,
    judged,
    remembered,
)
from selfteach.training.config import TrainConfig
from selfteach.training.jsonrows import read_rows
from selfteach.training.launch import launch
from selfteach.training.running import run_learner
from selfteach.training.text.written import text_metrics
from selfteach.training.trainer import Settings
from tiny import tiny_model_folder

HEALTHY = Path(__file__).parent / "data" / "healthy"
R = TypeVar("R", bound=OPSD)


def config_of(*words: str) -> TrainConfig:
    return configured([*words, "--device", "cpu", "--eval-problems", "0", "--samples-every", "0"])[0]


def rows_of(run: TextRun, steps: int) -> list[Row]:
    return [run.stepped() for _ in range(steps)]


def begun(rows: list[Row]) -> dict[str, Row]:
    """The alarms that began in these rows, by name (the first time each)."""
    found: dict[str, Row] = {}
    for row in rows:
        for alarm in row.get("alarms", ()):
            found.setdefault(alarm["name"], {**alarm, "at": row["step"]})
    return found


@dataclass
class Paid:
    """A task whose verifier pays for something else than right answers."""

    task: Any
    pay: Callable[[str], float]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def grade(self, example: Example, answer: str) -> Grade:
        return Grade(self.pay(answer))


def paid(config: TrainConfig, pay: Callable[[str], float]) -> TextRun:
    run = TextRun(config)
    return with_task(run, Paid(run.learner.task, pay))


def with_recipe(config: TrainConfig, kind: type[R], **more: Any) -> TrainConfig:
    """The same run by another recipe with the same knobs."""
    values = {f.name: getattr(config.recipe, f.name) for f in fields(config.recipe)}
    return replace(config, recipe=kind(**values, **more))


# --- runs that go wrong -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def too_fast() -> dict[str, Row]:
    """The arena's OPSD at twenty times its learning rate."""
    config = config_of("opsd", "--task", "table", "--prompts", "16", "--lr", "0.02")
    return begun(rows_of(TextRun(config), 13))


@dataclass(frozen=True)
class Dropped(OPSD):
    """Reverse KL on the student's two likeliest tokens without their tail: the biased loss of card 05."""

    def terms(self, stats: Statistics) -> Iterable[Term]:
        for term in super().terms(stats):
            yield replace(term, support=TopK(2, of="student", tail="drop"))  # type: ignore[call-arg]


@pytest.fixture(scope="module")
def without_tail() -> dict[str, Row]:
    config = config_of("opsd", "--task", "table", "--prompts", "8", "--lr", "0.006")
    return begun(rows_of(TextRun(with_recipe(config, Dropped)), 16))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model_folder(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def one_letter(tiny: str) -> dict[str, Row]:
    """GRPO with a verifier that pays for the letter a."""
    few = ["--prompts", "2", "--per-prompt", "16", "--max-tokens", "12", "--lr", "0.01"]
    config = config_of("grpo", "--task", "table", "--model", tiny, *few)
    return begun(rows_of(paid(config, lambda text: text.count("a") / 12), 16))


@dataclass(frozen=True)
class Foreign(OPSD):
    """OPSD whose teacher is another model."""

    model: str = ""

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {"teacher": Role(External(self.model), Plain())}


def imitated(path: Path, data: str, model: str, steps: int, lr: float, *words: str) -> str:
    """A model folder: ``model`` after some steps on the solutions of ``data``."""
    few = ["--prompts", "8", "--lr", str(lr), *words]
    run = TextRun(config_of("sft", "--task", data, "--model", model, *few))
    rows_of(run, steps)
    run.learner.policy.save(path)
    return str(path)


def written_down(path: Path, problems: Iterable[tuple[str, str, str]]) -> str:
    rows = [dict(zip(("problem", "solution", "answer"), one, strict=True)) for one in problems]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def terse(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    """A student pulled to a model that was trained on the bare solutions: it takes over their style and no skill."""
    folder = tmp_path_factory.mktemp("terse")
    teacher = imitated(folder / "model", "chain", str(model_folder("chain")), 30, 2e-3)
    config = config_of("opsd", "--task", "chain", "--prompts", "8", "--beta", "0", "--lr", "0.003")
    return begun(rows_of(TextRun(with_recipe(config, Foreign, model=teacher)), 15))


@pytest.fixture(scope="module")
def commas(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    """A teacher that writes its steps as the student does, but with commas between them."""
    folder = tmp_path_factory.mktemp("commas")
    world = open_world("table")
    asked = (world.train(i) for i in range(200))
    solved = ((one.problem, one.private["worked"].replace(";", ","), one.private["answer"]) for one in asked)
    data = written_down(folder / "commas.jsonl", solved)
    few = ["--max-tokens", "64"]
    teacher = imitated(folder / "model", data, str(model_folder("table")), 20, 2e-3, *few)
    (folder / "classes.json").write_text(json.dumps({"style": "^[;,]$"}))
    classes = ["--token-classes", str(folder / "classes.json")]
    config = config_of("opsd", "--task", "table", "--prompts", "8", "--lr", "1e-5", *classes)
    return begun(rows_of(TextRun(with_recipe(config, Foreign, model=teacher)), WINDOW))


QUOTE = "As the hint says, add both numbers right now."


@pytest.fixture(scope="module")
def told(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    """A model that has learned to say what only the reference says."""
    folder = tmp_path_factory.mktemp("told")
    data = written_down(folder / "sums.jsonl", ((f"{i}+1?", QUOTE, str(i + 1)) for i in range(100)))
    few = ["--max-tokens", "60"]
    student = imitated(folder / "model", data, tiny, 60, 0.01, *few)
    few += ["--prompts", "4", "--lr", "1e-5", "--student-thinking", "none"]
    config = config_of("opsd", "--task", data, "--model", student, *few)
    return begun(rows_of(TextRun(config), WINDOW))


@pytest.mark.parametrize(
    "name", ["rollouts are cut", "repetition", "divergence rises, reward falls", "length runs away"]
)
def test_a_learning_rate_that_is_too_high_is_noticed_by_what_it_does(
    too_fast: dict[str, Row], name: str
) -> None:
    assert too_fast[name]["since"] <= 5


@pytest.mark.parametrize("name", ["top-k mass is lost", "entropy explodes"])
def test_a_top_k_loss_without_its_tail_is_noticed(without_tail: dict[str, Row], name: str) -> None:
    assert name in without_tail


def test_answers_of_one_letter_are_an_entropy_collapse_although_the_reward_rises(
    one_letter: dict[str, Row],
) -> None:
    assert "distinct/3" in one_letter["entropy collapses"]["seen"]


def test_answers_of_one_letter_are_repetition(one_letter: dict[str, Row]) -> None:
    assert "loop" in one_letter["repetition"]["seen"]


def test_answers_that_lose_their_steps_are_noticed(terse: dict[str, Row]) -> None:
    assert "length/mean" in terse["length dies"]["seen"]


def test_a_divergence_on_style_tokens_is_noticed(commas: dict[str, Row]) -> None:
    assert "style tokens" in commas["style dominates"]["seen"]


def test_answers_that_repeat_the_reference_are_leakage(told: dict[str, Row]) -> None:
    assert told["leakage"]["since"] == 1
    assert "private phrase" in told["leakage"]["seen"]


def test_a_teacher_that_sees_what_the_student_sees_gives_no_signal(tiny: str) -> None:
    few = ["--prompts", "4", "--max-tokens", "8", "--lr", "1e-6"]
    config = config_of("opsd", "--task", "table", "--model", tiny, "--view", "plain", *few)
    found = begun(rows_of(TextRun(config), WINDOW))
    assert found["no signal"]["at"] == WINDOW
    assert found["no signal"]["since"] == 1


@pytest.mark.slow
def test_a_verifier_that_pays_for_length_is_noticed_although_the_reward_rises() -> None:
    config = config_of("grpo", "--task", "table", "--lr", "0.003")
    found = begun(rows_of(paid(config, lambda text: len(text) / 64), 30))
    assert "length runs away" in found


@pytest.fixture(scope="module")
def without_truth(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    """A kernel regression distilled into itself with no ground truth: the fit goes to 0 (card 35)."""
    out = tmp_path_factory.mktemp("ridge") / "run"
    run_learner(Ridge(0.0, 20), out, Settings(eval_every=1, device="cpu"))
    return begun(read_rows(out / "metrics.jsonl"))


def test_distilling_without_ground_truth_makes_the_headline_fall(without_truth: dict[str, Row]) -> None:
    assert list(without_truth) == ["headline falls"]
    assert 6 < without_truth["headline falls"]["since"] <= without_truth["headline falls"]["at"] < 20
    assert "0.149 at best" in without_truth["headline falls"]["seen"]


@pytest.mark.parametrize(
    ("better", "values", "lost"),
    [
        ("higher", (0.5, 0.8, 0.4), 0.5),
        ("lower", (0.5, 0.8, 0.4), 0.0),
        ("lower", (0.4, 0.5), 0.25),
        ("higher", (-2.0, -4.0), 1.0),
        ("higher", (0.0, 0.0), 0.0),
    ],
)
def test_what_is_lost_is_the_distance_from_the_best_over_the_best(
    better: Any, values: Any, lost: float
) -> None:
    memory = remembered(({"step": 0, "eval/headline": value} for value in values), Memory(better))
    assert memory.headline["eval/lost"] == pytest.approx(lost)


def test_a_fall_within_the_evaluations_noise_is_none() -> None:
    rows = [{"step": 0, "eval/headline": value, "eval/headline_se": 0.2} for value in (0.8, 0.4)]
    assert remembered(rows).headline["eval/lost"] == 0.0


def test_every_kind_of_alarm_is_proved_here(
    too_fast: Any, without_tail: Any, one_letter: Any, terse: Any, commas: Any, told: Any, without_truth: Any
) -> None:
    proved = too_fast | without_tail | one_letter | terse | commas | told | without_truth
    assert set(RULES) == set(proved) & set(RULES) | {"no signal"}
    assert set(ADVICE) == {*RULES, *AT_ONCE}


# --- runs that go well --------------------------------------------------------------------------------------------


def stored(name: str) -> Iterator[Row]:
    """The rows of tests/data/healthy: real runs, by the commands in the README beside them."""
    columns = json.loads((HEALTHY / f"{name}.json").read_text())
    for values in zip(*columns.values(), strict=True):
        yield {"loss": 0.0, **dict(zip(columns, values, strict=True))}


@pytest.mark.parametrize("name", ["opsd", "grpo"])
def test_no_alarm_sounds_in_a_run_that_goes_well(name: str) -> None:
    memory, steps = Memory(), 0
    for row in stored(name):
        memory = after(memory, row)
        steps += 1
        assert memory.alarms == (), row["step"]
    assert steps >= 60


@pytest.mark.slow
def test_no_alarm_sounds_while_the_arenas_student_learns() -> None:
    run = TextRun(config_of("opsd", "--task", "table"))
    rows = rows_of(run, 200)
    assert begun(rows) == {}
    assert rows[-1]["reward/mean"] > 0.6


# --- how alarms behave --------------------------------------------------------------------------------------------


def calm(step: int, **more: float) -> Row:
    healthy = {
        "loss": 1.0,
        "length/mean": 30.0,
        "repetition/looping": 0.0,
        "truncated": 0.0,
        "grad_norm": 1.0,
    }
    return {"step": step, **healthy, "reward/mean": 0.3, "divergence/teacher": 0.1, **more}


def fed(rows: list[Row]) -> tuple[Memory, list[Row]]:
    memory, out = Memory(), []
    for row in rows:
        memory, row = judged(memory, row)
        out.append(row)
    return memory, out


def test_episodes_that_have_more_turns_or_fewer_are_not_longer_or_shorter_answers() -> None:
    turns = [1.0] * 20 + [8.0] * 20 + [1.0] * 20
    _, rows = fed([calm(i + 1, **{"length/mean": 3.0 * k, "grade/turns": k}) for i, k in enumerate(turns)])
    assert not any("alarms" in row for row in rows)
    _, rows = fed(
        [calm(i + 1, **{"length/mean": 4.0 if i < 20 else 40.0, "grade/turns": 2.0}) for i in range(60)]
    )
    told = [alarm for row in rows for alarm in row.get("alarms", ())]
    assert [alarm["name"] for alarm in told] == ["length runs away"]
    assert "tokens a turn" in told[0]["seen"]


def test_an_alarm_is_told_once_and_again_only_after_it_has_stopped() -> None:
    lengths = [30.0] * 10 + [100.0] * 20 + [30.0] * 20 + [100.0] * 20
    _, rows = fed([calm(i + 1, **{"length/mean": length}) for i, length in enumerate(lengths)])
    told = [
        row["step"] for row in rows for alarm in row.get("alarms", ()) if alarm["name"] == "length runs away"
    ]
    assert len(told) == 2
    assert 10 < told[0] <= 20
    assert 50 < told[1] <= 60


def test_since_is_the_first_step_that_shows_it() -> None:
    lengths = [30.0] * 20 + [100.0] * 20
    _, rows = fed([calm(i + 1, **{"length/mean": length}) for i, length in enumerate(lengths)])
    assert begun(rows)["length runs away"]["since"] == 21


def test_one_odd_step_is_no_alarm() -> None:
    _, rows = fed([calm(i + 1, **({"length/mean": 200.0} if i == 15 else {})) for i in range(40)])
    assert begun(rows) == {}


def test_longer_answers_that_earn_more_are_no_alarm() -> None:
    longer = {"length/mean": 70.0, "reward/mean": 0.6}
    _, rows = fed([calm(i + 1, **(longer if i > 10 else {})) for i in range(40)])
    assert begun(rows) == {}


def test_a_run_of_a_recipe_without_teacher_and_reward_can_be_watched() -> None:
    row = {"loss": 1.0, "repetition/looping": 0.0, "length/mean": 30.0, "truncated": 0.0, "grad_norm": 1.0}
    memory, _ = fed([{"step": i + 1, **row} for i in range(20)])
    assert memory.alarms == ()


def test_text_that_the_policy_did_not_write_is_not_judged() -> None:
    row = {"loss": 1.0, "length/mean": 5.0, "truncated": 1.0, "grad_norm": 1.0}
    assert fed([{"step": i + 1, **row} for i in range(20)])[0] == Memory()


def test_diversity_of_a_large_batch_takes_linear_time() -> None:
    """Eight times as many rollouts took 64 times as long when their counts were added one to the other."""
    draw = Random(0)
    rows = [rollout("", ids=[draw.randrange(50_000) for _ in range(2048)]) for _ in range(256)]
    found = text_metrics(rows, ())
    assert working(text_metrics, rows, ()) < 24 * working(text_metrics, rows[:32], ())
    assert found["distinct/3"] > 0.999
    assert found["repetition/mean"] < 1e-3


def test_another_stage_is_judged_by_its_own_beginning() -> None:
    rows = [calm(i + 1, stage=int(i >= 20), **{"length/mean": 30.0 if i < 20 else 100.0}) for i in range(40)]
    assert begun(fed(rows)[1]) == {}


def test_the_memory_is_bounded_and_found_again_from_the_rows_alone() -> None:
    rows = [calm(i + 1, **{"length/mean": 30.0 + 3 * i, "entropy/teacher": 1.0}) for i in range(50)]
    memory, written = fed(rows)
    through_json = [json.loads(json.dumps(row)) for row in written]
    evaluations = [{"step": 25, "eval/accuracy": 0.5}]
    assert remembered(through_json[:25] + evaluations + through_json[25:]) == memory
    assert len(memory.start) == START
    assert len(memory.recent) == WINDOW
    assert memory.alarms
    assert "entropy/teacher" not in looked_at(rows[0])


def test_an_alarm_has_advice_and_reaches_whoever_watches(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--prompts", "4", "--max-tokens", "8", "--lr", "1e-6", "--steps", "10", "--samples-every", "0"]
    config = config_of(
        "opsd", "--task", "table", "--model", tiny, "--view", "plain", *few, "--out", str(tmp_path / "r")
    )
    launch(config, Lines, Silent, check=False)
    (alarm,) = (
        a
        for row in read_rows(tmp_path / "r" / "metrics.jsonl")
        for a in row.get("alarms", ())
        if a["name"] == "no signal"
    )
    assert alarm["since"] == 1
    assert "alarm: no signal (since step 1): largest divergence" in capsys.readouterr().err
    assert "(selfteach doctor)" in alarm["advice"]


def test_no_alarms_means_none(tiny: str) -> None:
    few = ["--prompts", "4", "--max-tokens", "8", "--lr", "1e-6", "--no-alarms"]
    run = TextRun(config_of("opsd", "--task", "table", "--model", tiny, "--view", "plain", *few))
    assert begun(rows_of(run, WINDOW + 1)) == {}


# --- what the text metrics count ----------------------------------------------------------------------------------


def working(function: Callable[..., object], *arguments: object) -> float:
    """Seconds of the processor (not of the clock) that a call takes, the least of three."""
    taken = []
    for _ in range(3):
        began = time.process_time()
        function(*arguments)
        taken.append(time.process_time() - began)
    return min(taken)


def rollout(text: str, *, ids: list[int] | None = None, reward: float = 0.0, **private: str) -> Trajectory:
    asked = "Which river is the longest of these four rivers of the north?"
    example = Example("e", ({"role": "user", "content": asked},), private)
    ids = list(range(5)) if ids is None else ids
    known = [0.0] * len(ids)
    return Trajectory.written(
        example, [1], ids, text, group=0, finished=True, behavior=known, grade=Grade(reward)
    )


LONG = "First compare the lengths of all four rivers, then see that the Ob wins by far. Answer: Ob."


@pytest.mark.parametrize(
    ("one", "copied"),
    [
        (rollout("I compare the lengths of all four rivers then see nothing", solution=LONG), 1.0),
        (rollout("compare the lengths! Of all: four RIVERS,\n then see", solution=LONG), 1.0),
        (rollout("compare the lengths of all four rivers", solution=LONG), 0.0),
        (rollout("compare the lengths of all four rivers then see", solution=LONG, reward=1.0), 0.0),
        (
            rollout(
                "the longest of these four rivers of the north",
                solution="the longest of these four rivers of the",
            ),
            0.0,
        ),
        (rollout("2512", solution="2512", answer="2"), 1.0),
        (rollout("25127", solution="2512", answer="2"), 0.0),
        (rollout("Answer: Ob", solution="answer ob", answer="Ob"), 0.0),
        (rollout("compare the lengths of all four rivers then see", hidden=LONG), 0.0),
    ],
)
def test_a_copied_phrase_is_private_long_and_no_right_answer(one: Trajectory, copied: float) -> None:
    assert text_metrics([one], {"solution"})["leakage/copied"] == copied


@pytest.mark.parametrize(
    ("text", "mentioned"),
    [
        ("As the reference solution says, it is the Ob.", 1.0),
        ("The hint tells me so.", 1.0),
        ("I solve it myself: a solution is near.", 0.0),
    ],
)
def test_speaking_of_the_privilege_is_counted(text: str, mentioned: float) -> None:
    assert text_metrics([rollout(text)], ())["leakage/mentioned"] == mentioned


def test_a_prompt_that_speaks_of_a_hint_may_be_answered_so() -> None:
    one = rollout("The hint tells me so.")
    asked = replace(one.example, prompt=({"role": "user", "content": "Use the hint."},))
    assert text_metrics([replace(one, example=asked)], ())["leakage/mentioned"] == 0.0


def test_repetition_and_diversity_are_shares_of_three_grams() -> None:
    loops, varied = rollout("", ids=[1, 2, 3] * 4), rollout("", ids=list(range(100, 112)))
    found = text_metrics([loops, varied], ())
    assert found["repetition/mean"] == pytest.approx((1 - 3 / 10) / 2)
    assert found["repetition/looping"] == 0.5
    assert found["distinct/3"] == pytest.approx(13 / 20)


def test_what_tools_wrote_is_not_repetition_and_short_answers_have_none() -> None:
    tool = replace(rollout(""), segments=(Segment([7] * 12, "tool", trains=False),))
    found = text_metrics([tool, rollout("", ids=[1])], ())
    assert (found["repetition/mean"], found["distinct/3"]) == (0.0, 1.0)


def test_a_data_sets_own_text_is_not_what_the_policy_wrote() -> None:
    assert text_metrics([replace(rollout("The hint"), segments=(Segment([1, 2], DATA),))], ()) == {}


def test_no_gram_goes_on_from_one_turn_to_the_next() -> None:
    """Verdicts of one token are no loop, the same sentence at each turn is one."""

    def episode(said: list[int]) -> Trajectory:
        known = [0.0] * len(said)
        turns = [
            [Segment(said, behavior=known, turn=i), Segment([9], "environment", trains=False, turn=i)]
            for i in range(6)
        ]
        return replace(rollout(""), segments=tuple(one for turn in turns for one in turn))

    assert text_metrics([episode([1, 2])], ())["repetition/looping"] == 0.0
    assert text_metrics([episode([1, 2, 3])], ())["repetition/mean"] == pytest.approx(1 - 1 / 6)
