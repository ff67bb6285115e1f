"""The two runs on a real language model, and the page that tells them: ``python benchmarks/smollm2.py``.

Runs what is not there yet under runs/smollm2 (about an hour and a half on two cores; an interrupted run goes on) and
writes results/smollm2.md from what the runs wrote. Names of runs restrict it to those; ``--page`` runs nothing.
"""

from __future__ import annotations

import json
import shlex
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path("runs/smollm2")
PAGE = Path("results/smollm2.md")
MODEL = "--model models/smollm2"
TASK = "--task 'gym:chain_sum?min_terms=2&max_terms=2&min_digits=1&max_digits=2'"
PLAIN = "--temperature 1 --top-p 1 --top-k 0 --lora-rank 0 --max-grad-norm 1"
PLAIN += " --student-thinking none --teacher-thinking none"
EVERY = "--eval-samples 1 --eval-temperature 0.7 --checkpoint-every 15 --keep 1 --samples-every 5"
FREE = "--no-instruction --answer-format number"
ASKED = f"{MODEL} {TASK} --samples 1 --temperature 0.7 --sample-batch 50"
TURNS = "--no-instruction --view prefix --prefix examples/arithmetic_turns.json"
WITH_TURNS = (
    f"selfteach train opsd {MODEL} {TASK} {TURNS} --clip-entry none --lr 5e-5 {PLAIN} --max-tokens 16 "
)
WITH_TURNS += f"--prompts 16 --eval-problems 300 {EVERY}"
TEACHER = f"selfteach eval {ASKED} {TURNS} --problems 300 --max-tokens 16"
COMMANDS = {
    "prefix": f"{WITH_TURNS} --held-out-fraction 0.5 --schedule linear --steps 45",
    "prefix-70": f"{WITH_TURNS} --held-out-fraction 0.5 --schedule linear --steps 70 --seed 1",
    "teacher-prefix.json": f"{TEACHER} --held-out-fraction 0.5",
    "prefix-split5": f"{WITH_TURNS} --steps 45",
    "teacher-prefix-split5.json": TEACHER,
    "view-plain.json": f"selfteach eval {ASKED} {FREE} --view plain --problems 200 --max-tokens 32",
    "view-answer.json": f"selfteach eval {ASKED} {FREE} --view answer --problems 200 --max-tokens 32",
    "view-solution.json": f"selfteach eval {ASKED} {FREE} --view solution --problems 200 --max-tokens 32",
    "answer-rkl": f"selfteach train opsd {MODEL} {TASK} {FREE} --view answer --beta 1 --clip-entry none --lr 2e-5 "
    f"{PLAIN} --max-tokens 32 --prompts 16 --steps 30 --eval-problems 200 {EVERY}",
    "solution-fkl": f"selfteach train opsd {MODEL} {TASK} {FREE} --view solution --clip-entry 0.05 --lr 5e-5 {PLAIN} "
    f"--max-tokens 32 --prompts 16 --steps 30 --eval-problems 200 {EVERY}",
}


READING = """## Reading (written by hand, of the runs of 22 November 2026)

(a) The format, which is what the four turns are for, moves first: within five steps every answer is a short
`Answer: N`. The arithmetic behind it follows slowly, and the noise is large against the difference that is left: look
at the standard errors of the ratios before believing any of them to be above or below 0.9.

(b) *Not seen*: no gain that the noise would let one call a gain. The statistics say why. Told the answer, the teacher
is ten times as accurate, so the privilege is read. But the divergence that training removes is that of style and
filler tokens, while the divergence on content tokens (digits, operators) stays where it was: the student takes over
the teacher's manner (answers as long as the teacher's, and as often cut off), not its numbers, which it cannot know
from the question. That is the published failure of instance-specific privilege
([Many Faces](https://arxiv.org/abs/2605.11182)), and what the clip of [OPSD](https://arxiv.org/abs/2601.18734)
is against. Tried here: reverse KL on the answer. Not tried for want of time: the worked solution with clipped
forward KL (`solution-fkl`, in the script), more steps, partial solutions ([ATESD](https://arxiv.org/abs/2605.11458)).
"""


def main() -> None:
    wanted = sys.argv[1:] or list(COMMANDS)
    for name in wanted if wanted != ["--page"] else []:
        bring_to_end(ROOT / name, COMMANDS[name])
    if len(sys.argv) > 1 and wanted != ["--page"]:
        return
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)


def bring_to_end(out: Path, command: str) -> None:
    """Run one command unless its result is there; go on with an interrupted training run."""
    if (out if out.suffix else out / "summary.json").exists():
        return
    words = [sys.executable, "-m", *shlex.split(command), "--out", str(out)]
    if (out / "config.toml").exists():
        words.append("--resume")
    subprocess.run(words, check=True)


def page() -> str:
    """The results in words and tables, every number read from a file."""
    versions = tomllib.loads((ROOT / "prefix" / "config.toml").read_text())["versions"]
    made = ", ".join(f"{name} {value}" for name, value in versions.items())
    return "\n".join(
        [
            "# A real language model: SmolLM2-135M-Instruct",
            "",
            "Made by `selfteach fetch smollm2` and `python benchmarks/smollm2.py` (this page by the latter's `--page`) "
            f"on two CPU cores with {made}. One seed a run (0 unless its command says otherwise); "
            "± is the standard error over held-out problems. The "
            "model is the 4-bit release unpacked to float32; all weights are trained; answers are sampled at "
            "temperature 0.7. In (a) an answer is right only in the strict form `Answer: N`; in (b) the last number "
            "written counts, since the untrained model keeps no form it is asked for.",
            "",
            *prefix_part(),
            *answer_part(),
            READING,
        ]
    )


