"""`ke`: the command line, put together."""

import sys
from collections.abc import Sequence

import typer

from ke.cli import (
    dead_letters,
    doctor,
    entities,
    jobs,
    projects,
    record_options,
    records,
    search,
    sources,
    submit,
    system,
)
from ke.cli.errors import EXIT_CODES_HELP, CommandFailed, ExitCode, report, wrong_usage
from ke.wrong_values import detail_of

app = typer.Typer(
    name="ke",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog=EXIT_CODES_HELP,
    help=(
        "Turn web sites and documents into a searchable knowledge base, by durable jobs that can be stopped, "
        "cleaned up and deleted without a trace."
    ),
)
JOBS, SYSTEM = "Jobs", "System"

app.command(rich_help_panel=JOBS)(submit.crawl)
app.command(rich_help_panel=JOBS)(submit.scrape)
app.command(rich_help_panel=JOBS)(submit.extract)
app.command(rich_help_panel=JOBS)(search.search)
app.add_typer(jobs.app, name="jobs", rich_help_panel=JOBS)
app.add_typer(sources.app, name="sources", rich_help_panel=JOBS)
app.add_typer(entities.app, name="entities", rich_help_panel=JOBS)
app.add_typer(record_options.records, name="records", rich_help_panel=JOBS)
app.add_typer(projects.app, name="projects", rich_help_panel=JOBS)
app.add_typer(records.receipts, name="receipts", rich_help_panel=JOBS)
app.add_typer(dead_letters.app, name="dead-letters", rich_help_panel=JOBS)
app.add_typer(records.retries, name="retries", rich_help_panel=JOBS)
app.command(rich_help_panel=SYSTEM)(system.up)
app.command(rich_help_panel=SYSTEM)(system.init)
app.command(rich_help_panel=SYSTEM)(doctor.doctor)
app.command(
    rich_help_panel=SYSTEM,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)(system.temporal)
app.command(rich_help_panel=SYSTEM)(system.mcp)
app.command(rich_help_panel=SYSTEM)(system.version)


def run(arguments: Sequence[str]) -> int:
    """Run one command.

    Args:
        arguments: What follows `ke` on the command line.

    Returns:
        The exit code, one of `ExitCode` or what the command gave.
    """
    as_json = "--json" in arguments
    try:
        result = app(args=list(arguments), prog_name="ke", standalone_mode=False)
    except CommandFailed as error:
        report(error, as_json=as_json)
        return int(error.code)
    except typer.Abort:
        return int(ExitCode.INTERRUPTED)
    except typer.TyperException as error:
        if said := _said(error):  # nothing: it is `ke` alone, whose help was printed
            report(wrong_usage(said), as_json=as_json)
        return int(ExitCode.USAGE)
    return result if isinstance(result, int) else int(ExitCode.OK)


def _said(error: typer.TyperException) -> str:
    """What typer says; where it had pydantic check a value, and passes on what that says, in our words."""
    from pydantic import ValidationError  # noqa: PLC0415  (slow to import: not for `ke --help`)

    said = error.format_message()
    if not isinstance(error.__cause__, ValidationError):
        return said
    ours = detail_of(error.__cause__.errors()[0])
    return said.replace(error.message, ours if error.message.endswith(".") else ours.removesuffix("."))


def main() -> None:
    """The console script."""
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = int(ExitCode.INTERRUPTED)
    sys.exit(code)
