"""Who hands over scores in a run, as its settings say; and whether these are still what its teachers would say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from selfteach.checks import require
from selfteach.policy.chat_server import ChatServer
from selfteach.policy.logprob_server import model_named
from selfteach.recipes.base import Recipe
from selfteach.roles.store import WeightStore
from selfteach.training.config import TrainConfig
from selfteach.training.text.teachers import identity
from selfteach.training.text.teachers.cache import TeacherCache
from selfteach.training.text.teachers.handed import Handed, handed_roles, why_none
from selfteach.training.text.teachers.served import ServedTeacher


def handed_of(config: TrainConfig, recipes: Sequence[Recipe], vocabulary: int) -> Handed | None:
    """The teacher cache or server that the settings name (None: they name none). UserError where the recipe cannot
    train with it, the server has no such model, or the files are not as they were written."""
    named, url = config.loading.teacher_cache, config.loading.teacher_server
    require(
        url is not None or config.loading.teacher_model is None,
        "teacher_model names a server's model: set teacher_server",
    )
    require(
        named is None or url is None,
        "teacher_cache and teacher_server are two ways to one thing: leave one out",
    )
    if url is not None:
        return served_of(config, recipes, url, vocabulary)
    if named is None:
        return None
    recipe = offline(config.recipe_name, recipes)
    asked = recipe.rollouts.stored
    cache = TeacherCache(Path(named), asked or None)
    there = cache.made.stored or len({one.group for one in cache.held})
    require(
        asked > 0,
        f"the teacher cache {named} has scores of stored answers, but this run writes its own: set --stored {there}",
    )
    require(
        cache.made.stored is None or asked <= there,
        f"the teacher cache {named} was made of {there} prompts, and --stored {asked} wants {asked - there} more, "
        f"which it lacks: set --stored {there}, or score with --stored {asked}",
    )
    for name in cache.roles:
        require(
            name in handed_roles(recipe),
            f"the teacher cache {named} holds scores of role {name!r}, which in this run is no teacher that stays as "
            "it is: take the settings that it was made with",
        )
    return cache


def served_of(config: TrainConfig, recipes: Sequence[Recipe], url: str, vocabulary: int) -> ServedTeacher:
    """UserError where the recipe has no teacher that a server can stand for."""
    require(
        len(recipes) == 1,
        f"recipe {config.recipe_name} trains in {len(recipes)} stages: a teacher's server is for one stage alone "
        "(lightning-opd: --sft-steps 0)",
    )
    recipe = recipes[0]
    roles = handed_roles(recipe)
    require(
        bool(roles),
        f"recipe {config.recipe_name} has no teacher that a server can stand for: {why_none(recipe)}",
    )
    others = {role.weights for role in roles.values()}
    require(
        len(others) == 1,
        f"recipe {config.recipe_name} has teachers of {len(others)} different models, and a server stands for one",
    )
    model = model_named(url, config.loading.teacher_model)
    k = min(config.loading.teacher_top_logprobs, vocabulary)
    return ServedTeacher(ChatServer(url, model), tuple(roles), k, vocabulary)


def offline(name: str, recipes: Sequence[Recipe]) -> Recipe:
    """The recipe's only stage. UserError where its teachers cannot be scored beforehand, and why."""
    require(
        len(recipes) == 1,
        f"recipe {name} trains in {len(recipes)} stages, and what later ones write depends on those before: a teacher "
        "cache is for one stage alone (lightning-opd: --sft-steps 0)",
    )
    (recipe,) = recipes
    require(
        bool(handed_roles(recipe)),
        f"recipe {name} has no teacher whose scores can be had beforehand: {why_none(recipe)}",
    )
    return recipe


def refuse_stale(
    config: TrainConfig, recipes: Sequence[tuple[str, Recipe]], handed: Handed | None, weights: WeightStore
) -> None:
    """UserError where a cache was made with other weights, words or tokens than the run's teachers have."""
    if not isinstance(handed, TeacherCache):
        return
    (_, recipe), *_ = recipes
    for name in handed.roles:
        role = recipe.teachers[name]
        policy = weights.policy_of(role.weights)
        identity.refuse_stale(handed, name, identity.identity_of(config, role, policy))
        require(
            policy.vocabulary == handed.vocabulary,
            f"the teacher cache {handed.folder} is of {handed.vocabulary:,} tokens, role {name!r} has "
            f"{policy.vocabulary:,}: take the model that it was made for",
        )
