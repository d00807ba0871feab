"""Stored features and the scores that released code gives them. Run this file as a script to renew them.

Arrays: `drawn`, `real` float32 [n, 8], `logits` float32 [n, 6] in class order. Values: torch-fidelity 0.4.0's own
entry points, and the formula of EDM2's calculate_metrics.py with scipy's matrix root (scipy 1.17.1).
"""

from pathlib import Path

import numpy as np
import scipy.linalg
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

STORED = Path(__file__).parents[1] / "vectors" / "scores.npz"
SPLITS = (1, 2, 5, 10)


def inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    scale, classes = np.linspace(0.3, 2, 8), np.arange(120) * 6 // 120
    drawn, real = rng.standard_normal((120, 8)) * scale + 0.3, rng.standard_normal((100, 8)) * scale
    logits = 3 * np.eye(6)[classes] + rng.standard_normal((120, 6))
    return {k: v.astype(np.float32) for k, v in {"drawn": drawn, "real": real, "logits": logits}.items()}


def released_scores(drawn: np.ndarray, real: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    x, y, z = (torch.from_numpy(a) for a in (drawn, real, logits))
    one, two = (fid_features_to_statistics(a) for a in (x, y))
    root = scipy.linalg.sqrtm(one["sigma"] @ two["sigma"])
    means = (a.astype(np.float64).mean(axis=0) for a in (drawn, real))  # EDM2 sums in double precision
    edm2 = np.square(np.subtract(*means)).sum() + np.trace(one["sigma"] + two["sigma"] - 2 * root).real
    found = {"fd": fid_statistics_to_metric(one, two, False)["frechet_inception_distance"], "fd_edm2": edm2}
    for splits in SPLITS:
        found[f"is_{splits}"] = isc_features_to_metric(z, splits)["inception_score_mean"]
    found["is_10_unshuffled"] = isc_features_to_metric(z, 10, shuffle=False)["inception_score_mean"]
    kid = kid_features_to_metric(x, y, kid_subsets=10, kid_subset_size=50, verbose=False)
    prc = prc_features_to_metric(x, y, verbose=False)
    return found | {"kid": kid["kernel_inception_distance_mean"], **{k: prc[k] for k in ("precision", "recall")}}


if __name__ == "__main__":
    arrays = inputs()
    np.savez(STORED, **arrays, **{f"value/{k}": v for k, v in released_scores(**arrays).items()})
