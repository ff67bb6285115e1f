"""A masked-diffusion language model that learns from rewards of what it fills in (arXiv 2605.29398)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional

from selfteach.objective.advantage import group_advantage
from selfteach.objective.denoising import drawn_masks, sequence_scores, stratified_counts, token_scores
from selfteach.recipes.network import NetworkOptimization
from selfteach.recipes.r43_gdsd import GDSD
from selfteach.task.sudoku import CELLS, DIGITS, Puzzles, Sudoku, board
from selfteach.training.diffusion.copies import Frozen
from selfteach.training.learner import Numbers, Role, Sample, Stage, Trained, Update
from selfteach.training.masked.denoiser import Denoiser
from selfteach.training.masked.sampling import sample
from selfteach.training.network_learner import NetworkLearner, trained
from selfteach.training.trainer import Settings

PRETRAIN, TRAIN, NETWORK, REFERENCE = "pretrain", "train", "network", "reference"
SHOWN = 8
"""Held-out puzzles, and of a batch so many completions, in the report."""
APART = 1_000_003
"""Held-out puzzles are drawn by the run's seed plus this."""


class Synced(Frozen[Denoiser]):
    """A role: a copy of ``source`` that becomes what that is again after every ``every`` updates (None: never)."""

    def __init__(self, source: Denoiser, every: int | None) -> None:
        super().__init__(source)
        self.source, self.every, self.updates = source, every, 0

    def after_step(self, moved: Collection[str]) -> None:
        self.updates += 1
        if self.every is not None and self.updates % self.every == 0:
            self.module.load_state_dict(self.source.state_dict())

    def state(self) -> dict[str, Any]:
        return {**super().state(), "updates": self.updates}

    def load_state(self, state: Mapping[str, Any]) -> None:
        super().load_state(state)
        self.updates = state["updates"]


class Solved(NamedTuple):
    """A batch of pretraining: puzzles, and which of their blank cells are masked."""

    puzzles: Puzzles
    masked: Bool[Tensor, "n L"]


class Rollouts(NamedTuple):
    """Puzzles as the old weights ``filled`` them, group by group, and the masks of each of i updates with what old
    weights and reference score under them."""

    puzzles: Puzzles
    filled: Int[Tensor, "n T"]
    reward: Float[Tensor, "n"]
    advantage: Float[Tensor, "n"]
    masked: Bool[Tensor, "i k n L"]
    s_old: Float[Tensor, "i n k"]
    s_ref: Float[Tensor, "i n k"]


