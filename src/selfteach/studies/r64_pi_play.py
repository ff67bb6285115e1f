"""pi-Play: world reverse, in which a question is made forwards and must be answered backwards."""

from __future__ import annotations

from selfteach.studies.laptop import PLAIN, SHORT, Laptop
from selfteach.studies.study import AREA, Claim, Study
from selfteach.studies.verdict import Within

LAPTOP = Laptop(
    "reverse",
    {
        **SHORT,
        **PLAIN,
        "max_tokens": 32,
        "question_tokens": 40,
        "lr": 1e-3,
        "examiner_lr": 1e-4,
        "per_prompt": 4,
        "prompts": 32,
        "rounds": 3,
        "steps": 40,
        "examiner_steps": 5,
        "distill_weight": 1.0,
        "mean_over": "sequences",
    },
)

PLAY = "pi-play --task reverse --steps 40 --examiner-steps 5 --eval-every 15 --eval-samples 1"
TUNED = ("--lr x0.5|x1|x2", "--distill-weight x0.3|x1")
"""What a path is worth depends on how much of it is asked for: each side gets its own rate and weight."""

STUDY = Study(
    method="pi-play",
    claims=(
        Claim(
            says="A teacher that reads how the question was made beats none: 277.2 against 265.5, in sum over seven "
            "benchmarks (here none is the same average, which reads the question alone)",
            variants={"path": PLAY, "none": f"{PLAY} --privilege none"},
            higher="path",
            lower="none",
            metric=AREA,
            tuned_by=AREA,
            sweep=TUNED,
        ),
        Claim(
            says="and one that reads the answer: 264.1",
            variants={"path": PLAY, "answer": f"{PLAY} --privilege answer"},
            higher="path",
            lower="answer",
            metric=AREA,
            tuned_by=AREA,
            sweep=TUNED,
        ),
        Claim(
            says="The answer alone is worth nothing: 264.1, without distillation 265.5",
            variants={"answer": f"{PLAY} --privilege answer", "none": f"{PLAY} --privilege none"},
            higher="answer",
            lower="none",
            rule=Within(0.03),
            metric=AREA,
            tuned_by=AREA,
            sweep=TUNED,
        ),
        Claim(
            says="A weight that falls from round to round beats a constant one (no figure known)",
            variants={"decay": PLAY, "constant": f"{PLAY} --distill-decay 1"},
            higher="decay",
            lower="constant",
            metric=AREA,
            tuned_by=AREA,
            sweep=TUNED,
        ),
    ),
)
