"""The 15 fields as a pydantic model, for the clients that want one."""

from __future__ import annotations

from pydantic import create_model
from task import FIELDS

KINDS = {"string": str, "integer": int, "number": float, "boolean": bool}
Order = create_model("Order", **{name: (KINDS[kind], ...) for name, kind in FIELDS.items()})  # type: ignore[call-overload]
