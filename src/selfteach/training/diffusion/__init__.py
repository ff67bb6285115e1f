"""Learners of diffusion: small velocity networks, their samplers, and what they have in common."""
