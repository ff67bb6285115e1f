"""Losses between a student's and its teachers' next-token distributions, exact and in little memory.

Usable alone, with torch and nothing else: put hidden states, heads and columns into a ``ScoredBatch``, name the
terms, ``plan`` them over the whole batch, and ``evaluate_terms`` gives a loss to call ``backward`` on. It never
holds [N·T, V]. ``docs/objective.md`` shows how, ``docs/divergences.md`` defines every divergence.
"""

from selfteach.objective.advantage import group_advantage, group_mean, normalized
from selfteach.objective.batch import Columns, Scored, ScoredBatch
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
from selfteach.objective.engine import Outcome, Weighted, evaluate_terms, measure
from selfteach.objective.head import Head, LowRank
from selfteach.objective.plan import plan
from selfteach.objective.positions import STUDENT, Positions
from selfteach.objective.statistics import Statistics, entropy
from selfteach.objective.support import Full, Support, TopK
from selfteach.objective.target import (
    AdvantageTilted,
    Consensus,
    Extrapolation,
    FromTeacher,
    GeometricMean,
    Mixture,
    StudentMix,
    Target,
    TrustRegion,
)
from selfteach.objective.terms import Match, NegativeLogLikelihood, PolicyGradient, SampledMatch, Term

__all__ = [
    "DIVERGENCES",
    "JSD",
    "STUDENT",
    "AdvantageTilted",
    "Alpha",
    "Columns",
    "Consensus",
    "Divergence",
    "EntropyAware",
    "Extrapolation",
    "ForwardKL",
    "FromTeacher",
    "Full",
    "GeometricMean",
    "Head",
    "Jeffreys",
    "LowRank",
    "Match",
    "MixedKL",
    "Mixture",
    "NegativeLogLikelihood",
    "Outcome",
    "PolicyGradient",
    "Positions",
    "Renyi",
    "ReverseKL",
    "SampledMatch",
    "Scored",
    "ScoredBatch",
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
    "entropy",
    "evaluate_terms",
    "gkd_jsd",
    "group_advantage",
    "group_mean",
    "make_divergence",
    "measure",
    "normalized",
    "plan",
]
