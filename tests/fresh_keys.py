"""For schemathesis: each request that has a sound Idempotency-Key gets one of its own, or nearly all would be refused as repeats of others."""

from __future__ import annotations

import uuid
from typing import Any

import schemathesis


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    given = (case.headers or {}).get("Idempotency-Key")
    if isinstance(given, str) and 1 <= len(given) <= 255 and given.isascii() and given.isprintable():
        case.headers["Idempotency-Key"] = uuid.uuid4().hex