class MaskedLearner(NetworkLearner[GDSD]):
    """Stages: ``pretrain`` by masked cross-entropy on solved puzzles, ``train`` by the reward of completions."""

    unit, headline = "tokens", "reward of held-out puzzles: share of blank cells filled rightly"

    def __init__(self, recipe: GDSD, settings: Settings) -> None:
        super().__init__(recipe, settings)
        self.world = Sudoku(recipe.blanks, settings.seed)
        self.network = Denoiser(DIGITS, CELLS, recipe.width, recipe.depth, seed=settings.seed)
        first = [Stage(PRETRAIN, recipe.pretrain_steps)] if recipe.pretrain_steps else []
        self.stages = [*first, Stage(TRAIN, recipe.optimization.steps)]
        self.stage = self.stages[0].name

    @property
    def pretraining(self) -> bool:
        return self.stage == PRETRAIN

    def modules(self) -> Mapping[str, nn.Module]:
        return {NETWORK: self.network}

    def enter(self, stage: int) -> None:
        self.stage = self.stages[stage].name

    def optimizers(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Trained]:
        recipe = self.recipe
        if not self.pretraining:
            updates = recipe.optimization.steps * recipe.num_iterations
            return {NETWORK: trained(wrapped[NETWORK], recipe.optimization, updates)}
        steps = recipe.pretrain_steps
        how = NetworkOptimization(lr=recipe.pretrain_lr, schedule="cosine", steps=steps)
        return {NETWORK: trained(wrapped[NETWORK], how)}

    def roles(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Role]:
        if self.pretraining:
            return {}
        self.reference = Synced(self.network, self.recipe.ref_sync_every)
        return {REFERENCE: self.reference}

    # --- a step ---------------------------------------------------------------------------------------------------

    def collect(self, step: int) -> Any:
        if self.pretraining:
            puzzles = self.placed(self.world.draw(self.recipe.pretrain_batch_size))
            # at least one masked cell: 1 … L, spread evenly
            counts = 1 + stratified_counts(len(puzzles.blanks), self.length - 1, self.start(self.length - 1))
            return Solved(puzzles, drawn_masks(counts, self.length).to(self.device))
        groups = self.recipe.optimization.batch_size // self.recipe.per_prompt
        puzzles = self.placed(self.world.draw(groups))
        return self.rollouts(puzzles.of(torch.arange(groups).repeat_interleave(self.recipe.per_prompt)))

    @property
    def length(self) -> int:
        """Tokens of a completion."""
        return self.recipe.blanks

    def start(self, most: int) -> int:
        """Where a batch's numbers of masked tokens begin, 0 … ``most``."""
        return int(torch.randint(most + 1, ()))

    def placed(self, puzzles: Puzzles) -> Puzzles:
        return Puzzles(*(one.to(self.device) for one in puzzles))

    @torch.no_grad()
    def rollouts(self, puzzles: Puzzles) -> Rollouts:
        """Fill puzzles, grade them, and score them under the masks of all updates to come."""
        recipe = self.recipe
        with self.clock("sample"):
            filled = self.fill(puzzles, recipe.temperature)
        reward = puzzles.reward(filled)
        group = torch.arange(len(reward), device=reward.device) // recipe.per_prompt
        advantage = group_advantage(reward, group, scale="none", baseline="others")
        masked = torch.stack([self.masks(len(reward)) for _ in range(recipe.num_iterations)])
        s_old, s_ref = (
            torch.stack([self.scores(network, puzzles, filled, own) for own in masked])
            for network in (self.network, self.reference.module)
        )
        return Rollouts(puzzles, filled, reward, advantage, masked, s_old, s_ref)

    def fill(self, puzzles: Puzzles, temperature: float) -> Int[Tensor, "n T"]:
        recipe = self.recipe
        return sample(
            self.network,
            puzzles.solution,
            puzzles.blanks,
            steps=recipe.diffusion_steps,
            block_length=recipe.block_length,
            temperature=temperature,
            remasking=recipe.remasking,
        )

    def masks(self, n: int) -> Bool[Tensor, "k n L"]:
        """An update's masks: of each draw the counts are spread over the batch."""
        draws = range(self.recipe.num_mc)
        counts = [stratified_counts(n, self.length, self.start(self.length)) for _ in draws]
        return torch.stack([drawn_masks(one, self.length) for one in counts]).to(self.device)

    def scores(
        self, network: Denoiser, puzzles: Puzzles, filled: Int[Tensor, "n T"], masked: Bool[Tensor, "k n L"]
    ) -> Float[Tensor, "n k"]:
        """s of each completion under each draw of masks: one pass over all copies, and complements where coupled."""
        recipe, draws = self.recipe, len(masked)
        hidden = masked.flatten(0, 1)
        copies = torch.cat([hidden, ~hidden]) if recipe.coupled else hidden
        times = len(copies) // len(filled)
        tokens, places = filled.repeat(times, 1), puzzles.blanks.repeat(times, 1)
        logits = network.at(network.masked_copies(tokens, places, copies), places)
        each = token_scores(logits, tokens.gather(1, places), centered=recipe.centered)
        inside, *outside = each.split(len(hidden))
        found = sequence_scores(inside, hidden, *outside, elbo_weighted=recipe.elbo_weighted)
        by_draw: Tensor = found.unflatten(0, (draws, -1))
        return by_draw.T

    def updates(self, batch: Any) -> Iterator[Update]:
        if self.pretraining:
            yield Update((NETWORK,), lambda: self.imitate(batch))
        else:
            for i in range(self.recipe.num_iterations):
                yield Update((NETWORK,), partial(self.improve, batch, i))

    def imitate(self, batch: Solved) -> Numbers:
        """Cross-entropy of the masked cells."""
        solution, blanks = batch.puzzles
        logits = self.network.at(self.network.masked_copies(solution, blanks, batch.masked), blanks)
        loss = functional.cross_entropy(logits[batch.masked], solution.gather(1, blanks)[batch.masked])
        loss.backward()
        return {"loss": loss.item()}

    def improve(self, batch: Rollouts, i: int) -> Numbers:
        """The recipe's loss under the masks of update ``i``."""
        outputs = self.outputs(batch, i)
        loss = self.recipe.loss(NETWORK, outputs, 0)
        loss.backward()
        change = (outputs["s"] - outputs["s_old"]).detach()
        numbers = {"loss": loss.item(), "score/change": float(change.abs().mean())}
        if self.recipe.objective == "gdsd":
            beyond = self.recipe.clamped(change) != change
            numbers["score/clamped"] = float(beyond.float().mean())
        return numbers

    def outputs(self, batch: Rollouts, i: int) -> dict[str, Shaped[Tensor, "..."]]:
        s = self.scores(self.network, batch.puzzles, batch.filled, batch.masked[i])
        length = torch.full_like(batch.reward, self.length)
        return {"s": s, "s_old": batch.s_old[i], "s_ref": batch.s_ref[i], "L": length, "A": batch.advantage}

    def spent(self, batch: Any) -> int:
        puzzles: Puzzles = batch.puzzles
        return puzzles.blanks.numel()

    # --- what is seen ---------------------------------------------------------------------------------------------

    def metrics(self, batch: Any, done: Sequence[Numbers]) -> Mapping[str, float]:
        """``reward/mean``, ``reward/std`` over the batch, and ``reward/zero_std``: the share of groups that say
        nothing, their rewards being equal."""
        if self.pretraining:
            return {}
        groups = batch.reward.unflatten(0, (-1, self.recipe.per_prompt))
        idle = (groups == groups[:, :1]).all(1)
        return {
            "reward/mean": float(batch.reward.mean()),
            "reward/std": float(batch.reward.std()),
            "reward/zero_std": float(idle.float().mean()),
        }

    def held_out(self) -> tuple[Puzzles, Int[Tensor, "n T"]]:
        """Held-out puzzles, and how the denoiser fills them at temperature 0."""
        generator = torch.Generator().manual_seed(self.settings.seed + APART)
        puzzles = self.placed(self.world.held_out(self.recipe.eval_prompts, generator))
        return puzzles, self.fill(puzzles, 0.0)

    def evaluate(self, phase: str) -> Mapping[str, float]:
        puzzles, filled = self.held_out()
        reward = puzzles.reward(filled).double()
        error = reward.std() / len(reward) ** 0.5 if len(reward) > 1 else torch.tensor(0.0)
        return {
            "eval/headline": float(reward.mean()),
            "eval/headline_se": float(error),
            "eval/solved": float((reward == 1).double().mean()),
        }

    def samples(self, batch: Any, phase: str) -> list[Sample]:
        """Boards as text: held-out ones before and after training, of a step of training its first completions."""
        if phase != "train":
            puzzles, filled = self.held_out()
            return [
                Sample("text", told(puzzles, filled, i), f"held-out-{i}")
                for i in range(min(SHOWN, len(filled)))
            ]
        if self.pretraining:
            return []
        rows = range(min(SHOWN, len(batch.filled)))
        return [Sample("text", told(batch.puzzles, batch.filled, i), f"rollout-{i}") for i in rows]

    def export(self, folder: Path) -> None:
        self.network.bert.save_pretrained(folder)


def told(puzzles: Puzzles, filled: Int[Tensor, "n T"], i: int) -> dict[str, Any]:
    """A filled puzzle as a row of samples.jsonl; right is what is right in every cell."""
    reward = float(puzzles.of(torch.tensor([i])).reward(filled[i : i + 1]))
    return {
        "problem": board(puzzles.solution[i], puzzles.blanks[i]),
        "answer": board(filled[i]),
        "reference": board(puzzles.solution[i]),
        "reward": reward,
        "outcome": "right" if reward == 1 else "wrong",
    }
