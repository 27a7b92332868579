"""Tests that start nothing of the gateway."""
