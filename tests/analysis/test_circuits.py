"""Circuits: eigenvalues and norms against full matrices built from the definitions, the hand-built models, whose circuits are
known, and weights in which there is nothing to find."""

import itertools

import numpy as np
import pytest
import torch
from transformer_lens import FactoredMatrix
from transformer_lens.utilities.matrix import composition_scores

from tests.hand_built import D_VOCAB, OUTPUT, TOKEN, bag_of_tokens, blank, induction
from tests.reference_model import random_model
from workbench import HookedTransformer, ModelConfig
from workbench.analysis import circuits
from workbench.analysis.data import AnalysisData
from workbench.analysis.token_space import token_space
from workbench.errors import UsageError

NORMS = ("LN", "LNPre", "RMS", "RMSPre", None)
LETTER = {"query": "q", "key": "k", "value": "v"}
VALUE_STREAMS = [
    {"stream": "value", "stream_source": source, "stream_permute_heads": permuted, "n_heads": 3, **mixed}
    for source in ("previous", "accumulated", "first")
    for permuted in ("none", "fixed")
    for mixed in ({}, {"stream_init": (0.7, -1.9)}, {"stream_mix": "learned"})
]


def rows_of(model, name=None):
    found = list(circuits.measure(model, AnalysisData.draw(model.config, None, sequences=2)))
    return [row for row in found if name in (None, row["metric"])]


def values_of(model, name, *columns):
    """(columns) -> value of one metric."""
    return {tuple(row.get(column) for column in columns): row["value"] for row in rows_of(model, name)}


class Naive:
    """Full matrices from a model's parameters, row by row: what a norm does to a vector, head after head."""

    def __init__(self, model):
        self.model, self.c = model, model.config
        self.centred = self.c.normalization_type in ("LN", "LNPre")
        self.centre = torch.eye(self.c.d_model, dtype=model.W_E.dtype) - self.centred / self.c.d_model

    def reads(self, matrix, norm):
        """What a matrix [d_model, out] makes of a residual vector, through a norm's centring and learned scale."""
        return self.centre @ torch.diag(norm.w if hasattr(norm, "w") else torch.ones(self.c.d_model).to(matrix)) @ matrix

    def own(self, letter, layer, head):
        attn = self.model.blocks[layer].attn
        a = attn.mix[0] if LETTER.get(self.c.stream) == letter and layer > 0 else 1.0
        return a * self.reads(getattr(attn, f"W_{letter.upper()}")[head], self.model.blocks[layer].ln1)

    def unmixed(self, letter, layer, head):
        return self.reads(getattr(self.model.blocks[layer].attn, f"W_{letter.upper()}")[head], self.model.blocks[layer].ln1)

    def streamed(self, letter, layer, head):
        """What arrives, as a matrix on the token's embedding: the definition of the stream, layer after layer."""
        if LETTER.get(self.c.stream) != letter or layer == 0:
            return None
        giver = (head + (self.c.stream_permute_heads == "fixed")) % self.c.n_heads
        if self.c.stream_source == "first":
            source = self.unmixed(letter, 0, giver)
        elif self.c.stream_source == "previous":
            source = self.unmixed(letter, layer - 1, giver)
        else:
            source = self.used(letter, layer - 1, giver)
        return self.model.blocks[layer].attn.mix[1] * source

    def used(self, letter, layer, head):
        streamed = self.streamed(letter, layer, head)
        return self.own(letter, layer, head) + (0 if streamed is None else streamed)

    def W_O(self, layer, head):
        return self.model.blocks[layer].attn.W_O[head] @ self.centre

    def OV(self, layer, head):
        return self.own("v", layer, head) @ self.W_O(layer, head)

    def QK(self, layer, head):
        return self.own("q", layer, head) @ self.own("k", layer, head).T

    def heads(self):
        return itertools.product(range(self.c.n_layers), range(self.c.n_heads))


def positivity(matrix):
    values = torch.linalg.eigvals(matrix)
    return (values.real.sum() / values.abs().sum()).item()


def composed(A, B):
    return (torch.linalg.matrix_norm(A @ B) / torch.linalg.matrix_norm(A) / torch.linalg.matrix_norm(B)).item()


def assert_equal(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, **(tolerance or {"abs": 1e-6})), key


