"""Lets the SDK download the Temporal CLI: `python -m ke.runtime.embedded.temporal_download FOLDER`."""

import asyncio
import sys

from temporalio.testing import WorkflowEnvironment


async def _download(folder: str) -> None:
    # The SDK downloads only to start a server, so one is started and ended.
    environment = await WorkflowEnvironment.start_local(download_dest_dir=folder)
    await environment.shutdown()


def main() -> int:
    """Leaves the binary in the folder; says in one line why it could not."""
    try:
        asyncio.run(_download(sys.argv[1]))
    except RuntimeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
