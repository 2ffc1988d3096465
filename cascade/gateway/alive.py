"""Which processes still run: each holds a lock on a file of its own, which the kernel takes from it however it ends."""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path


class Alive:
    """This process among those of `folder`, by a `name` of its own. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)
        for left in folder.iterdir():
            self.of(left.name)
        self.name, self._file = self._hold()

    def _hold(self) -> tuple[str, int]:
        while True:
            name = secrets.token_hex(8)
            file = os.open(self.folder / name, os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(file, fcntl.LOCK_EX)
            if (self.folder / name).exists():
                return name, file
            os.close(file)  # one that looked in between took it for a dead one's

    def of(self, name: str) -> bool:
        """Whether that process runs. What a dead one left is swept away."""
        try:
            file = os.open(self.folder / name, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            (self.folder / name).unlink(missing_ok=True)
            return False
        finally:
            os.close(file)

    def close(self) -> None:
        """This process is dead to the others."""
        (self.folder / self.name).unlink(missing_ok=True)
        os.close(self._file)
