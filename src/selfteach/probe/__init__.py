"""Diagnostics without training: where a loss would help, which teacher tokens to trust, which view to choose."""
