"""ORACLE: streams whose late event everybody knows and whose early events nobody does; reflections are of the data."""

from __future__ import annotations

from selfteach.studies.laptop import ADAM, SHORT, Laptop
from selfteach.studies.study import AREA, Claim, Study

LAPTOP = Laptop(
    "stream",
    {**SHORT, **ADAM, "max_tokens": 4, "max_turns": 12, "reflection": "field", "steps": 60, "prompts": 32},
)

CURVE = "--steps 60 --eval-every 6 --eval-samples 1 --max-tokens 4"
ORACLE = f"oracle --task stream {CURVE}"
GATED = f"{ORACLE} --gate early"
END_LABEL = (
    f"grpo --task stream {CURVE} --lr 3e-4 --betas 0.9 0.95 --clip-high 0.28 --per-prompt 8 --prompts 4"
)
STUDY = Study(
    method="oracle",
    claims=(
        Claim(
            says="Reflections in hindsight teach to warn in time, where the end's label alone does not: the share of "
            "streams that are warned of before the harm, or rightly never (the paper: hit rate 98.4 against 80.8 of "
            "the best general model, first warning at 29.5 % of the stream against 46.4 %)",
            variants={"oracle": ORACLE, "end label": END_LABEL},
            higher="oracle",
            lower="end label",
            metric=AREA,
            tuned_by=AREA,
            may_fail=("end label",),
        ),
        Claim(
            says="The gate, which is ours, leaves out what hindsight alone can know: fewer false alarms on the "
            "way (the paper: 1.3 against 12.8 of the best general model)",
            variants={"gated": GATED, "ungated": ORACLE},
            higher="ungated",
            lower="gated",
            metric="mean eval/false_alarm",
            tuned_by=AREA,
        ),
        Claim(
            says="A teacher that follows the student runs away with what it claims too soon, the initial one does not "
            "(ours: whose weights teach could not be read)",
            variants={"frozen": ORACLE, "live": f"{ORACLE} --weights live"},
            higher="frozen",
            lower="live",
            metric=AREA,
            tuned_by=AREA,
            may_fail=("live",),
        ),
    ),
)
