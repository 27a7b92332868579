"""Sending in company: what greenlets have to send in one turn of the loop goes out back to back.

A `send` on loopback, or on a fast network, wakes whoever waits at the other end. Where each greenlet sends as soon as
it has made its message, that happens once a message: the other process wakes, takes one, and sleeps again, often on our
own core, and each time it costs us an interrupt, or a switch after which the processor's caches are cold. So whoever is
about to send lets all others who can run go first. They come to the same place, and then all send one after the other;
the other end wakes once and finds them all. With little to do a turn of the loop is over at once.
"""

from __future__ import annotations

import gevent


def send_together() -> None:
    """Return when everybody else whose turn it is has come as far as here, or waits for something else."""
    gevent.sleep(0)
