"""`cascade cache`: what the cache holds, and emptying it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cascade.cli import NOT_ACCEPTED, show
from cascade.types import CacheSettings

if TYPE_CHECKING:
    from cascade.cache import DiskStore

app = typer.Typer(help="The cache of accepted answers.", no_args_is_help=True)
Path = Annotated[str, typer.Option("--path", help="The cache's folder.")]
DEFAULT = CacheSettings().path


def _store(path: str) -> DiskStore:
    import sqlite3

    from cascade.cache import DiskStore
    from cascade.errors import InputError

    try:
        return DiskStore(path)
    except (OSError, sqlite3.Error) as err:
        raise InputError(f"{path}: no usable cache: {err}") from err


@app.command()
def stats(path: Path = DEFAULT, json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """How many entries the cache holds, and their size on disk."""
    store = _store(path)
    found = store.stats()
    if json:
        show.data({"path": str(store.folder), **found})
    else:
        print(f"{found['entries']} entries, {found['bytes'] / 1e6:.1f} MB in {store.folder}")
    store.close()


@app.command()
def clear(path: Path = DEFAULT) -> None:
    """Empty the cache."""
    store = _store(path)
    print(f"{store.clear()} entries removed from {store.folder}")
    store.close()


@app.command()
def verify(path: Path = DEFAULT) -> None:
    """Read every entry and drop those that are damaged; exit code 1 if there were any."""
    store = _store(path)
    sound, dropped = store.verify()
    print(f"{sound} sound, {dropped} damaged and removed in {store.folder}")
    store.close()
    if dropped:
        raise typer.Exit(NOT_ACCEPTED)
