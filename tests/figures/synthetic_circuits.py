"""Tables of a circuit's matrices, and of a stream over training, without a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

TEXTS = ("' '", "e", "t", "<b>", "1", "x", "x")
"""tokens that a page could trip over, and one name twice"""
N_POSITIONS = 5
Spec = tuple[str, str, int, int, int | None, int | None]
OF_VALUE: tuple[Spec, ...] = (
    ("OV", "own", 1, 2, None, None),
    ("OV", "streamed", 1, 2, None, None),
    ("K-composition", "own", 1, 2, 0, 1),
    ("positions", "own", 0, 1, None, None),
)
OF_KEY: tuple[Spec, ...] = (
    ("OV", "own", 1, 2, None, None),
    ("QK", "own", 1, 2, None, None),
    ("QK", "streamed", 1, 2, None, None),
    ("K-composition", "own", 1, 2, 0, 1),
)


def matrices_table(run: str = "value", specs: Sequence[Spec] = OF_VALUE, texts: Sequence[str] = TEXTS, seed: int = 0) -> pd.DataFrame:
    """The table `circuit_matrices`: random cells, with a diagonal of 4 in the streamed OV and of 0.5 in the others."""
    random = np.random.default_rng(seed)
    parts = []
    for matrix, part, layer, head, source_layer, source_head in specs:
        words = np.array([str(number) for number in range(N_POSITIONS)] if matrix == "positions" else list(texts), dtype=object)
        n = len(words)
        cells = random.uniform(-0.4, 0.4, (n, n)) + np.eye(n) * (4.0 if (matrix, part) == ("OV", "streamed") else 0.5)
        row, column = (index.reshape(-1) for index in np.indices(cells.shape))
        place = {"matrix": matrix, "part": part, "layer": layer, "head": head, "source_layer": source_layer, "source_head": source_head}
        columns = {"row": row, "column": column, "row_text": words[row], "column_text": words[column], "value": cells.reshape(-1)}
        parts.append(pd.DataFrame(columns).assign(**place).astype({"source_layer": "Int64", "source_head": "Int64"}))
    table = pd.concat(parts, ignore_index=True).astype({"row_text": "category", "column_text": "category"})
    return table.assign(run=run, variant=run, seed=0, step=400)


STEPS = (0, 70, 140)
CUTS = {"zero": 0.59, "mean": 0.61, "resample": 0.83, "permuted": 0.89}
PATHS = {"wire": 0.83, "residual": 0.79, "both": 0.97, "interaction": -0.65}
SHARES = {"streamed_input_share": 0.67, "streamed_output_share": 0.73}
CONTRASTS = {"own": 1.9, "streamed": 4.3}
COPYING = {"own": 0.53, "streamed": 0.97, "total": 0.91}
MATCH = {"own": -0.31, "streamed": 0.71, "total": 0.41}
"""values at the last step"""


def stream_table(run: str = "value", variant: str = "value", steps: Sequence[int] = STEPS, sources: Sequence[int] = (0,)) -> pd.DataFrame:
    """The table `stream`: values rise evenly to those above; rows of single heads are a tenth of them, L1H2's shares are theirs."""
    rows: list[dict[str, object]] = []
    value = variant.startswith("value")
    for step in steps:
        rise = step / steps[-1] if steps[-1] else 1.0
        for how, end in CUTS.items():
            rows.append({"step": step, "metric": "cut_accuracy_share", "intervention": how, "value": end * rise})
            rows.append({"step": step, "metric": "cut_loss_increase", "intervention": how, "value": 5 * end * rise})
            rows.append(
                {"step": step, "metric": "cut_accuracy_share", "intervention": how, "layer": 1, "head": 2, "value": 0.1 * end * rise}
            )
        for source in sources:
            for how, scale in (("mean", 0.5), ("resample", 1.0)):
                for part, end in PATHS.items():
                    place = {"source_layer": source, "part": part, "intervention": how}
                    rows.append({"step": step, "metric": "path_accuracy_share", "value": (end * scale - 0.1 * source) * rise, **place})
        for head in (0, 2):
            place = {"layer": 1, "head": head}
            for metric, end in SHARES.items():
                if value or metric == "streamed_input_share":
                    rows.append({"step": step, "metric": metric, "value": end * rise * (1 if head == 2 else 0.1), **place})
            for part, end in CONTRASTS.items():
                if not value:
                    rows.append({"step": step, "metric": "score_contrast", "part": part, "value": end * rise, **place})
        rows.append({"step": step, "metric": "stream_scale", "part": "own", "layer": 1, "value": 1.0})
    return _table(rows, run, variant)


def circuits_table(run: str = "value", variant: str = "value", steps: Sequence[int] = STEPS) -> pd.DataFrame:
    """The table `circuits`, of plain numbers: copying and match scores of L1H2 (those of L1H0 are a tenth), and its OV share."""
    rows: list[dict[str, object]] = []
    for step in steps:
        rise = step / steps[-1] if steps[-1] else 1.0
        for head in (0, 2):
            scale = rise * (1 if head == 2 else 0.1)
            place = {"step": step, "layer": 1, "head": head}
            for metric, ends in (("copying_score", COPYING), ("qk_match_score", MATCH)):
                rows += [{"metric": metric, "part": part, "value": end * scale, **place} for part, end in ends.items()]
            rows.append({"metric": "k_composition", "source_layer": 0, "source_head": 1, "value": 0.3, **place})
            if variant.startswith("value"):
                rows.append({"metric": "streamed_ov_share", "value": 0.57 * scale, **place})
    return _table(rows, run, variant).assign(ci_low=np.nan, ci_high=np.nan)


def _table(rows: list[dict[str, object]], run: str, variant: str) -> pd.DataFrame:
    table = pd.DataFrame(rows).assign(run=run, variant=variant, seed=0, task="trigger-bigram", n=7)
    table = table.assign(ci_low=table["value"] - 0.02, ci_high=table["value"] + 0.02)
    return table.astype({name: "Int64" for name in ("layer", "head", "source_layer", "source_head") if name in table})
