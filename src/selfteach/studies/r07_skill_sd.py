"""Skill-SD: in the arena a skill is the group's best rollout itself, of use at once, as no question comes twice."""

from __future__ import annotations

from selfteach.studies.grpo import ADAMS, ROWS
from selfteach.studies.laptop import PLAIN, SHORT, SLOW, UNSURE, Laptop
from selfteach.studies.study import AREA, Claim, Study

LAPTOP = Laptop(
    "tutor",
    {
        **SHORT,
        **PLAIN,
        "lr": 3e-4,
        "per_prompt": 8,
        "steps": 150,
        "prompts": 8,
        "summarizer": "rule",
        "summarize": "best",
        "summarize_first": True,
        "distill_weight": 0.1,
        "skill_template": "{problem}|={skill}",
    },
)

SD = f"skill-sd --task tutor {SLOW} {ROWS} {ADAMS}"
NO_QUESTION_TWICE = (
    "no question of the arena comes twice: a student that reads skills before it answers finds none"
)

STUDY = Study(
    method="skill-sd",
    model=UNSURE,
    claims=(
        Claim(
            says="A teacher that reads skills, beside the reward, beats GRPO: 63.7 against 51.2 (AppWorld and Sokoban)",
            variants={"skill-sd": SD, "grpo": f"{SD} --distill-weight 0"},
            higher="skill-sd",
            lower="grpo",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="The teacher must follow the student: 64.9 and 62.5, frozen 49.1 and 50.0 (its ablation)",
            variants={"live": SD, "frozen": f"{SD} --weights frozen"},
            higher="live",
            lower="frozen",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="A small weight is best: 0.001 has 81.19 on AppWorld's validation, 0.005 74.66 (here 0.1 and 1, of "
            "means over tokens of equal weight)",
            variants={"small": SD, "large": f"{SD} --distill-weight 1"},
            higher="small",
            lower="large",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="Skills belong in the teacher's prompt: in the student's they give 31.2 (GRPO that reads skills)",
            variants={
                "teacher": SD,
                "student": f"{SD} --reader student --no-summarize-first",
            },
            higher="teacher",
            lower="student",
            metric=AREA,
            tuned_by=AREA,
            withdrawn=NO_QUESTION_TWICE,
        ),
    ),
)
