"""Measurements behind the figures in README.md; none of them is a test."""
