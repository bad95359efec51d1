"""Wait until nothing is under way, and no thread looks after it: a blocking call then goes the short way."""

from __future__ import annotations

from threading import get_ident

from offload.session import session


def rest() -> None:
    """Wait until the default session rests.

    A thread that has looked after the launches before may not have put down its work yet.
    """
    dispatcher = session().dispatcher
    pump = dispatcher._pump
    assert dispatcher.wait(lambda: dispatcher.idle() and pump.pumper in (None, get_ident()), 30)
