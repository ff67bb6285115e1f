"""Rows that read growing texts token by token: what they have read so far is cached, equal prompts are read once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from selfteach.objective.head import Head
from selfteach.policy.cache import growing_cache, masks_by_key, shares_keys, takes
from selfteach.policy.head import output_head
from selfteach.policy.loading import Policy, body
from selfteach.policy.passes import left, position_ids_of

InPlace = Callable[[], AbstractContextManager[Policy]]
"""Within it a policy computes with certain weights (``WeightStore.scoring``)."""


class Reader:
    """``prompts``: token ids of each of N rows. ``in_place``: under which weights they are read. ``vocabulary``: how
    many columns its logits have. ``head`` makes them (none: that of the weights, as they are then). ``new``: most
    tokens that follow a prompt (none: nobody knows)."""

    leaving = 1 / 8
    """Share of the rows that must have stopped before they leave: leaving copies what the others have cached."""

    def __init__(
        self,
        in_place: InPlace,
        prompts: Sequence[Sequence[int]],
        vocabulary: int,
        head: Head | None = None,
        new: int | None = None,
    ) -> None:
        self.in_place, self.vocabulary, self.head = in_place, vocabulary, head
        texts = list(dict.fromkeys(map(tuple, prompts)))
        longest = max(map(len, texts))
        with in_place() as policy:
            device, pad = policy.model.device, policy.renderer.pad_id
            self.cache = growing_cache(policy.model, None if new is None else new + longest)
            self.places = takes(policy.model, "position_ids")  # ALiBi models find them in the mask
            self.by_key = masks_by_key(policy.model)
            # Where heads share keys, transformers packs a new token's heads behind one another only if there is a mask;
            # else torch does it, on a CPU in bfloat16 in four times the time.
            self.grouped = device.type == "cpu" and shares_keys(policy.model)
        place = {ids: i for i, ids in enumerate(texts)}
        self.row_of = torch.tensor([place[tuple(ids)] for ids in prompts], device=device)
        self.ids = left(texts, pad).to(device)
        self.attended = left([[1] * len(ids) for ids in texts], 0).to(device)
        self.length = torch.tensor([len(ids) for ids in texts], device=device)
        self.padded = any(len(ids) < longest for ids in texts)

    def prompts(self) -> Float[Tensor, "N V"]:
        """[N, V] logits of each row's first token."""
        logits = self._read(self.ids, position_ids_of(self.attended), self.attended)
        if len(self.row_of) == len(self.ids):  # no two are equal, and they stand in the rows' order
            return logits
        self._take(self.row_of)
        return logits[self.row_of]

    def token(self, token: Int[Tensor, "N"]) -> Float[Tensor, "N V"]:
        """[N, V] logits of what follows each row's new token [N]."""
        self.attended = torch.cat([self.attended, torch.ones_like(self.attended[:, :1])], dim=1)
        self.length = self.length + 1
        return self._read(token[:, None], self.length[:, None] - 1, self.mask())

    def keep(self, rows: Int[Tensor, "n"]) -> None:
        """Go on with these rows alone."""
        self._take(rows)

    def close(self) -> None:
        """Give back what was taken to read faster; it may read on."""

    def mask(self) -> Int[Tensor, "N keys"] | Bool[Tensor, "N 1 1 keys"] | None:
        """Of one new token: the keys that it attends to, as simply as the model takes it (None: all of them)."""
        if not self.by_key:
            return self.attended
        return self.attended[:, None, None].bool() if self.padded or self.grouped else None

    def _take(self, rows: Int[Tensor, "n"]) -> None:
        self.cache.batch_select_indices(rows)
        self.attended, self.length = self.attended[rows], self.length[rows]

    def _read(
        self, ids: Int[Tensor, "N L"], place: Int[Tensor, "N L"], mask: Shaped[Tensor, "N ..."] | None
    ) -> Float[Tensor, "N V"]:
        at = {"position_ids": place} if self.places else {}
        with self.in_place() as policy:
            with policy.arithmetic():
                state = body(policy.model)(
                    input_ids=ids,
                    attention_mask=mask,
                    **at,
                    past_key_values=self.cache,
                    use_cache=True,
                )
            mixed = policy.precision != "float32"
            head = self.head or output_head(policy.model, self.vocabulary, mixed=mixed)
            return head.logits(state[0][:, -1]).float()
