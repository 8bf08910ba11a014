"""Chunks by their words: BM25 in SQL, over the index of `extractions.words`.

Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009): a chunk's score is the sum,
over the query's words, of `idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / mean length))`.

Every number comes in bounded time, whatever the size of the corpus:

- How many chunks there are, and their mean length, is what the planner knows; a few thousand are counted where it
  knows nothing yet.
- In how many chunks a word is (df) is what Postgres's statistics say of the thousand commonest, and a count up to
  `MAX_DF` for the others, which are rare.
- Chunks are proposed by the rarest words, as many of them as are in `BUDGET` chunks together, and by pairs of the
  common ones, `BUDGET` chunks again; a common word alone proposes only where that finds too few. What a chunk scores
  counts all its words, whoever proposed it.
"""

import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, TSQUERY
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.storage.search import DOCUMENT, ChunkFilter, Document, showable
from ke.storage.tables import extractions

K1: Final = 1.2
B: Final = 0.75
"""The usual values."""
MAX_TERMS: Final = 32
"""Words of a query that count: its first different ones."""
MAX_DF: Final = 2000
"""A word is counted up to this many chunks."""
BUDGET: Final = 2000
"""Chunks that one step scores, at most."""
PAIRED: Final = 4
"""Of the common words, those that propose by twos."""

_EXACT: Final = 5000
"""Chunks that are counted and measured where the planner has no statistics yet."""
_DEFAULT_LENGTH: Final = 150.0


@dataclass(frozen=True, slots=True)
class Term:
    """A stem of a query."""

    lexeme: str
    chunks: int
    """How many have it (df); `MAX_DF` may stand for more."""
    idf: float


@dataclass(frozen=True, slots=True)
class TextQuery:
    """A query's stems, the rarest first, and what the corpus is like; stems that no chunk has are left out."""

    terms: tuple[Term, ...]
    mean_length: float
    """Of a chunk, in tokens."""

    @property
    def bound(self) -> float:
        """What no score reaches."""
        return sum(term.idf for term in self.terms) * (K1 + 1)


@dataclass(frozen=True, slots=True)
class TextHit:
    """A chunk that has some of a query's words."""

    id: uuid.UUID
    source_id: uuid.UUID
    document: Document
    """What that source is a copy of."""
    score: float


async def read_query(connection: AsyncConnection, query: str) -> TextQuery:
    """Stems of a query, and how common each is; no terms when it has none but the commonest words of English."""
    chunks, mean_length = await _corpus(connection)
    known = {
        record.lexeme: record.share
        for record in await connection.execute(_LEXEMES, {"query": query, "most": MAX_TERMS})
    }
    rare = [lexeme for lexeme, share in known.items() if share is None]
    counts = {lexeme: round(share * chunks) for lexeme, share in known.items() if share is not None}
    if rare:
        values = {"lexemes": rare, "queries": [_quoted(lexeme) for lexeme in rare], "most": MAX_DF}
        counts |= {record.lexeme: record.df for record in await connection.execute(_COUNT, values)}
    terms = [Term(lexeme, df, _idf(df, chunks)) for lexeme, df in counts.items() if df]
    return TextQuery(tuple(sorted(terms, key=lambda term: term.chunks)), mean_length)


async def best_by_words(
    connection: AsyncConnection, query: TextQuery, matching: ChunkFilter, *, limit: int
) -> tuple[list[TextHit], bool]:
    """The chunks that score best, and whether there may be more that were not looked at.

    Args:
        connection: The transaction, with `prefer_indexes`.
        query: What `read_query` made of the query.
        matching: What the chunks must fit.
        limit: Chunks, at most.
    """
    found: dict[uuid.UUID, TextHit] = {}
    must, may = _steps(query.terms)
    cut = False
    for number, proposing in enumerate([*must, *may]):
        if number >= len(must) and len(found) >= limit:
            cut = True
            break
        proposed = sa.cast(sa.literal(proposing, sa.Text), TSQUERY)
        chunks = showable(_SCORED, matching).where(extractions.c.words.op("@@", is_comparison=True)(proposed))
        hits, looked_at = await _score(connection, query, chunks.limit(BUDGET), limit)
        cut = cut or looked_at >= BUDGET or looked_at > len(hits)
        found |= {hit.id: hit for hit in hits}
    ranked = sorted(found.values(), key=lambda hit: (-hit.score, hit.id))
    return ranked[:limit], cut or len(ranked) > limit


