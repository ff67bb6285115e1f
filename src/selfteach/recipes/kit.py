"""All that a recipe is made of, under one roof: ``from selfteach.recipes.kit import *``."""

from __future__ import annotations

from selfteach.checks import require
from selfteach.control.accountant import noise_for
from selfteach.control.beta_policy import BetaPolicy
from selfteach.control.controller import ControllerSpec
from selfteach.control.hook import Hook, HookSpec
from selfteach.control.kl_gate import KLGate
from selfteach.control.leaps import Leaps
from selfteach.control.rising_share import RisingShare
from selfteach.control.schedule import HoldThenDecay
from selfteach.objective.advantage import (
    group_advantage,
    group_max,
    group_mean,
    group_min_max,
    group_rank,
    group_softmax,
    group_std,
    group_sum,
    normalized,
)
from selfteach.objective.agreement import agreement
from selfteach.objective.batch import STUDENT
from selfteach.objective.calibration import calibration
from selfteach.objective.candidates import CandidateMatch
from selfteach.objective.divergence import (
    JSD,
    AdaptiveKL,
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
from selfteach.objective.forms import Form, losses
from selfteach.objective.gate import At, LogRatio
from selfteach.objective.hidden import Hidden
from selfteach.objective.ideal import cosine, ideal_gradient, within
from selfteach.objective.minibatch import Minibatch, passes
from selfteach.objective.positions import Positions, Quantity
from selfteach.objective.preference import (
    DPOLoss,
    Pairs,
    bco,
    dpo,
    kto,
    mismatched_kl,
    refuse_smoothing,
    report_rewards,
    units_of,
)
from selfteach.objective.ranking import PlackettLuce
from selfteach.objective.sampled import clipped_surrogate, contrast, k1, k2, k3
from selfteach.objective.sequence import SequenceTerm
from selfteach.objective.spans import capped, row_top, scattered
from selfteach.objective.statistics import Statistics, entropy, role_entropy
from selfteach.objective.support import Full, Support, Tail, TopK, likeliest
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
from selfteach.objective.temperature import temperature_of
from selfteach.objective.terms import (
    Entropy,
    LikelihoodOf,
    Match,
    NegativeLogLikelihood,
    OfColumns,
    PolicyGradient,
    Sampled,
    Signal,
    Term,
)
from selfteach.objective.top import nth_likeliest, top_ids
from selfteach.policy.chat_server import ChatServer
from selfteach.recipes.bank import Bank, Experience, least_gap, reward_of
from selfteach.recipes.base import REFERENCE, TEACHER, Recipe
from selfteach.recipes.cosine_reward import CosineReward
from selfteach.recipes.critic import Critic, asked_of
from selfteach.recipes.debate import Debate
from selfteach.recipes.demonstrations import Kind, beside, misled, nearest, remembered
from selfteach.recipes.examiner import EXAMINER, Examine, before_play, examined, problem_of
from selfteach.recipes.experts import ITSELF, experts, itself_or, routes, taught
from selfteach.recipes.hints import WITH_HINT, Hints
from selfteach.recipes.importance_k3 import importance_k3, importance_k3_term
from selfteach.recipes.informed import InformedGRPO, Shown
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
from selfteach.recipes.retrieval import UCB, Retrieval, Similar
from selfteach.recipes.stages import Imitate, imitated
from selfteach.recipes.summarizer import Summarizer
from selfteach.recipes.text_teacher import TextTeacher, answered_by
from selfteach.recipes.tools import Prompt, Store, Tools, by_group, preferred
from selfteach.roles.attempt import Evidence, Revision
from selfteach.roles.diagnosis import Diagnosis
from selfteach.roles.hint import Hint
from selfteach.roles.private import BEGINNING_ONLY, Field, InSystem, Partial, listed
from selfteach.roles.privilege import Masked, Privilege, Shared, Thought, privilege
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
from selfteach.task.environment import turns_of
from selfteach.task.example import Grade
from selfteach.task.outcome import outcome
from selfteach.task.similarity import edit_distance, edit_similarity, rouge_1
from selfteach.task.trajectory import Trajectory

__all__ = [  # noqa: RUF022
    # what is written: settings, roles, trajectories
    "BASE", "END", "POLICY", "PREVIOUS", "REFERENCE", "STUDENT", "TEACHER", "Adapter", "ChatServer", "GRPOSettings",
    "Grade", "NonNegativeFloat", "NonNegativeInt", "OpenUnit", "Optimization", "PerRecord", "PositiveFloat",
    "PositiveInt", "PositiveRows", "PositiveUnit", "Prompt", "Recipe", "ReferenceProbe", "Rollouts", "Store",
    "TextTeacher", "Tools", "TrainedWeights", "Trajectory", "UnitInterval", "answered_by", "require", "settings",
    "turns_of",
    # who scores: weights × views × spans
    "BEGINNING_ONLY", "EMA", "Answer", "Critic", "Debate", "Diagnosis", "Evidence", "External", "Field", "FromMark",
    "FromTurn", "Frozen", "InSystem", "Lagged", "Live", "Messages", "Partial", "Plain", "Prefix", "Random",
    "ReasonFirst", "Reprompt", "Revision", "Ring", "Role", "Snapshot", "Solution", "Told", "View", "Weights", "Whole",
    "asked_of", "experts", "listed", "outcome", "routes", "taught", "written_once",
    # the loss: terms, targets, divergences, supports
    "JSD", "AdaptiveKL", "AdvantageTilted", "Alpha", "At", "CandidateMatch", "Consensus", "DPOLoss", "Divergence",
    "Divisor", "Entropy", "EntropyAware", "Extrapolation", "ForwardKL", "FromRole", "Full", "GeometricMean", "Hidden",
    "Imitate", "Jeffreys", "Likeliest", "LogRatio", "Match", "MixedKL", "Mixture", "NegativeLogLikelihood",
    "OfColumns", "Pairs", "PlackettLuce", "PolicyGradient", "Positions", "Quantity", "Reduction", "Renyi",
    "ReverseKL", "Sampled", "SequenceTerm", "Signal", "SkewForwardKL", "SkewReverseKL", "StudentMix", "Support",
    "Tail", "Target", "Term", "ToDi", "TopK", "TotalVariation", "TrustRegion", "bco", "clipped_surrogate", "dpo",
    "gkd_jsd", "imitated", "k1", "k2", "k3", "kto", "likeliest", "mismatched_kl", "preferred", "refuse_smoothing",
    "report_rewards", "units_of",
    # statistics, schedules, controllers, updates
    "ITSELF", "BetaPolicy", "ControllerSpec", "HoldThenDecay", "Hook", "HookSpec", "Leaps", "Minibatch",
    "RisingShare", "Statistics", "by_group", "capped", "cosine", "edit_distance", "edit_similarity", "entropy",
    "group_advantage", "group_max", "group_mean", "group_rank", "group_softmax", "group_std", "group_sum",
    "ideal_gradient", "itself_or", "noise_for", "normalized", "nth_likeliest", "passes", "role_entropy", "rouge_1",
    "row_top", "scattered", "temperature_of", "top_ids", "within",
    # privileges and losses by name, teachers made first
    "Form", "InformedGRPO", "LikelihoodOf", "Masked", "Privilege", "Shared", "Shown", "Thought", "group_min_max",
    "losses", "privilege",
    # demonstrations of other problems, agreement of contexts
    "Kind", "agreement", "beside", "calibration", "contrast", "misled", "nearest", "remembered",
    # experience banks, rewards by length
    "UCB", "Bank", "CosineReward", "Experience", "Hint", "KLGate", "Retrieval", "Similar", "Summarizer",
    "importance_k3", "importance_k3_term", "least_gap", "reward_of",
    # hints that another model writes
    "WITH_HINT", "Hints",
    # self-play
    "EXAMINER", "Examine", "before_play", "examined", "problem_of",
]  # fmt: skip
