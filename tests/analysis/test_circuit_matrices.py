"""The circuit's matrices: cell by cell against the definitions, known ones of the models built by hand, and what is left out."""

import numpy as np
import pandas as pd
import pytest
import torch

from tests.analysis.test_circuits import Naive
from tests.hand_built import D_VOCAB, SHARP, induction
from tests.reference_model import random_model
from tests.small_runs import untrained_run
from workbench import ModelConfig, RunConfig, analyze
from workbench.analysis import circuit_matrices
from workbench.analysis.circuit_matrices import COLUMNS, matrices_table
from workbench.analysis.data import AnalysisData
from workbench.analysis.roles import Head, Roles
from workbench.config import ClassificationConfig, TriggerBigramConfig
from workbench.model import HookedTransformer
from workbench.model.constructed import Strengths, associative_memory
from workbench.runs import Run
from workbench.tasks import make_task
from workbench.tasks.trigger_bigram import TriggerBigram

ROLES = Roles(previous_token=(Head(1, 1), Head(0, 0)), induction=(Head(2, 1), Head(2, 0)))


def table_of(model, roles=ROLES, task=None):
    return matrices_table(model, AnalysisData.draw(model.config, task, sequences=2), roles)


def matrices(table):
    """(matrix, part, head, source) -> the cells as an array."""
    found = {}
    for (matrix, part), rows in table.groupby(["matrix", "part"], sort=False):
        [(layer, head, before, source)] = rows[["layer", "head", "source_layer", "source_head"]].drop_duplicates().itertuples(index=False)
        cells = np.full((rows["row"].max() + 1, rows["column"].max() + 1), np.nan)
        cells[rows["row"], rows["column"]] = rows["value"]
        assert len(rows) == cells.size and not np.isnan(cells).any()
        found[matrix, part, f"L{layer}H{head}", "" if pd.isna(before) else f"L{before}H{source}"] = cells
    return found


def by_hand(model):
    """The same from vectors, for the heads of ROLES: one row and one column at a time."""
    naive, config, previous, head = Naive(model), model.config, ROLES.previous_token[0], ROLES.induction[0]
    norm = model.ln_final
    stream = {"query": "q", "key": "k", "value": "v"}.get(config.stream)
    tokens, names = list(model.W_E), f"L{head.layer}H{head.head}"

    def table(rows, columns, score):
        return np.array([[score(row, column).item() for column in columns] for row in rows])

    expected = {}
    values = {"own": naive.own("v", *place(head)), "streamed": naive.streamed("v", *place(head))}
    W_U = naive.reads(model.W_U, norm)
    for part, W_V in values.items():
        if W_V is not None:
            written = W_V @ naive.W_O(*place(head)) @ W_U
            expected["OV", part, names, ""] = table(tokens, range(config.d_vocab), lambda row, token, w=written: (row @ w)[token])
    moved = [token @ naive.used("v", *place(previous)) @ naive.W_O(*place(previous)) for token in tokens]
    queries, keys = {"own": naive.own("q", *place(head))}, {"own": naive.own("k", *place(head))}
    if stream == "q":
        queries["streamed"] = naive.streamed("q", *place(head))
    for part, query in queries.items():
        expected["K-composition", part, names, f"L{previous.layer}H{previous.head}"] = table(
            tokens, moved, lambda row, key, q=query: (row @ q) @ (key @ keys["own"])
        )
    if stream == "k":
        for part, key in {"own": keys["own"], "streamed": naive.streamed("k", *place(head))}.items():
            expected["QK", part, names, ""] = table(tokens, tokens, lambda row, token, k=key: (row @ queries["own"]) @ (token @ k))
    query, key = naive.used("q", *place(previous)), naive.used("k", *place(previous))
    part = "total" if stream in ("q", "k") else "own"
    at = list(model.W_pos[:4])
    expected["positions", part, f"L{previous.layer}H{previous.head}", ""] = table(
        at, at, lambda row, column: (row @ query) @ (column @ key)
    )
    return expected


