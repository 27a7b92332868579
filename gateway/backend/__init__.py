"""Talking to services: `backend.Backend` picks an instance, and another one where that may help."""
