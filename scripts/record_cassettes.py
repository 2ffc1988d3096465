"""Records the demo's cassettes anew: the shipped ladder through the real SDKs against the local models. Needs the extra `local`.

    python scripts/record_cassettes.py
"""

from __future__ import annotations

from cascade import demo, local
from cascade.cli.demo import comparison


def main() -> None:
    with local.shown() as progress:
        local.fetch(None, progress)
    with local.ladder():
        played = demo.play("all", lambda: print(".", end="", flush=True))
    print()
    print("\n".join(comparison(played)))


if __name__ == "__main__":
    main()
