"""vLLM in the place of the policy that writes rollouts: weights are pushed when they have moved, and seen to arrive."""

from __future__ import annotations

from collections.abc import Callable
from random import SystemRandom

from accelerate.utils import broadcast_object_list
from jaxtyping import Shaped
from torch import Tensor, distributed

from selfteach.checks import require
from selfteach.errors import UserError
from selfteach.policy.checkpoint_weights import checkpoint_weights, is_tied
from selfteach.policy.loading import Policy, bare
from selfteach.policy.sampler import Watch
from selfteach.policy.sharding import is_sharded, whole_state
from selfteach.policy.vllm_colocated import ColocatedEngine
from selfteach.policy.vllm_sampler import VllmSampler, log_probs_of
from selfteach.policy.vllm_server import VllmServer
from selfteach.recipes.base import Recipe
from selfteach.roles.store import WeightStore
from selfteach.training.config import TrainConfig
from selfteach.training.reduce import processes
from selfteach.training.text.mismatch import MEAN, WORST

PROBE = 256
"""Tokens of a prompt that are scored after each push, at most."""
MOVED = 1e-4
"""Nats by which a log-prob in float32 moves at least if its weights have moved, and not only its rounding."""


class VllmRollouts:
    """``steps``: optimizer steps that the weights had made which vLLM has. vLLM is started, or looked for, when it is
    needed first."""

    def __init__(self, config: TrainConfig, policy: Policy, weights: WeightStore) -> None:
        self.settings, self.loading = config.vllm, config.loading
        self.policy, self.weights = policy, weights
        self.engine: ColocatedEngine | VllmServer | None = None
        self.writer: VllmSampler | None = None
        self.steps: int = -1
        self.fresh = False
        self.probe: list[int] = []
        self.scores: tuple[list[float], list[float]] | None = None
        require(
            self.settings.vllm_mode == "server" or processes()[1] == 1,
            "vllm_mode colocate is for one process: with several take vllm_mode server",
        )

    @property
    def exact(self) -> bool:
        """Whether it computes in float32."""
        return self.engine is not None and self.engine.dtype == "torch.float32"

    def sampler(self, watch: Watch) -> VllmSampler | None:
        """It, telling ``watch`` how far it is; None before the first push."""
        if self.writer is not None:
            self.writer.watch = watch
        return self.writer

    def forget(self) -> None:
        """The weights have moved by other ways than an optimizer's steps."""
        self.fresh = False

    def follow(self, probe: Callable[[], list[int]]) -> None:
        """Push the weights, if they have moved since. All processes must call it, the first one pushes.

        ``probe``: gives token ids that are scored to see the weights arrive. UserError where they do not.
        """
        if self.writer is None:
            self.probe = probe()[:PROBE]
            self.begin()
        if self.fresh and self.steps == self.weights.steps:
            return
        assert self.writer is not None
        assert self.engine is not None
        rank, world = processes()
        state = whole_state(bare(self.policy.model), keep=rank == 0)
        if rank == 0:
            self.writer.sync(checkpoint_weights(self.policy, untied=self.engine.untied, state=state))
        else:
            self.writer.pushes += 1
        if world > 1:
            distributed.barrier()
        self.fresh, self.steps = True, self.weights.steps
        self.refuse_unarrived()

    def begin(self) -> None:
        """Start vLLM, or find the server, and see that it knows the model's tokens."""
        own = self.loading.sampler_dtype or ("float32" if self.loading.precision == "float32" else "bfloat16")
        s = self.settings
        if s.vllm_mode == "server":
            self.engine = VllmServer(s.vllm_server_base_url, s.vllm_server_timeout)
            refuse_old_head(self.engine, self.policy)
            refuse_other_tokens(self.engine, self.policy, self.probe)
        else:
            share, window = s.vllm_gpu_memory_utilization, s.vllm_max_model_len
            self.engine = ColocatedEngine(self.policy, own, share, window)
        named = [f"{SystemRandom().getrandbits(48):012x}"]
        broadcast_object_list(named)
        self.writer = VllmSampler(self.policy, self.engine, self.read, named[0])

    def read(self) -> dict[str, Shaped[Tensor, "..."]]:
        """The weights as the engine takes them, for one that was restarted. UserError where this process has a part."""
        assert self.engine is not None
        require(
            not is_sharded(bare(self.policy.model)),
            f"{self.engine.name} was started anew while others wrote, and no process has all of the sharded weights "
            "by itself: go on with --resume",
        )
        return checkpoint_weights(self.policy, untied=self.engine.untied)

    def refuse_unarrived(self) -> None:
        """UserError unless vLLM finds the probe as likely as the policy does, and says so otherwise than before."""
        assert self.engine is not None
        theirs = self.engine.score(self.probe)
        (own,) = log_probs_of(self.policy, [self.probe[:1]], [self.probe[1:]])
        apart = [abs(a - b) for a, b in zip(own, theirs, strict=True)]
        exact = self.exact and self.loading.precision == "float32"
        off = max(apart) if exact else sum(apart) / len(apart)
        moved = (
            max((abs(a - b) for a, b in zip(own, self.scores[0], strict=True)), default=0.0)
            if self.scores
            else 0.0
        )
        still = self.scores is not None and theirs == self.scores[1] and moved > (MOVED if exact else MEAN)
        self.scores = own, theirs
        if off <= (WORST if exact else MEAN) and not still:
            return
        told = (
            f"it says of a prompt what it said before, though the model's log-probs have moved by {moved:.1e} nats"
            if still
            else f"its log-probs of a prompt are {off:.1e} nats from the model's"
        )
        raise UserError(
            f"the weights have not arrived at {self.engine.name}: {told}; does it serve this "
            "model, with no quantization? (docs/vllm.md)"
        )


def is_cut(recipe: Recipe) -> bool:
    """Whether answers are drawn from a part of the distribution."""
    return recipe.rollouts.top_p < 1 or recipe.rollouts.top_k > 0


def refuse_old_head(server: VllmServer, policy: Policy) -> None:
    """UserError for a server without a GPU that would keep the first head of a model with tied embeddings: it packs the
    head apart, and does not pack it again (vLLM 0.32)."""
    require(
        not server.on_cpu or server.untied or not is_tied(policy),
        f"{server.name} has no GPU and would keep the old head of a model with tied embeddings: start it with "
        "--hf-overrides '{\"tie_word_embeddings\": false}'",
    )


def refuse_other_tokens(server: VllmServer, policy: Policy, probe: list[int]) -> None:
    """UserError for a server whose tokenizer makes other ids of the probe's text, or whose model lacks the last id."""
    text = str(policy.tokenizer.decode(probe))
    theirs = server.ids_of(text)
    own = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
    require(
        theirs is None or list(theirs) == list(own),
        f"{server.name} makes other token ids of a prompt than this model's tokenizer: it serves {server.model!r}, "
        f"which is another model than {policy.name!r}",
    )
    try:
        server.score([*probe[:1], policy.vocabulary - 1])
    except UserError as problem:
        raise UserError(
            f"{server.name} does not know token {policy.vocabulary - 1}, the last one of this model: it serves "
            f"{server.model!r}, which is another model than {policy.name!r} ({problem})"
        ) from problem
