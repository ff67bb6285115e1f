"""All that a recipe is made of, under one roof: ``from selfteach.recipes.kit import *``."""

from __future__ import annotations

from selfteach.checks import require
from selfteach.control.beta_policy import BetaPolicy
from selfteach.control.controller import ControllerSpec
from selfteach.control.hook import Hook, HookSpec
from selfteach.control.schedule import HoldThenDecay
from selfteach.objective.advantage import (
    group_advantage,
    group_max,
    group_mean,
    group_rank,
    group_softmax,
    group_std,
    group_sum,
    normalized,
)
from selfteach.objective.batch import STUDENT
from selfteach.objective.calibration import calibration
from selfteach.objective.candidates import CandidateMatch
from selfteach.objective.divergence import (
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
)
from selfteach.objective.divisor import Divisor, Reduction
from selfteach.objective.gate import At, LogRatio
from selfteach.objective.hidden import Hidden
from selfteach.objective.ideal import cosine, ideal_gradient, within
from selfteach.objective.minibatch import Minibatch, passes
from selfteach.objective.positions import Positions, Quantity
from selfteach.objective.ranking import PlackettLuce
from selfteach.objective.sampled import clipped_surrogate, k1, k2, k3
from selfteach.objective.sequence import SequenceTerm
from selfteach.objective.spans import capped, row_top, scattered
from selfteach.objective.statistics import Statistics, entropy
from selfteach.objective.support import Full, Support, Tail, TopK, likeliest
from selfteach.objective.target import (
    AdvantageTilted,
    Consensus,
    Extrapolation,
    FromRole,
    GeometricMean,
    Mixture,
    StudentMix,
    Target,
    TrustRegion,
)
from selfteach.objective.temperature import temperature_of
from selfteach.objective.terms import (
    Entropy,
    Match,
    NegativeLogLikelihood,
    OfColumns,
    PolicyGradient,
    Sampled,
    Signal,
    Term,
)
from selfteach.recipes.base import REFERENCE, TEACHER, Recipe
from selfteach.recipes.critic import Critic, asked_of
from selfteach.recipes.experts import experts, routes, taught
from selfteach.recipes.once import written_once
from selfteach.recipes.parts import (
    BASE,
    END,
    PREVIOUS,
    Adapter,
    GRPOSettings,
    Optimization,
    PerRecord,
    ReferenceProbe,
    Rollouts,
    TrainedWeights,
)
from selfteach.recipes.tools import Prompt, Store, Tools
from selfteach.roles.attempt import Evidence, Revision
from selfteach.roles.diagnosis import Diagnosis
from selfteach.roles.private import BEGINNING_ONLY, Field, InSystem, Partial, listed
from selfteach.roles.role import ReasonFirst, Role
from selfteach.roles.sibling import Reprompt
from selfteach.roles.span import FromMark, FromTurn, Whole
from selfteach.roles.told import Told
from selfteach.roles.view import Answer, Messages, Plain, Prefix, Solution, View
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
from selfteach.settings import (
    NonNegativeFloat,
    NonNegativeInt,
    OpenUnit,
    PositiveFloat,
    PositiveInt,
    PositiveRows,
    PositiveUnit,
    UnitInterval,
    settings,
)
from selfteach.task.outcome import outcome
from selfteach.task.trajectory import Trajectory

__all__ = [  # noqa: RUF022
    # what is written: settings, roles, trajectories
    "BASE", "END", "POLICY", "PREVIOUS", "REFERENCE", "STUDENT", "TEACHER", "Adapter", "Critic", "GRPOSettings",
    "Optimization", "PerRecord", "Prompt", "Recipe", "ReferenceProbe", "Rollouts", "Store", "Tools", "TrainedWeights",
    "Trajectory", "asked_of", "outcome", "settings", "require", "NonNegativeFloat", "NonNegativeInt", "OpenUnit",
    "PositiveFloat", "PositiveInt", "PositiveRows", "PositiveUnit", "UnitInterval",
    # who scores: weights × views × spans
    "BEGINNING_ONLY", "EMA", "Answer", "Diagnosis", "Evidence", "External", "Field", "FromMark", "FromTurn", "Frozen",
    "InSystem", "Lagged", "Live", "Messages", "Partial", "Plain", "Prefix", "Random", "ReasonFirst", "Reprompt",
    "Revision", "Ring", "Role", "Snapshot", "Solution", "Told", "View", "Weights",
    "Whole", "experts", "listed", "routes", "taught", "written_once",
    # the loss: terms, targets, divergences, supports
    "At", "CandidateMatch", "Entropy", "Hidden", "LogRatio", "Match", "NegativeLogLikelihood", "OfColumns",
    "PolicyGradient", "Positions", "Quantity", "Sampled", "SequenceTerm", "Signal", "Term", "AdvantageTilted",
    "Consensus", "Extrapolation", "FromRole", "GeometricMean", "Mixture",
    "StudentMix", "Target", "TrustRegion", "JSD", "Alpha", "Divergence", "EntropyAware", "ForwardKL", "Jeffreys",
    "MixedKL", "PlackettLuce", "Renyi", "ReverseKL", "SkewForwardKL", "SkewReverseKL", "ToDi", "TotalVariation",
    "gkd_jsd", "Full", "Support", "Tail", "TopK", "likeliest", "clipped_surrogate", "k1", "k2", "k3", "Divisor",
    "Reduction",
    # statistics, schedules, controllers, updates
    "Statistics", "cosine", "entropy", "ideal_gradient", "temperature_of", "within", "calibration", "capped",
    "group_advantage", "group_max", "group_mean", "group_rank", "group_softmax", "group_std", "group_sum", "normalized",
    "row_top", "scattered", "BetaPolicy", "ControllerSpec", "HoldThenDecay", "Hook", "HookSpec", "Minibatch", "passes",
]  # fmt: skip
