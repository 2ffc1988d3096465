
from __future__ import annotations

from cascade.testing.cassette import cassette
from cascade.testing.network import NetworkBlocked, no_network

__all__ = ["NetworkBlocked", "cassette", "no_network"]
