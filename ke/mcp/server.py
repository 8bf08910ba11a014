"""The MCP server over stdio: `ke mcp`, or `python -m ke.mcp.server`.

Standard output carries the protocol and nothing else; logs go to standard error.
"""

import sys
from importlib.metadata import version
from typing import Final

from mcp.server import MCPServer

from ke.mcp import tools

INSTRUCTIONS: Final = (
    "Turns web sites into a searchable knowledge base by durable jobs. Start one with `crawl` (a site) or `scrape` "
    "(a list of pages), follow it with `get_job`, and ask it with `search`. `cancel_job` stops a job; `cleanup_job` "
    "deletes what an ended job made and gives a receipt, `forget_source` does so for one page, `cleanup_project` for "
    "all jobs of a project; `delete_job_record` removes the job itself. "
    'A refused call is an error whose structured content is {"error": {type, title, status, detail, '
    "current_status, allowed_actions}}: tell refusals apart by `type`, and read `detail` for the reason."
)


def create_server() -> MCPServer:
    """The server with all its tools."""
    server: MCPServer = MCPServer(
        "ke", title="Knowledge extraction", instructions=INSTRUCTIONS, version=version("ke"), log_level="WARNING"
    )
    server.add_tool(tools.crawl, title="Crawl a site", annotations=tools.FETCHES)
    server.add_tool(tools.scrape, title="Fetch pages", annotations=tools.FETCHES)
    server.add_tool(tools.get_job, title="Read a job", annotations=tools.READS)
    server.add_tool(tools.list_jobs, title="List jobs", annotations=tools.READS)
    server.add_tool(tools.search, title="Search", annotations=tools.READS)
    server.add_tool(tools.cancel_job, title="Cancel a job", annotations=tools.STOPS)
    server.add_tool(tools.retry_dead_letters, title="Retry what failed", annotations=tools.FETCHES)
    server.add_tool(tools.cleanup_job, title="Clean up after a job", annotations=tools.CLEANS)
    server.add_tool(tools.forget_source, title="Forget a page", annotations=tools.CLEANS)
    server.add_tool(tools.cleanup_project, title="Clean up after a project", annotations=tools.CLEANS)
    server.add_tool(tools.delete_job_record, title="Delete a job's record", annotations=tools.STOPS)
    return server


def main() -> None:
    """Serve until standard input ends."""
    try:
        create_server().run("stdio")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
