"""Plain on-policy distillation from a larger model, against imitating its text.

    selfteach study benchmarks/teacher_claims.py:STUDY --seeds 4 --jobs 4 --results results/teacher

Student and teacher are folders that the user gives: instruct models of one tokenizer, here Qwen2.5-Coder of 0.5 and
1.5 billion parameters.
"""

from __future__ import annotations

from selfteach.studies import Claim, Study

STUDENT, TEACHER = "models/qwen2.5-coder-0.5b", "models/qwen2.5-coder-1.5b"
TASK = "--task 'gym:chain_sum?min_terms=2&max_terms=3&min_digits=1&max_digits=2' --held-out-fraction 0.5"
"""Held out the teacher solves 0.72 of it, the student 0.41 (``results/gpu-todo.md``)."""
BOTH = f"{TASK} --teacher {TEACHER} --teacher-dtype bfloat16 --temperature 1 --top-p 1 --top-k 0 --max-tokens 32 "
BOTH += (
    "--lora-rank 32 --lora-alpha 64 --lr 1e-4 --schedule linear --warmup 0 --max-grad-norm 1 --prompts 16 "
)
BOTH += "--steps 40 --student-thinking none"
"""The same prompts, as many answers, sampled alike: by the student here, by the teacher there."""

STUDY = Study(
    method="teacher",
    model=STUDENT,
    claims=(
        Claim(
            says="Reverse KL to a teacher on the student's own answers (OPD) goes further than its text (SFT)",
            variants={"opd": f"gkd {BOTH} --lmbda 1 --beta 1", "sft": f"sft {BOTH}"},
            higher="opd",
            lower="sft",
        ),
    ),
)
