"""What a score that is not known yet is worth."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr


def expected_improvement(mean_N: np.ndarray, deviation_N: np.ndarray, best_N: np.ndarray | float) -> np.ndarray:
    """E[max(score - best, 0)] of a normal score (Jones et al. 1998, eq. 15)."""
    z_N = (mean_N - best_N) / deviation_N
    density_N = np.exp(-0.5 * z_N**2) / np.sqrt(2 * np.pi)
    improvement: np.ndarray = (mean_N - best_N) * ndtr(z_N) + deviation_N * density_N
    return np.maximum(improvement, 0.0)
