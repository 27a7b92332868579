"""A shared HTTP cache by RFC 9111: `rules` are pure, `store` is Redis."""
