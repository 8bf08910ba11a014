"""Structured logs: one JSON object a line, from our own code and from every library alike."""

import logging
import sys
from typing import IO, Final

import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, Processor, WrappedLogger

LIBRARY_LOGGERS: Final = ("uvicorn", "uvicorn.error", "uvicorn.access")
"""Loggers to which their library gives handlers of its own."""
QUIET_LOGGERS: Final = ("httpx", "httpcore", "asyncio", "sqlalchemy", "trafilatura", "alembic.runtime.plugins")
"""Loggers that say at INFO what nobody asks for."""


def configure(process: str, level: str = "INFO", *, stream: IO[str] | None = None) -> None:
    """Sends all logs of this process, structlog's and the standard library's, to one stream as JSON lines.

    Call it first thing in a process's entry point; calling it again replaces what was set.

    Args:
        process: Which process this is: `worker`, `gateway`, ...; on each line as `process`.
        level: DEBUG, INFO, WARNING, ERROR or CRITICAL, in any case.
        stream: Where the lines go; standard error by default, which the supervisor sends to the process's log file.

    Raises:
        ValueError: There is no such level.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"{level!r} is no log level: KE_LOG_LEVEL is one of DEBUG, INFO, WARNING, ERROR, CRITICAL")

    def add_process(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["process"] = process
        return event

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_process,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_json_formatter(shared))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(number)
    for name in LIBRARY_LOGGERS:
        library = logging.getLogger(name)
        # Where it has none, the access log is off, and stays so.
        if library.handlers:
            library.handlers.clear()
            library.propagate = True
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))
    logging.captureWarnings(capture=True)


def _json_formatter(shared: list[Processor]) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _drop_colours,
            # Without local variables: they hold page texts and passwords, and rendering them imports half of `rich`,
            # which the workflow sandbox forbids.
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            # `default`: a value that JSON has no form for is shown, never an error.
            structlog.processors.JSONRenderer(default=str),
        ],
    )


def _drop_colours(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Takes out the second form of its messages that uvicorn adds for terminals."""
    event.pop("color_message", None)
    return event
