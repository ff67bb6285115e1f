"""RLTF: in the arena the verifier is the critic."""

from __future__ import annotations

from selfteach.studies.grpo import ADAMS, REINFORCED, ROWS
from selfteach.studies.laptop import PLAIN, SHORT, SLOW, UNSURE, Laptop
from selfteach.studies.study import AREA, Claim, Study

LAPTOP = Laptop(
    "tutor",
    {
        **SHORT,
        **PLAIN,
        "lr": 1e-3,
        "per_prompt": 8,
        "steps": 150,
        "prompts": 8,
        "critique_tokens": 64,
        "critique_template": "{problem}|?{attempt}",
        "judge_template": "{problem}|?{attempt}",
    },
)

SD = f"rltf --task tutor {SLOW} {ROWS} {ADAMS}"
TWO_TURNS = f"{SD} --revision-weight 0"

STUDY = Study(
    method="rltf",
    model=UNSURE,
    claims=(
        Claim(
            says="Retelling the second turn beats one-turn GRPO: 0.80 against 0.37 (Knights and Knaves, Llama-3.1-8B; "
            "beside it rltf writes second turns, rewards the first for them, and takes 0.1 off what cannot be read)",
            variants={"sd": SD, "grpo": f"{REINFORCED} --scale none --mean-over constant"},
            higher="sd",
            lower="grpo",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="and it is the retelling, not the second turn, that helps a first turn (the same comparison)",
            variants={"sd": SD, "two turns": TWO_TURNS},
            higher="sd",
            lower="two turns",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="Predicting the critique helps too: 0.88 (one-turn GRPO 0.37, the same; here against two turns)",
            variants={"fm": f"{TWO_TURNS} --critique-weight 0.01", "two turns": TWO_TURNS},
            higher="fm",
            lower="two turns",
            metric=AREA,
            tuned_by=AREA,
            looked="with --critique-weight 0.1 it was refuted, 0.09 [0.06, 0.12] behind in 8 seeds; no source that we "
            "read says what the paper's weight is",
        ),
        Claim(
            says="The first turn's mean is the better baseline of the retold answer (ablation)",
            variants={"first": SD, "second": f"{SD} --revision-baseline second"},
            higher="first",
            lower="second",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="What the critic says matters: a critique beats the bare verdict (ablation)",
            variants={"critique": SD, "verdict": f"{SD} --critic verdict"},
            higher="critique",
            lower="verdict",
            metric=AREA,
            tuned_by=AREA,
            withdrawn="the arena's model was taught to read which questions are wrong, and no other news: behind the "
            "bare verdict it cannot do its job",
        ),
    ),
)
