"""The MCP server over stdio: `ke mcp`, or `python -m ke.mcp.server`.

Standard output carries the protocol and nothing else; logs go to standard error.
"""

import sys
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any, Final

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult, ToolAnnotations
from pydantic import ValidationError

from ke.mcp import record_tools, source_tools, tools
from ke.mcp.calls import refused_arguments

INSTRUCTIONS: Final = (
    "Turns web sites into a searchable knowledge base by durable jobs. Start one with `crawl` (a site) or `scrape` "
    "(a list of pages), follow it with `get_job`, and ask it with `search`. `list_sources` and "
    "`read_source` give whole pages, `list_pages` what became of each address. `extract_records` has a language model "
    "read records out of stored pages by a JSON Schema; `list_records` shows them. `summarize_dead_letters` counts "
    "what failed for good by error, `list_dead_letters` tells it one by one, and `retry_dead_letters` tries it again. "
    "`cancel_job` stops a job; `cleanup_job` "
    "deletes what an ended job made and gives a receipt, `forget_source` does so for one page, `cleanup_project` for "
    "all jobs of a project; `delete_job_record` removes the job itself. "
    'A refused call is an error whose structured content is {"error": {type, title, status, detail, '
    "current_status, allowed_actions}}: tell refusals apart by `type`, and read `detail` for the reason."
)


def create_server() -> MCPServer:
    """The server with all its tools."""
    served = [
        _strict(tools.crawl, "Crawl a site", tools.FETCHES),
        _strict(tools.scrape, "Fetch pages", tools.FETCHES),
        _strict(tools.get_job, "Read a job", tools.READS),
        _strict(tools.list_jobs, "List jobs", tools.READS),
        _strict(tools.search, "Search", tools.READS),
        _strict(source_tools.list_sources, "List stored pages", tools.READS),
        _strict(source_tools.read_source, "Read a stored page", tools.READS),
        _strict(source_tools.list_pages, "List what became of each address", tools.READS),
        _strict(tools.list_entities, "List entities", tools.READS),
        _strict(tools.entity_neighbours, "List what is mentioned together", tools.READS),
        _strict(record_tools.extract_records, "Read records out of pages", tools.FETCHES),
        _strict(record_tools.list_records, "List records", tools.READS),
        _strict(tools.cancel_job, "Cancel a job", tools.STOPS),
        _strict(tools.list_dead_letters, "List what failed", tools.READS),
        _strict(tools.summarize_dead_letters, "Count what failed by error", tools.READS),
        _strict(tools.retry_dead_letters, "Retry what failed", tools.FETCHES),
        _strict(tools.get_retry, "Read a retry", tools.READS),
        _strict(tools.cleanup_job, "Clean up after a job", tools.CLEANS),
        _strict(tools.forget_source, "Forget a page", tools.CLEANS),
        _strict(tools.cleanup_project, "Clean up after a project", tools.CLEANS),
        _strict(tools.delete_job_record, "Delete a job's record", tools.STOPS),
    ]
    return MCPServer(
        "ke",
        title="Knowledge extraction",
        instructions=INSTRUCTIONS,
        version=version("ke"),
        tools=served,
        log_level="WARNING",
    )


class _StrictTool(Tool):
    """A tool that refuses arguments it does not have, and says in one line what does not fit.

    The SDK drops them: a limit in the wrong place would start a job without it.
    """

    async def run(self, arguments: dict[str, Any], context: Context[Any, Any], convert_result: bool = False) -> Any:  # noqa: FBT001, FBT002  (the SDK's own)
        """Run the tool; arguments that do not fit are a refusal like any other."""
        try:
            return await super().run(arguments, context, convert_result)
        except ToolError as error:
            if not isinstance(error.__cause__, ValidationError):
                raise
            return refused_arguments(self.name, error.__cause__, list(self.parameters["properties"]))


def _strict(function: Callable[..., Awaitable[CallToolResult]], title: str, hints: ToolAnnotations) -> Tool:
    tool = _StrictTool.from_function(function, title=title, annotations=hints)
    arguments = tool.fn_metadata.arg_model
    arguments.model_config["extra"] = "forbid"
    arguments.model_rebuild(force=True)
    tool.parameters = arguments.model_json_schema(by_alias=True)
    return tool


def main() -> None:
    """Serve until standard input ends."""
    try:
        create_server().run("stdio")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
