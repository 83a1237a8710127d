"""The Lasso path over channels: which channels to keep, for every number of them at once.

``min_b 1/2 b'Ab - c'b + alpha |b|_1``, where column i of the regression is what channel i
contributes to the outputs of the layers that read it (He et al. 2017, equation 2, the beta-step).
One LARS run gives the solutions for all alpha, hence a selection for every count.
"""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import lars_path_gram

from amc.graph.labels import FloatArray, IntArray

RIDGE = 1e-6
"""Added to the diagonal, relative to its mean: dead and duplicate channels stop LARS otherwise."""


class LassoPath:
    """Solutions for every penalty.

    Args:
        gram: A, [C, C].
        moment: c, [C].

    Attributes:
        alphas: [P] penalties at the knots of the path, decreasing.
        coefficients: [C, P] solutions at the knots; linear in alpha between them.
    """

    def __init__(self, gram: FloatArray, moment: FloatArray) -> None:
        channels = len(moment)
        self._diagonal = np.diag(gram).copy()
        # LARS stops at absolute values: scaled to a mean diagonal of 1
        scale = max(float(np.trace(gram)) / channels, np.finfo(float).tiny)
        with warnings.catch_warnings():  # early stops are handled: `keep` always has an answer
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            alphas, _, self.coefficients = lars_path_gram(
                Xy=moment / scale,
                Gram=gram / scale + RIDGE * np.eye(channels),
                n_samples=1,
                method="lasso",
                max_iter=8 * channels,
                copy_Gram=False,
            )
        self.alphas = alphas * scale

    def keep(self, count: int) -> IntArray:
        """Exactly ``count`` channels, increasing.

        The support with that many channels and the smallest penalty, so with the least shrinkage.
        Where the path jumps over the count, the largest coefficients of the next larger support;
        where it never gets that far, the channels of largest contribution fill up.
        """
        coefficients = np.abs(self.coefficients)
        sizes = (coefficients > 0).sum(axis=0)
        exact = np.flatnonzero(sizes == count)
        larger = np.flatnonzero(sizes > count)
        if len(exact):
            score = coefficients[:, exact[-1]]
        elif len(larger):
            score = coefficients[:, larger[0]]
        else:
            score = coefficients[:, -1]
        # lexicographic: coefficient first, contribution to break ties among zeros
        order = np.lexsort((-self._diagonal, -score))
        kept: IntArray = np.sort(order[:count]).astype(np.int64)
        return kept
