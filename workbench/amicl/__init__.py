"""AMICL, the associative-memory model of in-context learning (Burns, Fukai & Earls, arXiv 2412.15113).

Nothing is trained: the token before is remembered beside each token with a strength `a`, and the last position, an empty label slot,
answers with the value whose key is most like its query. `config` says what there is to choose, `data` draws sequences, `model`
answers them, `accuracy` counts right answers, one by one or in a sweep.
"""

from workbench.amicl.accuracy import sweep
from workbench.amicl.config import AmiclConfig
from workbench.amicl.data import Sequences, draw

__all__ = ["AmiclConfig", "Sequences", "draw", "sweep"]
