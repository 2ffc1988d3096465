"""How often a key may ask: a token bucket a key, in the state that all workers share."""

from __future__ import annotations

import math
import sqlite3
import time

from cascade.gateway.keys import Key
from cascade.gateway.state import State
from cascade.gateway.wire import Refused

MINUTE = 60.0


class Rates:
    """`rate` requests a minute for each key, all of them at once if need be, then one each time 60 / rate seconds are over."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def admit(self, key: Key | None) -> None:
        """Count a request. Raises Refused for one too many. While the state cannot be written nothing is counted, and all are admitted."""
        if key is None or key.rate is None:
            return
        name, rate, now = key.name, key.rate, time.time()
        try:
            wait = await self._state.do(lambda db: _take(db, name, rate, now), "process")
        except sqlite3.Error:
            return
        if wait:
            problem = Refused(429, "rate_limit", f"this key may ask {rate} times a minute; try again in {wait:.1f} s", retry=True)
            problem.headers = {"retry-after": str(math.ceil(wait)), "retry-after-ms": str(math.ceil(wait * 1000))}
            raise problem


def _take(db: sqlite3.Connection, name: str, rate: int, now: float) -> float:
    """Seconds to wait; 0 for one that is counted."""
    left, at = db.execute("SELECT left, at FROM rate WHERE key = ?", (name,)).fetchone() or (float(rate), now)
    if at > now + MINUTE:  # the clock was put back: nothing would come in until it is there again
        at = now
        db.execute("UPDATE rate SET at = ? WHERE key = ?", (now, name))
    left = min(float(rate), left + max(0.0, now - at) * rate / MINUTE)
    if left < 1:
        return (1 - left) * MINUTE / rate
    db.execute("INSERT INTO rate VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET left = excluded.left, at = excluded.at", (name, left - 1, max(at, now)))
    return 0.0
