"""Measurements: plain figures and ratios, nothing that passes or fails."""
