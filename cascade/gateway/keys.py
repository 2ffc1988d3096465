"""Who may ask: keys by their SHA-256, so that the file tells nobody a key."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from pathlib import Path

from cascade.errors import InputError

LINE = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,79})\s+([0-9a-f]{64})")


class Keys:
    """The keys of a file with lines `NAME SHA256`; empty lines and those with # are passed over. InputError with file:line for others."""

    def __init__(self, path: str) -> None:
        self._names: dict[bytes, str] = {}
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as err:
            raise InputError(f"{path}: {getattr(err, 'strerror', None) or err}") from err
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            match = LINE.fullmatch(line.strip())
            if match is None:
                raise InputError(f"{path}:{number}: a line is NAME SHA256, the second 64 hexadecimal digits; cascade serve --new-key NAME makes one")
            if match[1] in self._names.values():
                raise InputError(f"{path}:{number}: the name {match[1]} stands there already")
            self._names[bytes.fromhex(match[2])] = match[1]
        if not self._names:
            raise InputError(f"{path}: there is no key in it; cascade serve --new-key NAME makes one")

    def name(self, key: str) -> str | None:
        """Whose key it is. All are compared, each in constant time."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        found = None
        for known, name in self._names.items():
            if hmac.compare_digest(known, digest):
                found = name
        return found


def new(name: str) -> tuple[str, str]:
    """A fresh key, and its line for the file. InputError for a name that is none."""
    key = f"csk-{secrets.token_urlsafe(32)}"
    line = f"{name} {hashlib.sha256(key.encode()).hexdigest()}"
    if LINE.fullmatch(line) is None:
        raise InputError(f"{name!r} is no name: letters, digits, dots and dashes, at most 80")
    return key, line
