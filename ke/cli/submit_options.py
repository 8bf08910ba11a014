"""Options and arguments of the commands that submit jobs."""

from typing import Annotated, Literal

import typer

from ke.cli.options import parse_job_id, parse_label, parse_project, parse_seconds, parse_source_id

Urls = Annotated[
    list[str] | None,
    typer.Argument(metavar="URL...", help="http or https addresses; those of --recrawl-of when not given."),
]
Extract = Annotated[
    bool | None,
    typer.Option(
        "--extract/--no-extract",
        help="Turn the pages into chunks, vectors and entities too (the default).",
        show_default=False,
    ),
]
Reading = Annotated[
    Literal["thorough", "fast"] | None,
    typer.Option(metavar="HOW", help="How to find a page's content: thorough (the default), or fast."),
]
ChunkSize = Annotated[
    int | None, typer.Option(metavar="N", help="Sources in a batch of the extraction; all in one pass when not given.")
]
ChunkTokens = Annotated[int | None, typer.Option(metavar="N", help="Tokens in a chunk, at most (256 by default).")]
Embedder = Annotated[
    str | None, typer.Option(metavar="NAME", help="What makes the vectors: wordllama (the default), or minilm.")
]
Entities = Annotated[
    bool | None,
    typer.Option("--entities/--no-entities", help="Look for named entities (the default).", show_default=False),
]
RecrawlOf = Annotated[
    str | None,
    typer.Option(
        "--recrawl-of",
        metavar="JOB",
        parser=parse_job_id,
        help="Ask for this job's pages again, and take only what has changed since; options that are not given are "
        "that job's, labels aside.",
    ),
]
ForgetReplaced = Annotated[
    bool,
    typer.Option(
        "--forget-replaced",
        help="With --recrawl-of: in the end delete the earlier documents of pages that changed or are gone, also of "
        "those that an earlier re-crawl of the chain had found so.",
    ),
]
MaxGoneShare = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        metavar="SHARE",
        help="With --forget-replaced: how much of what is found, there or gone, may be gone for its documents to be "
        "deleted (0.5 when not given); 1: whatever is gone.",
    ),
]
Rendered = Annotated[
    bool | None,
    typer.Option(
        "--browser/--no-browser",
        help="Let the worker's Chromium run the pages' scripts before they are read.",
        show_default=False,
    ),
]
Project = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        parser=parse_project,
        help="What the job belongs to (default, when not given; of a re-crawl the earlier job's).",
    ),
]
ProjectOfSources = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", parser=parse_project, help="What the job belongs to (the project of the sources, if not given)."
    ),
]
Labels = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="KEY=VALUE", parser=parse_label, help="A label of yours; may be repeated."),
]
Key = Annotated[
    str | None, typer.Option("--key", metavar="KEY", help="Idempotency key: the same key gives the same job.")
]
Watch = Annotated[bool, typer.Option("--watch", help="Follow the job until it ends.")]
WaitQuietly = Annotated[bool, typer.Option("--wait", help="Wait for the end, without progress.")]

MaxPages = Annotated[int | None, typer.Option(metavar="N", help="Pages, at most (500 by default).")]
MaxDepth = Annotated[int | None, typer.Option(metavar="N", help="Links from a seed, at most (5).")]
MaxBytes = Annotated[int | None, typer.Option(metavar="N", help="Bytes of all pages, at most.")]
MaxSeconds = Annotated[int | None, typer.Option(metavar="N", help="Seconds of fetching, at most.")]
Include = Annotated[list[str] | None, typer.Option(metavar="REGEX", help="Follow only URLs that match one of these.")]
Exclude = Annotated[list[str] | None, typer.Option(metavar="REGEX", help="Never follow URLs that match.")]
DropParam = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Leave this query parameter out of every URL; * for any characters (utm_*)."),
]
AnyHost = Annotated[
    bool | None,
    typer.Option(
        "--any-host/--same-host",
        help="Follow links to other hosts than those of the seeds too, or do not (the default).",
        show_default=False,
    ),
]
Sitemaps = Annotated[
    bool | None,
    typer.Option("--sitemaps/--no-sitemaps", help="Read the sites' sitemaps (the default).", show_default=False),
]
Robots = Annotated[
    bool | None,
    typer.Option(
        "--robots/--no-robots",
        help="Obey robots.txt (the default); ignore it only on sites that are yours.",
        show_default=False,
    ),
]
Delay = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", parser=parse_seconds, help="Between two requests to one host (0 by default)."),
]
Concurrency = Annotated[int | None, typer.Option(metavar="N", help="Requests to one host at once (8).")]
OfJob = Annotated[
    str | None,
    typer.Argument(
        metavar="JOB", parser=parse_job_id, help="Extract all that this job has stored; or", show_default=False
    ),
]
OfSources = Annotated[
    list[str] | None,
    typer.Option("--source", metavar="ID", parser=parse_source_id, help="exactly this source; may be repeated."),
]
