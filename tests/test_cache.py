"""The cache holds text or nothing: whatever is planted, flipped or cut off reads as absent."""

from __future__ import annotations

import os
import pickle
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import real_redis

from cascade.cache import DiskStore, MemoryStore, Store
from cascade.redis_store import RedisStore

BIG = "x" * 100_000


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, (str(Bomb.target),))

    target = Path("never")


@pytest.fixture(params=["disk", "memory", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param != "redis":
        yield DiskStore(tmp_path / "cache") if request.param == "disk" else MemoryStore()
        return
    with real_redis.running(tmp_path / "redis") as server:
        yield RedisStore(server.where)


def test_what_was_set_is_there_at_once_and_gone_when_deleted(store: Store) -> None:
    store.set("k", "täxt", None)
    assert store.get("k") == "täxt"
    store.set("k", "newer", 60)
    assert store.get("k") == "newer"
    store.delete("k")
    assert store.get("k") is None
    store.close()


def test_an_entry_ends_with_its_time(store: Store) -> None:
    store.set("k", "v", -1)
    if isinstance(store, DiskStore):
        store.flush()
    assert store.get("k") is None


def test_memory_forgets_the_oldest() -> None:
    store = MemoryStore(most=2)
    for key in "abc":
        store.set(key, key, None)
    assert [store.get(key) for key in "abc"] == [None, "b", "c"]


def test_entries_survive_a_restart_small_and_large(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    store.set("small", "s", None)
    store.set("large", BIG, None)
    store.close()
    again = DiskStore(tmp_path)
    assert (again.get("small"), again.get("large")) == ("s", BIG)
    assert again.stats()["entries"] == 2
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def tampered(tmp_path: Path, sql: str, *values: object) -> DiskStore:
    store = DiskStore(tmp_path)
    store.set("k", "value", None)
    store.set("large", BIG, None)
    store.close()
    with sqlite3.connect(tmp_path / "cache.db") as db:
        db.execute(sql, values)
    return DiskStore(tmp_path)


@pytest.mark.parametrize(
    ("sql", "values"),
    [
        ("UPDATE Cache SET mode = 4, value = ? WHERE key = 'k'", "pickle"),
        ("UPDATE Cache SET value = 'no digest' WHERE key = 'k'", None),
        ("UPDATE Cache SET value = replace(value, 'value', 'walue') WHERE key = 'k'", None),
        ("UPDATE Cache SET value = substr(value, 1, 66) WHERE key = 'k'", None),
        ("UPDATE Cache SET mode = 3, filename = '../outside.txt' WHERE key = 'k'", None),
        ("UPDATE Cache SET mode = 2, filename = '/etc/hostname' WHERE key = 'k'", None),
        ("UPDATE Cache SET value = 17 WHERE key = 'k'", None),
        ("UPDATE Cache SET value = NULL WHERE key = 'k'", None),
    ],
)
def test_a_tampered_entry_is_a_miss_and_never_code(tmp_path: Path, sql: str, values: str | None, caplog: pytest.LogCaptureFixture) -> None:
    Bomb.target = tmp_path / "exploded"
    (tmp_path / "cache").mkdir()
    (tmp_path / "outside.txt").write_text("outside")
    store = tampered(tmp_path / "cache", sql, *([pickle.dumps(Bomb())] if values else []))
    assert store.get("k") is None
    assert store.get("large") == BIG
    assert not Bomb.target.exists()
    assert store.verify() == (1, 1)
    assert store.stats()["entries"] == 1


def test_a_flipped_byte_and_a_cut_file_are_misses(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    store.set("large", BIG, None)
    store.close()
    (file,) = tmp_path.rglob("*.val")
    text = file.read_text()
    for damaged in (text[:-1] + "y", text[: len(text) // 2], ""):
        file.write_text(damaged)
        assert DiskStore(tmp_path).get("large") is None
    file.unlink()
    assert DiskStore(tmp_path).get("large") is None


def test_a_store_that_cannot_be_written_goes_on_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = DiskStore(tmp_path)
    with sqlite3.connect(tmp_path / "cache.db") as db:
        db.execute("DROP TABLE Cache")
    store.set("k", "v", None)
    store.flush()
    assert store.get("k") is None
    assert [r.message.split(" (")[0] for r in caplog.records] == [
        f"cannot write the cache in {tmp_path}", f"cannot read the cache in {tmp_path}"]
    assert "going on without" in caplog.records[0].message
