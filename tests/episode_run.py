"""A run folder whose rollouts are episodes, made without training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from synthetic_run import write_run


def write_episodes(
    folder: Path,
    *,
    steps: int = 2,
    turns: int = 4,
    tokens: int = 6,
    between: int = 3,
    said: Callable[[int, int], str] = lambda step, turn: f"reply {step} {turn}",
    apart: bool = False,
) -> Path:
    """Two episodes a look, one in training and a probe: turns of ``tokens`` tokens, ``between`` of the environment's
    behind each but the last; turn t earns t / 4, the second is illegal, the last is answered when all is over.

    ``apart``: each turn in a row of its own, as where a template forgets what was thought before.
    """
    rows = 2 * turns if apart else 2
    long = tokens if apart else turns * (tokens + between)
    phases = (["train"] * (rows // 2)) + (["probe"] * (rows // 2))
    write_run(folder, steps=steps, rollouts=rows, tokens=long, phases=phases)
    stored = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    for row in stored:
        pieces = json.loads((folder / "tokens" / f"step-{row['step']}.json").read_text())["pieces"][
            row["row"]
        ]
        first = row["row"] % turns if apart else 0
        own = [first] if apart else range(turns)
        places = {turn: 0 if apart else turn * (tokens + between) for turn in own}
        row |= {
            "key": f"{row['phase']} episode" if row["phase"] == "probe" else f"train {row['step']}",
            "problem": "walk to the door",
            "prompt": f"prompt of row {row['row']}",
            "answer": "the whole transcript",
            "reward": 0.0,
            "outcome": "cut off",
            "finished": False,
            "numbers": {"turns": float(turns), "out_of_turns": 1.0, "illegal": 1.0},
            "turns": [
                turn_row(
                    turn, place, tokens, "".join(pieces[place : place + tokens]), said(row["step"], turn)
                )
                for turn, place in places.items()
            ],
            **({"rollout": row["row"] // turns} if apart else {}),
        }
    answers = [
        {
            **stored[0],
            "step": step,
            "phase": phase,
            "key": "held out",
            "turns": [one for row in stored[: turns if apart else 1] for one in row["turns"]],
        }
        for step, phase in ((0, "before"), (steps, "after"))
    ]
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in metrics:
        row |= {f"divergence_by_turn/teacher/{turn}": turn / 10 + row["step"] for turn in range(turns)}
    write_lines(folder / "samples.jsonl", [*stored, *answers])
    write_lines(folder / "metrics.jsonl", metrics)
    return folder


def turn_row(turn: int, begin: int, tokens: int, text: str, said: str) -> dict[str, Any]:
    return {
        "turn": turn, "begin": begin, "end": begin + tokens, "author": "student", "trains": True, "text": text,
        "reward": turn / 4, "illegal": turn == 1, "reply": [{"role": "tool" if turn == 2 else "user", "content": said}],
    }  # fmt: skip


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
