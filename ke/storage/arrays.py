"""Lists of values in statements."""

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY


def among(column: sa.Column[Any], values: Iterable[Any]) -> sa.ColumnElement[bool]:
    """Whether the column is one of the values: one statement, whatever their number.

    `IN` of a list is another one for each length, compiled and prepared anew.
    """
    return column == sa.any_(sa.bindparam(None, list(values), type_=ARRAY(column.type)))


def among_found(column: sa.Column[Any], found: sa.Select[Any]) -> sa.ColumnElement[bool]:
    """Whether the column is one of the values that a query finds, which is executed once.

    `IN` of a query that locks what it finds is executed again for each row that is compared, where the planner expects
    one: 80 claims of a crawl of 1,169 pages did so 98,000 times.
    """
    return column == sa.any_(sa.func.array(found.scalar_subquery()))


def among_given(column: sa.Column[Any], name: str) -> sa.ColumnElement[bool]:
    """The same of the list that is given by this name when the statement is executed."""
    return column == sa.any_(sa.bindparam(name, type_=ARRAY(column.type)))
