"""Text for terminals: pure functions from values to short strings."""

import re
from datetime import UTC, datetime
from typing import Any, Final

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]+")
_KIB: Final = 1024
_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
_DAY_S: Final = 86_400


def printable(text: object) -> str:
    """A line of text from a web page made safe for a terminal: no escape sequence, no reordering mark."""
    return _CONTROL.sub(" ", str(text))


def clean(text: object) -> str:
    """Like `printable`, without the space around it."""
    return printable(text).strip()


def shorten(text: object, width: int) -> str:
    """Cleaned text, at most `width` characters long."""
    line = " ".join(clean(text).split())
    return line if len(line) <= width else f"{line[: max(width - 1, 0)].rstrip()}…"


def count(value: Any) -> str:
    """A whole number with thousands apart; a dash for what is not there."""
    return f"{value:,}" if isinstance(value, int) else "-"


def size(value_bytes: Any) -> str:
    """Bytes in the unit that fits: `512 B`, `1.5 KiB`."""
    if not isinstance(value_bytes, int | float):
        return "-"
    if value_bytes < _KIB:
        return f"{int(value_bytes)} B"
    value = float(value_bytes)
    for unit in ("KiB", "MiB", "GiB"):
        value /= _KIB
        if value < _KIB:
            return f"{value:.1f} {unit}"
    return f"{value / _KIB:.1f} TiB"


def money(micros: Any) -> str:
    """Millionths of whatever currency the operator's prices are in, as that: `0.0123`, `2.50`."""
    if not isinstance(micros, int):
        return "-"
    whole, part = divmod(micros, 1_000_000)
    return f"{whole:,}.{f'{part:06}'.rstrip('0'):0<2}"


def duration(seconds: Any) -> str:
    """Seconds as people say them: `0.42 s`, `12.3 s`, `4 min 05 s`, `2 h 10 min`, `3 d 4 h`."""
    if not isinstance(seconds, int | float):
        return "-"
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < _MINUTE_S:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} min {whole % _MINUTE_S:02d} s"
    if whole < _DAY_S:
        return f"{whole // _HOUR_S} h {whole % _HOUR_S // _MINUTE_S:02d} min"
    return f"{whole // _DAY_S} d {whole % _DAY_S // _HOUR_S} h"


def moment(stamp: Any) -> datetime | None:
    """The time an ISO 8601 string names, or None."""
    if not isinstance(stamp, str):
        return None
    try:
        parsed = datetime.fromisoformat(stamp)
    except ValueError:
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def age(stamp: Any, *, now: datetime | None = None) -> str:
    """How long ago an ISO 8601 time was, in one unit: `12s`, `5m`, `3h`, `2d`."""
    then = moment(stamp)
    if then is None:
        return "-"
    seconds = max(0, int(((now or datetime.now(UTC)) - then).total_seconds()))
    if seconds < _MINUTE_S:
        return f"{seconds}s"
    if seconds < _HOUR_S:
        return f"{seconds // _MINUTE_S}m"
    if seconds < _DAY_S:
        return f"{seconds // _HOUR_S}h"
    return f"{seconds // _DAY_S}d"


def local_time(stamp: Any) -> str:
    """An ISO 8601 time in the terminal's own time zone, to the second; a dash when there is none."""
    then = moment(stamp)
    return "-" if then is None else then.astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
