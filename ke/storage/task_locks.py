"""In which order lanes lock the tasks that they share: by `seq`, so that none waits for another one in a circle.

The extract lane and the records lane move on the same rows, each under columns of its own.
"""

from typing import Any

import sqlalchemy as sa


def locked(tasks: sa.Table, *conditions: sa.ColumnElement[bool], limit: int | None = None) -> sa.ScalarSelect[Any]:
    """The sources of the first tasks that fit, at most `limit`, which are locked one after the other as it is read.

    For `source_id IN (...)` in a statement that writes them; it needs the job among the conditions once more.
    """
    found = sa.select(tasks.c.source_id).where(*conditions).order_by(tasks.c.seq).limit(limit)
    return found.with_for_update(of=tasks).scalar_subquery()
