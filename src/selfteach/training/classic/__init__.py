"""Learners of closed forms: no gradient, each step is the exact minimizer."""
