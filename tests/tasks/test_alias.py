"""The alias tables hold exactly the probabilities they were made from, and draw from them."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference_tasks import ABSURD, CHANCE, p_value
from workbench.tasks.alias import UNITS, AliasTable, quantised

weight_rows = st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=1, max_size=13).filter(lambda row: sum(row) > 1e-3)


def placed(table: AliasTable, rows: int) -> np.ndarray:
    """The units that the bins of each row give to each token, in total d_vocab * UNITS."""
    units = np.zeros((rows, table.d_vocab), dtype=np.int64)
    for entry, (threshold, alias) in enumerate(zip(table.threshold.tolist(), table.alias.tolist(), strict=True)):
        row, token = divmod(entry, table.d_vocab)
        units[row, token] += threshold
        units[row, alias] += UNITS - threshold
    return units


@given(weight_rows)
@settings(deadline=None, derandomize=True)
def test_quantised_rows_sum_to_one_exactly_and_stay_near(weights):
    row = np.array(weights)
    result = quantised(row)
    assert (result * UNITS == np.rint(result * UNITS)).all() and result.min() >= 0
    assert sum(int(unit) for unit in result * UNITS) == UNITS
    assert np.abs(result - row / row.sum()).max() <= (len(row) + 1) / UNITS
    assert (quantised(result) == result).all()


def test_quantised_does_not_see_the_last_bit():
    row = np.random.default_rng(3).dirichlet(np.ones(61))
    assert (quantised(row) == quantised(np.nextafter(row, 1))).all()
    assert (quantised(row) != quantised(row * (1 + np.linspace(0, 1e-6, 61)))).any()


@given(weight_rows)
@settings(deadline=None, derandomize=True)
def test_bins_hold_exactly_the_probabilities(weights):
    probabilities = quantised(np.array([weights, weights[::-1]]))
    table = AliasTable.of(probabilities)
    assert (placed(table, 2) == (probabilities * UNITS).astype(np.int64) * table.d_vocab).all()


def test_pick_takes_the_bin_below_its_threshold_and_the_alias_from_there_on():
    table = AliasTable.of(np.array([[0.75, 0.25]]))
    threshold = UNITS // 2
    assert table.threshold[1] == threshold and table.alias[1] == 0
    bins, coins = np.array([1, 1, 0]), np.array([threshold - 1, threshold, 5], dtype=np.uint32)
    assert table.pick(np.zeros(3, dtype=np.int64), bins, coins).tolist() == [1, 0, 0]


def test_draws_follow_the_table_and_a_wrong_table_is_noticed():
    rng = np.random.default_rng(5)
    probabilities = quantised(rng.dirichlet(np.full(7, 0.5), size=3))
    rows = np.repeat(np.arange(3), 20011)
    draws = AliasTable.of(probabilities).draw(rows, rng)
    observed = np.stack([np.bincount(draws[rows == row], minlength=7) for row in range(3)])
    assert p_value(observed, probabilities) > CHANCE
    assert p_value(observed, quantised(0.95 * probabilities + 0.05 / 7)) < ABSURD
