"""One step's rows with everything that is known of them, and who scores them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, distributed

from selfteach.objective.batch import STUDENT, Scored, ScoredBatch
from selfteach.objective.columns import Columns
from selfteach.objective.head import Head, LowRank
from selfteach.objective.layout import Layout
from selfteach.objective.positions import Quantity
from selfteach.objective.record import measure, roles_of
from selfteach.policy.head import output_head
from selfteach.policy.loading import Policy, bare
from selfteach.policy.prefix import shares
from selfteach.policy.reordered import reordered_for
from selfteach.policy.room import Room, behind, read_behind
from selfteach.policy.scorer import LocalScorer
from selfteach.policy.sharding import as_many
from selfteach.roles.role import Role
from selfteach.roles.store import WeightStore
from selfteach.roles.weights import External, Frozen, Live, Random, Snapshot, Weights
from selfteach.task.trajectory import Trajectory
from selfteach.training.text.contexts import Context

STILL = (Frozen, External, Random, Snapshot)
"""Weights that no update of a stage moves."""


class Idle(tuple[int, ...]):
    """A micro-batch without rows, of a process that has fewer than others while weights are sharded (``number``: which
    one): it takes part in gathering layers."""

    number: int

    def __new__(cls, number: int) -> Idle:
        made = super().__new__(cls, ())
        made.number = number
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Idle) and other.number == self.number

    def __hash__(self) -> int:
        return hash((Idle, self.number))


@dataclass
class Scoring:
    """Scores this process's ``rows``: roles without gradient once and first, trained ones whenever they are asked for.

    ``contexts``: what each role beside the student reads, of those that hand over distributions. ``columns`` are the
    whole batch's, ``first_row`` is where this process's rows begin in it. ``micro_batch``: rows scored at once
    (None: as many as the policy that scores has memory for). ``working`` is told how far a piece of work is.
    """

    roles: Mapping[str, Role]
    weights: WeightStore
    rows: Sequence[Trajectory]
    contexts: Mapping[str, Context]
    columns: Columns
    first_row: int
    micro_batch: int | None
    device: torch.device
    working: Callable[[str, float], None]
    alone: bool = False
    """These rows are a batch of their own: other processes have none of it."""
    several: bool = False
    """Weights move while these scores are in use: the batch makes several updates."""
    frozen: dict[str, Scored] = field(default_factory=dict)
    """Scores without gradient of all rows: role → states [P, d] in the rows' order."""
    kept: dict[tuple[str, tuple[int, ...]], Float[Tensor, "P d"]] = field(default_factory=dict)
    """(role, micro-batch) → the states that the statistics of an update read, and that its gradient pass will want
    again: of roles that it trains with their graphs, as far as there is memory for these."""

    def __post_init__(self) -> None:
        self.lengths = [sum(one.mask) for one in self.rows]
        self.begins = [0, *torch.tensor(self.lengths).cumsum(0).tolist()] if self.rows else [0]

    # --- parts of the batch -------------------------------------------------------------------------------------

    def parts(
        self, rows: Bool[Tensor, "N"] | None = None, trained: Collection[str] = (STUDENT,)
    ) -> list[tuple[int, ...]]:
        """Micro-batches: this process's rows (those that are True in ``rows`` [N]), so many at a time that the graphs
        of all roles ``trained`` fit the memory together; of sharded weights as many as every other process has."""
        own = range(len(self.rows))
        chosen = [i for i in own if rows is None or bool(rows[self.first_row + i])]
        every = [self.held([(name, i) for i in chosen], self.tokens_held) for name in trained]
        lengths = [sum(one) for one in zip(*every, strict=True)] if every else [0] * len(chosen)
        ranges = self.room.scoring(lengths, self.micro_batch, gradient=True)
        own_parts = [tuple(chosen[i] for i in one) for one in ranges]
        idle = range(len(own_parts), self.as_many(len(own_parts)))
        return [*own_parts, *map(Idle, idle)]

    def as_many(self, count: int) -> int:
        """The most that any process counts, where all must compute in step; else ``count``."""
        return as_many(bare(next(iter(self.weights.trained.values())).model), count)

    @property
    def room(self) -> Room:
        """The memory of the trained policy that takes most of it."""
        return max((one.room for one in self.weights.trained.values()), key=lambda room: room.needs.trained)

    @property
    def tokens_held(self) -> Callable[[int, int, int], int]:
        """How many tokens' memory a trained row takes, of its context, its response and the rows of that context."""
        return behind if all(shares(one.model) for one in self.weights.trained.values()) else alone

    def graphs_fit(self, part: tuple[int, ...], roles: Collection[str] = (STUDENT,)) -> bool:
        """Whether these roles' graphs of this micro-batch may be alive together with all that are kept."""
        graphs = [key for key, states in self.kept.items() if states.requires_grad]
        graphs += [(name, part) for name in roles]
        held = [self.held([(name, i) for i in one], self.tokens_held) for name, one in graphs]
        tokens = sum(len(one) * max(one, default=0) for one in held)
        return not self.as_many(int(tokens * self.room.needs.trained > self.room.memory))

    def held(self, wanted: Sequence[tuple[str, int]], tokens: Callable[[int, int, int], int]) -> list[int]:
        """Tokens whose memory each (role, row) takes: ``tokens`` of its context, its response, rows of that context; 0
        where the role sees nothing."""
        contexts = [tuple(self.context(name, i)) if self.sees(name, i) else None for name, i in wanted]
        equal = Counter(contexts)
        return [
            0 if context is None else tokens(len(context), len(self.rows[i].ids), equal[context])
            for context, (_, i) in zip(contexts, wanted, strict=True)
        ]

    def layout(self, part: Sequence[int]) -> Layout:
        row, step = [], []
        for i in part:
            places = [t for t, own in enumerate(self.rows[i].mask) if own]
            row += [self.first_row + i] * len(places)
            step += places
        return Layout(
            torch.tensor(row, dtype=torch.long, device=self.device),
            torch.tensor(step, dtype=torch.long, device=self.device),
        )

    def batch(
        self,
        part: tuple[int, ...],
        trained: Collection[str] = (),
        *,
        features: bool = False,
        reads: Collection[str] | None = None,
        later: Collection[str] = (),
    ) -> ScoredBatch:
        """The rows of ``part`` as every role (of ``reads``, where that is given) scores them, the ``trained`` ones with
        gradient.

        ``features``: what ``Hidden`` terms compare is wanted too: the states themselves. ``later``: roles whose
        gradient pass is to come, which are not scored without gradient before that unless they are read.
        """
        names = [name for name in dict.fromkeys((STUDENT, *self.contexts)) if reads is None or name in reads]
        waiting = [name for name in later if name not in names or self.has_kept(name, part)]
        self.score_frozen((*trained, *waiting))
        roles = {name: self.scored(name, part, gradient=name in trained) for name in names}
        if features:
            roles = {name: replace(one, features=one.states) for name, one in roles.items()}
        layout = self.layout(part)
        if STUDENT not in roles:  # a batch has one; where nobody reads it, it is not scored
            nothing = torch.full((len(layout), 1), torch.nan, dtype=self.columns.dtype, device=self.device)
            roles = {STUDENT: Scored(nothing), **roles}
        return ScoredBatch(self.columns, roles, layout)

    def forget(self, trained: Collection[str]) -> None:
        """An update moved the weights of these roles: what they said before is out of date."""
        for name in trained:
            self.frozen.pop(name, None)

    def release(self, part: tuple[int, ...]) -> None:
        """The gradient pass of this micro-batch is made: what was kept for it is not wanted again."""
        for key in [one for one in self.kept if one[1] == part]:
            del self.kept[key]

    def release_all_but(self, parts: Collection[tuple[int, ...]]) -> None:
        """Of other micro-batches than these nothing is wanted again: the terms train more than was said."""
        for part in {part for _, part in self.kept}.difference(parts):
            self.release(part)

    def measure(
        self,
        wanted: Mapping[str, Quantity],
        rows: Bool[Tensor, "N"] | None = None,
        trained: Collection[str] = (STUDENT,),
    ) -> dict[str, Float[Tensor, "N T"]]:
        """[N, T] columns over the whole batch of all processes, without gradient, NaN where nothing was measured.

        The student is scored if they read it, and once for all that is measured before the weights move. Roles that are
        read and ``trained`` by the update are scored with their graphs, which the gradient pass will want, where
        gradients are on and there is memory for these.
        """
        parts, reads = self.parts(rows, trained), roles_of(wanted)
        asked = [name for name in reads if name in trained] if torch.is_grad_enabled() else []
        columns = {
            name: torch.full(self.columns.ids.shape, torch.nan, dtype=self.columns.dtype, device=self.device)
            for name in wanted
        }
        for part in parts:
            graphs = [name for name in asked if not self.has_kept(name, part)]
            if len(parts) > 1 and graphs and not self.graphs_fit(part, graphs):
                graphs = []
            batch = self.batch(part, graphs, reads=reads, later=trained)
            again = (*graphs, *([STUDENT] if STUDENT in reads and torch.is_grad_enabled() else []))
            self.kept |= {(name, part): batch.roles[name].states for name in again}
            for name, values in measure(batch, wanted).items():
                columns[name][batch.layout.row, batch.layout.step] = values.to(self.columns.dtype)
        if self.alone:
            return columns
        return {
            name: over_processes(column, self.first_row, len(self.rows)) for name, column in columns.items()
        }

    # --- scores -------------------------------------------------------------------------------------------------

    def scored(self, role: str, part: tuple[int, ...], *, gradient: bool) -> Scored:
        if self.has_kept(role, part, gradient=gradient):
            return Scored(self.kept[role, part], head_of(self.trained(role)))
        if role != STUDENT and not gradient:
            whole = self.frozen[role]
            return whole.rows(partial(self.cut, part=part))
        policy = self.trained(role)
        with torch.set_grad_enabled(gradient):
            states = self.live_states(policy, role, part)
        return Scored(states, head_of(policy))

    def has_kept(self, role: str, part: tuple[int, ...], *, gradient: bool = False) -> bool:
        """Whether the role's states of this micro-batch are kept, with their graph where a ``gradient`` is wanted; of
        sharded weights in every process, for all must compute where one has to."""
        kept = self.kept.get((role, part))
        return not self.as_many(int(kept is None or (gradient and not kept.requires_grad)))

    def live_states(self, policy: Policy, role: str, part: Sequence[int]) -> Float[Tensor, "P d"]:
        """[P, d] of a role's positions in ``part``, with gradient where that is on; rows that it cannot see hold zeros
        and are read by nobody, as in ``all_states``."""
        seen = [i for i in part if self.sees(role, i)]
        states = self.forward(policy, [(role, i) for i in seen])
        if len(seen) == len(part):
            return states
        pieces = iter(states.split([self.lengths[i] for i in seen]))
        blank = states.new_zeros(max(self.lengths[i] for i in part), states.shape[-1])
        found = [next(pieces) if self.sees(role, i) else blank[: self.lengths[i]] for i in part]
        # Where it sees nothing at all the pass is in the graph still: of split weights others wait for its way back.
        return torch.cat([states[:0], *found])

    def trained(self, role: str) -> Policy:
        """The policy whose live weights a trained role scores with. ValueError for weights that cannot be trained."""
        spec = self.roles[role].weights
        if not isinstance(spec, Live):
            raise ValueError(
                f"a term trains role {role!r}, whose weights are {spec}: only live weights can be trained"
            )
        return self.weights.policy_of(spec)

    @torch.no_grad()
    def score_frozen(self, trained: Collection[str] = ()) -> None:
        """Every role beside the student and those ``trained``, those of equal weights in one pass.

        Before any graph of the student exists: adapters may be exchanged for it.
        """
        left = [name for name in self.contexts if name not in self.frozen and name not in (STUDENT, *trained)]
        by_weights: dict[Weights, list[str]] = {}
        for name in left:
            by_weights.setdefault(self.roles[name].weights, []).append(name)
        for spec, names in by_weights.items():
            with self.weights.scoring(spec) as policy:
                states = self.all_states(policy, names)
                head = detached(head_of(policy), copy=self.several and not isinstance(spec, STILL))
            self.frozen |= {name: Scored(states[name], head) for name in names}

    def all_states(self, policy: Policy, names: Sequence[str]) -> dict[str, Float[Tensor, "P d"]]:
        """[P, d] of each role; rows that it cannot see hold zeros and are read by nobody (``Columns.available``)."""
        wanted = [
            (name, i)
            for name in names
            for i, ids in enumerate(self.contexts[name].prompts)
            if ids is not None
        ]
        # Equal contexts side by side, so that they are computed once however many rows memory allows at a time.
        wanted.sort(key=lambda one: (len(self.context(*one)), self.context(*one)))
        kept = partial(read_behind, needs=policy.room.needs) if shares(policy.model) else alone
        lengths = self.held(wanted, kept)
        with reordered_for(policy, sum(lengths)):
            return self.states_of(policy, names, wanted, lengths)

    def states_of(
        self,
        policy: Policy,
        names: Sequence[str],
        wanted: Sequence[tuple[str, int]],
        lengths: Sequence[int],
    ) -> dict[str, Float[Tensor, "P d"]]:
        """[P, d] of each of these roles from the wanted (role, row)s, which take the memory of so many tokens each."""
        found: dict[str, Float[Tensor, "P d"]] = {}
        ranges = list(policy.room.scoring(lengths, self.micro_batch)) or [range(0)]
        ranges += [range(0)] * (as_many(bare(policy.model), len(ranges)) - len(ranges))
        for part in ranges:
            some = [wanted[i] for i in part]
            states = self.forward(policy, some)
            self.working("scoring", (part.stop or 1) / max(1, len(wanted)))
            if not found:
                found = {name: states.new_zeros(self.begins[-1], states.shape[-1]) for name in names}
            at = 0
            for name, i in some:
                found[name][self.begins[i] : self.begins[i + 1]] = states[at : at + self.lengths[i]]
                at += self.lengths[i]
        return found

    def forward(self, policy: Policy, wanted: Sequence[tuple[str, int]]) -> Float[Tensor, "P d"]:
        """[P, d] states of the wanted (role, row)s' written positions; zeros in front of where a role's span begins."""
        begins = [self.contexts[name].begin(i) if name in self.contexts else 0 for name, i in wanted]
        rows = [(self.rows[i], begin) for (_, i), begin in zip(wanted, begins, strict=True)]
        states = LocalScorer().states(
            policy,
            [self.context(name, i) for name, i in wanted],
            [one.ids[begin:] for one, begin in rows],
            [one.mask[begin:] for one, begin in rows],
        )
        if not any(begins):
            return states
        scored = states.split([sum(one.mask[begin:]) for one, begin in rows])
        skipped = [states.new_zeros(sum(one.mask[:begin]), states.shape[-1]) for one, begin in rows]
        return torch.cat([part for pair in zip(skipped, scored, strict=True) for part in pair])

    def sees(self, role: str, i: int) -> bool:
        """Whether the role has anything to read before row ``i``."""
        return role not in self.contexts or self.contexts[role].prompts[i] is not None

    def context(self, role: str, i: int) -> list[int]:
        """What the role reads before row ``i``, which it must see."""
        if role == STUDENT and role not in self.contexts:
            return self.rows[i].prompt_ids
        ids = self.contexts[role].prompts[i]
        if ids is None:
            raise ValueError(f"role {role!r} sees nothing in row {i}")
        return ids

    def cut(self, states: Shaped[Tensor, "P ..."], part: Sequence[int]) -> Shaped[Tensor, "p ..."]:
        """Some rows' positions of all rows'."""
        if not part:
            return states[:0]
        if list(part) == list(range(part[0], part[-1] + 1)):
            return states[self.begins[part[0]] : self.begins[part[-1] + 1]]
        return torch.cat([states[self.begins[i] : self.begins[i + 1]] for i in part])


