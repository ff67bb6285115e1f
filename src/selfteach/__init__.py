"""On-policy self-distillation for language models: one small core, each method a short recipe."""

__version__ = "0.1.0"