def prefix_part() -> list[str]:
    rows, told, commands = [], [], []
    for teacher, students in (
        ("teacher-prefix.json", ("prefix", "prefix-70")),
        ("teacher-prefix-split5.json", ("prefix-split5",)),
    ):
        theirs = evaluated(teacher)
        rows.append(
            [f"`{teacher.removesuffix('.json')}`: the frozen start, with the turns", *cells_of_eval(theirs)]
        )
        commands.append(teacher)
        for name in students:
            if not (ROOT / name / "summary.json").exists():
                continue
            before, after = ends(name)
            rows += [
                [f"`{name}`: student before", *cells(before)],
                [f"`{name}`: after, no turns", *cells(after)],
            ]
            ratio, error = ratio_of(after, theirs)
            told += [f"`{name}`: {ratio:.2f} ± {error:.2f} of its teacher's accuracy. {trace(name)}", ""]
            commands.append(name)
    return [
        "## (a) A prompt baked into the weights",
        "",
        "The teacher (the frozen start) sees four worked chat turns before the question, the student the question.",
        "Half of the distinct questions are held out, or 5 % (`split5`: few easy one-digit questions are among those).",
        "",
        table(["", "accuracy", "answers in tokens", "ended by themselves"], rows),
        "",
        *told,
        *repeated(*commands),
    ]


def ratio_of(after: dict[str, Any], teacher: dict[str, Any]) -> tuple[float, float]:
    """Student's accuracy over its teacher's, and the standard error of that by the delta method."""
    ours, theirs = after["eval/accuracy"], teacher["accuracy"]
    ratio = ours / theirs
    relative = (after["eval/accuracy_se"] / max(ours, 1e-9)) ** 2 + (teacher["accuracy_se"] / theirs) ** 2
    return ratio, ratio * relative**0.5


def answer_part() -> list[str]:
    there = [name for name in ("plain", "answer", "solution") if (ROOT / f"view-{name}.json").exists()]
    views = {name: evaluated(f"view-{name}.json") for name in there}
    rows = [[f"untrained, view {name}", *cells_of_eval(result)] for name, result in views.items()]
    done = [name for name in ("answer-rkl", "solution-fkl") if (ROOT / name / "summary.json").exists()]
    for name in done:
        rows += [[f"{name}: before", *cells(ends(name)[0])], [f"{name}: after", *cells(ends(name)[1])]]
    traces = [
        f"`{name}`: {trace(name)}"
        for name in ("answer-rkl", "solution-fkl")
        if (ROOT / name / "summary.json").exists()
    ]
    return [
        "## (b) The answer, or a worked solution, as privilege",
        "",
        "OPSD proper: the teacher is told this problem's answer (or worked solution); the student must do without.",
        "",
        table(["", "accuracy", "answers in tokens", "ended by themselves"], rows),
        "",
        *(line for text in traces for line in (text, "")),
        *repeated("view-plain.json", "view-answer.json", "view-solution.json", "answer-rkl", "solution-fkl"),
    ]


def trace(name: str) -> str:
    """Divergence by token class and length, at the start and at the end (means over five steps)."""
    rows = [row for row in rows_of(name) if "loss" in row]
    parts = []
    for label, some in (("first", rows[:5]), ("last", rows[-5:])):
        kinds = {
            kind: [row[f"divergence/teacher/{kind}"] for row in some if f"divergence/teacher/{kind}" in row]
            for kind in ("content", "style", "other")
        }
        told = ", ".join(f"{kind} {statistics.fmean(v):.3f}" for kind, v in kinds.items() if v)
        whole = statistics.fmean(row["divergence/teacher"] for row in some)
        length = statistics.fmean(row["length/mean"] for row in some)
        reward = statistics.fmean(row["reward/mean"] for row in some)
        parts.append(
            f"{label} five steps: KL(teacher‖student) {whole:.3f} nats a token ({told}), "
            f"{length:.1f} tokens an answer, training reward {reward:.2f}"
        )
    seconds = json.loads((ROOT / name / "summary.json").read_text())["training_seconds"]
    return f"{parts[0][0].upper()}{parts[0][1:]}; {parts[1]}. {len(rows)} steps, {seconds:.0f} s."


def ends(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    rows = [row for row in rows_of(name) if "eval/accuracy" in row]
    return rows[0], rows[-1]


def rows_of(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (ROOT / name / "metrics.jsonl").read_text().splitlines()]


def evaluated(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((ROOT / name).read_text())["result"]
    return result


def cells(row: dict[str, Any]) -> list[str]:
    return [
        f"{row['eval/accuracy']:.3f} ± {row['eval/accuracy_se']:.3f} (n = {row['eval/problems']})",
        f"{row['eval/length']:.1f}",
        f"{row['eval/finished']:.2f}",
    ]


def cells_of_eval(result: dict[str, Any]) -> list[str]:
    return cells({f"eval/{name}": value for name, value in result.items()})


def table(heads: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [heads, ["---"] * len(heads), *rows])


def repeated(*names: str) -> list[str]:
    lines = [f"    {COMMANDS[name]} --out {ROOT / name}" for name in names if (ROOT / name).exists()]
    return ["Commands:", "", *lines, ""]


if __name__ == "__main__":
    main()
