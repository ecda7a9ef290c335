"""Gradient-boosted trees for the absolute error: the baseline that a predictor of crystals has to beat.

Friedman, "Greedy function approximation: a gradient boosting machine", Ann. Statist. 29, 1189 (2001), algorithm 3:
each tree is fitted to the signs of the residuals, and its leaves hold the medians of the residuals.

Legend: M crystals, F features, L = 2^depth leaves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 32
"""Values of a feature that a split can tell apart."""


@dataclass(frozen=True)
class Tree:
    """A binary tree of fixed depth; the nodes of level k are rows 0 .. 2^k - 1 of its arrays.

    Attributes:
        features: of each level, (2^k,) the feature that a node asks for.
        bins: of each level, (2^k,) the last bin that goes left; BINS where a node is not split.
        leaves: (L,) what is added to the prediction.
    """

    features: list[np.ndarray]
    bins: list[np.ndarray]
    leaves: np.ndarray

    def leaf_of(self, binned: np.ndarray) -> np.ndarray:
        """(M,) leaf of each row of (M, F) bins."""
        node = np.zeros(len(binned), int)
        for feature, last in zip(self.features, self.bins, strict=True):
            node = 2 * node + (binned[np.arange(len(binned)), feature[node]] > last[node])
        return node


@dataclass(frozen=True)
class Boosted:
    """A fitted model.

    Attributes:
        edges: (F, BINS - 1) between the bins of each feature.
        start: the prediction before the first tree.
        trees: the others.
    """

    edges: np.ndarray
    start: float
    trees: list[Tree]

    def predict(self, features: np.ndarray) -> np.ndarray:
        """(M,) predictions for (M, F) features."""
        binned = _binned(features, self.edges)
        return self.start + sum((tree.leaves[tree.leaf_of(binned)] for tree in self.trees), np.zeros(len(binned)))


def fit(
    features: np.ndarray, target: np.ndarray, trees: int = 200, depth: int = 5, rate: float = 0.1, smallest: int = 10
) -> Boosted:
    """Fit trees one after the other, each to what those before it leave.

    Args:
        features: (M, F).
        target: (M,).
        trees: how many.
        depth: questions from root to leaf.
        rate: share of each tree that is added.
        smallest: crystals in a leaf, at least.
    """
    edges = np.quantile(features, np.linspace(0, 1, BINS + 1)[1:-1], axis=0).T
    binned = _binned(features, edges)
    start = float(np.median(target))
    prediction = np.full(len(target), start)
    grown = []
    for _ in range(trees):
        tree, node = _grow(binned, np.sign(target - prediction), depth, smallest)
        residual = target - prediction
        for leaf in np.unique(node):
            tree.leaves[leaf] = rate * np.median(residual[node == leaf])
        prediction += tree.leaves[node]
        grown.append(tree)
    return Boosted(edges, start, grown)


def _binned(features: np.ndarray, edges: np.ndarray) -> np.ndarray:
    columns = [np.searchsorted(edge, column) for edge, column in zip(edges, features.T, strict=True)]
    return np.stack(columns, 1)


def _grow(binned: np.ndarray, gradient: np.ndarray, depth: int, smallest: int) -> tuple[Tree, np.ndarray]:
    """A tree whose splits explain the most of the gradient's variance, and the leaf of each row."""
    rows, width = binned.shape
    node = np.zeros(rows, int)
    features, bins = [], []
    column = np.arange(width)
    for level in range(depth):
        shape = (2**level, width, BINS)
        place = ((node[:, None] * width + column) * BINS + binned).ravel()
        count = np.bincount(place, minlength=np.prod(shape)).reshape(shape).cumsum(-1)
        total = np.bincount(place, np.repeat(gradient, width), np.prod(shape)).reshape(shape).cumsum(-1)
        right, rest = count[..., -1:] - count, total[..., -1:] - total
        score = total**2 / np.maximum(count, 1) + rest**2 / np.maximum(right, 1)
        score[(count < smallest) | (right < smallest)] = -np.inf
        best = score.reshape(len(score), -1).argmax(1)
        feature, last = np.divmod(best, BINS)
        last = np.where(np.isinf(score.reshape(len(score), -1).max(1)), BINS, last)
        features.append(feature)
        bins.append(last)
        node = 2 * node + (binned[np.arange(rows), feature[node]] > last[node])
    return Tree(features, bins, np.zeros(2**depth)), node
