"""In which order lanes lock the tasks that they share: by `seq`, so that none waits for another one in a circle.

The extract lane and the records lane move on the same rows, each under columns of its own.
"""

import sqlalchemy as sa

from ke.storage.arrays import among_found


def locked(tasks: sa.Table, *conditions: sa.ColumnElement[bool], limit: int | None = None) -> sa.ColumnElement[bool]:
    """Whether a task is one of the first that fit, at most `limit`, which are locked one after the other.

    For a statement that writes them; it needs the job among its conditions once more.
    """
    found = sa.select(tasks.c.source_id).where(*conditions).order_by(tasks.c.seq).limit(limit)
    return among_found(tasks.c.source_id, found.with_for_update(of=tasks))
