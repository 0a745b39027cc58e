"""A weighted graph cut into parts of one size, so that as little weight as possible lies between parts."""

import numpy as np
from numpy.typing import NDArray

_ITERATIONS = 100
_PASSES = 8  # of exchanges, at most: the first two or three find nearly everything
_PATIENCE = 128  # exchanges in a row that may make the cut worse before a pass gives up
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Marks = NDArray[np.bool_]


def partition(weights: Floats, size: int, seed: int = 0) -> Ints:
    """The part of each node, [nodes]: parts of exactly `size` nodes, the last may be short.

    weights: symmetric, at least 0, 0 on the diagonal, [nodes, nodes]. Recursive bisection: a start from the second
    eigenvector of the normalised graph (Shi and Malik 2000), then exchanges in passes that may first make it worse
    (Kernighan and Lin 1970); at the end exchanges between any two parts that pay. A node without edges goes anywhere.
    Holds one more copy of weights. Equal for a seed and a number of threads.
    """
    labels = np.zeros(len(weights), dtype=np.int64)
    chance = np.random.default_rng(seed)
    left = [(np.arange(len(weights)), 0, -(-len(weights) // size))]
    while left:
        members, first, parts = left.pop()
        labels[members] = first
        if parts > 1:
            half = parts // 2
            is_first = _bisected(weights[np.ix_(members, members)], half * size, chance)
            left += [(members[is_first], first, half), (members[~is_first], first + half, parts - half)]
    for _ in range(_PASSES):
        if not _exchange_between_all(weights, labels):
            break
    return labels


def cut_share(weights: Floats, labels: Ints) -> float:
    """The part of all weight that lies between parts; 0 where there is none."""
    total = float(weights.sum(dtype=np.float64))
    inside = float(weights.sum(where=labels[:, None] == labels, dtype=np.float64))
    return 1 - inside / total if total else 0.0


def _bisected(weights: Floats, count: int, chance: np.random.Generator) -> Marks:
    """True for the `count` nodes of the first side."""
    is_first = np.zeros(len(weights), dtype=np.bool_)
    is_first[np.argsort(_second_eigenvector(weights, chance), kind="stable")[:count]] = True
    for _ in range(_PASSES):
        if not _kernighan_lin(weights, is_first):
            break
    return is_first


def _second_eigenvector(weights: Floats, chance: np.random.Generator) -> Floats:
    """About that of D^-1/2 W D^-1/2, by power iteration, divided by the roots of the degrees: alike where linked.

    Nodes without edges come first, together: neurons that never fire then share experts that are never wanted.
    """
    degrees = weights.sum(axis=1)
    has_edges = degrees > 0
    inverse = np.where(has_edges, 1 / np.sqrt(np.where(has_edges, degrees, 1)), 0).astype(np.float32)
    trivial = np.sqrt(degrees) / max(float(np.sqrt(degrees.sum())), 1e-30)
    v = chance.standard_normal(len(weights)).astype(np.float32) * has_edges
    for _ in range(_ITERATIONS):
        v = (v + inverse * (weights @ (inverse * v))) / 2  # eigenvalues from 0 to 1: none of them alternates
        v -= trivial * float(trivial @ v)
        v /= max(float(np.linalg.norm(v)), 1e-30)
    return np.where(has_edges, v * inverse, -np.inf).astype(np.float32)


def _kernighan_lin(weights: Floats, is_first: Marks) -> bool:
    """One pass, in place: the best pair moves, whatever it does to the cut, and is locked; the best moment is kept."""
    side = np.where(is_first, np.float32(1), np.float32(-1))
    gain = -side * (weights @ side)  # [nodes]: edges to the other side less those to its own
    first, second = np.where(is_first, 0, -np.inf), np.where(is_first, -np.inf, 0)  # -inf: not there, or locked
    pairs, total, best, best_count = [], 0.0, 1e-6 * float(weights.sum()), 0
    for step in range(1, 1 + min(int(is_first.sum()), int((~is_first).sum()))):
        i = int((gain + first).argmax())
        j = int((gain - 2 * weights[i] + second).argmax())
        total += float(gain[i] + gain[j] - 2 * weights[i, j])
        pairs.append((i, j))
        first[i] = second[j] = -np.inf
        gain += 2 * side * (weights[i] - weights[j])
        if total > best:
            best, best_count = total, step
        elif step - best_count > _PATIENCE:
            break
    for i, j in pairs[:best_count]:
        is_first[i], is_first[j] = False, True
    return best_count > 0


def _exchange_between_all(weights: Floats, labels: Ints) -> bool:
    """One pass, in place: each node that another part pulls changes places with a node there, where that pays."""
    count = int(labels.max(initial=0)) + 1
    pull = weights @ np.eye(count, dtype=np.float32)[labels]  # [nodes, parts]: a node's edges into each part
    least, changed = 1e-6 * float(weights.max(initial=0)), False
    wish = pull.max(axis=1) - pull[np.arange(len(labels)), labels]
    for i in np.argsort(-wish, kind="stable")[: int((wish > 0).sum())]:
        ours, theirs = int(labels[i]), int(pull[i].argmax())
        others = np.flatnonzero(labels == theirs)
        gains = pull[i, theirs] - pull[i, ours] + pull[others, ours] - pull[others, theirs] - 2 * weights[i, others]
        if ours == theirs or gains.max() <= least:
            continue
        j = int(others[int(gains.argmax())])
        labels[i], labels[j] = theirs, ours
        pull[:, theirs] += weights[:, i] - weights[:, j]
        pull[:, ours] += weights[:, j] - weights[:, i]
        changed = True
    return changed
