"""GDSD: Sudoku of 4 × 4, from a denoiser that was pretrained to fill three cells in four rightly."""

from __future__ import annotations

from selfteach.studies.laptop import Laptop
from selfteach.studies.study import HEADLINE, Claim, Study

LAPTOP = Laptop(
    knobs={
        "blanks": 8,
        "depth": 2,
        "pretrain_steps": 190,
        "diffusion_steps": 4,
        "steps": 150,
        "lr": 2e-4,
        "warmup": 10,
        "num_iterations": 2,
        "num_mc": 1,
        "epsilon": None,
    }
)
"""Without the clamp: of two updates a batch it stops the second."""

GDSD = "gdsd --data sudoku --samples-every 0"
TLC = f"{GDSD} --centered"
# The baselines' papers score by lower bounds of log p.
ESPO = f"{GDSD} --objective espo --elbo-weighted"
REINFORCE = f"{GDSD} --objective reinforce --elbo-weighted"
TUNED = ("--lr x0.3|x1|x3", "--epsilon 4e-4|none")
"""ESPO is clipped by its authors, and the preset's GDSD is not clamped: each side has the choice."""


LITTLE = (
    "every side chose the smallest rate of its grid and ends 0.04 to 0.05 above what pretraining alone leaves, 0.77 "
    "over the same seeds (--steps 1 --lr 1e-9), which differ by 0.2: too little is learned to be compared"
)


def above(says: str, one: tuple[str, str], other: tuple[str, str]) -> Claim:
    """The reward of held-out puzzles ends higher by (label, words) ``one`` than by ``other``."""
    return Claim(
        says=says,
        variants=dict([one, other]),
        higher=one[0],
        lower=other[0],
        metric=HEADLINE,
        sweep=TUNED,
        withdrawn=LITTLE,
    )


STUDY = Study(
    method="gdsd",
    claims=(
        above(
            "GDSD beats the ratio of lower bounds: Sudoku 82.3 against ESPO's 72.3 (Dream; of LLaDA 89.8 against 92.7)",
            ("gdsd", GDSD),
            ("espo", ESPO),
        ),
        above(
            "Centered scores beat ESPO by more: 91.7 against 72.3 (Dream; of LLaDA 92.0 against 92.7)",
            ("tlc", TLC),
            ("espo", ESPO),
        ),
        above(
            "Centered scores beat those of the softmax: Sudoku 91.7 against 82.3 (Dream), 92.0 against 89.8 (LLaDA)",
            ("tlc", TLC),
            ("gdsd", GDSD),
        ),
        above(
            "Regression beats the policy gradient on the lower bound (ours; the paper compares with SPG, 88.2 against "
            "89.8 of LLaDA)",
            ("gdsd", GDSD),
            ("reinforce", REINFORCE),
        ),
    ),
)
