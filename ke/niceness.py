"""How a process lets the others on its machine go first."""

import contextlib
import os
import time
from pathlib import Path
from typing import Final

_TRIES: Final = 20


def give_way(niceness: int) -> None:
    """Makes this process nicer, towards all others; it gets a session of its own.

    Where Linux has autogroups (sched(7)), niceness counts among the processes of one session alone, and each session
    has the same share: beside Postgres and Temporal, which have theirs, a nice process would be no nicer than they are.
    """
    os.nice(niceness)
    with contextlib.suppress(OSError):  # it leads a session, or a group of another's
        os.setsid()
    if os.getsid(0) != os.getpid():
        return
    with contextlib.suppress(OSError):  # not Linux, or one without autogroups
        for _ in range(_TRIES):
            try:
                Path("/proc/self/autogroup").write_text(str(niceness), encoding="ascii")
            except BlockingIOError:  # one change in 0.1 s, all users but root together
                time.sleep(0.1)
            else:
                break
