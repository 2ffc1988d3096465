"""For the tests of those who use cascade: cassettes of real calls, a scripted provider, a network switch. See docs/testing.md."""

from __future__ import annotations

from cascade.providers.recorded import Recorded, recording
from cascade.providers.scripted import Scripted
from cascade.testing.cassette import cassette
from cascade.testing.network import NetworkBlocked, no_network

__all__ = ["NetworkBlocked", "Recorded", "Scripted", "cassette", "no_network", "recording"]
