"""What a role scores with, by hash: a cache that was made with other weights, words or tokens is found out."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from selfteach.checks import require
from selfteach.policy.adapter import base_of, is_adapter
from selfteach.policy.folder import folder_of
from selfteach.policy.loading import Policy
from selfteach.roles.role import Role
from selfteach.roles.weights import External
from selfteach.task.arena import model_folder, resolve_model
from selfteach.training.config import TrainConfig
from selfteach.training.inputs import fingerprint, of_weights
from selfteach.training.text.teachers.cache import TeacherCache
from selfteach.training.text.teachers.manifest import AGAIN, Identity

DIGITS = 16


def identity_of(config: TrainConfig, role: Role, policy: Policy) -> Identity:
    """``policy``: the role's, whose weights need not be loaded: those of a folder or of the hub are hashed as files."""
    external = role.weights.model if isinstance(role.weights, External) else None
    if external is None and config.network is not None:
        weights = of_weights(config.network[0])
    else:
        named = external or config.loading.model
        model = resolve_model(named) if named else str(model_folder(config.task))
        weights = of_files(model, None if external else config.loading.model_revision, config)
    return Identity(
        kind=type(role.weights).__name__.lower(),
        model=Path(policy.name).name if policy.name else "",
        weights=weights,
        template=digest(policy.renderer.template),
        tokenizer=of_tokenizer(policy.tokenizer),
    )


def of_files(model: str, revision: str | None, config: TrainConfig) -> str:
    """Of a model's folder, of a hub's snapshot, of an adapter with its base."""
    trust = config.loading.trust_remote_code
    folder = folder_of(model, revision, trust)
    found = fingerprint(folder)
    if is_adapter(folder):
        base, its_revision = base_of(folder, model)
        found = digest(f"{found} {of_files(base, its_revision, config)}")
    return found


def of_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of all that makes ids of text; how a batch was padded last is no part of it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        told = json.dumps(sorted(tokenizer.get_vocab().items()))
    else:
        table = json.loads(backend.to_str())
        told = json.dumps(
            {k: v for k, v in table.items() if k not in ("padding", "truncation")}, sort_keys=True
        )
    return digest(f"{told} {tokenizer.eos_token_id}")


def digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]


def refuse_stale(cache: TeacherCache, name: str, now: Identity) -> None:
    """UserError, in one line, where a role would score with other weights, template or tokenizer than the cache did."""
    then = cache.made.roles[name]
    for part, what in (("kind", "kind of weights"), ("weights", "weights"), ("template", "chat template"),
                       ("tokenizer", "tokenizer")):  # fmt: skip
        require(
            getattr(then, part) == getattr(now, part),
            f"the teacher cache {cache.folder} was made with another {what} of role {name!r} than this run's "
            f"({then.model} then, {now.model} now): {AGAIN}",
        )
