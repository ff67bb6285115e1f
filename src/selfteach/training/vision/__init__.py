"""Learners of images: networks that classify them, and what is measured of their features."""
