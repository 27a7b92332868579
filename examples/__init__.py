"""Examples, run by the tests as their pages say."""
