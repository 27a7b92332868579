"""The tests, by how much of the system they start."""
