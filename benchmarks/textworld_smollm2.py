"""SmolLM2-135M-Instruct in games of TextWorld: what the expert's plan, shown to the teacher alone, adds to cloning it.

    pip install 'selfteach[textworld]' && selfteach fetch smollm2
    selfteach study benchmarks/textworld_smollm2.py:STUDY --seeds 4 --jobs 4 --results results/textworld

Made for a GPU. The untrained model writes no command of the list (docs/textworld.md), so that neither a reward nor a
plan has anything to hold on to: every other side begins where the cloning of its own seed ends. The games are made as
they are first asked for, and kept.
"""

from __future__ import annotations

from selfteach.studies import Claim, Study

TASK = "'textworld?rooms=1&objects=4&quest=2&games=256&max_turns=6'"
COMMON = (
    f"--task {TASK} --lora-rank 0 --max-grad-norm 1 --schedule linear --warmup 0 --student-thinking none "
)
COMMON += "--max-tokens 24 --eval-problems 64 --eval-samples 1 --eval-temperature 0"
SAMPLED = "--temperature 1 --top-p 1 --top-k 0 --model '{variant cloning}/model'"
"""Whole episodes of the clone, sampled at the temperature at which they are scored."""

CLONING = f"sft {COMMON} --lr 3e-5 --prompts 16 --steps 40"
"""Behavior cloning: the likelihood of the expert's turns, each behind what the game had said before it."""
LONGER = f"sft {COMMON} --model '{{variant cloning}}/model' --lr 1e-5 --prompts 16 --steps 40"
GROUPS = f"grpo {COMMON} {SAMPLED} --kl 0 --lr 1e-5 --prompts 8 --per-prompt 8 --steps 40"
TOLD = (
    f"opsd {COMMON} {SAMPLED} --view solution --teacher-thinking none --clip-entry none --beta 1 --lr 1e-5 "
)
TOLD += "--prompts 64 --steps 40"
"""As many episodes a step as GRPO's groups hold. The view shows the whole plan, before every turn."""

STUDY = Study(
    method="textworld",
    model="models/smollm2",
    claims=(
        Claim(
            says="On a clone's own episodes the expert's plan, shown to the teacher (OPSD), teaches more than the "
            "reward (GRPO)",
            variants={"cloning": CLONING, "opsd": TOLD, "grpo": GROUPS},
            higher="opsd",
            lower="grpo",
        ),
        Claim(
            says="Behind cloning, the plan on a clone's own episodes (OPSD) goes further than cloning on (SFT)",
            variants={"cloning": CLONING, "opsd": TOLD, "longer": LONGER},
            higher="opsd",
            lower="longer",
        ),
    ),
)
