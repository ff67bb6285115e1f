"""Whether what is sampled from is what is scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from selfteach.errors import UserError, exhausted
from selfteach.outside import with_type
from selfteach.policy.draws import Sampling
from selfteach.policy.loading import Policy, bare
from selfteach.policy.sampler import Sample
from selfteach.policy.scorer import LocalScorer
from selfteach.recipes.tools import Prompt
from selfteach.roles.weights import POLICY, Live
from selfteach.training.text.batch import head_of
from selfteach.training.text.mismatch import MEAN, WORST
from selfteach.training.text.preflight.check import Check
from selfteach.training.text.preflight.probing import PROBE_TOKENS

if TYPE_CHECKING:
    from selfteach.training.text.learner import TextLearner


def sampler_check(run: TextLearner, title: str, trained: str, prompts: Sequence[Prompt]) -> Check:
    """Log-probs noted while sampling, token by token with a cache, against those of one scoring pass.

    The prompts are sampled as in the run, many at a time, with one among them that is shorter, so that there is
    padding: where generation is wrong in batches, or with a cache, ratios of the two are noise and evaluations are of
    another policy.
    """
    name, policy = f"{title}sampler", run.models.policies[trained]
    contexts = [one.prompt_ids for one in prompts]
    contexts.append(contexts[0][len(contexts[0]) // 2 :])
    rollouts = run.recipe.rollouts
    sampling = Sampling(min(PROBE_TOKENS, rollouts.max_tokens), rollouts.temperature)
    try:
        with run.batching.reading.sampler(Live(trained)) as sampler:
            samples = sampler.sample(contexts, sampling, batch_size=run.config.bookkeeping.sample_batch)
    except UserError:
        raise
    except Exception as problem:  # whatever a model's own generation may raise
        if exhausted(problem) is not None:
            raise
        return Check(
            name,
            False,
            f"sampling fails on {len(contexts)} prompts ({with_type(problem)}){ADVICE}",
        )
    difference = differences(policy, contexts, samples, sampling.temperature).abs()
    worst, mean = float(difference.max()), float(difference.mean())
    by_vllm = run.models.vllm is not None and trained == POLICY
    alike = run.models.vllm.exact if run.models.vllm and by_vllm else run.config.copied_in is None
    exact = run.config.loading.precision == "float32" and alike
    told = f"sampled and scored log-probs of {len(difference)} tokens differ by up to {worst:.1e} nats, {mean:.1e} in "
    told += f"the mean (allowed: {f'{WORST:g} for each' if exact else f'{MEAN:g} in the mean'})"
    same = worst <= WORST if exact else mean <= MEAN
    kind = "vLLM" if by_vllm else type(bare(policy.model)).__name__
    return Check(name, same, told if same else f"{told}: {kind} samples from another policy{ADVICE}")


ADVICE = "; try --sample-batch 1, another version of transformers, or another model"


@torch.no_grad()
def differences(
    policy: Policy, contexts: list[list[int]], samples: Sequence[Sample], temperature: float
) -> Float[Tensor, "P"]:
    """[P] scored minus noted log-prob (nats) of every sampled token."""
    states = LocalScorer().states(policy, contexts, [one.ids for one in samples])
    ids = torch.tensor([token for one in samples for token in one.ids], device=states.device)
    noted = torch.tensor([value for one in samples for value in one.behavior], device=states.device)
    log_probs = (head_of(policy).logits(states).float() / temperature).log_softmax(-1)
    return log_probs.gather(1, ids[:, None]).squeeze(1) - noted
