"""Learners whose policies act in environments."""
