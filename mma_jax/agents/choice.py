"""Conditional logit (McFadden 1974): logistic regression over the candidates of one pool.

P(target = i) = softmax_i(w · x_i). Fitted by L-BFGS with an L2 penalty; features are standardised inside.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import optimize, sparse, special


@dataclasses.dataclass(frozen=True, eq=False)
class ChoiceModel:
    """weights float64 [F] act on features divided by `scale` float64 [F]."""

    weights: np.ndarray
    scale: np.ndarray

    def scores(self, features) -> np.ndarray:
        """features: array or CSR [B, F] -> utilities float64 [B]."""
        return features @ (self.weights / self.scale)


def fit(features, target: np.ndarray, size: int, l2: float) -> ChoiceModel:
    """Maximum a posteriori weights.

    features: [E·B, F] dense or CSR, the candidates of E episodes one after the other; target: int [E] position of
    the target in its pool; size: B; l2: prior precision of the standardised weights.
    """
    features = sparse.csr_matrix(features)
    square = np.asarray(features.multiply(features).mean(axis=0)).ravel()
    mean = np.asarray(features.mean(axis=0)).ravel()
    # constant columns cannot choose between candidates; a scale of 1 leaves their weight at zero
    scale = np.sqrt(np.maximum(square - mean**2, 0.0))
    scale[scale < 1e-9] = 1.0
    scaled = (features @ sparse.diags(1.0 / scale)).tocsr()
    transposed = scaled.T.tocsr()
    chosen = np.arange(len(target)) * size + target

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        utility = (scaled @ weights).reshape(-1, size)
        log_prob = special.log_softmax(utility, axis=1)
        residual = np.exp(log_prob).ravel()
        residual[chosen] -= 1.0
        value = -log_prob.ravel()[chosen].sum() + 0.5 * l2 * weights @ weights
        return value, transposed @ residual + l2 * weights

    start = np.zeros(features.shape[1])
    result = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 300})
    return ChoiceModel(result.x, scale)
