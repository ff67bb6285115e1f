"""Steps that teach nothing: said at the first, with advice that fits the run, and the end of a run of nothing else."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import selfteach
from runs import Rows, run_of
from saved import everything
from selfteach.cli import main
from selfteach.recipes import RECIPES, knobs
from selfteach.recipes.knobs import takes, with_knobs
from selfteach.training.advice import ADVICE, TOP_K, advised
from selfteach.training.alarm_rules import idle_steps
from selfteach.training.alarms import IN_A_ROW, WINDOW, Memory, judged, remembered
from selfteach.training.jsonrows import read_rows
from selfteach.training.papers import PAPERS
from selfteach.training.progress import Silent
from tiny import tiny_model_folder

Row = dict[str, Any]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model_folder(tmp_path_factory.mktemp("idle") / "model"))


def rows(count: int = 12) -> list[Row]:
    return [
        {"problem": f"What is {i} + 1?", "solution": f"{i + 1}", "answer": f"{i + 1}"} for i in range(count)
    ]


def calm(step: int, **more: Any) -> Row:
    healthy = {
        "loss": 1.0, "length/mean": 30.0, "repetition/looping": 0.0, "truncated": 0.0, "grad_norm": 1.0,
        "reward/mean": 0.3, "reward/std": 0.4, "reward/zero_std": 0.2, "unavailable/teacher": 0.0,
        "verdicts/right": 10, "verdicts/wrong": 20,
    }  # fmt: skip
    return {"step": step, **healthy, **more}


SHOWS: dict[str, Row] = {
    "nothing to learn": {"grad_norm": 0.0, "loss": 0.0},
    "a teacher sees nothing": {"unavailable/teacher": 1.0},
    "every answer is cut": {"truncated": 1.0},
    "no answer can be read": {"verdicts/right": 0, "verdicts/wrong": 0, "verdicts/no answer": 30},
    "all rewards are equal": {"reward/std": 0.0, "reward/mean": 0.0, "verdicts/right": 0},
}


def told(rows: list[Row]) -> list[tuple[int, str, int]]:
    """(step, alarm, since) of what began to sound."""
    memory, found = Memory(), []
    for row in rows:
        memory, row = judged(memory, row)
        found += [(row["step"], one["name"], one["since"]) for one in row.get("alarms", ())]
    assert remembered(rows) == memory
    return found


@pytest.mark.parametrize("name", SHOWS)
def test_what_the_first_step_shows_is_said_at_the_first_step(name: str) -> None:
    assert told([calm(1, **SHOWS[name]), calm(2)]) == [(1, name, 1)]


@pytest.mark.parametrize("name", SHOWS)
def test_later_it_takes_three_steps_in_a_row(name: str) -> None:
    bad = SHOWS[name]
    assert name not in [
        one for _, one, _ in told([calm(i + 1, **(bad if i in (5, 7, 9) else {})) for i in range(20)])
    ]
    course = [calm(i + 1, **(bad if 5 <= i < 5 + IN_A_ROW else {})) for i in range(20)]
    assert told(course)[0] == (5 + IN_A_ROW, name, 6)


def test_it_is_said_again_only_after_ten_steps_without_it() -> None:
    bad = SHOWS["a teacher sees nothing"]
    course = [calm(i + 1, **(bad if i < 5 or (i % 3 == 0 and i < 20) or i >= 35 else {})) for i in range(45)]
    steps = [step for step, name, _ in told(course) if name == "a teacher sees nothing"]
    assert steps == [1, 35 + IN_A_ROW]
    assert 35 + IN_A_ROW > 20 + WINDOW


@pytest.mark.parametrize(
    "row",
    [
        {"reward/std": 0.0, "reward/mean": 1.0},  # all right
        {"reward/std": 0.0, "reward/mean": 0.0, "verdicts/right": 0, "verdicts/wrong": 4},  # may be chance
        {
            "reward/std": 0.0,
            "reward/mean": 0.0,
            "verdicts/right": 0,
            "verdicts/wrong": 0,
        },  # nothing is graded
        {"grad_norm": 1e-6},
        {"unavailable/teacher": 0.9},
        {"truncated": 0.99},
    ],
)
def test_what_may_be_meant_is_no_alarm(row: Row) -> None:
    assert told([calm(1, **row), calm(2)]) == []


def test_steps_without_a_gradient_are_counted() -> None:
    count = 0
    course = [
        ({"grad_norm": 0.0}, 1),
        ({"grad_norm/a": 0.0, "grad_norm/b": 0.0}, 2),
        ({}, 2),
        ({"grad_norm/a": 0.1}, 0),
    ]
    for row, expected in course:
        count = idle_steps(count, row)
        assert count == expected


# --- advice -----------------------------------------------------------------------------------------------------------


def every_setting() -> list[Mapping[str, Any]]:
    """Settings of all recipes and presets, and some in which single knobs are at their bound."""
    found: list[dict[str, Any]] = [{}]
    for kind in RECIPES.values():
        for preset in kind.presets.values():
            try:
                recipe = kind() if not preset else __import__("selfteach").recipes.preset_of(kind)
            except TypeError:
                continue
            teachers = sorted({type(one.weights).__name__.lower() for one in recipe.teachers.values()})
            found.append({**knobs(recipe), "teachers": teachers, "room": 10**6})
    values = {
        "weights": ("frozen", "ema", "live"), "tail": ("bucket", "renormalize", "drop"), "alpha": (0.0, 1.0),
        "mean_over": ("tokens", "sequences"), "clip_entry": (None, 0.05), "temperature": (0.5, 1.0, 1.5),
    }  # fmt: skip
    names = list(values)
    for chosen in itertools.product(*values.values()):
        one = dict(zip(names, chosen, strict=True))
        for top_k, full, feedback in itertools.product((None, 20), (False, True), ("never", "always")):
            found.append(
                {
                    **one, "lr": 1e-5, "per_prompt": 1 if full else 8, "student_top_k": top_k, "max_tokens": 512,
                    "room": 512 if full else 1024, "teachers": [one["weights"]], "feedback": feedback,
                    "own_success": full, "view": "answer" if full else "solution", **({"kl": 0.04} if full else {}),
                }
            )  # fmt: skip
    return found


ALREADY = {
    "keep the teacher frozen": lambda s: "frozen" in s.get("teachers", ()) and len(s["teachers"]) == 1,
    "--weights frozen": lambda s: s.get("weights") == "frozen" or "weights" not in s,
    "moves less": lambda s: not {"live", "lagged", "ring"} & set(s.get("teachers", ())),
    "--tail bucket": lambda s: s.get("tail", "bucket") == "bucket",
    "--tail renormalize": lambda s: s.get("tail", "renormalize") == "renormalize",
    "raise --max-tokens": lambda s: "max_tokens" not in s or s["max_tokens"] >= s["room"],
    "as large as the model's window allows": lambda s: s["max_tokens"] < s["room"],
    "try reverse KL": lambda s: all(
        s.get(k, 1) == 1 for k in ("alpha", "beta") if isinstance(s.get(k, 1), int | float)
    ),
    "whole vocabulary": lambda s: all(s.get(k) is None for k in TOP_K),
    "log-ratio": lambda s: all(s.get(k) is None for k in TOP_K),
    "--mean-over": lambda s: s.get("mean_over") in (None, "sequences", "rollouts", "prompts"),
    "anchor the student to its start by": lambda s: "kl" in s,
    "raise --kl": lambda s: "kl" not in s,
    "cap each vocabulary entry with": lambda s: s.get("clip_entry", 0) is not None,
    "lower --clip-entry": lambda s: s.get("clip_entry") is None,
    "raise --temperature": lambda s: s.get("temperature", 1) >= 1,
    "lower --temperature": lambda s: s.get("temperature", 1) <= 1,
    "raise --per-prompt": lambda s: s.get("per_prompt", 1) == 1,
    "--feedback always": lambda s: s.get("feedback", "always") == "always",
    "--own-success": lambda s: s.get("own_success", True) is True,
    "--view answer": lambda s: s.get("view", "answer") == "answer",
    "spans that decide": lambda s: "spans" in s,
    "another --teacher": lambda s: "teacher" not in s,
    "lower --lr": lambda s: "lr" not in s,
    "selfteach doctor); show": lambda s: not s.get("teachers"),
}
"""What advice says → whether that is so already, or cannot be."""


@pytest.mark.parametrize("name", ADVICE)
def test_no_advice_recommends_what_is_already_so(name: str) -> None:
    said = set()
    for settings in every_setting():
        text = advised(name, settings)
        assert text, settings
        said |= {words for words in ALREADY if words in text}
        wrong = [words for words, so in ALREADY.items() if words in text and so(settings)]
        assert not wrong, (wrong, settings)
    assert said or name in ("headline falls", "leakage")


def test_every_piece_of_advice_is_given_to_some_run() -> None:
    settings = every_setting()
    for name, pieces in ADVICE.items():
        for piece in pieces:
            assert any(piece.fits(one) for one in settings), (name, piece.text)


def test_papers_are_named_with_their_address() -> None:
    texts = [piece.text for pieces in ADVICE.values() for piece in pieces]
    assert not any("card" in text for text in texts)
    for text in texts:
        assert text.count("https://arxiv.org/abs/") == sum(text.count(f"{one}, https") for one in PAPERS)


# --- runs -------------------------------------------------------------------------------------------------------------

FEW: dict[str, Any] = {
    "prompts": 2,
    "per_prompt": 2,
    "max_tokens": 4,
    "samples_every": 0,
    "eval_problems": 0,
    "lora_rank": 0,
}


@pytest.mark.parametrize("recipe", ["sdpo", "srpo", "grpo", "cepo"])
def test_a_run_that_never_moves_says_so_and_ends_saved(recipe: str, tiny: str, tmp_path: Path) -> None:
    out, shown = tmp_path / "run", Rows()
    given: dict[str, Any] = {**FEW, "steps": 30, "progress": lambda: shown, "out": out}
    reward = lambda completion: 0.0  # noqa: E731
    more = {"kl": 0.0} if recipe == "grpo" else {}
    with pytest.raises(selfteach.UserError) as error:
        selfteach.train(recipe, tiny, rows(), reward=reward, max_idle_steps=4, **given, **more)
    assert str(error.value).startswith("4 steps in a row without a gradient, the last of them 4")
    assert "\n" not in str(error.value)
    first = shown.rows[0]
    (alarm,) = (one for one in first["alarms"] if one["name"] == "nothing to learn")
    assert alarm["since"] == 1
    assert "gradient norm 0.0e+00, loss 0.0000" in alarm["seen"]
    assert "100% of the groups have equal rewards" in alarm["seen"]
    assert ("teacher sees nothing in 100%" in alarm["seen"]) == (recipe in ("sdpo", "srpo"))
    again = {
        "recipe": recipe,
        "task": rows(),
        "reward": reward,
        "out": out,
        "resume": True,
        "progress": Silent,
    }
    with pytest.raises(selfteach.UserError, match="5 steps in a row"):
        selfteach.train(**again)  # one more, and still nothing
    assert selfteach.train(max_idle_steps=0, **again).summary["steps"] == 30


def test_waiting_for_the_first_right_answer_has_no_bound(tiny: str, tmp_path: Path) -> None:
    result = selfteach.train(
        "grpo", tiny, rows(), reward=lambda completion: 0.0, steps=6, kl=0.0, max_idle_steps=2, until_solved=True,
        out=tmp_path / "run", progress=Silent, **FEW,
    )  # fmt: skip
    assert result.summary["steps"] == 6


def test_a_run_that_moves_now_and_then_goes_on(tiny: str, tmp_path: Path) -> None:
    asked = itertools.count()
    result = selfteach.train(
        "grpo", tiny, rows(), reward=lambda completion: float(next(asked) % 12 == 0), steps=9, kl=0.0,
        max_idle_steps=3, out=tmp_path / "run", progress=Silent, **FEW,
    )  # fmt: skip
    norms = [row["grad_norm"] for row in read_rows(result.folder / "metrics.jsonl")]
    assert [norm > 0 for norm in norms].count(True) == 3
    assert json.loads((result.folder / "summary.json").read_text())["steps"] == 9


def test_nothing_that_a_user_reads_names_a_paper_by_a_number() -> None:
    root = Path(selfteach.__file__).parents[2]
    for path in [
        *root.glob("src/**/*.py"),
        *root.glob("src/**/*.html"),
        *root.glob("docs/**/*.md"),
        root / "README.md",
    ]:
        found = re.findall(r"\b[Cc]ards? \d+", path.read_text(encoding="utf-8"))
        assert not found, (path, found)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_says_where_its_paper_is(name: str) -> None:
    assert re.search(r"https://arxiv\.org/abs/\d{4}\.\d{5}$", RECIPES[name].source)


def test_addresses_are_whole_in_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["recipes"]) == 0
    shown = capsys.readouterr().out
    assert all(kind.source.rpartition("https://")[2] in shown for kind in RECIPES.values())


def test_a_stop_leaves_the_evaluation_of_its_step_so_that_going_on_equals_a_straight_run(
    tiny: str, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {
        "recipe": "grpo", "task": rows(), "reward": lambda completion: 0.0, "progress": Silent,
    }  # fmt: skip
    more: dict[str, Any] = {
        **FEW, "model": tiny, "steps": 7, "kl": 0.0, "eval_every": 5, "eval_problems": 2, "eval_samples": 1,
        "checkpoint_every": 5, "samples_every": 2,
    }  # fmt: skip
    selfteach.train(**asked, **more, max_idle_steps=0, out=tmp_path / "straight")
    with pytest.raises(selfteach.UserError, match="5 steps in a row"):
        selfteach.train(**asked, **more, max_idle_steps=5, out=tmp_path / "stopped")
    selfteach.train(**asked, max_idle_steps=0, out=tmp_path / "stopped", resume=True)
    straight, stopped = (everything(tmp_path / name, 7) for name in ("straight", "stopped"))
    assert [row["step"] for row in straight[1] if "eval/headline" in row] == [0, 5, 7]
    assert stopped[1] == straight[1]
    assert stopped[2] == straight[2]


VARIANTS: dict[str, list[dict[str, Any]]] = {
    "opsd": [{"loss": "policy-gradient", "teacher_top_k": None, "clip_entry": None}, {"view": "answer"}],
    "atesd": [{"adaptive": False}, {"weights": "ema"}],
    "sdpo": [{"sibling": False, "feedback": "always"}],
}
"""Settings beside the presets that leave a recipe less to choose."""


def recipes_as_they_are() -> list[Any]:
    made = []
    for name, kind in RECIPES.items():
        for changes in (*kind.presets.values(), *VARIANTS.get(name, [])):
            with contextlib.suppress(selfteach.UserError):  # a variant may not be one any more
                made.append(with_knobs(kind(), changes))
    return made


NAMED_VALUE = re.compile(r"--([a-z-]+) ([a-z0-9.]+)(?=[,;: ]|$)")


def test_no_advice_recommends_what_the_recipe_refuses() -> None:
    tried, made = set(), recipes_as_they_are()
    assert len(made) >= len(RECIPES)
    for recipe in made:
        teachers = sorted({type(one.weights).__name__.lower() for one in recipe.teachers.values()})
        mine = knobs(recipe)
        facts = {**mine, "teachers": teachers, "room": 10**6, "takes": partial(takes, recipe)}
        for name, pieces in ADVICE.items():
            for piece in (one for one in pieces if one.fits(facts)):
                for option, value in NAMED_VALUE.findall(piece.text):
                    knob = option.replace("-", "_")
                    if knob in mine and f"--{option} {value}" in SETTINGS_NAMED:
                        tried.add(f"--{option} {value}")
                        assert takes(recipe, knob, value), (name, type(recipe).__name__, piece.text)
    assert tried == set(SETTINGS_NAMED)


SETTINGS_NAMED = (
    "--view answer",
    "--view solution",
    "--weights frozen",
    "--tail bucket",
    "--tail renormalize",
    "--feedback always",
    "--clip-entry 0.05",
)
"""What pieces of advice name with a value."""


def test_atesd_is_not_told_to_show_its_teacher_another_view(tiny: str) -> None:
    run = run_of(tiny, recipe="atesd")
    facts = run.learner.facts()
    assert facts["view"] == "solution"
    for name in ADVICE:
        assert "--view" not in advised(name, facts)
    opsd = run_of(tiny).learner.facts()
    assert "--view answer" in advised("leakage", opsd)


def test_a_run_that_stopped_itself_says_why_in_report_and_show(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    out = tmp_path / "run"
    words = ["--model", tiny, "--task", str(data), "--out", str(out), "--prompts", "2", "--per-prompt", "2"]
    few = [
        "--max-tokens",
        "4",
        "--eval-problems",
        "0",
        "--steps",
        "4",
        "--max-idle-steps",
        "2",
        "--device",
        "cpu",
    ]
    assert main(["train", "grpo", *words, *few]) == 2
    said = "after step 2: 2 steps in a row without a gradient"
    assert (out / "stopped.txt").read_text().startswith(said)
    assert f"Stopped by itself {said}" in (out / "report.html").read_text()
    capsys.readouterr()
    assert main(["show", str(out)]) == 0
    assert f"by itself {said}" in capsys.readouterr().out
    # It goes on: the line is gone.
    selfteach.load_run(out).resume(max_idle_steps=0)
    assert not (out / "stopped.txt").exists()
    assert "Finished after 4 steps." in (out / "report.html").read_text()


def test_from_python_a_run_that_stopped_itself_leaves_its_report(tiny: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(selfteach.UserError, match="without a gradient"):
        selfteach.train(
            "grpo", tiny, rows(), out=out, prompts=2, per_prompt=2, max_tokens=4, eval_problems=0, steps=4,
            max_idle_steps=1, progress=Silent,
        )  # fmt: skip
    assert "Stopped by itself after step 1: " in (out / "report.html").read_text()
