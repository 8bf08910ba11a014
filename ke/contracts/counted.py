"""Numbers of things in messages, as people write them."""


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number of things with thousands apart: `1 dead letter`, `1,450 entities`.

    Args:
        number: How many.
        one: What one of them is called.
        many: What several are; `one` with an `s` where it is not given.
    """
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"
