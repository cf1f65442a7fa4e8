"""A token bucket that reserves, and is settled as if it had known the use from the start.

What is taken for a request counts as used until its hold is settled. What it then gives back
raises the level by only as much as would still be there had it never been taken: a full bucket
lets nothing more flow in, so a use now cannot be paid twice, from what flowed in meanwhile and
from what comes back. So of whatever was taken between any two moments at most a bucket and what
flowed in between them is used, and no flow is lost to a long request.

Levels count tokens times the nanoseconds of a minute, in whole numbers: nothing is rounded.
"""

from __future__ import annotations

_MINUTE = 60 * 10**9


class Hold:
    """What was taken for one request that has not said yet what it used."""

    __slots__ = ("amount", "room")

    def __init__(self, amount: int, room: int) -> None:
        self.amount = amount
        self.room = room
        """The least room the bucket had since, until the next hold began."""


class Bucket:
    """A token bucket that is full at first and refills in a minute."""

    def __init__(self, per_minute: int, now: int) -> None:
        self.per_minute = per_minute
        self._full = per_minute * _MINUTE
        self._room = 0
        self._at = now
        self._holds: list[Hold] = []

    def wait(self, amount: int, now: int) -> int:
        """Return the nanoseconds until `amount` can be taken: 0 where it can be now."""
        self._flow(now)
        short = amount * _MINUTE - (self._full - self._room)
        return max(0, -(-short // self.per_minute))

    def spend(self, amount: int, now: int) -> bool:
        """Take `amount` for good and return True, or take nothing."""
        if self.wait(amount, now):
            return False
        self._room += amount * _MINUTE
        return True

    def hold(self, amount: int, now: int) -> Hold | None:
        """Take `amount` until it is settled, or take nothing and return None."""
        if not self.spend(amount, now):
            return None
        self._holds.append(Hold(amount, self._room))
        return self._holds[-1]

    def settle(self, hold: Hold, used: int, now: int) -> None:
        """Give back what `hold` did not use, or take from now on what it used beyond: a debt.

        It takes a step for each hold that began later, of which there are as many as requests run.
        """
        self._flow(now)
        at = self._holds.index(hold)
        back = (hold.amount - used) * _MINUTE
        if back > 0:
            for later in self._holds[at:]:
                later.room, back = max(0, later.room - back), min(back, later.room)
        self._room -= back
        if at:
            earlier = self._holds[at - 1]
            earlier.room = min(earlier.room, hold.room)
        del self._holds[at]

    def left(self, now: int) -> int:
        """Return how many could be taken now."""
        self._flow(now)
        return max(0, (self._full - self._room) // _MINUTE)

    def full_in(self, now: int) -> int:
        """Return the nanoseconds until the bucket is full."""
        self._flow(now)
        return -(-self._room // self.per_minute)

    def _flow(self, now: int) -> None:
        # a clock that steps back must not drain what was there
        gone = max(0, now - self._at)
        self._at = max(self._at, now)
        self._room = max(0, self._room - gone * self.per_minute)
        if self._holds:
            last = self._holds[-1]
            last.room = min(last.room, self._room)
