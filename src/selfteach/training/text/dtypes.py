"""Numbers asked for that nothing of the run would be computed in: refused, or said in a line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from selfteach.checks import require
from selfteach.recipes.base import Recipe
from selfteach.roles.weights import Live
from selfteach.training.config import Loading, TrainConfig, Vllm


def refuse_contradictions(loading: Loading, stages: Mapping[str, Recipe], vllm: Vllm) -> None:
    """UserError for a cap of importance weights that nothing makes, for a sampler's copy of an adapter, and for words
    about a vLLM that is not used."""
    require(
        vllm.use_vllm or vllm == Vllm(),
        "the settings of vLLM are for rollouts that it writes: add --use-vllm, or leave them out",
    )
    apart = loading.sampled_in is not None and not vllm.use_vllm
    require(
        apart or vllm.use_vllm or loading.importance_sampling_cap == Loading.importance_sampling_cap,
        "importance_sampling_cap cuts the weights of a sampler_dtype that is not the precision's, or of vLLM: give "
        "one, or leave it out",
    )
    instead = (
        "leave it out"
        if loading.precision == "bfloat16"
        else "with LoRA take --precision bfloat16, which stores the base so"
    )
    require(
        not (apart and any(adapted(one) for one in stages.values())),
        f"sampler_dtype {loading.sampler_dtype} is for full weights, and lora_rank trains an adapter: {instead}",
    )


def adapted(recipe: Recipe) -> bool:
    """Whether the student that writes is an adapter in training."""
    weights = recipe.student.weights
    trained = recipe.trained.get(weights.of) if isinstance(weights, Live) else None
    return trained is not None and trained.adapter.lora_rank > 0


def without_effect(config: TrainConfig, stages: Mapping[str, Recipe]) -> Iterator[str]:
    """What is asked for and changes nothing with this recipe, a line each."""
    loading, recipes = config.loading, stages.values()
    own = loading.sampler_dtype is not None and not config.vllm.use_vllm
    if config.vllm.use_vllm and not any(one.generates for one in recipes):
        yield f"use_vllm: recipe {config.recipe_name} samples nothing, so that it changes nothing"
    if own and loading.sampled_in is None:
        yield f"sampler_dtype: precision {loading.precision} samples in it already, no copy is made"
    elif own and not any(one.generates for one in recipes):
        yield f"sampler_dtype: recipe {config.recipe_name} samples nothing, so that it changes nothing"
    others = [role.weights for one in recipes for role in one.others.values()]
    for name in ("teacher_dtype", "offload_teachers"):
        if getattr(loading, name) != getattr(Loading, name) and all(isinstance(one, Live) for one in others):
            why = "whose teachers are the trained weights" if others else "which has no teacher"
            yield f"{name}: it changes nothing with recipe {config.recipe_name}, {why}"
