"""VLA-OPD: a point that is to reach a goal behind a disc, its two velocities cut into action tokens."""

from __future__ import annotations

from selfteach.studies.laptop import Laptop
from selfteach.studies.study import HEADLINE, Claim, Study
from selfteach.studies.verdict import Exceeds

LAPTOP = Laptop(
    knobs={
        "environment": "point-reach-slide",
        "unseen": "point-reach-slide-back",
        "max_episode_steps": None,
        "bins": 11,
        "teacher_demonstrations": 500,
        "teacher_steps": 1500,
        "demonstrations": 5,
        "clone_steps": 40,
        "steps": 150,
        "lr": 1e-3,
    }
)

OPD = "vla-opd --environment point-reach-slide --samples-every 0"
GRPO, SFT = f"{OPD} --objective grpo", f"{OPD} --objective sft"
FORWARD, HARD = f"{OPD} --objective forward-kl", f"{OPD} --objective cross-entropy"


def ahead(says: str, other: tuple[str, str], metric: str = HEADLINE, words: str = "") -> Claim:
    """VLA-OPD is above ``other`` (label, words) by ``metric``."""
    label, told = other
    return Claim(
        says=says,
        variants={"opd": f"{OPD} {words}".strip(), label: f"{told} {words}".strip()},
        higher="opd",
        lower=label,
        metric=metric,
        may_fail=(label,),
    )


STUDY = Study(
    method="vla-opd",
    claims=(
        ahead(
            "It learns in fewer updates than GRPO on sparse success (LIBERO-Long: about 50 against 150)",
            ("grpo", GRPO),
        ),
        ahead(
            "It ends above further epochs over the demonstrations (LIBERO 87.4 against 48.9 after one demonstration)",
            ("sft", SFT),
        ),
        ahead(
            "It ends above the teacher's likeliest token as the target, which plateaus lowest", ("hard", HARD)
        ),
        Claim(
            says="The teacher's likeliest token as the target collapses the policy's entropy",
            variants={"opd": OPD, "hard": HARD},
            higher="opd",
            lower="hard",
            metric="policy/entropy",
            rule=Exceeds(0.0),
            may_fail=("hard",),
        ),
        Claim(
            says="Forward KL makes the policy's entropy explode",
            variants={"forward": FORWARD, "opd": OPD},
            higher="forward",
            lower="opd",
            metric="max policy/entropy",
            rule=Exceeds(0.0),
            may_fail=("forward",),
        ),
        ahead("It ends above forward KL, which falls before it rises", ("forward", FORWARD)),
        Claim(
            says="It forgets less than further epochs over the demonstrations of what is not trained on",
            variants={"opd": OPD, "sft": SFT},
            higher="opd",
            lower="sft",
            metric="eval/unseen",
            may_fail=("opd", "sft"),
            withdrawn="a student of five demonstrations succeeds in one of twenty-five episodes of the other "
            "environment before it is trained on the one, and in none afterwards on either side: there is nothing to "
            "forget",
        ),
    ),
)
