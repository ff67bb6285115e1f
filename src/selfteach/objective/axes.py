"""Names for the two shapes that most signatures here speak of (letters: the package's docstring)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

LogProbs = Float[Tensor, "*P V"]
"""Over the vocabulary, in nats, at positions laid out in any number of axes."""

Entries = Float[Tensor, "*P K"]
"""One number for each of the K entries of a support (the whole vocabulary is one): log-probs, summands, slopes."""
