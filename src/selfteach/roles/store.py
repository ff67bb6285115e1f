"""What is held for the weights of roles: one state for each distinct specification, and how it follows training."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

from selfteach.errors import UserError
from selfteach.policy.loading import Policy
from selfteach.roles.copies import AdapterCopy, AdaptersOff, Copy, Exchange, ModuleCopy, untrained
from selfteach.roles.weights import EMA, External, Frozen, Lagged, Live, Random, Ring, Snapshot, Weights


class Followed:
    """The copies held for one specification, the one that is scored with first (none: the weights as they are)."""

    def __init__(self, spec: Weights, take: Callable[[], Copy], fixed: Callable[[], Copy]) -> None:
        self.spec, self.take = spec, take
        self.steps = self.batches = 0
        self.gate = 1.0
        self.copies: list[Copy] = []
        match spec:
            case Frozen():
                self.copies = [fixed()]
            case Lagged() | Ring() | EMA(from_start=True):
                self.copies = [take()]

    @property
    def to_come(self) -> int:
        """Copies that training will still add."""
        wanted = {EMA: 1, Ring: self.spec.k + 1 if isinstance(self.spec, Ring) else 0}.get(type(self.spec), 0)
        return max(0, wanted - len(self.copies))

    def after_step(self) -> None:
        self.steps += 1
        match self.spec:
            case Lagged(unit="step") if self.steps % self.spec.every == 0:
                self.copies[0].take()
            case EMA():
                self._average(self.spec)
            case Ring() if self.steps % self.spec.every == 0:
                if self.to_come:
                    self.copies.append(self.take())
                else:
                    self.copies.append(self.copies.pop(0))
                    self.copies[-1].take()

    def after_batch(self) -> None:
        self.batches += 1
        if (
            isinstance(self.spec, Lagged)
            and self.spec.unit == "batch"
            and self.batches % self.spec.every == 0
        ):
            self.copies[0].take()

    def observe(self, row: Mapping[str, Any]) -> None:
        if isinstance(self.spec, EMA) and self.spec.gate is not None:
            self.gate = float(self.spec.gate(row))

    def _average(self, spec: EMA) -> None:
        renewed = bool(spec.copy_every) and self.steps % spec.copy_every == 0
        if not renewed and self.steps % spec.every:
            return
        if not self.copies:
            self.copies = [self.take()]
        else:
            self.copies[0].take(1.0 if renewed else self.gate * (1 - spec.decay))

    def state(self) -> dict[str, Any]:
        copies = [one.tensors() for one in self.copies]
        return {"steps": self.steps, "batches": self.batches, "gate": self.gate, "copies": copies}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.steps, self.batches, self.gate = state["steps"], state["batches"], state["gate"]
        missing = len(state["copies"]) - len(self.copies)
        self.copies += [self.take() for _ in range(missing)]
        for one, tensors in zip(self.copies, state["copies"], strict=True):
            one.load(tensors)


class WeightStore:
    """Weights of roles, keyed by what they are: roles of equal weights share one copy.

    ``trained``: the policies in training by name; ``load`` gives another model (``External``), loaded once;
    ``snapshots``: those that any stage will want, kept over stages. Full weights are held as modules of their own.
    Those of a LoRA policy are exchanged in place (``Exchange``): **no graph of the student may be alive while a role
    is scored**.
    """

    def __init__(
        self,
        trained: Mapping[str, Policy],
        load: Callable[[str], Policy] | None = None,
        snapshots: Iterable[Snapshot] = (),
    ) -> None:
        self.trained = trained
        self.load = load
        self.exchanges = {name: Exchange(policy) for name, policy in trained.items()}
        self.wanted = list(dict.fromkeys(snapshots))
        self.snapshots: dict[Snapshot, Copy] = {}
        self.external: dict[str, Policy] = {}
        self.random: dict[Random, Policy] = {}
        self.followed: dict[Weights, Followed] = {}
        self.moved = False

    def enter(self, specs: Iterable[Weights], *, moved: bool = False) -> None:
        """Begin a stage with these specifications: what follows training starts from the weights as they are now.

        ``moved``: the trained weights have been trained already, so that adapters switched off would give the base
        model and not the policy as it is. Snapshots and other models are kept.
        """
        self.moved = moved
        self.followed = {}  # let the last stage's copies go before there are new ones
        known, self.random = self.random, {}
        for spec in dict.fromkeys(specs):
            if isinstance(spec, Frozen | EMA | Lagged | Ring):
                take, fixed = partial(self._copy, spec.of), partial(self._fixed, spec.of)
                self.followed[spec] = Followed(spec, take, fixed)
            elif isinstance(spec, Random):
                self.random[spec] = known.get(spec) or untrained(self.trained[spec.of], spec.seed)
            elif isinstance(spec, External):
                self.policy_of(spec)  # a model that cannot be loaded is known before anything is sampled

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
        with copy.scoring() if copy is not None else nullcontext(self._own(spec)) as policy:
            training = policy.model.training
            policy.model.eval()
            try:
                yield policy
            finally:
                policy.model.train(training)

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

    def _own(self, spec: Weights) -> Policy:
        return self.random[spec] if isinstance(spec, Random) else self.policy_of(spec)

    # --- following training ---------------------------------------------------------------------------------------

    def after_step(self, moved: Collection[str] | None = None) -> None:
        """Tell every role that the weights it follows took an optimizer step; ``moved``: which ones did (None: all)."""
        for spec, one in self.followed.items():
            if moved is None or getattr(spec, "of", None) in moved:
                one.after_step()

    def after_batch(self) -> None:
        """Tell every role that the updates of a batch are over."""
        for one in self.followed.values():
            one.after_batch()

    def observe(self, row: Mapping[str, Any]) -> None:
        """Hand the last metrics row to the gates of averages (``EMA.gate``)."""
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
        return AdapterCopy(self.exchanges[of]) if trained.adapted else ModuleCopy(trained)

    def _still(self, of: str) -> Copy:
        """One that never moves again."""
        trained = self.trained[of]
        return AdapterCopy(self.exchanges[of]) if trained.adapted else ModuleCopy(trained, trained.storage)

    def _fixed(self, of: str) -> Copy:
        """The same as a stage begins: of adapters that were never trained, none is needed."""
        trained = self.trained[of]
        return AdaptersOff(trained) if trained.adapted and not self.moved else self._still(of)

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
