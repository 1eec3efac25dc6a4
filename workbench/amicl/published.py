"""The settings of the paper's figures, and the numbers that it states (Burns et al., arXiv 2412.15113)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench.amicl.accuracy import sweep
from workbench.amicl.config import PAPER, AmiclConfig
from workbench.amicl.model import SIMILARITIES

if TYPE_CHECKING:
    import pandas as pd

PUBLISHED = {1.0: 0.32, 1.25: 0.907, 1.5: 0.994, 2.0: 1.000}
"""a -> proportion right, of 1,000 trials: dot product, argmax, the rest as the defaults"""
STRENGTHS = tuple(float(a) for a in np.linspace(0, 2, 100))
SIZES = (10, 20, 40, 100, 500, 1000)
"""numbers of tokens, and dimensions"""
SIZE_SETTING = AmiclConfig(a=2.0, n_classes=50)
QUICK_STRENGTHS, QUICK_SIZES = tuple(float(a) for a in np.linspace(0, 2, 21)), SIZES[:4]
MOST = 100_000_000
"""numbers that a point over sizes may take: with 1,000 trials at n = D = 1000 the points would take most of a minute"""


def comparison(trials: int = 1000, seed: int = 0) -> pd.DataFrame:
    """The proportions right that the paper states, in a column `published`, beside measured ones."""
    return sweep("a", PUBLISHED, trials=trials, seed=seed).assign(published=list(PUBLISHED.values()))


def by_strength(trials: int = 1000, seed: int = 0, *, quick: bool = False) -> pd.DataFrame:
    """The proportion right over a, for every similarity on the same sequences."""
    import pandas as pd

    strengths = QUICK_STRENGTHS if quick else STRENGTHS
    return pd.concat([sweep("a", strengths, PAPER.replace(similarity=name), trials, seed) for name in SIMILARITIES], ignore_index=True)


def by_size(trials: int = 1000, seed: int = 0, *, quick: bool = False) -> pd.DataFrame:
    """The proportion right for every n at every D, with fewer trials where both are large."""
    import pandas as pd

    sizes = QUICK_SIZES if quick else SIZES
    return pd.concat([sweep("n", sizes, SIZE_SETTING.replace(d=d), trials, seed, most=MOST) for d in sizes], ignore_index=True)
