"""KEPO: in the arena a hint is what the teacher writes for an answer."""

from __future__ import annotations

from selfteach.studies.laptop import FAST, MUTE, PLAIN, SHORT, UNSURE, Laptop
from selfteach.studies.study import AREA, Claim, Study

LAPTOP = Laptop(
    "tutor",
    {
        **SHORT,
        **PLAIN,
        **MUTE,
        "teacher": "arena:tutor-large",
        "hint_template": "{problem}",
        "hint_tag": "",
        "hint_tokens": 64,
        "hinted_template": "{problem}|={hint}",
        "format_reward": 0.0,
        "lr": 3e-4,
        "per_prompt": 8,
        "steps": 60,
        "prompts": 8,
    },
)

KEPO = f"kepo --task tutor {FAST} --per-prompt 4 --hinted 2 --prompts 4 --lr 1e-4 --betas 0.9 0.95"
"""Groups of four and a slow rate: with more, and at a higher one, this student hardly ever fails a whole group."""
NO_HINTS = KEPO.replace("--hinted 2", "--hinted 0")

STUDY = Study(
    method="kepo",
    model=UNSURE,
    claims=(
        Claim(
            says="A teacher behind a gate and hints beat GRPO (medical questions in other modalities than those "
            "trained on; the figures were not read)",
            variants={"kepo": KEPO, "grpo": f"{NO_HINTS} --tau none"},
            higher="kepo",
            lower="grpo",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="A gate on the reward beats distilling every rollout (ablation, τ = 1 against 0)",
            variants={"gated": NO_HINTS, "ungated": f"{NO_HINTS} --tau 0"},
            higher="gated",
            lower="ungated",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="Hints add to the gated divergence",
            variants={"hints": KEPO, "none": NO_HINTS},
            higher="hints",
            lower="none",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="Hints leave fewer groups without anything right",
            variants={"none": NO_HINTS, "hints": KEPO},
            higher="none",
            lower="hints",
            metric="mean dead/left",
            tuned_by=AREA,
        ),
    ),
)
