"""Becomes a child of the stack: waits until it is on record, takes on its account and death signal, then the command.

Run by path with the standard library alone: `python -I -S launch.py DEATH_SIGNAL UID GID PARENT COMMAND...`.
It waits for one byte on standard input, which its parent sends when the process is written down; a parent that dies
before that closes the pipe, and nothing is left behind unknown.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Replaces this process by the command on its command line."""
    death_signal, uid, gid, parent = (int(value) for value in sys.argv[1:5])
    command = sys.argv[5:]
    if os.read(0, 1) != b"\n":
        sys.exit(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        # After the change of account, which clears it. Without it (other systems) the next start ends what is left.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal)
        if os.getppid() != parent:
            sys.exit(0)
    # Python ignores these two, and what is ignored stays so across exec.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)  # noqa: S606 - what the supervisor built, never a user's text
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