def place(head):
    return head.layer, head.head


FIELDS = [
    *({"normalization_type": norm} for norm in ("LN", "LNPre", "RMS", None)),
    *({"stream": stream, "stream_source": source} for stream in ("query", "value") for source in ("previous", "accumulated", "first")),
    {"stream": "key", "stream_source": "first"},
    {"stream": "key", "stream_source": "previous"},
    {"stream": "value", "n_heads": 3, "stream_permute_heads": "fixed", "stream_init": (0.7, -1.9)},
]


@pytest.mark.parametrize("fields", FIELDS)
def test_every_cell_is_the_definition(fields):
    model = random_model(**fields)
    with torch.no_grad():
        expected = by_hand(model)
    found = matrices(table_of(model))
    assert found.keys() == expected.keys()
    for name, cells in expected.items():
        np.testing.assert_allclose(found[name], cells, rtol=1e-4, atol=1e-5, err_msg=str(name))


def test_a_streamed_key_can_read_an_earlier_head_where_it_is_taken_after_it():
    """Keys of layer 1 read what layer 0 moved; they arrive in layer 2."""
    model, previous = random_model(stream="key"), Head(0, 1)
    found = matrices(table_of(model, Roles((previous,), (Head(2, 1),))))
    naive = Naive(model)
    with torch.no_grad():
        moved = model.W_E @ naive.used("v", 0, 1) @ naive.W_O(0, 1)
        expected = (model.W_E @ naive.own("q", 2, 1)) @ (moved @ naive.streamed("k", 2, 1)).T
    np.testing.assert_allclose(found["K-composition", "streamed", "L2H1", "L0H1"], expected, rtol=1e-4, atol=1e-5)
    assert ("K-composition", "streamed", "L2H1", "L1H1") not in matrices(table_of(model))


@pytest.mark.parametrize("copying", ["own", "stream", "both"])
def test_a_hand_built_induction_head_has_the_matrices_it_was_given(copying):
    model = induction("value", copying)
    found = matrices(table_of(model, Roles((Head(0, 0),), (Head(1, 0),))))
    identity = np.eye(D_VOCAB)
    own, streamed = {"own": (3, 0), "stream": (0, 3), "both": (1.5, 1.5)}[copying]
    assert np.array_equal(found["OV", "own", "L1H0", ""], own * identity)
    assert np.array_equal(found["OV", "streamed", "L1H0", ""], streamed * identity)
    assert np.array_equal(found["K-composition", "own", "L1H0", "L0H0"], SHARP * identity)
    positions = found["positions", "own", "L0H0", ""]
    assert np.array_equal(positions, SHARP * np.eye(len(positions), k=-1)) and len(positions) == 16