@pytest.mark.parametrize("fields", [{"normalization_type": norm} for norm in NORMS] + VALUE_STREAMS)
def test_copying_score_is_that_of_the_full_matrix(fields):
    model = random_model(**fields)
    naive, expected = Naive(model), {}
    W_U = naive.reads(model.W_U, model.ln_final)
    for layer, head in naive.heads():
        parts = {"own": naive.own("v", layer, head), "streamed": naive.streamed("v", layer, head)}
        parts["total"] = None if parts["streamed"] is None else naive.used("v", layer, head)
        for part, W_V in parts.items():
            if W_V is not None:
                expected[layer, head, part] = positivity(model.W_E @ W_V @ naive.W_O(layer, head) @ W_U)
    assert_equal(values_of(model, "copying_score", "layer", "head", "part"), expected)
    assert min(expected.values()) < -0.1 and max(expected.values()) > 0.1


@pytest.mark.parametrize("stream", ["none", "query", "key"])
@pytest.mark.parametrize("source", ["previous", "accumulated", "first"])
@pytest.mark.parametrize(
    "fields", [{}, {"n_heads": 3, "stream_permute_heads": "fixed", "stream_init": (0.7, -1.9)}, {"normalization_type": None}]
)
def test_qk_match_score_is_that_of_the_full_matrix(stream, source, fields):
    model = random_model(stream=stream, stream_source=source, **fields)
    naive, expected = Naive(model), {}
    for layer, head in naive.heads():
        Q, K = naive.own("q", layer, head), naive.own("k", layer, head)
        pairs = {"own": (Q, K)}
        if stream == "query" and layer > 0:
            pairs |= {"streamed": (naive.streamed("q", layer, head), K), "total": (naive.used("q", layer, head), K)}
        if stream == "key" and layer > 0:
            pairs |= {"streamed": (Q, naive.streamed("k", layer, head)), "total": (Q, naive.used("k", layer, head))}
        for part, (q, k) in pairs.items():
            expected[layer, head, part] = positivity(model.W_E @ q @ k.T @ model.W_E.T)
    assert_equal(values_of(model, "qk_match_score", "layer", "head", "part"), expected)


@pytest.mark.parametrize("fields", [{"normalization_type": norm} for norm in NORMS] + VALUE_STREAMS[:3] + [{"stream": "query"}])
def test_composition_scores_are_those_of_full_matrices(fields):
    model = random_model(**fields)
    naive = Naive(model)
    found = {name: values_of(model, f"{name}_composition", "layer", "head", "source_layer", "source_head") for name in ("q", "k", "v")}
    expected = {"q": {}, "k": {}, "v": {}}
    for (layer, head), (before, source) in itertools.product(naive.heads(), naive.heads()):
        if before < layer:
            A, key = naive.OV(before, source), (layer, head, before, source)
            expected["q"][key] = composed(A, naive.QK(layer, head))
            expected["k"][key] = composed(A, naive.QK(layer, head).T)
            expected["v"][key] = composed(A, naive.OV(layer, head))
    for name in expected:
        assert_equal(found[name], expected[name])


def test_composition_scores_are_those_of_transformer_lens():
    model = random_model(normalization_type=None)
    OV, QK = model.OV, model.QK
    earlier, later = FactoredMatrix(OV.A[0], OV.B[0]), FactoredMatrix(OV.A[2], OV.B[2])
    queries = FactoredMatrix(QK.A[2], QK.B[2])
    with torch.no_grad():
        torch.testing.assert_close(circuits.q_composition(earlier, queries), composition_scores(earlier, queries))
        torch.testing.assert_close(circuits.k_composition(earlier, queries), composition_scores(earlier, queries.T))
        torch.testing.assert_close(circuits.v_composition(earlier, later), composition_scores(earlier, later))


@pytest.mark.parametrize("fields", VALUE_STREAMS)
def test_streamed_circuits_are_those_of_the_wire(fields):
    model = random_model(**fields, normalization_type="LN" if fields.get("stream_init") else None)
    naive = Naive(model)
    shares = values_of(model, "streamed_ov_share", "layer", "head")
    pairs = values_of(model, "stream_composition", "layer", "head", "source_layer", "source_head")
    assert shares.keys() == set(itertools.product((1, 2), range(3)))
    expected_pairs = {}
    for layer, head in shares:
        # The matrix of each source: what is left of the arriving matrix when no other source has values.
        sources = {"previous": [layer - 1], "first": [0], "accumulated": list(range(layer))}[fields["stream_source"]]
        squared = 0.0
        for source in sources:
            alone = random_model(**fields, normalization_type=model.config.normalization_type)
            with torch.no_grad():
                for other in range(layer):
                    if other != source:
                        alone.blocks[other].attn.W_V.zero_()
            circuit = Naive(alone).streamed("v", layer, head) @ naive.W_O(layer, head)
            squared += circuit.pow(2).sum().item()
            hops = {"accumulated": layer - source}.get(fields["stream_source"], 1) * (fields["stream_permute_heads"] == "fixed")
            giver = (head + hops) % 3
            expected_pairs[layer, head, source, giver] = composed(naive.unmixed("v", source, giver), naive.W_O(layer, head))
        own = torch.linalg.matrix_norm(naive.OV(layer, head)).item()
        assert shares[layer, head] == pytest.approx(squared**0.5 / (squared**0.5 + own), abs=1e-6)
    assert_equal(pairs, expected_pairs)


