"""AFD: four prompts of two opposite places each, and a student that was pretrained on a biased copy."""

from __future__ import annotations

from selfteach.studies.laptop import Laptop
from selfteach.studies.study import Claim, Study
from selfteach.studies.verdict import Exceeds

LAPTOP = Laptop(
    knobs={
        "pretrain_steps": 500,
        "discriminator_warmup": 100,
        "steps": 300,
        "batch_size": 256,
        "lr": 1e-3,
        "discriminator_lr": 1e-3,
        "schedule": "cosine",
        "teacher_samples": 2000,
        "sampling_steps": 8,
        "score_scaling": "standardized",
        "adv_clip": 1.0,
        "beta": 1.0,
        "ema_decay": 0.9,
    }
)

AFD = "afd --data opposite --samples-every 0"
TUNED = ("--lr x0.1|x0.3|x1|x3",)


def beaten(says: str, label: str, words: str, *, fails: bool = False, looked: str = "") -> Claim:
    """AFD's samples end closer to the teacher's than another form's; ``fails``: the claim itself says that this form
    does not learn."""
    return Claim(
        says=says,
        variants={"afd": AFD, label: f"{AFD} {words}"},
        higher=label,
        lower="afd",
        better="lower",
        rule=Exceeds(0.0),
        sweep=TUNED,
        may_fail=(label,) if fails else (),
        looked=looked,
    )


STUDY = Study(
    method="afd",
    claims=(
        beaten(
            "A discriminator that learns on the way beats one that stays as it was, which is gamed (learning rate 0: "
            "reward hacking)",
            "frozen",
            "--freeze-discriminator",
            fails=True,
            looked="The frozen side chose the lower end of its grid. With 3e-5 it ends at 1.46, with 1e-5 at 1.15 on "
            "one seed, where an untrained student is (1.10): the slower the better, and never good.",
        ),
        beaten(
            "What its score says of each sample is what helps (against the same weights, handed to other samples of "
            "its prompt; ours)",
            "shuffled",
            "--shuffle-scores",
            fails=True,
        ),
        beaten(
            "The score as a weight beats its gradient through the sampler: 87.55 against 83.83 (physics, Self Forcing)",
            "gan",
            "--student-loss gan",
        ),
        beaten(
            "and imitation of the teacher's samples: 58.69",
            "sft",
            "--student-loss sft",
            looked="2,000 samples of points say all there is; the paper's 200 videos do not. But with 16 samples "
            "neither form is good: imitation 1.04 and 0.40 on two seeds, afd 1.70 and 0.47.",
        ),
        beaten(
            "A discriminator that compares pairs of a prompt beats one of single samples: 88.89 against 79.17 (dynamic "
            "degree)",
            "logistic",
            "--discriminator-loss logistic",
        ),
    ),
)
