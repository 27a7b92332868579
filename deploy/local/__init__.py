"""The parts of the system that run on one machine without containers."""
