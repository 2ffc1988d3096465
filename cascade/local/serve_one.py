"""The process that serves one model: run by its path, imports nothing of cascade, and holds a lock on its state file while it lives.

    python -P serve_one.py MODEL.gguf ALIAS PORT STATE FOLLOW

When ready it writes one JSON line, {"pid", "port"}, to stdout. FOLLOW 1: it ends when the process that started it does.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from typing import Any

SLOTS = 8
CONTEXT = 16384
"""Tokens in the key-value cache that all slots share."""


def main() -> None:
    weights, alias, port, state, follow = sys.argv[1:]
    parent = os.getppid()
    # nothing has to be written at the end, and taking the server down in order can hang on an open connection
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lock = _locked(state)
    say = os.fdopen(os.dup(1), "w")
    # llama.cpp may print: stdout is only for our one line
    os.dup2(2, 1)
    server = _serve(weights, alias, int(port))
    ready = json.dumps({"pid": os.getpid(), "port": int(server.listening_address.rpartition(":")[2])})
    if lock is not None:
        os.pwrite(lock, ready.encode(), 0)
    print(ready, file=say, flush=True)
    say.close()
    while not (follow == "1" and os.getppid() != parent):
        time.sleep(1)
    os._exit(0)


def _locked(state: str) -> int | None:
    """The state file, locked until this process ends; None when there is none to keep."""
    if not state:
        return None
    handle = os.open(state, os.O_RDWR | os.O_CREAT, 0o600)
    for _ in range(10):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.1)  # whoever asks for the status holds the lock for an instant
        else:
            os.ftruncate(handle, 0)
            return handle
    sys.exit("already running")


def _serve(weights: str, alias: str, port: int) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = weights
    params.model_alias = {alias}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel = SLOTS
    params.kv_unified = True
    params.n_ctx = CONTEXT
    params.n_gpu_layers = 0
    # one thread: with another process busy, two threads fell from 46 to 3 tokens a second
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.n_threads_http = SLOTS + 2
    # no store of old prompts beside the slots: it would grow to 8 GB
    params.cache_ram_mib = 0
    # a call that names no temperature gets the most likely answer
    params.sampling.temp = 0.0
    params.ui = False
    params.verbosity = 1
    return xllamacpp.Server(params)


if __name__ == "__main__":
    main()