async def score_by_words(
    connection: AsyncConnection, query: TextQuery, ids: Sequence[uuid.UUID], matching: ChunkFilter, *, limit: int
) -> list[TextHit]:
    """Those of some chunks that may be shown and fit, the best `limit` of them first; 0 for one without the words."""
    if not ids:
        return []
    these = sa.bindparam(None, list(ids), type_=ARRAY(sa.UUID(as_uuid=True)), unique=True)
    chunks = showable(_SCORED, matching).where(extractions.c.id == sa.any_(these))
    hits, _ = await _score(connection, query, chunks, limit)
    return hits


_SCORED: Final = (extractions.c.id, extractions.c.source_id, *DOCUMENT, extractions.c.words, extractions.c.tokens)

_LEXEMES: Final = sa.text(
    # The statistics have a list of lexemes and one of shares, which ends in a few numbers more.
    "WITH told AS MATERIALIZED (SELECT told.lexeme, told.share FROM pg_stats AS s,"
    " unnest(s.most_common_elems::text::text[], s.most_common_elem_freqs) AS told(lexeme, share)"
    " WHERE s.schemaname = current_schema() AND s.tablename = 'extractions' AND s.attname = 'words')"
    " SELECT q.lexeme, told.share FROM unnest(to_tsvector('english', :query)) AS q LEFT JOIN told USING (lexeme)"
    " ORDER BY q.positions[1] LIMIT :most"
)
_COUNT: Final = sa.text(
    "SELECT q.lexeme, (SELECT count(*) FROM (SELECT 1 FROM extractions"
    "  WHERE words @@ q.query::tsquery AND state = 'ready' LIMIT :most) AS few) AS df"
    " FROM unnest(CAST(:lexemes AS text[]), CAST(:queries AS text[])) AS q(lexeme, query)"
)
_CORPUS: Final = sa.text(
    "SELECT c.reltuples AS rows, c.relpages AS pages,"
    " pg_relation_size(c.oid) / current_setting('block_size')::int AS now,"
    " s.most_common_vals::text::int[] AS common, s.most_common_freqs AS shares,"
    " s.histogram_bounds::text::int[] AS bounds"
    " FROM pg_class AS c LEFT JOIN pg_stats AS s ON s.schemaname = current_schema()"
    " AND s.tablename = 'extractions' AND s.attname = 'tokens' WHERE c.oid = 'extractions'::regclass"
)
_FIRST: Final = sa.text(
    "SELECT count(*) AS rows, avg(tokens) AS length FROM (SELECT tokens FROM extractions LIMIT :most) AS few"
)


async def _corpus(connection: AsyncConnection) -> tuple[float, float]:
    """How many chunks there are, about, and their mean length in tokens."""
    told = (await connection.execute(_CORPUS)).one()
    if told.rows > 0 and told.pages > 0 and (told.shares or told.bounds):
        chunks = told.rows / told.pages * told.now  # as the planner reckons
        return max(chunks, 1.0), _mean(told.common or [], told.shares or [], told.bounds or [])
    first = (await connection.execute(_FIRST, {"most": _EXACT})).one()
    return max(float(first.rows), 1.0), float(first.length or _DEFAULT_LENGTH)


def _mean(common: Sequence[int], shares: Sequence[float], bounds: Sequence[int]) -> float:
    """The mean of a column by its statistics: its commonest values, and between two bounds as many each of the rest."""
    middle = sum(low + high for low, high in pairwise(bounds)) / 2 / max(len(bounds) - 1, 1)
    named = sum(value * share for value, share in zip(common, shares, strict=True))
    return named + middle * max(1 - sum(shares), 0.0)


def _idf(df: int, chunks: float) -> float:
    """`ln(1 + (N - df + 0.5) / (df + 0.5))`: never below 0, though df may be of a later moment than N."""
    return math.log((max(chunks, df) + 1) / (df + 0.5))


def _steps(terms: Sequence[Term]) -> tuple[list[str], list[str]]:
    """The tsqueries that propose chunks: those that always do, and those for when there are too few."""
    rare: list[Term] = []
    for term in terms:
        if sum(other.chunks for other in rare) + term.chunks > BUDGET:
            break
        rare.append(term)
    common = terms[len(rare) :]
    pairs = [(one, other) for i, one in enumerate(common[:PAIRED]) for other in common[i + 1 : PAIRED]]
    must = [" | ".join(_quoted(term.lexeme) for term in rare)] if rare else []
    must += [" | ".join(f"{_quoted(a.lexeme)} & {_quoted(b.lexeme)}" for a, b in pairs)] if pairs else []
    return must, [_quoted(term.lexeme) for term in common]


