"""P(right) of an answer from its signals: ridge logistic regression on standardised signals, by Newton's method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
MOST_SIGNALS = 12
RIDGE = 3.0
CHANCE = 2.0
FOLDS = 5


@dataclass(frozen=True)
class Fit:
    """`weights` belong to (signal - mean) / scale; `optional` are the signals that some rows did not have (then they count as the mean)."""

    signals: tuple[str, ...]
    mean: Floats
    scale: Floats
    weights: Floats
    intercept: float
    optional: tuple[str, ...] = ()

    def predict(self, rows: Sequence[Mapping[str, float]]) -> Floats:
        """P(right), shape (rows,)."""
        z = (matrix(rows, self.signals, self.mean) - self.mean) / self.scale
        return np.asarray(1 / (1 + np.exp(-np.clip(z @ self.weights + self.intercept, -30, 30))), dtype=np.float64)


def matrix(rows: Sequence[Mapping[str, float]], names: Sequence[str], missing: Floats) -> Floats:
    """Shape (rows, names)."""
    return np.array([[row.get(name, missing[j]) for j, name in enumerate(names)] for row in rows], dtype=np.float64).reshape(len(rows), len(names))


def choose(rows: Sequence[Mapping[str, float]], label: NDArray[np.bool_]) -> tuple[str, ...]:
    """The at most 12 signals that go with the label, best first: known in at least half of the rows, correlated beyond what chance gives
    (two standard errors), and no double of a better one. On a hundred rows every weak signal costs more than it tells."""
    found: list[tuple[float, str]] = []
    columns: dict[str, Floats] = {}
    for name in sorted({name for row in rows for name in row}):
        known = np.array([name in row for row in rows])
        if known.mean() < 0.5:
            continue
        x = np.array([row[name] for row in rows if name in row])
        if x.std() < 1e-9 or label[known].std() == 0:
            continue
        strength = abs(float(np.corrcoef(x, label[known])[0, 1]))
        if strength * np.sqrt(len(x)) > CHANCE:
            found.append((-strength, name))
            columns[name] = np.array([row.get(name, float(x.mean())) for row in rows])
    chosen: list[str] = []
    for _, name in sorted(found):
        if all(abs(float(np.corrcoef(columns[name], columns[other])[0, 1])) < 0.98 for other in chosen):
            chosen.append(name)
    return tuple(chosen[:MOST_SIGNALS])


def fit(rows: Sequence[Mapping[str, float]], label: NDArray[np.bool_], names: Sequence[str] | None = None) -> Fit:
    """The regression of `label` on the signals. With one kind of label only it is the constant share, smoothed."""
    names = choose(rows, label) if names is None else tuple(names)
    known = [[row[name] for row in rows if name in row] for name in names]
    mean = np.array([float(np.mean(x)) if x else 0.0 for x in known])
    scale = np.array([float(np.std(x)) if x and np.std(x) > 1e-9 else 1.0 for x in known])
    share = (label.sum() + 1) / (len(label) + 2)
    optional = tuple(name for name, x in zip(names, known, strict=True) if len(x) < len(rows))
    start = float(np.log(share / (1 - share)))
    if not names or label.all() or not label.any():
        return Fit(tuple(names), mean, scale, np.zeros(len(names)), start, optional)
    z = np.c_[np.ones(len(rows)), (matrix(rows, names, mean) - mean) / scale]
    w = np.r_[start, np.zeros(len(names))]
    ridge = RIDGE * np.eye(len(w))
    ridge[0, 0] = 1e-9
    def cost(at: Floats) -> float:
        line = z @ at
        return float(np.logaddexp(0, line).sum() - line @ label + at @ ridge @ at / 2)

    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(z @ w, -30, 30)))
        step = np.linalg.solve((z.T * (p * (1 - p))) @ z + ridge, z.T @ (p - label) + ridge @ w)
        size = 1.0
        while cost(w - size * step) > cost(w) + 1e-12 and size > 1e-6:  # whole steps overshoot where a signal nearly decides
            size /= 2
        w = w - size * step
        if np.abs(step).max() < 1e-9:
            break
    return Fit(tuple(names), mean, scale, w[1:], float(w[0]), optional)


def out_of_fold(rows: Sequence[Mapping[str, float]], label: NDArray[np.bool_]) -> Floats:
    """P(right) of each row by a fit that has not seen it: five folds, by place."""
    found = np.zeros(len(rows))
    place = np.arange(len(rows)) % FOLDS
    for k in range(FOLDS):
        inside, outside = np.flatnonzero(place != k), np.flatnonzero(place == k)
        if len(outside):
            found[outside] = fit([rows[int(i)] for i in inside], label[inside]).predict([rows[int(i)] for i in outside])
    return found
