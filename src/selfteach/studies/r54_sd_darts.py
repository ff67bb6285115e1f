"""SD-DARTS on digits: is the supernet flatter, and is less lost where one network is made of it?"""

from __future__ import annotations

from selfteach.studies.laptop import Laptop
from selfteach.studies.study import HEADLINE, Claim, Study, Works
from selfteach.studies.verdict import Exceeds

LAPTOP = Laptop(
    knobs={
        "channels": 8,
        "cells": 2,
        "nodes": 2,
        "steps": 200,
        "batch_size": 48,
        "lr": 0.1,
        "arch_lr": 0.05,
        "spacing": 20,
        "retrain_steps": 100,
        "power_steps": 15,
        "hessian_rows": 256,
    },
)

TAUGHT = "sd-darts --data digits"
PLAIN = f"{TAUGHT} --teachers 0"
RATES = ("--lr x0.5|x1|x2",)
SEARCHED = Works("eval/supernet", 0.5, 0.0)
"""A supernet that tells digits apart: five times chance."""

STUDY = Study(
    method="sd-darts",
    claims=(
        Claim(
            says="Self-distillation finds flatter minima: the largest eigenvalue of the training loss's Hessian at the "
            "end of the search is lower (no figure known)",
            variants={"plain": f"{PLAIN} --lr 0.1", "taught": f"{TAUGHT} --lr 0.1"},
            higher="plain",
            lower="taught",
            metric="eval/lambda_max",
            rule=Exceeds(0.0),
            sweep=(),  # sharpness depends on the rate: both sides keep the same
            works={"plain": SEARCHED, "taught": SEARCHED},
        ),
        Claim(
            says="It narrows the gap between the supernet and the discretized network (no figure known)",
            variants={"plain": PLAIN, "taught": TAUGHT},
            higher="plain",
            lower="taught",
            metric="eval/gap",
            rule=Exceeds(0.03),
            sweep=RATES,
            works={"plain": SEARCHED, "taught": SEARCHED},
        ),
        Claim(
            says="The network that it finds is better, trained anew (no figure known)",
            variants={"taught": TAUGHT, "plain": PLAIN},
            higher="taught",
            lower="plain",
            metric=HEADLINE,
            sweep=RATES,
        ),
    ),
)