@pytest.mark.parametrize("fields", VALUE_STREAMS)
def test_streamed_circuits_equal_the_models_own(fields):
    model = random_model(**fields, normalization_type=None)
    space = token_space(model)
    for layer in (1, 2):
        ours, theirs = space.streamed_OV(layer), model.streamed_OV(layer)
        assert ours.keys() == theirs.keys()
        for source in ours:
            torch.testing.assert_close(ours[source].AB, theirs[source].AB)
        torch.testing.assert_close(space.own_OV(layer).AB, model.own_OV(layer).AB)
        torch.testing.assert_close(space.used("v", layer) @ space.W_O(layer), space.OV_parts(layer)["total"].AB)


@pytest.mark.parametrize("norm", NORMS)
def test_a_change_of_weights_that_changes_no_logit_changes_no_row(norm):
    model = random_model(normalization_type=norm, stream="value", stream_source="accumulated")
    before = rows_of(model)
    tokens = torch.tensor([[0, 3, 1, 6, 2]])
    with torch.no_grad():
        logits = model(tokens)
        if norm in ("LN", "LNPre"):
            for written in (model.embed.W_E, model.pos_embed.W_pos, *(block.attn.W_O for block in model.blocks)):
                written += torch.randn(*written.shape[:-1], 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        if norm in ("LN", "RMS"):
            factors = torch.rand(6, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) + 0.5
            model.ln_final.w *= factors
            model.unembed.W_U /= factors[:, None]
            if norm == "LN":
                model.ln_final.b *= factors
        torch.testing.assert_close(model(tokens), logits)
    for row, again in zip(before, rows_of(model), strict=True):
        assert row == {**again, "value": pytest.approx(again["value"], abs=1e-6)}


def test_the_circuits_of_an_induction_head():
    model = induction()
    copying = values_of(model, "copying_score", "layer", "head", "part")
    assert copying == {(0, 0, "own"): 0.0, (0, 1, "own"): 0.0, (1, 0, "own"): pytest.approx(1.0), (1, 1, "own"): 0.0}
    for name in ("q_composition", "k_composition", "v_composition"):
        for row in rows_of(model, name):
            found = (name, row["source_head"], row["head"]) == ("k_composition", 0, 0)
            # Half of what L1H0's keys read (in squares) is the block that L0H0 writes; the other half is position 0.
            assert row["value"] == pytest.approx((2 * D_VOCAB) ** -0.5 if found else 0.0, abs=1e-6), row
            assert not found or row["value"] > 1.4 * row["baseline"]
    assert values_of(induction(strength=-3.0), "copying_score", "layer", "head", "part")[1, 0, "own"] == pytest.approx(-1.0)
    assert values_of(bag_of_tokens(), "copying_score", "layer", "head", "part")[1, 0, "own"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("copying", "own", "streamed", "total", "share", "joined"),
    [("own", 1.0, 0.0, 1.0, 0.0, 0.0), ("stream", 0.0, 1.0, 1.0, 1.0, D_VOCAB**-0.5), ("both", 1.0, 1.0, 1.0, 0.5, D_VOCAB**-0.5)],
)
def test_the_circuits_of_a_value_stream(copying, own, streamed, total, share, joined):
    model = induction("value", copying)
    found = values_of(model, "copying_score", "layer", "head", "part")
    assert [found[1, 0, part] for part in ("own", "streamed", "total")] == pytest.approx([own, streamed, total])
    assert values_of(model, "streamed_ov_share", "layer", "head") == {(1, 0): pytest.approx(share), (1, 1): 0.0}
    pairs = values_of(model, "stream_composition", "source_head", "head")
    assert pairs == {(0, 0): pytest.approx(joined), (1, 1): 0.0}
    assert all(row["value"] == pytest.approx(0.0, abs=1e-6) for row in rows_of(model, "v_composition"))


@pytest.mark.parametrize("copying", ["own", "stream", "both"])
def test_rounding_makes_no_circuit_of_one_that_is_zero(copying):
    """In another basis of the residual stream and of the heads, zeros become sums that cancel; every row stays what it was."""
    model = induction("value", copying)
    before = rows_of(model)
    generator = torch.Generator().manual_seed(3)
    R, H = (torch.linalg.qr(torch.randn(size, size, generator=generator)).Q for size in (model.config.d_model, model.config.d_head))
    with torch.no_grad():
        for block in model.blocks:
            for letter in "QKV":
                weight = getattr(block.attn, f"W_{letter}")
                weight.copy_(R.T @ weight @ H)
            block.attn.W_O.copy_(H.T @ block.attn.W_O @ R)
        model.embed.W_E.copy_(model.W_E @ R)
        model.unembed.W_U.copy_(R.T @ model.W_U)
    for row, again in zip(before, rows_of(model), strict=True):
        assert again == {**row, "value": pytest.approx(row["value"], abs=1e-3)}


def test_a_head_that_looks_for_its_own_token_matches():
    model = blank()
    with torch.no_grad():
        for head, sign in ((0, 1.0), (1, -1.0)):
            model.blocks[1].attn.W_Q[head, TOKEN, :D_VOCAB] = torch.eye(D_VOCAB)
            model.blocks[1].attn.W_K[head, TOKEN, :D_VOCAB] = sign * torch.eye(D_VOCAB)
    found = values_of(model, "qk_match_score", "layer", "head", "part")
    assert found == {(0, 0, "own"): 0.0, (0, 1, "own"): 0.0, (1, 0, "own"): pytest.approx(1.0), (1, 1, "own"): pytest.approx(-1.0)}
    assert set(values_of(induction(), "qk_match_score", "layer", "head").values()) == {0.0}


def test_a_head_that_rotates_the_vocabulary_copies_nothing():
    """Every token raises its successor: the eigenvalues are the roots of unity, and sum to zero."""
    model = blank()
    with torch.no_grad():
        model.blocks[1].attn.W_V[0, TOKEN, :D_VOCAB] = torch.eye(D_VOCAB)
        model.blocks[1].attn.W_O[0, :D_VOCAB, OUTPUT] = torch.eye(D_VOCAB).roll(1, dims=1)
    assert values_of(model, "copying_score", "layer", "head")[1, 0] == pytest.approx(0.0, abs=1e-6)


def test_untrained_weights_stay_at_the_baselines():
    model = HookedTransformer(ModelConfig(stream="value", stream_source="accumulated", n_layers=3)).eval()
    rows = rows_of(model)
    for name in ("q_composition", "k_composition", "v_composition", "stream_composition"):
        chosen = [row for row in rows if row["metric"] == name]
        assert np.mean([row["value"] for row in chosen]) == pytest.approx(chosen[0]["baseline"], rel=0.02)
        assert all(abs(row["value"] / row["baseline"] - 1) < 0.2 for row in chosen)
    for name in ("copying_score", "qk_match_score"):
        chosen = [row for row in rows if row["metric"] == name]
        assert all(row["baseline"] == 0 for row in chosen)
        assert abs(np.mean([row["value"] for row in chosen])) < 0.15 and max(abs(row["value"]) for row in chosen) < 0.6


@pytest.mark.parametrize(("d_model", "d_head"), [(1, 1), (5, 1), (6, 4), (29, 7), (3, 5)])
def test_baselines_are_the_means_for_random_matrices(d_model, d_head):
    rng = np.random.default_rng(7)
    V, W, Q, K = rng.normal(size=(4, 10_000 if d_model < 10 else 1000, d_model, d_head))
    left, right = V @ W.transpose(0, 2, 1), Q @ K.transpose(0, 2, 1)

    def norm(matrices):
        return np.linalg.norm(matrices, axis=(1, 2))

    composition = norm(left @ right) / norm(left) / norm(right)
    assert circuits.random_composition(d_model, d_head) == pytest.approx(composition.mean(), rel=0.02)
    assert circuits.random_stream_composition(d_model, d_head) == pytest.approx((norm(left) / norm(V) / norm(W)).mean(), rel=0.02)


def test_baselines_draw_once_and_from_their_own_generator():
    circuits.random_composition.cache_clear()
    state = torch.get_rng_state()
    first = rows_of(random_model(stream="value"))
    assert circuits.random_composition.cache_info().misses == 1
    assert rows_of(random_model(stream="value")) == first
    assert circuits.random_composition.cache_info().misses == 1
    assert torch.equal(torch.get_rng_state(), state)


def test_a_norm_that_centres_leaves_one_dimension_less():
    baselines = {norm: rows_of(random_model(normalization_type=norm), "q_composition")[0]["baseline"] for norm in NORMS}
    for norm in NORMS:
        assert baselines[norm] == circuits.random_composition(5 if norm in ("LN", "LNPre") else 6, 4)


def test_heads_permuted_by_position_have_no_streamed_circuit():
    for stream in ("query", "key", "value"):
        model = random_model(stream=stream, stream_permute_heads="by-position")
        rows = rows_of(model)
        assert {row.get("part") for row in rows} == {"own", None}
        assert not {"stream_composition", "streamed_ov_share"} & {row["metric"] for row in rows}
        space = token_space(model)
        assert space.used(LETTER[stream], 1) is None and space.used(LETTER[stream], 0) is not None
        with pytest.raises(UsageError, match="position"):
            space.arriving(LETTER[stream], 1)
    with pytest.raises(UsageError, match="by position"):
        space.streamed_OV(1)


def test_no_streamed_rows_without_a_value_stream():
    for stream in ("none", "query", "key"):
        model = random_model(stream=stream)
        assert {row["part"] for row in rows_of(model, "copying_score")} == {"own"}
        assert not rows_of(model, "stream_composition") and not rows_of(model, "streamed_ov_share")
        with pytest.raises(UsageError, match="no value stream"):
            token_space(model).streamed_OV(1)


def test_a_wire_with_weight_zero_carries_nothing():
    model = random_model(stream="value", stream_init=(1.0, 0.0))
    for name in ("stream_composition", "streamed_ov_share"):
        assert {row["value"] for row in rows_of(model, name)} == {0.0}
    streamed = [row["value"] for row in rows_of(model, "copying_score") if row["part"] == "streamed"]
    assert streamed == [0.0] * 4


def test_one_layer_has_no_pairs():
    rows = rows_of(random_model(n_layers=1))
    assert {row["metric"] for row in rows} == {"copying_score", "qk_match_score"}


@pytest.mark.parametrize("positions", ["relative", "rotary", "none", "sinusoidal"])
def test_any_positions(positions):
    model = random_model(positional_embedding_type=positions, attn_only=False, tie_word_embeddings=True)
    rows = rows_of(model)
    assert all(np.isfinite(row["value"]) for row in rows)
    assert (token_space(model).W_pos is None) == (positions in ("relative", "rotary", "none"))


@pytest.mark.parametrize("norm", ["LN", None])
def test_circuits_on_tokens_are_what_the_first_layer_does_with_them(norm):
    """One layer without positions: scores and logits of single tokens, each with its norm's divisor."""
    model = random_model(n_layers=1, positional_embedding_type="none", normalization_type=norm, attn_bias=False, attn_scale=1.0)
    if norm:
        with torch.no_grad():
            model.blocks[0].ln1.b.zero_()
    space, tokens = token_space(model), torch.arange(7)[:, None]
    _, cache = model.run_with_cache(tokens)
    divisor = cache["blocks.0.ln1.hook_scale"][:, 0] if norm else torch.ones(7, 1, dtype=torch.float64)
    scores = space.QK_tokens(0)["own"].AB / divisor / divisor.T
    torch.testing.assert_close(torch.stack([scores[head].diagonal() for head in range(2)], 1), cache["attn_scores", 0][:, :, 0, 0])
    written = space.OV_tokens(0)["own"].AB.sum(0) / divisor
    torch.testing.assert_close(written, (cache["attn_out", 0][:, 0] - model.blocks[0].attn.b_O) @ space.W_U)


def test_circuits_on_tokens_of_a_wire():
    space = token_space(induction("value", "stream"))
    parts = {part: circuit.AB[0, :, :] for part, circuit in space.OV_tokens(1).items()}
    assert parts["own"].abs().max() == 0
    torch.testing.assert_close(parts["streamed"], 3.0 * torch.eye(D_VOCAB))
    torch.testing.assert_close(parts["total"], parts["streamed"])
    assert set(space.OV_tokens(0)) == {"own"} and set(space.QK_tokens(1)) == {"own"}
