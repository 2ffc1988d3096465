"""A ladder of three small real models on this machine: fetch them, serve them, stop them.

`fetch` puts the pinned weights into the cache folder, `start` serves each on 127.0.0.1, `status` and `stop` find what runs,
`ladder` does it all for the length of a `with` block.
"""

from __future__ import annotations

from cascade.local.models import LADDER, LocalError, LocalModel, model
from cascade.local.servers import Running, ladder, start, status, stop
from cascade.local.weights import fetch, shown

__all__ = ["LADDER", "LocalError", "LocalModel", "Running", "fetch", "ladder", "model", "shown", "start", "status", "stop"]
