"""The tokens that a job may spend on a language model: reserved before a call, and settled after it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ke.contracts.errors import KeError


class BudgetSpent(KeError):
    """What is left of the job's budget of tokens is less than a call may take."""

    code = "budget-spent"


class Spending:
    """What the calls for one source have taken; read at any moment, also when a call was broken off."""

    def __init__(self) -> None:
        self.tokens_in = 0
        self.tokens_out = 0
        self.under_way = 0
        """Calls of which the answer is not there yet."""

    @property
    def has_begun(self) -> bool:
        """Whether a call was made that has cost something, or is under way."""
        return self.under_way > 0 or self.tokens_in > 0

    def add(self, tokens_in: int, tokens_out: int) -> None:
        """Counts a call."""
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out


@dataclass(slots=True)
class Part:
    """What a call holds of a budget, and has used in the end."""

    held: int
    used_in: int = 0
    used_out: int = 0

    def use(self, tokens_in: int, tokens_out: int) -> None:
        """Says what the call has taken."""
        self.used_in, self.used_out = tokens_in, tokens_out


class TokenBudget:
    """The budget of one job, of which its calls that are under way hold their parts.

    A call holds what its question is estimated to have, and all that the model may answer. Estimates are rather high,
    and grow with what is seen: so the limit is passed, if at all, by what the calls under way have more than they were
    estimated to have.
    """

    def __init__(self, limit: int | None, spent: int) -> None:
        """Takes the job's limit, None for none, and what it has spent before."""
        self._limit = limit
        self._spent = spent
        self._held = 0
        self._ratio = 1.0
        self._changed = asyncio.Condition()

    @property
    def limit(self) -> int | None:
        """Tokens of the whole job."""
        return self._limit

    @asynccontextmanager
    async def reserve(self, question_tokens: int, answer_tokens: int) -> AsyncIterator[Part]:
        """Holds the part of one call; waits while calls under way may still leave enough for it.

        Args:
            question_tokens: What it asks, estimated.
            answer_tokens: What it may be answered.

        Yields:
            The part, which is to be told what the call has used.

        Raises:
            BudgetSpent: It is not enough, and nothing is under way that could give anything back.
        """
        part = await self._take(question_tokens, answer_tokens)
        try:
            yield part
        finally:
            if part.used_in > question_tokens * self._ratio:
                self._ratio = part.used_in / question_tokens
            self._held -= part.held
            self._spent += part.used_in + part.used_out
            async with self._changed:
                self._changed.notify_all()

    async def _take(self, question_tokens: int, answer_tokens: int) -> Part:
        async with self._changed:
            while True:
                part = int(question_tokens * self._ratio) + answer_tokens
                if self._limit is None or self._spent + self._held + part <= self._limit:
                    self._held += part
                    return Part(part)
                if not self._held:
                    raise BudgetSpent(
                        f"The budget of {self._limit:,} tokens has {max(0, self._limit - self._spent):,} left, "
                        f"and a call may take {part:,}."
                    )
                await self._changed.wait()
