"""Promises that hold for more than one part alike."""
