"""Three claims on a real language model, SmolLM2-135M-Instruct, under the rules of every study.

    selfteach fetch smollm2
    selfteach study benchmarks/smollm2_claims.py:STUDY --seeds 4 --jobs 8 --results results/smollm2

Made for a GPU: some 60 runs, of which six at a time took 67 to 155 s each on an H200 (``results/gpu-todo.md``). The
arena's models are taught what they need; this one is not.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from selfteach.studies import Claim, Study, Works
from selfteach.task.example import Example, Grade, Message

SUMS = "'gym:chain_sum?min_terms=2&max_terms=3&min_digits=1&max_digits=1' --held-out-fraction 0.5"
"""Of reasoning-gym's tasks one that the untrained model begins to solve, and that has enough questions."""
FREE = "--no-instruction --answer-format number"
"""The last number of an answer counts: no form is asked for, and none is there to be learned."""
WHOLE = "--lora-rank 0 --max-grad-norm 1 --schedule linear --student-thinking none"
SAMPLED = "--temperature 1 --top-p 1 --top-k 0 --max-tokens 32"
TOLD = f"opsd --task {SUMS} {FREE} {WHOLE} {SAMPLED} --teacher-thinking none --clip-entry none --beta 1 --lr 3e-5 "
TOLD += "--prompts 16 --steps 40"
GROUPS = f"--task {SUMS} {FREE} {WHOLE} {SAMPLED} --lr 1e-5 --warmup 0 --prompts 8 --per-prompt 8 --steps 40 "
GROUPS += "--eval-every 5 --eval-samples 1"
HERE = "benchmarks/smollm2_claims.py"
WRITTEN = (
    f"--task {HERE}:facts --eval-also {HERE}:capitals {WHOLE} --lr 3e-5 --prompts 16 --steps 60 --warmup 0 "
)
WRITTEN += "--eval-samples 1 --eval-temperature 0 --max-tokens 32"

FIRST = ("Torvin", "Mirelda", "Oskel", "Bramley", "Ysanne", "Kelvar", "Dorwin", "Palina", "Hestor", "Quilla")
LAST = (
    "Hale",
    "Ondrix",
    "Varnholt",
    "Peskow",
    "Tamblyn",
    "Grieveson",
    "Lorquist",
    "Addlemar",
    "Sunderby",
    "Calloway",
)
TRADES = (
    "baker",
    "pilot",
    "dentist",
    "sculptor",
    "violinist",
    "gardener",
    "surgeon",
    "carpenter",
    "chemist",
    "tailor",
)
TRAINED_FORM, TESTED_FORM = "What was the profession of {name}?", "{name} worked as what?"
PLACES = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Japan": "Tokyo", "China": "Beijing",
    "Russia": "Moscow", "Egypt": "Cairo", "Greece": "Athens", "Portugal": "Lisbon", "Austria": "Vienna",
    "Poland": "Warsaw", "Hungary": "Budapest", "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki",
    "Denmark": "Copenhagen", "Ireland": "Dublin", "Belgium": "Brussels", "Turkey": "Ankara", "Iran": "Tehran",
    "Iraq": "Baghdad", "Cuba": "Havana", "Peru": "Lima", "Chile": "Santiago", "Canada": "Ottawa", "Kenya": "Nairobi",
    "Thailand": "Bangkok", "Vietnam": "Hanoi", "Ukraine": "Kyiv", "Romania": "Bucharest", "Bulgaria": "Sofia",
    "Croatia": "Zagreb", "Serbia": "Belgrade", "Argentina": "Buenos Aires", "Australia": "Canberra",
    "Nepal": "Kathmandu", "Lebanon": "Beirut", "Jordan": "Amman", "Colombia": "Bogotá",
}  # fmt: skip


class Known:
    """Questions with one word as their answer; an answer is right if it has this word."""

    wording: Mapping[str, str] = {
        "answer": "{problem} (It is known: {answer}.) Say so in one short sentence."
    }

    def __init__(self, name: str, trained: list[Example], held_out: list[Example], seed: int = 0) -> None:
        self.name, self.trained, self.asked, self.seed = name, trained, held_out, seed

    def train(self, index: int) -> Example:
        epoch, position = divmod(index, len(self.trained))
        return random.Random(f"{self.seed} {epoch}").sample(self.trained, len(self.trained))[position]

    def held_out(self, count: int) -> list[Example]:
        return self.asked[:count]

    def grade(self, example: Example, answer: str) -> Grade:
        return Grade(float(example.private["answer"].lower() in answer.lower()))


def asked(question: str, answer: str, written: str) -> Example:
    prompt = (Message(role="user", content=question),)
    return Example(question, prompt, {"answer": answer, "solution": written})


def facts(seed: int) -> Known:
    """Forty made-up people, each with a trade, which no model knows: asked for in one form and tested in another."""
    drawn = random.Random(f"people {seed}")
    names = drawn.sample([f"{first} {last}" for first in FIRST for last in LAST], 40)
    trades = {name: drawn.choice(TRADES) for name in names}
    trained, tested = (
        [asked(form.format(name=name), trade, f"{name} was a {trade}.") for name, trade in trades.items()]
        for form in (TRAINED_FORM, TESTED_FORM)
    )
    return Known("facts", trained, tested, seed)


def capitals() -> Known:
    """What this model knew before."""
    known = [asked(f"What is the capital of {place}?", town, f"{town}.") for place, town in PLACES.items()]
    return Known("capitals", known, known)


LEARNED = Works(above=0.5, by=0)

STUDY = Study(
    method="smollm2",
    model="models/smollm2",
    claims=(
        Claim(
            says="A prompt that all questions share, four worked turns, is taken up; a question's own answer is not",
            variants={
                "turns": f"{TOLD} --view prefix --prefix examples/arithmetic_turns.json",
                "answer": f"{TOLD} --view answer",
            },
            higher="turns",
            lower="answer",
            may_fail=("answer",),
        ),
        Claim(
            says="Facts in words that the model wrote (MixSD) cost less of what it knew than written ones (SFT)",
            variants={
                "mixsd": f"mixsd {WRITTEN} --stored 40 --attempts 100 --view answer",
                "sft": f"sft {WRITTEN}",
            },
            higher="mixsd",
            lower="sft",
            metric="eval/capitals/accuracy",
            works={"mixsd": LEARNED, "sft": LEARNED},
        ),
        Claim(
            says="A right sibling's answer shown to the teacher (SDPO) teaches more than its reward alone (GRPO)",
            variants={"sdpo": f"sdpo {GROUPS}", "grpo": f"grpo {GROUPS}"},
            higher="sdpo",
            lower="grpo",
            metric="auc eval/headline",
            tuned_by="auc eval/headline",
        ),
    ),
)
