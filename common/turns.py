"""Keeping step: greenlets with the same way to go take each stretch of it one right after the other.

Where each goes as far as it can, the processor meets everything that a request needs once a request, and by the next
one its caches hold something else. So at a few places a greenlet lets all others who can run come as far. The next
stretch is then run through by all of them in a row, and only the first finds the caches cold.

It is best before a `send`. On loopback, or on a fast network, one wakes whoever waits at the other end. Where each
greenlet sends as soon as it has made its message, the other process wakes once a message, takes one, and sleeps again,
often on our own core. When all send in a row it wakes once and finds them all.

A turn takes 0.7 microseconds where many keep step. With little to do it is one turn of the loop, over at once.
"""

from __future__ import annotations

from gevent import get_hub, getcurrent


def keep_step() -> None:
    """Return when everybody else whose turn it is has come as far as here, or waits for something else."""
    hub = get_hub()
    turn = hub.loop.run_callback(getcurrent().switch)  # what `gevent.sleep(0)` does, without the objects around it
    try:
        while turn.pending:
            hub.switch()
    finally:
        turn.stop()
