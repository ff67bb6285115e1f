"""Random teachers on signals: are a student's features worth more than its teacher's, and is it the data that makes
them so?"""

from __future__ import annotations

from selfteach.studies.laptop import Laptop
from selfteach.studies.study import Claim, Study, Works
from selfteach.studies.verdict import Exceeds

LAPTOP = Laptop(
    knobs={
        "encoder": "conv",
        "hidden_dim": 128,
        "bottleneck_dim": 64,
        "out_dim": 512,
        "batch_size": 128,
        "steps": 1000,
    },
)

NEAR = "random-teachers --data mnist1d"
FAR = f"{NEAR} --alpha 1"
RATES = ("--lr x0.3|x1|x3",)
ABOVE_INPUT = Works("eval/probe", "eval/input_probe", 0.0)
"""What stands for a side at work here, of which the paper says that it may learn nothing: features that are worth more
than the inputs."""

STUDY = Study(
    method="random-teachers",
    claims=(
        Claim(
            says="A student that begins next to a random teacher ends above it in a linear probe: CIFAR10 35.5 → 46.0 "
            "(ResNet18), 36.6 → 52.0 (VGG11); here the teacher is a copy after one step of SGD, which does not move it",
            variants={"student": NEAR, "teacher": f"{NEAR} --init teacher --optim sgd --steps 1"},
            higher="student",
            lower="teacher",
            metric="eval/gain",
            rule=Exceeds(0.01),
            sweep=RATES,
            works={"student": ABOVE_INPUT, "teacher": ABOVE_INPUT},
        ),
        Claim(
            says="It is the data that it learns from: on Gaussian noise there is no gain",
            variants={"data": NEAR, "noise": f"{NEAR} --inputs noise"},
            higher="data",
            lower="noise",
            metric="eval/gain",
            rule=Exceeds(0.01),
            sweep=RATES,
            works={"data": ABOVE_INPUT, "noise": ABOVE_INPUT},
        ),
        Claim(
            says="The gain is largest next to the teacher, and smaller from a draw of one's own (alpha 1)",
            variants={"near": NEAR, "far": FAR},
            higher="near",
            lower="far",
            metric="eval/gain",
            rule=Exceeds(0.01),
            sweep=RATES,
            works={"near": ABOVE_INPUT, "far": ABOVE_INPUT},
        ),
    ),
)
