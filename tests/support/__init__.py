"""Real servers, real sockets and real keys for the tests."""
