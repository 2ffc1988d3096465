"""`cascade cache`: what the cache holds, and emptying it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from cascade.cli import NOT_ACCEPTED, show
from cascade.types import CacheSettings

if TYPE_CHECKING:
    from cascade.cache import DiskStore
    from cascade.redis_store import RedisStore

app = typer.Typer(help="The cache of accepted answers.", no_args_is_help=True)
Path = Annotated[str | None, typer.Option("--path", metavar="FOLDER|redis://…", show_default=False,
                 help=f"The cache's folder, {CacheSettings().path} by default, or the address of a Redis.")]
Policy = Annotated[str | None, typer.Option("--policy", metavar="POLICY", show_default=False, help="The cache of this policy.")]


@contextlib.contextmanager
def _store(path: str | None, policy: str | None) -> Iterator[DiskStore | RedisStore]:
    import sqlite3

    from cascade.cache import DiskStore
    from cascade.errors import InputError
    from cascade.redis_store import redis_store

    settings = _settings(path, policy)
    redis = settings.backend.startswith("redis")
    try:
        store = redis_store(settings) if redis else DiskStore(settings.path)
        yield store
        store.close()
    except (OSError, sqlite3.Error) as err:
        raise InputError(f"{store.folder if redis else settings.path}: no usable cache: {err}") from err


def _settings(path: str | None, policy: str | None) -> CacheSettings:
    from cascade.errors import InputError

    if policy is None:
        given = path or CacheSettings().path
        return replace(CacheSettings(), backend=given) if given.startswith(("redis:", "rediss:")) else CacheSettings(path=given)
    if path is not None:
        raise InputError("give --path or --policy, not both")
    from cascade.policy import load

    settings = load(policy).cache
    if settings.backend in ("off", "memory"):
        raise InputError(f"{policy}: its cache is {settings.backend}: there is nothing to look at")
    return settings


@app.command()
def stats(path: Path = None, policy: Policy = None, json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """How many entries the cache holds, and their size.

    \b
    Examples:
      cascade cache stats
      cascade cache stats --policy policies/invoice.yaml --json
      cascade cache stats --path redis://localhost:6379/0
    """
    with _store(path, policy) as store:
        found = store.stats()
        if json:
            show.data({"path": str(store.folder), **found})
        else:
            print(f"{found['entries']} entries, {found['bytes'] / 1e6:.1f} MB in {store.folder}")


@app.command()
def clear(path: Path = None, policy: Policy = None) -> None:
    """Empty the cache."""
    with _store(path, policy) as store:
        print(f"{store.clear()} entries removed from {store.folder}")


@app.command()
def verify(path: Path = None, policy: Policy = None) -> None:
    """Read every entry and drop those that are damaged; exit code 1 if there were any."""
    with _store(path, policy) as store:
        sound, dropped = store.verify()
        print(f"{sound} sound, {dropped} damaged and removed in {store.folder}")
    if dropped:
        raise typer.Exit(NOT_ACCEPTED)
