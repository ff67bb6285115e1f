"""LiveTalk: walks of eight points around a circle, whose speed is the condition, in blocks of two."""

from __future__ import annotations

from selfteach.studies.laptop import Laptop
from selfteach.studies.study import HEADLINE, Claim, Study, Works
from selfteach.studies.verdict import Exceeds

LAPTOP = Laptop(
    knobs={
        "frames": 8,
        "block_frames": 2,
        "guidance": (1.5,),
        "timestep_shift": 2.0,
        "pretrain_steps": 1000,
        "ode_pairs": 4000,
        "ode_steps": 1000,
        "ode_lr": 3e-3,
        "steps": 400,
        "batch_size": 128,
        "schedule": "cosine",
        "lr": 5e-5,
        "fake_lr": 1e-3,
        "ema_from": 50,
    }
)

LIVETALK = "livetalk --data walk-speeds --samples-every 0"
TUNED = ("--lr x0.3|x1|x3",)
LEARNED = Works(f"first {HEADLINE}", HEADLINE, 1.4)
"""From about 2.1, an untrained student's, to where a student is that has begun to follow its teacher."""


def lower(says: str, other: str, words: str, metric: str = HEADLINE) -> Claim:
    """LiveTalk ends closer to the data by ``metric`` than another form."""
    return Claim(
        says=says,
        variants={"livetalk": LIVETALK, other: f"{LIVETALK} {words}"},
        higher=other,
        lower="livetalk",
        metric=metric,
        better="lower",
        rule=Exceeds(0.0),
        sweep=TUNED,
        works={"livetalk": LEARNED, other: LEARNED},
    )


STUDY = Study(
    method="livetalk",
    claims=(
        lower(
            "Distribution matching ends better behind a regression that has converged than behind a short one",
            "short",
            "--ode-steps 200",
        ),
        lower(
            "The last block drifts less where the student learns from its own rollouts than behind a teacher's blocks",
            "teacher-forced",
            "--rollouts teacher-forced",
            "eval/last_block/4",
        ),
        Claim(
            says="In a short window twice the learning rates, of student and critic, learn more (2 × those of Self "
            "Forcing)",
            variants={
                "twice": f"{LIVETALK} --lr 1e-4 --fake-lr 2e-3",
                "once": f"{LIVETALK} --lr 5e-5 --fake-lr 1e-3",
            },
            higher="once",
            lower="twice",
            better="lower",
            rule=Exceeds(0.0),
            sweep=(),
            works={"twice": LEARNED, "once": LEARNED},
        ),
        Claim(
            says="and so does higher guidance (here w = 3 against 1.5)",
            variants={
                "high": f"{LIVETALK} --ode-guidance 1.5 --guidance 3",
                "low": f"{LIVETALK} --ode-guidance 1.5",
            },
            higher="low",
            lower="high",
            better="lower",
            sweep=TUNED,
            withdrawn="a guided teacher departs from the data by construction, so that distance to the data favors the "
            "low side whatever is learned; how well a video follows its conditions is not measured in points",
        ),
        lower(
            "Clean conditions beat noisy ones (here half of the sequences with another one's audio)",
            "noisy",
            "--condition-noise 0.5",
        ),
    ),
)
