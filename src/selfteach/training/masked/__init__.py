"""Learners of masked-diffusion language models: a denoiser, its sampler, and rewards of what it fills in."""
