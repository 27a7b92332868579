"""What an operator sees: metrics, and in time traces."""
