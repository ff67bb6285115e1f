"""What is held for the weights of roles: one state for each distinct specification."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal

import torch

from selfteach.errors import UserError
from selfteach.policy.loading import Policy, bare
from selfteach.policy.sharding import whole
from selfteach.roles.copies import (
    AdapterCopy,
    AdaptersOff,
    Copy,
    Exchange,
    ModuleCopy,
    sampler_copy,
    untrained,
)
from selfteach.roles.followed import Followed
from selfteach.roles.offload import Offload
from selfteach.roles.weights import (
    EMA,
    POLICY,
    External,
    Frozen,
    Lagged,
    Live,
    Random,
    Ring,
    Snapshot,
    Weights,
)


class WeightStore:
    """Weights of roles, keyed by what they are: roles of equal weights share one copy.

    ``trained``: the policies in training by name; ``load`` gives another model (``External``), loaded once;
    ``snapshots``: those that any stage will want, kept while a stage to come names them.
    ``sampler_dtype``: live weights are sampled from in a copy of this dtype (none: as they are).
    Full weights are held as modules of their own.
    Those of a LoRA policy are exchanged in place (``Exchange``): **no graph of the student may be alive while a role
    is scored**. ``offload``: where copies of full weights wait until they score (None: where the trained ones are);
    ``load`` gives its models there. ``drawn_apart``: how often such a copy was sampled from;
    ``steps``: optimizer steps of the live policy since the store was made.
    """

    def __init__(
        self,
        trained: Mapping[str, Policy],
        load: Callable[[str], Policy] | None = None,
        snapshots: Iterable[Snapshot] = (),
        sampler_dtype: torch.dtype | None = None,
        offload: Offload | None = None,
    ) -> None:
        self.trained = trained
        self.load = load
        self.offload = offload
        self.exchanges = {name: Exchange(policy) for name, policy in trained.items()}
        self.wanted = list(dict.fromkeys(snapshots))
        self.snapshots: dict[Snapshot, Copy] = {}
        self.external: dict[str, Policy] = {}
        self.random: dict[Random, Policy] = {}
        self.followed: dict[Weights, Followed] = {}
        self.sampler_dtype = sampler_dtype
        self.samplers: dict[str, ModuleCopy] = {}
        self.moved = False
        self.drawn_apart = self.steps = 0

    def enter(
        self, specs: Iterable[Weights], *, moved: bool = False, later: Collection[Weights] | None = None
    ) -> None:
        """Begin a stage with these specifications: what follows training starts from the weights as they are now.

        ``moved``: the trained weights have been trained already, so that adapters switched off would give the base
        model and not the policy as it is. ``later``: what this stage and those to come name; other snapshots are let go
        (None: all are kept). Other models are kept, and so are averages that last (``EMA.lasting``).
        """
        self.moved = moved
        if later is not None:
            self.wanted = [spec for spec in self.wanted if spec in later]
            self.snapshots = {spec: copy for spec, copy in self.snapshots.items() if spec in later}
        # Let the last stage's copies go before there are new ones.
        self.followed = {spec: one for spec, one in self.followed.items() if is_lasting(spec)}
        lasting, self.followed = self.followed, {}
        known, self.random = self.random, {}
        for spec in dict.fromkeys(specs):
            if spec in lasting:
                self.followed[spec] = lasting[spec]
            elif isinstance(spec, Frozen | EMA | Lagged | Ring):
                take, fixed = partial(self._copy, spec.of), partial(self._fixed, spec.of)
                self.followed[spec] = Followed(spec, take, fixed)
            elif isinstance(spec, Random):
                self.random[spec] = known.get(spec) or self.rested(
                    untrained(self.trained[spec.of], spec.seed)
                )
            elif isinstance(spec, External):
                self.policy_of(spec)  # a model that cannot be loaded is known before anything is sampled

    def starts_as(self, trained: Weights, spec: Weights) -> bool:
        """Whether these weights are the ``trained`` ones as the stage begins: no others, no average that went on."""
        if isinstance(spec, External | Random | Snapshot) or isinstance(trained, External):
            return False
        followed = self.followed.get(spec)
        return spec.of == trained.of and not (is_lasting(spec) and followed is not None and followed.steps)

    # --- scoring --------------------------------------------------------------------------------------------------

    def policy_of(self, spec: Weights) -> Policy:
        """The policy whose renderer, window and vocabulary go with these weights; to compute with them: ``scoring``."""
        if not isinstance(spec, External):
            return self.trained[spec.of]
        if spec.model not in self.external:
            if self.load is None:
                raise ValueError(f"nothing can load the other model {spec.model!r} here")
            self.external[spec.model] = self.load(spec.model)
        return self.external[spec.model]

    @contextmanager
    def scoring(self, spec: Weights) -> Iterator[Policy]:
        """Within it the given policy computes with these weights, in evaluation mode; after it, nothing has changed.

        Raises RuntimeError within another role's exchanged weights, KeyError for a specification that no role of the
        stage has, UserError for a snapshot that is yet to be taken.
        """
        copy = self._copy_of(spec)
        if not isinstance(spec, External | Random) and not isinstance(copy, ModuleCopy):
            self.exchanges[spec.of].refuse_entered()
        with ExitStack() as inside:
            policy = self._own(spec) if copy is None else inside.enter_context(copy.scoring())
            if self.offload is not None:
                inside.enter_context(self.offload.lent(policy.model, self._device))
            training = policy.model.training
            policy.model.eval()
            try:
                yield policy
            finally:
                policy.model.train(training)

    @contextmanager
    def sampling(self, spec: Weights) -> Iterator[Policy]:
        """The same, to sample with: live weights as they are now, in the ``sampler_dtype`` if there is one.

        What they write then has log-probs a little off those that are trained (``objective/gate.SamplerCorrection``).
        """
        if self.sampler_dtype is None or not isinstance(spec, Live):
            with self.scoring(spec) as policy:
                yield policy
            return
        self.drawn_apart += 1
        if spec.of in self.samplers:
            self.samplers[spec.of].take()
        else:
            self.samplers[spec.of] = sampler_copy(self.trained[spec.of], self.sampler_dtype)
        with self.samplers[spec.of].scoring() as policy:
            yield policy

    def _copy_of(self, spec: Weights) -> Copy | None:
        if isinstance(spec, Live | External | Random):
            return None
        if isinstance(spec, Snapshot):
            if spec not in self.snapshots:
                raise UserError(
                    f"the weights of the {spec.at} of stage {spec.stage!r} are asked for before it"
                )
            return self.snapshots[spec]
        copies = self.followed[spec].copies
        return copies[0] if copies else None

    @contextmanager
    def whole(self, specs: Iterable[Weights] = ()) -> Iterator[None]:
        """Within it sharded weights are gathered, and this process computes without the others: those that are trained,
        and what is held for ``specs``. Every process must enter and leave it together."""
        with ExitStack() as inside:
            for policy in self.trained.values():
                inside.enter_context(whole(bare(policy.model)))
            for spec in dict.fromkeys(specs):
                if isinstance(spec, Snapshot) and spec not in self.snapshots:
                    continue
                copy = self._copy_of(spec)
                if isinstance(copy, AdapterCopy):
                    inside.enter_context(copy.whole())
                else:
                    policy = copy.policy if isinstance(copy, ModuleCopy) else self._own(spec)
                    inside.enter_context(whole(bare(policy.model)))
            yield

    def _own(self, spec: Weights) -> Policy:
        return self.random[spec] if isinstance(spec, Random) else self.policy_of(spec)

    # --- following training ---------------------------------------------------------------------------------------

    def after_step(self, moved: Collection[str] | None = None) -> None:
        """Tell every role that the weights it follows took an optimizer step; ``moved``: which ones did (None: all)."""
        self.steps += moved is None or POLICY in moved
        for spec, one in self.followed.items():
            if moved is None or getattr(spec, "of", None) in moved:
                one.after_step()

    def after_batch(self) -> None:
        """Tell every role that the updates of a batch are over."""
        for one in self.followed.values():
            one.after_batch()
        self.release()  # averages have moved

    def observe(self, row: Mapping[str, Any]) -> None:
        """Hand the last metrics row to the gates of averages (``EMA.gate``). ValueError for a factor not finite."""
        for one in self.followed.values():
            one.observe(row)

    def snapshot(self, stage: str, at: Literal["start", "end"]) -> None:
        """Take the snapshots that are wanted of this moment; a stage that repeats takes them anew."""
        for spec in self.wanted:
            if (spec.stage, spec.at) == (stage, at):
                self.snapshots[spec] = self._fixed(spec.of) if at == "start" else self._still(spec.of)

    @property
    def copies(self) -> int:
        """Copies of trained weights in memory (adapters only, of a LoRA policy), fresh initializations included."""
        held = [one for followed in self.followed.values() for one in followed.copies]
        return sum(one.size for one in (*held, *self.snapshots.values())) + len(self.random)

    @property
    def copies_to_come(self) -> int:
        """At most so many more will be made while training goes on."""
        return sum(one.to_come for one in self.followed.values()) + len(self.wanted) - len(self.snapshots)

    def _copy(self, of: str) -> Copy:
        """One that follows training, in the numbers that are trained."""
        trained = self.trained[of]
        if trained.adapted:
            return AdapterCopy(self.exchanges[of])
        return ModuleCopy(trained, offload=self.offload)

    def _still(self, of: str) -> Copy:
        """One that never moves again."""
        trained = self.trained[of]
        if trained.adapted:
            return AdapterCopy(self.exchanges[of])
        return ModuleCopy(trained, trained.storage, self.offload)

    def _fixed(self, of: str) -> Copy:
        """The same as a stage begins: of adapters that were never trained, none is needed."""
        trained = self.trained[of]
        return AdaptersOff(trained) if trained.adapted and not self.moved else self._still(of)

    @property
    def _device(self) -> torch.device:
        return next(iter(self.trained.values())).model.device

    def rested(self, policy: Policy) -> Policy:
        """The policy, with its weights where they wait."""
        if self.offload is not None:
            self.offload.put(policy.model)
        return policy

    def release(self) -> None:
        """Give back the memory of weights that wait in files."""
        if self.offload is not None:
            self.offload.release()

    # --- checkpoints ----------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that cannot be had again from the loaded weights and the specifications."""
        return {
            "followed": [one.state() for one in self.followed.values()],
            "snapshots": {
                str(place): self.snapshots[spec].tensors()
                for place, spec in enumerate(self.wanted)
                if spec in self.snapshots
            },
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``, of a store with the same specifications that entered the same stage."""
        for one, kept in zip(self.followed.values(), state["followed"], strict=True):
            one.load_state(kept)
        self.snapshots = {}
        for place, tensors in state["snapshots"].items():
            spec = self.wanted[int(place)]
            self.snapshots[spec] = self._still(spec.of) if tensors else AdaptersOff(self.trained[spec.of])
            self.snapshots[spec].load(tensors)


def is_lasting(spec: Weights) -> bool:
    """Whether what is held for it outlives a stage."""
    return isinstance(spec, EMA) and spec.lasting