def alone(context: int, response: int, rows: int) -> int:
    """Tokens of a row that computes all of them."""
    return context + response


def head_of(policy: Policy) -> Head:
    return output_head(policy.model, policy.vocabulary, mixed=policy.precision != "float32")


def detached(head: Head, *, copy: bool) -> Head:
    """The head without a way for gradients; ``copy``: as it is now, whatever becomes of its weights."""

    def still(tensor: Float[Tensor, "*axes"] | None) -> Float[Tensor, "*axes"] | None:
        return None if tensor is None else tensor.detach().clone() if copy else tensor.detach()

    lora = head.lora
    if lora is not None:  # always a copy: adapters are exchanged in place, and back
        lora = LowRank(lora.down.detach().clone(), lora.up.detach().clone(), lora.scaling)
    return replace(head, weight=still(head.weight), bias=still(head.bias), lora=lora)


def over_processes(column: Float[Tensor, "N T"], first_row: int, count: int) -> Float[Tensor, "N T"]:
    """[N, T] of which this process filled ``count`` rows from ``first_row`` on → the same with everybody's rows."""
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return column
    own = torch.zeros_like(column)
    own[first_row : first_row + count] = column[first_row : first_row + count]
    distributed.all_reduce(own)  # a row is one process's alone: a sum with zeros, and NaN stays NaN
    return own
