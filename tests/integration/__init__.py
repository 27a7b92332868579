"""Tests that start the processes they are about, and talk to them over sockets."""
