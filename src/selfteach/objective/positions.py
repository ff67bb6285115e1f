"""A chunk of response positions with everybody's logits at them: all that one token's loss may look at."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from selfteach.objective.axes import LogProbs
from selfteach.objective.batch import STUDENT, ScoredBatch
from selfteach.objective.columns import require_shape
from selfteach.objective.listed import Listed, beyond, other_temperature

BLOCK_BYTES = 2**20
"""Of one role's logits: several teachers' and what is made of them must stay in a processor's cache beside it."""


@dataclass(frozen=True)
class Positions:
    """P positions: sampled ``ids`` [P]; ``row`` and ``step`` [P] in the whole batch; by role ``logits`` [P, V],
    ``features`` [P, f], ``given`` [P], log-probs (nats) of the sampled tokens of roles that hand over no more, and
    ``listed``, what roles say that hand over their likeliest tokens alone.
    ``shape`` (N, T) of the whole batch; None (positions made by hand): columns are not checked against it.

    What several readers want of the same logits (log-probs, probabilities, the likeliest tokens) is made once and kept
    (``once``); some of these positions (``take``) read it there.
    """

    ids: Int[Tensor, "P"]
    row: Int[Tensor, "P"]
    step: Int[Tensor, "P"]
    logits: Mapping[str, Float[Tensor, "P V"]]
    features: Mapping[str, Float[Tensor, "P _f"]] = field(default_factory=dict)
    given: Mapping[str, Float[Tensor, "P"]] = field(default_factory=dict)
    shape: tuple[int, int] | None = None
    listed: Mapping[str, Listed] = field(default_factory=dict)
    _made: dict[Hashable, Shaped[Tensor, "P ..."]] = field(default_factory=dict)
    _of: tuple[Positions, Bool[Tensor, "P"] | Int[Tensor, "p"] | slice] | None = None

    def __post_init__(self) -> None:
        if self.listed:
            object.__setattr__(self, "logits", _Known(self.logits, self.listed))

    def take(self, which: Bool[Tensor, "P"] | Int[Tensor, "p"] | slice) -> Positions:
        """Some of these positions: a bool mask or indices [P], or a slice (then the logits are views)."""

        def some(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {role: tensor[which] for role, tensor in tensors.items()}

        ids, row, step = self.ids[which], self.row[which], self.step[which]
        parts = (some(self.logits), some(self.features), some(self.given))
        listed = {role: one.rows(lambda tensor: tensor[which]) for role, one in self.listed.items()}
        return Positions(ids, row, step, *parts, self.shape, listed, _of=(self, which))

    def with_logits(self, logits: Mapping[str, Float[Tensor, "P V"]]) -> Positions:
        """The same positions with some roles' logits replaced."""
        return replace(self, logits={**self.logits, **logits}, _made={}, _of=None)

    def with_features(self, features: Mapping[str, Float[Tensor, "P _f"]]) -> Positions:
        """The same positions with some roles' features replaced."""
        return replace(self, features={**self.features, **features}, _made={}, _of=None)

    def once(self, key: Hashable, make: Callable[[], Shaped[Tensor, "P ..."]]) -> Shaped[Tensor, "P ..."]:
        """[P, …] what ``make`` gives, made on first use; a pure function of these positions' logits that ``key`` names.
        Not to be written into."""
        if (found := self._kept(key)) is None:
            found = self._made[key] = make()
        return found

    def _kept(self, key: Hashable) -> Shaped[Tensor, "P ..."] | None:
        """What was made of these positions, or of those that they were taken from."""
        if key not in self._made and self._of is not None:
            whole, which = self._of
            if (found := whole._kept(key)) is not None:
                self._made[key] = found[which]
        return self._made.get(key)

    def column(
        self,
        values: Shaped[Tensor, ""] | Shaped[Tensor, "N"] | Shaped[Tensor, "N T"] | float,
        name: str = "column",
    ) -> Shaped[Tensor, ""] | Shaped[Tensor, "P"] | float:
        """What a per-batch quantity is at these positions: a number as it is, [N] by row, [N, T] by position.

        ValueError naming a column that is neither: a longer [T] would be read as [N] without a word.
        """
        if not isinstance(values, Tensor) or values.dim() == 0:
            return values
        if self.shape is not None:
            require_shape(name, values, self.shape[:1], self.shape)
        return values[self.row] if values.dim() == 1 else values[self.row, self.step]

    def known(
        self, values: Shaped[Tensor, ""] | Shaped[Tensor, "N"] | Shaped[Tensor, "N T"] | float, name: str
    ) -> Shaped[Tensor, "P"]:
        """``column`` [P] as a tensor. ValueError naming the column and the place where it is NaN or +inf."""
        column = torch.as_tensor(self.column(values, name), device=self.ids.device).expand(self.ids.shape)
        return self.refused(column, name)

    def refused(self, column: Shaped[Tensor, "P"], name: str) -> Shaped[Tensor, "P"]:
        """The column [P]. ValueError naming it and the place where it is NaN or +inf."""
        bad = column.isnan() | (column == torch.inf)
        if bad.any():
            i = int(bad.nonzero()[0])
            where = f"row {int(self.row[i])}, position {int(self.step[i])}"
            raise ValueError(f"{name} is {float(column[i])} at {where}, where it is read")
        return column

    def divided(self, values: Float[Tensor, "P V"], temperature: Temperature) -> Float[Tensor, "P V"]:
        """[P, V] values over a temperature (number, [N], [N, T], or a function of these positions)."""
        if callable(temperature):
            with torch.no_grad():
                divisor = temperature(self).reshape(-1, 1).to(values.dtype)
            return values / divisor
        if isinstance(temperature, Tensor):
            return values / torch.as_tensor(self.column(temperature, "temperature")).reshape(-1, 1).to(
                values.dtype
            )
        return values if temperature == 1 else values / temperature

    def log_probs(
        self, role: str = STUDENT, temperature: Temperature = 1.0, likeliest: int | None = None
    ) -> Float[Tensor, "P V"]:
        """[P, V] log-probs of ``role`` at a temperature (number, [N], [N, T] or a function of these positions).

        ``likeliest``: the reader promises to look at no more than so many of the role's own likeliest tokens and at the
        mass of all others together (None: at anything). ValueError: the role handed over log-probs of the sampled
        tokens only, or lists fewer of its likeliest tokens, or not at this temperature.
        """
        if role in self.listed:
            return self._log_probs_listed(role, temperature, likeliest)
        if role not in self.logits and role in self.given:
            raise only_sampled(role)
        make = partial(self._log_probs, role, temperature)
        if callable(temperature) or isinstance(temperature, Tensor):
            return make()
        return self.once(("log_probs", role, float(temperature)), make)

    def _log_probs_listed(
        self, role: str, temperature: Temperature, likeliest: int | None
    ) -> Float[Tensor, "P V"]:
        one = self.listed[role]
        if likeliest is None or likeliest > one.k:
            raise beyond(
                role, one.k, "the whole distribution" if likeliest is None else f"the top {likeliest}"
            )
        if not is_one(temperature):
            raise other_temperature(role)
        return self.once(("listed", role), partial(one.log_probs, self.ids))

    def _log_probs(self, role: str, temperature: Temperature) -> Float[Tensor, "P V"]:
        return log_softmax(self.divided(self.logits[role], temperature))

    def probs(self, role: str = STUDENT, temperature: Temperature = 1.0) -> Float[Tensor, "P V"]:
        """[P, V] exp of ``log_probs``. ValueError as there. Not to be written into."""
        log_probs = self.log_probs(role, temperature)
        if callable(temperature) or isinstance(temperature, Tensor):
            return log_probs.exp()
        return self.once(("probs", role, float(temperature)), log_probs.exp)

    def sampled(self, role: str = STUDENT, temperature: Temperature = 1.0) -> Float[Tensor, "P"]:
        """[P] log-prob (nats) of the sampled token under ``role``; what a role of signal "sampled" handed over stands
        as it is, at the temperature at which it was measured."""
        if role in self.listed and is_one(temperature):
            return self.listed[role].sampled
        if role in self.listed:
            raise other_temperature(role)
        if role not in self.logits and role in self.given:
            return self.given[role]
        return self.log_probs(role, temperature).gather(-1, self.ids.unsqueeze(-1)).squeeze(-1)


class _Known(dict[str, Float[Tensor, "P V"]]):
    """Logits by role, of which those of a role that lists a few log-probs are refused in so many words."""

    def __init__(self, logits: Mapping[str, Float[Tensor, "P V"]], listed: Mapping[str, Listed]) -> None:
        super().__init__(logits)
        self.listed = listed

    def __contains__(self, role: object) -> bool:
        """Such a role did hand over a distribution, if not all of it: asked for it, it says so."""
        return super().__contains__(role) or role in self.listed

    def __missing__(self, role: str) -> Float[Tensor, "P V"]:
        if role in self.listed:
            raise beyond(role, self.listed[role].k, "the whole distribution")
        raise KeyError(role)


@dataclass(frozen=True, eq=False)
class Same:
    """A part of a key that is equal to itself alone: a term, whose fields may be tensors."""

    one: object

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.one is self.one

    def __hash__(self) -> int:
        return id(self.one)


def only_sampled(role: str) -> ValueError:
    """What to say where the distribution is read of a role that handed over no more than sampled log-probs."""
    return ValueError(
        f"the distribution of {role!r} is read (signal 'full'), but only log-probs of its sampled tokens were given: "
        "give its logits"
    )


Temperature = (
    float
    | Float[Tensor, ""]
    | Float[Tensor, "N"]
    | Float[Tensor, "N T"]
    | Callable[[Positions], Float[Tensor, "P"]]
)
"""What logits are divided by: a number, [N], [N, T], or a function of the positions → [P], taken without gradient."""


def is_one(temperature: Temperature) -> bool:
    """Whether it is the number 1."""
    return isinstance(temperature, int | float) and temperature == 1


def log_softmax(logits: LogProbs) -> LogProbs:
    """Over the last dimension. Torch's own adds up in sequence on a CPU, which at V = 262k costs a digit."""
    shifted = logits - logits.detach().amax(-1, keepdim=True)
    return shifted.sub_(shifted.exp().sum(-1, keepdim=True).log())


@dataclass(frozen=True)
class Quantity:
    """Something that can be told of each position: ``function(positions)`` → [P], and the ``roles`` it reads.

    It is measured where all of these see their view, and ``where`` [N, T] of the whole batch (None: everywhere) says.
    """

    function: Callable[[Positions], Shaped[Tensor, "P"]]
    roles: tuple[str, ...] = (STUDENT,)
    where: Bool[Tensor, "N T"] | None = None


@dataclass(frozen=True)
class Chunk:
    """Some positions of a micro-batch, before any logits exist: their places [P] in its layout, rows and steps in the
    whole batch, and their tokens.
    """

    place: Int[Tensor, "P"]
    row: Int[Tensor, "P"]
    step: Int[Tensor, "P"]
    ids: Int[Tensor, "P"]

    def take(self, which: Bool[Tensor, "P"] | Int[Tensor, "p"] | slice) -> Chunk:
        return Chunk(self.place[which], self.row[which], self.step[which], self.ids[which])


def chunks(batch: ScoredBatch, select: Bool[Tensor, "P"], length: int) -> Iterator[Chunk]:
    """The positions where ``select`` [P] is True, ``length`` at a time, in the layout's order."""
    place = select.nonzero().squeeze(1)
    row, step = batch.layout.row[place], batch.layout.step[place]
    everything = Chunk(place, row, step, batch.columns.ids[row, step])
    for start in range(0, len(place), length):
        yield everything.take(slice(start, start + length))


@torch.no_grad()
def positions_of(batch: ScoredBatch, chunk: Chunk, roles: Sequence[str]) -> Positions:
    """A chunk with the named roles' logits, features and given log-probs, as far as they have them, all detached.

    ValueError: the batch lacks a role, or vocabulary widths differ.
    """
    logits, features, given, listed = {}, {}, {}, {}
    for role in roles:
        if role in batch.columns.log_probs:
            given[role] = batch.columns.log_probs[role][chunk.row, chunk.step]
        if role in batch.roles:
            scored = batch.roles[role]
            place = chunk.place.to(scored.states.device)
            if isinstance(scored, Listed):
                here = scored.rows(partial(_placed, place, batch.device))
                if scored.whole:  # nothing is unknown: log-probs are logits
                    logits[role] = here.log_probs(chunk.ids)
                else:
                    listed[role] = here
                continue
            logits[role] = scored.head.logits(scored.states[place].to(batch.device))
            if scored.features is not None:
                features[role] = scored.features[place].to(batch.device)
        elif role not in given:
            raise ValueError(f"the batch has no role {role!r}, which is read; it has {sorted(batch.roles)}")
    rows, steps = batch.columns.ids.shape
    _refuse_widths(logits, listed)
    return Positions(chunk.ids, chunk.row, chunk.step, logits, features, given, (rows, steps), listed)


def _placed(place: Tensor, device: torch.device, tensor: Tensor) -> Tensor:
    return tensor[place].to(device)


def chunk_length(batch: ScoredBatch, roles: Sequence[str], budget_bytes: int) -> int:
    """How many positions fit a budget when the named roles' logits are alive; of many, a multiple of 16."""
    width = sum(batch.roles[role].width for role in roles if role in batch.roles)
    itemsize = max(4, batch.roles[STUDENT].states.element_size())
    length = max(1, budget_bytes // max(1, itemsize * width))
    return length - length % 16 if length > 16 else length


def blocks(at: Positions) -> Iterator[slice]:
    """Slices of a chunk's positions. A GPU takes the chunk whole; a CPU is faster on what its cache holds."""
    length = len(at.ids)
    logits = next(iter(at.logits.values()), None)
    if logits is not None and not logits.is_cuda:
        length = BLOCK_BYTES // (logits.element_size() * logits.shape[1])
    for start in range(0, len(at.ids), max(1, length)):
        yield slice(start, start + max(1, length))


def _refuse_widths(logits: Mapping[str, Tensor], listed: Mapping[str, Listed]) -> None:
    """Refuse different vocabulary widths: the cure is ``Head.vocabulary``, not silent truncation."""
    widths = {role: tensor.shape[-1] for role, tensor in logits.items()}
    widths |= {role: one.width for role, one in listed.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(f"vocabulary widths differ: {widths}; set Head.vocabulary to the tokenizer's width")
