"""`python -m tests.faults`: the programs that break a whole stack on purpose and look at what is left.

run        faults drawn from a seed, and the invariants after each
cancels    200 cancels at random moments
recovery   how long a killed worker's jobs stand still
cleanup    the cleanup of 10,000 sources, killed in its middle
"""

import argparse
import asyncio
import importlib
import signal
import sys
from types import ModuleType

COMMANDS = {
    "run": ("tests.faults.driver", "inject faults drawn from a seed, and check the invariants after each"),
    "cancels": ("tests.faults.cancels", "cancel jobs at random moments and measure"),
    "recovery": ("tests.faults.recovery", "kill workers and measure how long their jobs stand still"),
    "cleanup": ("tests.faults.big_cleanup", "clean a job of 10,000 sources up, and measure"),
}
"""Each module has `add_arguments(parser)` and `async run(options) -> int`, the exit status."""


def main(arguments: list[str] | None = None) -> int:
    """Runs one of them; `run` when none is named."""
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] not in {*COMMANDS, "-h", "--help"}:
        given = ["run", *given]
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    modules: dict[str, ModuleType] = {}
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary)
        if name == given[0]:
            modules[name] = importlib.import_module(module)
            modules[name].add_arguments(command)
    options = parser.parse_args(given)
    try:
        return asyncio.run(_run(modules[options.command], options))
    except (KeyboardInterrupt, asyncio.CancelledError) as error:
        print(f"ended by {type(error).__name__}", file=sys.stderr, flush=True)
        return 130


async def _run(module: ModuleType, options: argparse.Namespace) -> int:
    """Runs one; SIGTERM ends it as Ctrl-C does, with all that it started."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return int(await module.run(options))


if __name__ == "__main__":
    sys.exit(main())
