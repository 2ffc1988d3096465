"""The command line: a command parses, calls one library function and shows the result. Data on stdout, all else on stderr.

Exit codes: 0 done · 1 not accepted, or a --strict condition held · 2 wrong usage, policy or input · 3 stopped early, run it again.
"""

from __future__ import annotations

import logging
import os
import sys

DONE, NOT_ACCEPTED, WRONG, STOPPED = 0, 1, 2, 3


def main() -> None:
    """The entry point of `cascade`."""
    from cascade.cli.app import app
    from cascade.errors import CascadeError

    logging.basicConfig(format="cascade: %(message)s", level=logging.WARNING)
    try:
        app()
    except CascadeError as err:
        print(err, file=sys.stderr)
        sys.exit(WRONG)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(STOPPED)
    except BrokenPipeError:  # `cascade … | head`: what was wanted has been read
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(DONE)