_TERMS: Final = (
    sa.text(
        "SELECT given.query::tsquery AS query, given.idf, CAST(:mean_length AS float8) AS mean_length"
        " FROM unnest(CAST(:queries AS text[]), CAST(:idfs AS float8[])) AS given(query, idf)"
    )
    .columns(sa.column("query", TSQUERY), sa.column("idf", sa.Double))
    .cte("terms")
    .prefix_with("MATERIALIZED")
)
_BM25: Final = sa.literal_column(
    # How often a word is in a chunk (tf) is told by `ts_rank`, which is in C and finds the word by bisection: to unnest
    # the whole vector takes three times as long. With equal weights the rank of one word is the sum of 1/i^2 for i = 1
    # to tf, divided by that of the endless series, pi^2/6 (PostgreSQL's tsrank.c, calc_rank_or); what is missing of the
    # series is 1/(tf + 1/2), so nearly that rounding gives tf. OFFSET 0: else the rank is worked out at each mention.
    "(SELECT sum(terms.idf * t.tf * (:k1 + 1) / (t.tf + :k1 * (1 - :b + :b * proposed.tokens / terms.mean_length)))"
    " FROM terms,"
    " LATERAL (SELECT ts_rank('{1,1,1,1}', proposed.words, terms.query)::float8 AS rank OFFSET 0) AS r,"
    " LATERAL (SELECT round(1 / (greatest(1 - r.rank, 1e-5) * (pi() ^ 2 / 6)) - 0.5) AS tf OFFSET 0) AS t"
    " WHERE r.rank > 0)".replace(":k1", str(K1)).replace(":b", str(B)),
    sa.Double,
)


async def _score(
    connection: AsyncConnection, query: TextQuery, chunks: "sa.Select[Any]", limit: int
) -> tuple[list[TextHit], int]:
    """Scores what a statement proposes; returns the best, and how many were proposed."""
    proposed = chunks.cte("proposed").prefix_with("MATERIALIZED")
    statement = (
        sa.select(
            proposed.c.id,
            proposed.c.source_id,
            *(proposed.c[column.name] for column in DOCUMENT),
            _BM25.label("score"),
            sa.func.count().over().label("proposed"),
        )
        .add_cte(_TERMS)
        .order_by(sa.desc("score").nulls_last(), proposed.c.id)
        .limit(limit)
    )
    values = {"queries": [_quoted(term.lexeme) for term in query.terms], "idfs": [term.idf for term in query.terms]}
    values |= {"mean_length": query.mean_length}
    records = (await connection.execute(statement, values)).all()
    hits = [TextHit(r.id, r.source_id, Document(r.project, r.url, r.content_hash), r.score or 0.0) for r in records]
    return hits, records[0].proposed if records else 0


def _quoted(lexeme: str) -> str:
    """As a tsquery has it, whatever is in it."""
    return "'" + lexeme.replace("\\", r"\\").replace("'", "''") + "'"


async def mark_words(
    connection: AsyncConnection, query: str, ids: Sequence[uuid.UUID], marks: tuple[str, str]
) -> dict[uuid.UUID, str]:
    """The texts of some chunks with each word of the query between two marks, by the stems that they are found by.

    Angle brackets are blanks in them, as they are to the index.

    Args:
        connection: The transaction.
        query: As it was asked.
        ids: A hundred chunks or so.
        marks: What is put before and behind a word: letters and digits that are in none of the texts.
    """
    found = await connection.execute(_LEXEMES, {"query": query, "most": MAX_TERMS})
    lexemes = [record.lexeme for record in found]
    if not lexemes or not ids:
        return {}
    values = {
        "ids": list(ids),
        "query": " | ".join(map(_quoted, lexemes)),
        "options": f"HighlightAll=true, StartSel={marks[0]}, StopSel={marks[1]}",
    }
    return {record.id: record.text for record in await connection.execute(_HEADLINES, values)}


_HEADLINES: Final = sa.text(
    "SELECT id, ts_headline('english', translate(text, '<>', '  '), CAST(CAST(:query AS text) AS tsquery), :options)"
    " AS text"
    " FROM extractions WHERE id = ANY(:ids)"
)
