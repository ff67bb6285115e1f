"""The report of episodes: their turns are read, packed, shown and drawn as they were stored, older runs as ever."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from episode_run import write_episodes, write_lines
from selfteach.cli import main
from selfteach.report import build_report
from selfteach.report.curves import Series, columns, evenly, leading_charts, main_charts
from selfteach.report.reading import read_run
from selfteach.report.text import CUT_CHARACTERS
from selfteach.report.turns import MOST_TURNS, ending_of, turns_told
from synthetic_run import write_run
from test_report import explored, page


def stored(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def probe(folder: Path, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the page's data, its rollout that is the probe of this step)."""
    found = explored(build_report(folder))
    (one,) = [each for each in found["rollouts"] if each["phase"] == "probe" and each["step"] == step]
    return found, one


@pytest.mark.parametrize("apart", [False, True], ids=["one row", "a row a turn"])
def test_the_turns_on_the_page_are_those_of_the_run(apart: bool, tmp_path: Path) -> None:
    folder = write_episodes(tmp_path / "run", apart=apart)
    found, one = probe(folder, 2)
    assert len(found["rollouts"]) == 4
    assert [turn["number"] for turn in one["turns"]] == [0, 1, 2, 3]
    assert [turn["reward"] for turn in one["turns"]] == [0, 0.25, 0.5, 0.75]
    assert [turn["illegal"] for turn in one["turns"]] == [False, True, False, False]
    assert [[(who, found["texts"][i]) for who, i in turn["reply"]] for turn in one["turns"]] == [
        [("environment (tool)" if turn == 2 else "environment", f"reply 2 {turn}")] for turn in range(4)
    ]
    assert (one["length"], one["ending"], one["moreTurns"]) == (
        24 if apart else 36,
        "It ran out of turns.",
        0,
    )
    written = load_file(folder / "tokens" / "step-2.safetensors")["divergence/teacher"]
    own = written[len(written) // 2 :]
    for turn in one["turns"]:
        ((name, mean),) = turn["means"]
        assert name == "teacher"
        assert mean == pytest.approx(own[turn["begin"] : turn["end"]].mean(), rel=1e-4)
        assert turn["end"] - turn["begin"] == 6
    assert [turn["begin"] for turn in one["turns"]] == [turn * (6 if apart else 9) for turn in range(4)]
    # What is read anew before a turn stands with it.
    rows = [f"prompt of row {4 + turn}" for turn in range(4)]
    read = [found["texts"][turn["prompt"]] if "prompt" in turn else None for turn in one["turns"]]
    assert read == ([None, *rows[1:]] if apart else [None] * 4)


def test_rows_of_which_one_is_missing_stay_apart(tmp_path: Path) -> None:
    folder = write_episodes(tmp_path / "run", apart=True, steps=1)
    write_lines(folder / "samples.jsonl", [row for row in stored(folder) if row["row"] != 5])
    rollouts = explored(build_report(folder))["rollouts"]
    assert [len(one["turns"]) for one in rollouts] == [4, 1, 2]


def test_a_mean_leaves_out_what_is_not_known_and_tokens_that_are_not_there(tmp_path: Path) -> None:
    folder = write_episodes(tmp_path / "run", steps=1)
    rows = stored(folder)
    rows[1]["turns"][0] |= {"begin": 10_000, "end": 20_000}
    write_lines(folder / "samples.jsonl", rows)
    _, one = probe(folder, 1)
    assert one["turns"][0]["means"] == []
    assert len(one["turns"][1]["means"]) == 1


def test_runs_without_turns_have_none_on_the_page(tmp_path: Path) -> None:
    found = explored(build_report(write_run(tmp_path / "run", steps=2, rollouts=2, tokens=4)))
    assert not any({"turns", "moreTurns", "ending"} & set(one) for one in found["rollouts"])
    assert all(sample.turns == () for sample in read_run(tmp_path / "run").samples)


def test_without_token_columns_the_turns_have_their_texts(tmp_path: Path) -> None:
    folder = write_episodes(tmp_path / "run", steps=1)
    for path in (folder / "tokens").iterdir():
        path.unlink()
    found, one = probe(folder, 1)
    assert [found["texts"][turn["text"]] for turn in one["turns"]] == [
        turn["text"] for turn in stored(folder)[1]["turns"]
    ]


@pytest.mark.parametrize(
    "turns",
    [None, "x", 3, {"turn": 0}, [None, 1, "x", []], [{}], [{"turn": -1, "begin": 0, "end": 1}],
     [{"turn": True, "begin": 0, "end": 1}], [{"turn": 0, "begin": 5, "end": 1}],
     [{"turn": 1e300, "begin": 0, "end": 1}], [{"turn": 2**80, "begin": 0, "end": 1}]],
)  # fmt: skip
def test_turns_that_are_none_are_left_out(turns: Any, tmp_path: Path) -> None:
    assert turns_told({"turns": turns}) == ()


def test_what_a_turn_lacks_is_none() -> None:
    (one,) = turns_told(
        {"turns": [{"turn": 0, "begin": 0, "end": 0, "reply": [1, {"role": 2}], "reward": [], "illegal": 1}]}
    )
    assert (one.text, one.reward, one.illegal, one.reply) == ("", None, None, (("2", ""),))
    assert one.facts == ["by ", "not trained on"]


@pytest.mark.parametrize(
    ("numbers", "said"),
    [({"out_of_turns": 1.0}, "It ran out of turns."), ({"out_of_turns": 0.0}, ""), ({}, ""), (None, ""),
     ({"environment_failed": 1.0, "out_of_turns": 0.0}, "The environment failed."), ({"out_of_room": "1"}, "")],
)  # fmt: skip
def test_an_episode_says_why_it_ended(numbers: Any, said: str) -> None:
    assert ending_of({"numbers": numbers}) == said


# --- hostile and endless


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \u202eevil \x1b[31m \x00 \ud800 {{ 7 }} '\"&"


def test_text_of_the_policy_and_of_the_environment_is_inert(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_episodes(tmp_path / "run", steps=1)
    rows = stored(folder)
    for row in rows:
        for turn in row["turns"]:
            turn |= {"text": HOSTILE, "author": HOSTILE, "reply": [{"role": HOSTILE, "content": HOSTILE}]}
    write_lines(folder / "samples.jsonl", rows)
    path = build_report(folder)
    found = page(path)
    assert "img" not in [tag for tag, _ in found.found]
    assert len(found.named("script")) == 3
    html = path.read_text(encoding="utf-8")
    assert not set("\u202e\x1b\x00\ud800") & set(html)
    assert "alert(2)&gt; " in html.replace("<span", " ")
    assert main(["show", str(folder)]) == 0
    assert not set("\u202e\x1b\x00\ud800") & set(capsys.readouterr().out)


def test_endless_answers_and_endless_episodes_make_a_bounded_page(tmp_path: Path) -> None:
    folder = write_episodes(tmp_path / "run", steps=1)
    rows = stored(folder)
    for i, row in enumerate(rows):
        long = f"{i} " + "x" * 2**20
        row |= {
            "answer": long,
            "turns": [
                one | {"text": long, "reply": [{"role": "user", "content": long}]} for one in row["turns"]
            ],
        }
    rows[1]["turns"] += [
        rows[1]["turns"][0] | {"turn": i, "text": "x", "reply": []} for i in range(4, 10_000)
    ]
    write_lines(folder / "samples.jsonl", rows)
    path = build_report(folder)
    assert path.stat().st_size < 2**20
    found, one = probe(folder, 1)
    assert (len(one["turns"]), one["moreTurns"]) == (MOST_TURNS, 10_000 - MOST_TURNS)
    assert max(len(text) for text in found["texts"]) < CUT_CHARACTERS + 100
    assert "more characters" in path.read_text()


# --- held-out answers, the terminal


def test_held_out_answers_stand_turn_by_turn(tmp_path: Path) -> None:
    folder = write_episodes(tmp_path / "run", turns=8)
    found = page(build_report(folder))
    text = " ".join(found.text.split())
    assert "turn 1 · illegal · reward 0.25" in text
    assert "reply 1 7" in text
    assert "2 more turns" in text
    assert "8 turns" in text
    assert "the whole transcript" not in text
    assert "It ran out of turns." in text
    assert "met the length limit before" not in text


@pytest.mark.parametrize(
    ("numbers", "why"),
    [({"out_of_turns": 1.0}, "It ran out of turns."), ({"environment_failed": 1.0}, "The environment failed."),
     ({}, "The episode earned less than half of what counts as success.")],
)  # fmt: skip
def test_no_turn_of_an_episode_is_read_out_and_compared(
    numbers: dict[str, float], why: str, tmp_path: Path
) -> None:
    folder = write_episodes(tmp_path / "run", turns=8)
    lost = {"outcome": "wrong", "finished": True, "claim": "ub", "reward": 0.0, "numbers": numbers}
    write_lines(folder / "samples.jsonl", [{**row, **lost} for row in stored(folder)])
    assert {one.why for one in read_run(folder).samples} == {why}
    text = " ".join(page(build_report(folder)).text.split())
    assert why in text
    assert "another than the reference" not in text
    assert "read out: ub" not in text


def test_an_answer_without_turns_stands_as_it_did(tmp_path: Path) -> None:
    folder = write_episodes(tmp_path / "run")
    write_lines(
        folder / "samples.jsonl",
        [{k: v for k, v in row.items() if k not in ("turns", "numbers")} for row in stored(folder)],
    )
    text = " ".join(page(build_report(folder)).text.split())
    assert "the whole transcript" in text
    assert "met the length limit before" in text


def test_show_prints_turns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_episodes(tmp_path / "run", steps=1)
    assert main(["show", str(folder), "--phase", "after"]) == 0
    said = capsys.readouterr().out
    assert "    turn 1 · illegal · reward 0.25\n    answer   " in said
    assert "    reply    reply 1 1\n" in said
    assert "    tool     reply 1 2\n" in said
    assert "    ended    It ran out of turns.\n" in said
    assert "whole transcript" not in said


# --- curves


def by_turn(
    turns: int, teachers: tuple[str, ...] = ("teacher",), steps: tuple[int, ...] = (1, 2, 3)
) -> dict[str, Any]:
    order = sorted(range(turns), key=str)
    return columns(
        {"step": step}
        | {f"divergence_by_turn/{name}/{turn}": step + turn / 100 for name in teachers for turn in order}
        for step in steps
    )


@pytest.mark.parametrize("turns", [1, 2, 8, 12, 16])
def test_turns_stand_in_the_order_of_their_numbers(turns: int) -> None:
    over_steps, *over_turns = main_charts(by_turn(turns))
    numbers = [int(one.label.removeprefix("turn ")) for one in over_steps.series]
    assert numbers == sorted(numbers)
    assert (numbers[0], numbers[-1]) == (0, turns - 1)
    assert len(numbers) == min(turns, 8)
    assert ("more turns" in over_steps.note) == (turns > 8)
    for one, turn in zip(over_steps.series, numbers, strict=True):
        assert one.points == tuple((float(step), step + turn / 100) for step in (1, 2, 3))
    assert len(over_turns) == (turns > 1)
    for made in over_turns:
        assert made.x_label == "turn"
        assert [one.points for one in made.series] == [
            tuple((float(turn), step + turn / 100) for turn in range(turns)) for step in (3, 1)
        ]
        assert [one.faint for one in made.series] == [False, True]


def test_each_teacher_has_its_turns() -> None:
    first, second, both = main_charts(by_turn(3, ("near", "a/b")))
    assert [first.title, second.title] == ["Divergence from near, by turn", "Divergence from a/b, by turn"]
    assert [one.label for one in both.series] == [
        "near, step 3",
        "near, step 1",
        "a/b, step 3",
        "a/b, step 1",
    ]


def test_a_turn_that_was_not_reached_at_the_last_step_has_no_point_there() -> None:
    found = dict(by_turn(3))
    found["divergence_by_turn/teacher/2"] = found["divergence_by_turn/teacher/2"][:2]
    over_turns = main_charts(found)[1]
    assert [len(one.points) for one in over_turns.series] == [2, 3]


def test_a_name_that_is_no_turn_is_drawn_as_well() -> None:
    charts = main_charts(
        columns([{"step": 1, "divergence_by_turn/teacher/x": 1.0, "divergence_by_turn/y": 2.0}])
    )
    assert [one.label for made in charts for one in made.series] == ["teacher/x", "y"]


def test_both_charts_of_the_turns_are_on_the_page_where_one_leads(tmp_path: Path) -> None:
    found = by_turn(3)
    leading = leading_charts(found, main_charts(found), [])
    assert [one.x_label for one in leading] == ["step", "turn"]
    folder = write_episodes(tmp_path / "run", turns=3)
    html = build_report(folder).read_text()
    assert re.findall(r"<h3>(Divergence (?:by turn|over the turns of an episode))</h3>", html) == [
        "Divergence by turn", "Divergence over the turns of an episode",
    ]  # fmt: skip


def test_few_values_are_spread_evenly() -> None:
    assert evenly(range(16), 8) == [0, 2, 4, 6, 9, 11, 13, 15]
    assert evenly([3, 5], 8) == [3, 5]
    assert np.diff(evenly(range(1000), 8)).max() <= 143
    assert isinstance(main_charts(by_turn(2))[0].series[0], Series)
