"""Losses between next-token distributions of a student and other roles, exact and in little memory.

Usable alone, with torch (and jaxtyping, for the annotations): put states, heads and columns into a ``ScoredBatch``,
name the terms, ``plan`` them over the whole batch, and ``evaluate_terms`` gives a loss to call ``backward`` on. It
never holds [N·T, V]. ``docs/objective.md`` shows how, ``docs/divergences.md`` defines every divergence.

Axes: N rows of the whole batch and T positions of each (n, t: of a micro-batch) · P written positions, flat (p: some
of them; ``*P``: in any number of axes) · V vocabulary · K entries of a support · d width of hidden states · f of
features · r rank of a LoRA update · U units of a sum · J pairs of units.
"""

from selfteach.objective.advantage import group_advantage, group_mean, normalized
from selfteach.objective.batch import STUDENT, Scored, ScoredBatch
from selfteach.objective.candidates import CandidateMatch
from selfteach.objective.columns import Columns
from selfteach.objective.divergence import (
    DIVERGENCES,
    JSD,
    Alpha,
    Divergence,
    EntropyAware,
    ForwardKL,
    Jeffreys,
    MixedKL,
    Renyi,
    ReverseKL,
    SkewForwardKL,
    SkewReverseKL,
    ToDi,
    TotalVariation,
    gkd_jsd,
    make_divergence,
)
from selfteach.objective.divisor import Divisor
from selfteach.objective.engine import Outcome, evaluate_terms
from selfteach.objective.gate import ImportanceRatio, LogRatio
from selfteach.objective.head import Head, LowRank
from selfteach.objective.hidden import Hidden
from selfteach.objective.layout import Layout
from selfteach.objective.listed import Listed, listed_of
from selfteach.objective.plan import Weighted, plan
from selfteach.objective.positions import Positions, Quantity
from selfteach.objective.preference import Pairs, bco, dpo, kto, mismatched_kl
from selfteach.objective.record import measure
from selfteach.objective.sequence import SequenceTerm
from selfteach.objective.statistics import Statistics, entropy
from selfteach.objective.support import Full, Support, TopK
from selfteach.objective.target import (
    AdvantageTilted,
    Consensus,
    Extrapolation,
    FromRole,
    GeometricMean,
    Likeliest,
    Mixture,
    StudentMix,
    Target,
    TrustRegion,
)
from selfteach.objective.terms import (
    Entropy,
    Match,
    NegativeLogLikelihood,
    PolicyGradient,
    Sampled,
    Term,
)

__all__ = [
    "DIVERGENCES",
    "JSD",
    "STUDENT",
    "AdvantageTilted",
    "Alpha",
    "CandidateMatch",
    "Columns",
    "Consensus",
    "Divergence",
    "Divisor",
    "Entropy",
    "EntropyAware",
    "Extrapolation",
    "ForwardKL",
    "FromRole",
    "Full",
    "GeometricMean",
    "Head",
    "Hidden",
    "ImportanceRatio",
    "Jeffreys",
    "Layout",
    "Likeliest",
    "Listed",
    "LogRatio",
    "LowRank",
    "Match",
    "MixedKL",
    "Mixture",
    "NegativeLogLikelihood",
    "Outcome",
    "Pairs",
    "PolicyGradient",
    "Positions",
    "Quantity",
    "Renyi",
    "ReverseKL",
    "Sampled",
    "Scored",
    "ScoredBatch",
    "SequenceTerm",
    "SkewForwardKL",
    "SkewReverseKL",
    "Statistics",
    "StudentMix",
    "Support",
    "Target",
    "Term",
    "ToDi",
    "TopK",
    "TotalVariation",
    "TrustRegion",
    "Weighted",
    "bco",
    "dpo",
    "entropy",
    "evaluate_terms",
    "gkd_jsd",
    "group_advantage",
    "group_mean",
    "kto",
    "listed_of",
    "make_divergence",
    "measure",
    "mismatched_kl",
    "normalized",
    "plan",
]