@pytest.mark.parametrize("stream", [False, True])
def test_the_associative_memory_has_the_strengths_of_its_memories(tmp_path, stream):
    """As a run: two checkpoints, of which the last is written down; then one in which no head is named, and nothing stays."""
    config = TriggerBigramConfig(d_vocab=13, seq_len=17, n_triggers=3)
    task = make_task(config)
    assert isinstance(task, TriggerBigram)
    triggers = task.fixed_triggers.tolist()
    model = associative_memory(task.language.bigram, 17, Strengths(20.0, 10.0, 5.0), triggers, stream=stream).float()
    run = Run.create(tmp_path / "memory", RunConfig(model=model.config, task=config))
    run.save(0, HookedTransformer(model.config))
    run.save(3, model)
    analyze(run, only=["formation"], sequences=7)
    table = run.table("circuit_matrices")
    assert list(table.columns) == [*COLUMNS, "run", "variant", "seed", "step"]
    assert set(table["run"]) == {"memory"} and set(table["step"]) == {3} and set(table["seed"]) == {0}
    found = matrices(table)
    # With the stream, layer 1's own value matrix is zero.
    np.testing.assert_allclose(found["OV", "own", "L1H0", ""], (0 if stream else 5) * np.eye(13), atol=1e-5)
    assert (("OV", "streamed", "L1H0", "") in found) == stream
    if stream:
        np.testing.assert_allclose(found["OV", "streamed", "L1H0", ""], 5 * np.eye(13), atol=1e-5)
    matched = np.diag([10.0 * (token in triggers) for token in range(13)])
    np.testing.assert_allclose(found["K-composition", "own", "L1H0", "L0H0"], matched, atol=1e-5)
    np.testing.assert_allclose(found["positions", "own", "L0H0", ""], 20 * np.eye(17, k=-1), atol=1e-5)
    texts = table[table["matrix"] == "OV"].drop_duplicates("row").sort_values(by="row")["row_text"]
    assert list(texts) == task.to_strings(range(13))
    assert list(table[table["matrix"] == "positions"]["column_text"].head(3)) == ["0", "1", "2"]
    assert isinstance(table["row_text"].dtype, pd.CategoricalDtype)
    analyze(run, only=["formation"], steps=[0], sequences=7)
    assert run.table("circuit_matrices") is None and "circuit_matrices.csv" not in {file.name for file in run.tables.path.iterdir()}


def test_without_a_named_head_there_is_nothing():
    model = random_model()
    assert table_of(model, Roles()).empty and list(table_of(model, Roles())) == COLUMNS
    assert set(matrices(table_of(model, Roles(previous_token=(Head(1, 0),))))) == {("positions", "own", "L1H0", "")}
    assert set(matrices(table_of(model, Roles(induction=(Head(2, 1),))))) == {("OV", "own", "L2H1", "")}
    # A previous-token head in the induction head's own layer cannot have moved anything to its keys.
    late = matrices(table_of(model, Roles((Head(2, 0),), (Head(2, 1),))))
    assert set(late) == {("OV", "own", "L2H1", ""), ("positions", "own", "L2H0", "")}


def test_of_heads_permuted_by_position_only_the_own_matrix_is_known():
    model = random_model(stream="value", stream_permute_heads="by-position")
    assert {part for matrix, part, *_ in matrices(table_of(model, Roles((Head(0, 0),), (Head(1, 1),))))} == {"own"}
    # What layer 1 moves is no one matrix.
    assert {matrix for matrix, *_ in matrices(table_of(model))} == {"OV", "positions"}


@pytest.mark.parametrize("positions", ["relative", "rotary", "none"])
def test_without_position_vectors_there_is_no_matrix_of_positions(positions):
    model = random_model(positional_embedding_type=positions)
    assert {matrix for matrix, *_ in matrices(table_of(model))} == {"OV", "K-composition"}


def test_what_is_too_large_to_read_is_left_out(monkeypatch):
    model = random_model()  # 7 tokens, 4 positions
    monkeypatch.setattr(circuit_matrices, "LARGEST", 6)
    assert {matrix for matrix, *_ in matrices(table_of(model))} == {"positions"}
    monkeypatch.setattr(circuit_matrices, "LARGEST", 3)
    assert table_of(model).empty


def test_a_model_that_reads_vectors_has_none():
    task = make_task(ClassificationConfig(n_classes=6, n_labels=2, n_pairs=2, max_pairs=3, d_content=5, burstiness=1, no_repeats=False))
    model = HookedTransformer(ModelConfig(n_heads=1, d_model=task.config.d_input, d_vocab=2, n_ctx=7, readout="classifier"))
    assert table_of(model, Roles((Head(0, 0),), (Head(1, 0),)), task).empty


def test_an_untrained_run_has_no_table(tmp_path):
    run = untrained_run(tmp_path / "r")
    analyze(run, only=["formation"], sequences=5)
    assert "circuit_matrices" not in run.tables.names
