"""ASD: walks of eight points around a circle, in 1, 2 and 4 steps a point."""

from __future__ import annotations

from selfteach.studies.laptop import Laptop
from selfteach.studies.study import HEADLINE, Claim, Study, Works
from selfteach.studies.verdict import Exceeds

LAPTOP = Laptop(
    knobs={
        "pretrain_steps": 600,
        "steps": 300,
        "batch_size": 64,
        "lr": 5e-5,
        "schedule": "cosine",
        "fake_loss": "velocity",
        "adversarial_weight": 30.0,
    }
)

ASD = "asd --data walk --samples-every 0"
DMD = f"{ASD} --adversarial-weight 0"
TUNED = ("--lr x0.3|x1|x3",)
LEARNED = Works(f"max {HEADLINE}", HEADLINE, 0.3)
"""From one step the pretrained student is worse than an untrained one, which at least stays near the middle: it must
end well below that."""


LOOKED = (
    "Both sides chose the largest rate of the grid. At 5e-4 and 900 batches asd ends at 0.44 in one step and "
    "distribution matching alone at 1.08 (one seed), and in four steps both are worse than before the stage: a regime "
    "that does not last decides nothing."
)


def lower(says: str, metric: str, other: str = DMD, label: str = "dmd") -> Claim:
    """ASD's sequences end closer to the data by ``metric``."""
    return Claim(
        says=says,
        variants={"asd": ASD, label: other},
        higher=label,
        lower="asd",
        metric=metric,
        better="lower",
        rule=Exceeds(0.0),
        sweep=TUNED,
        works={"asd": LEARNED, label: LEARNED},
        looked=LOOKED,
    )


STUDY = Study(
    method="asd",
    claims=(
        lower(
            "Learning from one step more beats distribution matching alone in one step: 80.65 against 78.13 in total",
            HEADLINE,
        ),
        lower("and in two: 83.28 against 82.61", "eval/energy/2"),
        lower(
            "With the whole schedule for the first frame it still does: 83.89 against 83.04 in one step",
            "eval/energy_first/1",
        ),
    ),
)
