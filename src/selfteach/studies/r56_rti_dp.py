"""RTI-DP: a point that passes a disc on either side. A claim's sides are samplers of the same policies, to the bit, so
that there is nothing to tune."""

from __future__ import annotations

from selfteach.studies.laptop import Laptop
from selfteach.studies.study import Claim, Study, Works
from selfteach.studies.verdict import Exceeds, Within

LAPTOP = Laptop(
    knobs={
        "environment": "point-reach-two-ways",
        "width": 128,
        "depth": 3,
        "lr": 8e-3,
        "warmup": 100,
        "steps": 2500,
        "batch_size": 256,
        "eval_episodes": 100,
        "ema_decay": 0.995,
    }
)

ALONE = "rti-dp --preset laptop --compared"
"""No sampler is evaluated beside the one that is named."""
DISC = f"{ALONE} --environment point-reach-two-ways --sampler"
WARM, LOOP = f"{DISC} warm-start", f"{DISC} closed-loop"
JUMP = f"{ALONE} --environment point-reach-jump --timesteps"

STUDY = Study(
    method="rti-dp",
    claims=(
        Claim(
            says="Three denoising steps from the last chunk are on a par with all hundred and eight actions a chunk",
            variants={"warm-start": WARM, "full": f"{DISC} full"},
            higher="full",
            lower="warm-start",
            rule=Within(0.05),
            sweep=(),
        ),
        Claim(
            says="They are on a par with all hundred before every action",
            variants={"warm-start": WARM, "closed-loop": LOOP},
            higher="closed-loop",
            lower="warm-start",
            rule=Within(0.05),
            sweep=(),
        ),
        Claim(
            says="The last chunk is what it is owed to: the same three steps from noise do worse",
            variants={"warm-start": WARM, "cold": f"{DISC} cold"},
            higher="warm-start",
            lower="cold",
            may_fail=("cold",),
            sweep=(),
        ),
        Claim(
            says="It keeps to one of two ways, where denoising anew before every action changes between them",
            variants={"closed-loop": LOOP, "warm-start": WARM},
            higher="closed-loop",
            lower="warm-start",
            metric="eval/switches",
            rule=Exceeds(0.0),
            works={"closed-loop": Works(), "warm-start": Works()},
            sweep=(),
        ),
        Claim(
            says="Where actions change suddenly it needs more steps: a goal that jumps, steps from 20 against from 2",
            variants={"from-20": f"{JUMP} 20 10 5 2 1 0", "from-2": f"{JUMP} 2 1 0"},
            higher="from-20",
            lower="from-2",
            sweep=(),
        ),
    ),
)
