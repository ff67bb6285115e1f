"""The baseline on one's own right answers: rejection-sampling fine-tuning (RFT)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from selfteach.recipes.kit import *

WRITER = "writer"


@settings
class RFT(Recipe):
    """Imitate those of one's own answers that the verifier calls right.

    "Scaling Relationship on Learning Mathematical Reasoning" (arXiv 2308.01825). ``per_prompt`` answers are sampled to
    each prompt and graded; of the right ones up to ``keep_right`` stay, no two of the same text, and with
    ``with_reference`` the data's own solution beside them:

        L = mean over their tokens of −log p(y_t)

    As in the paper the answers are written once, by the model that stage "sft" fine-tuned on the data's solutions, to
    ``stored`` prompts (those behind the ones that stage "sft" read), and trained on from the model as it was given
    (``restart``). With stored 0 they are fresh at every step (expert iteration).
    """

    name = "rft"
    title = "Rejection-sampling fine-tuning"
    source = "https://arxiv.org/abs/2308.01825"
    formula = "mean_t −log p(y_t),  y right, of the model's own"
    sizes = {**Recipe.sizes, "sft_steps": "steps"}
    plays = True
    presets = {
        "paper": {},
        "online": {"stored": 0, "per_prompt": 8, "sft_steps": 0, "restart": False, "with_reference": False},
    }

    rollouts: Rollouts = Rollouts(per_prompt=100, temperature=0.7, max_tokens=512, stored=7473)
    optimization: Optimization = Optimization(lr=2e-5, prompts=128, steps=174, schedule="cosine", warmup=5)
    keep_right: PositiveInt | None = None
    """Most right answers that are kept of a prompt (none: all that differ)."""
    with_reference: bool = True
    """The data's own solution is imitated too (paper)."""
    reference: str = "solution"
    """The private field that holds it."""
    sft_steps: NonNegativeInt = 174
    """Steps of stage "sft", on the data's solutions (0: none, the model given writes the answers)."""
    restart: bool = True
    """Train from the model as it was given, not from where stage "sft" left it (paper)."""

    def __post_init__(self) -> None:
        require(
            self.rollouts.stored > 0 or not (self.restart and self.sft_steps),
            "restart trains the model given, which then would write fresh answers itself: set stored, or restart false",
        )

    @property
    def stages(self) -> Mapping[str, Recipe]:
        if self.sft_steps == 0:
            return {"rft": self}
        imitate = Imitate(
            rollouts=replace(self.rollouts, per_prompt=1, stored=0),
            optimization=replace(self.optimization, steps=self.sft_steps),
            adapter=self.adapter,
            student_thinking=self.student_thinking,
            reference=self.reference,
        )
        return {"sft": imitate, "rft": self}

    @property
    def trained(self) -> Mapping[str, TrainedWeights]:
        start = BASE if self.restart and self.sft_steps else PREVIOUS
        return {POLICY: TrainedWeights(start, self.optimization, self.adapter)}

    @property
    def writers(self) -> Mapping[str, Role]:
        if not (self.restart and self.sft_steps):
            return {}
        return {WRITER: Role(Snapshot("sft"), Plain(), self.student_thinking)}

    @property
    def temperature(self) -> float:
        return 1.0  # of the loss, whatever the temperature of sampling

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        role = WRITER if WRITER in self.writers else STUDENT
        tried = tools.grade(tools.play(prompts, self.rollouts.per_prompt, role=role))
        quoted = tools.quote(prompts, self.reference) if self.with_reference else []
        return sorted([*quoted, *self.kept(tried, quoted)], key=lambda one: one.group)

    def kept(self, tried: Sequence[Trajectory], beside: Sequence[Trajectory]) -> list[Trajectory]:
        """The right ones, each text once of a prompt and none that stands ``beside`` already, up to ``keep_right``."""
        known = {(one.group, one.text) for one in beside}
        found, count = list[Trajectory](), Counter[int]()
        for one in tried:
            if one.right and (one.group, one.text) not in known and count[one.group] != self.keep_right:
                known.add((one.group, one.text))
                count[one.group] += 1
                found.append(one)
        return found

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield NegativeLogLikelihood(name="nll", mean_over="tokens")
