"""Probes: loops over single tokens and positions from the definitions, the hand-built models, which hold every association or
none, and heads that have nothing to recall."""

import itertools
import math

import numpy as np
import pytest
import torch

from tests.hand_built import D_VOCAB, N_CTX, OUTPUT, TOKEN, bag_of_tokens, blank, induction, positional
from tests.reference_analysis import mean_and_error
from tests.reference_model import activation, norm, random_model
from workbench.analysis import attention_probes, probes
from workbench.analysis.data import AnalysisData
from workbench.config import RepeatedTokensConfig, TriggerBigramConfig
from workbench.tasks import make_task
from workbench.tasks.language import Language

NORMS = ("LN", "LNPre", "RMS", "RMSPre", None)
EQUAL = make_task(RepeatedTokensConfig(d_vocab=D_VOCAB, seq_len=16, placement="equal", distinct=True))
JITTERED = make_task(RepeatedTokensConfig(d_vocab=D_VOCAB, seq_len=16, placement="jittered", distinct=True))
BIGRAMS = TriggerBigramConfig(d_vocab=D_VOCAB, seq_len=16, n_triggers=3)
SMALL = {"n_ctx": 23, "d_vocab": 19, "d_model": 10}


def rows_of(model, task=EQUAL, sequences=20):
    return list(probes.measure(model, AnalysisData.draw(model.config, task, sequences=sequences)))


def values_of(rows, name, *columns):
    return {tuple(row.get(column) for column in columns): row["value"] for row in rows if row["metric"] == name}


def small_task(**fields):
    return make_task(TriggerBigramConfig(**({"d_vocab": 19, "seq_len": 21, "n_triggers": 7, "triggers": "fixed"} | fields)))


class Naive:
    """What each head makes of one vector at a time, through norms without their divisor."""

    def __init__(self, model):
        self.model, self.c = model, model.config
        self.state = {name: value.detach() for name, value in model.state_dict().items()}

    def read(self, x, name):
        if self.c.normalization_type in ("LN", "LNPre"):
            x = x - x.mean()
        return x * self.state[f"{name}.w"] if f"{name}.w" in self.state else x

    def project(self, x, letter, layer, head):
        return self.read(x, f"blocks.{layer}.ln1") @ self.state[f"blocks.{layer}.attn.W_{letter.upper()}"][head]

    def used(self, x, letter, layer, head):
        """With a stream that has plain sources and no exchange of heads: previous, a = b = 1."""
        streamed = layer > 0 and self.c.stream[0] == letter
        return self.project(x, letter, layer, head) + (self.project(x, letter, layer - 1, head) if streamed else 0)

    def logits(self, x):
        return self.read(x, "ln_final") @ self.state["unembed.W_U"]

    def write(self, v, layer, head):
        return v @ self.state[f"blocks.{layer}.attn.W_O"][head]


def first_choice(scores):
    """The place of the largest score; None where two share it."""
    best = max(scores)
    return scores.index(best) if scores.count(best) == 1 else None


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize(("positions", "n_ctx"), [("standard", 23), ("standard", 17), ("sinusoidal", 17)])
def test_previous_token_probe_against_a_loop(kind, positions, n_ctx):
    model = random_model(**{**SMALL, "n_ctx": n_ctx}, normalization_type=kind, positional_embedding_type=positions)
    task = small_task(seq_len=min(n_ctx, 21))
    rows, T = rows_of(model, task), min(n_ctx, 21)
    found = values_of(rows, "previous_token_probe", "layer", "head", "part")
    baselines = {None: 1 / (T - 1), "causal": np.mean([1 / (t + 1) for t in range(1, T)])}
    assert all(row["baseline"] == pytest.approx(baselines[row.get("part")]) for row in rows if row["metric"] == "previous_token_probe")
    naive = Naive(model)
    expected = {}
    for head in range(2):
        right = {None: 0, "causal": 0}
        for t in range(1, T):
            q = naive.project(model.W_pos[t], "q", 0, head)
            scores = [(q @ naive.project(model.W_pos[s], "k", 0, head)).item() for s in range(T)]
            right[None] += first_choice(scores[: T - 1]) == t - 1
            right["causal"] += first_choice(scores[: t + 1]) == t - 1
        for part, number in right.items():
            expected[0, head, part] = pytest.approx(number / (T - 1))
    assert found == expected


@pytest.mark.parametrize("kind", ["LN", "RMS", None])
@pytest.mark.parametrize("stream", ["none", "query", "key", "value"])
@pytest.mark.parametrize("triggers", ["fixed", "random"])
def test_trigger_match_probe_against_a_loop(kind, stream, triggers):
    model = random_model(**SMALL, normalization_type=kind, stream=stream)
    task = small_task(triggers=triggers)
    naive = Naive(model)
    units = task.fixed_triggers.tolist() if triggers == "fixed" else list(range(19))
    rows = rows_of(model, task)
    found = values_of(rows, "trigger_match_probe", "layer", "source_layer", "source_head", "head")
    expected = {}
    with torch.no_grad():
        for layer, head in itertools.product((1, 2), range(2)):
            written = {h: [naive.write(naive.used(model.W_E[u], "v", layer - 1, h), layer - 1, h) for u in units] for h in range(2)}
            written[None] = [sum(parts) for parts in zip(written[0], written[1], strict=True)]
            for source, moved in written.items():
                keys = [naive.project(vector, "k", layer, head) for vector in moved]
                right = 0
                for number, q in enumerate(units):
                    query = naive.used(model.W_E[q], "q", layer, head)
                    right += first_choice([(query @ key).item() for key in keys]) == number
                expected[layer, layer - 1, source, head] = pytest.approx(right / len(units))
    assert found == expected
    assert {(row["n"], row["baseline"]) for row in rows if row["metric"] == "trigger_match_probe"} == {(len(units), 1 / len(units))}


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("stream", ["none", "value"])
def test_copying_probe_against_a_loop(kind, stream):
    model = random_model(**SMALL, normalization_type=kind, stream=stream)
    naive, expected = Naive(model), {}
    with torch.no_grad():
        for layer in range(3):
            parts = {"own": naive.project}
            if stream == "value" and layer > 0:
                parts |= {"total": naive.used, "streamed": lambda x, letter, layer, head: naive.project(x, letter, layer - 1, head)}
            for part, values in parts.items():
                for heads in ((0,), (1,), (0, 1)):
                    right = 0
                    for v in range(19):
                        written = sum(naive.write(values(model.W_E[v], "v", layer, h), layer, h) for h in heads)
                        right += first_choice(naive.logits(written).tolist()) == v
                    expected[layer, heads[0] if len(heads) == 1 else None, part] = pytest.approx(right / 19)
    rows = rows_of(model, small_task())
    assert values_of(rows, "copying_probe", "layer", "head", "part") == expected
    assert {(row["n"], row["baseline"]) for row in rows if row["metric"] == "copying_probe"} == {(19, 1 / 19)}


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("triggers", ["fixed", "random"])
def test_bigram_probe_against_a_loop(kind, triggers):
    model = random_model(**SMALL, normalization_type=kind, attn_only=False)
    task = small_task(triggers=triggers)
    s = {name: value.numpy() for name, value in model.state_dict().items()}
    units = [v for v in range(19) if triggers == "random" or v not in task.fixed_triggers]

    def divergence(logits, wanted):
        total = math.log(sum(math.exp(x) for x in logits))
        return sum(p * (math.log(p) - x + total) for p, x in zip(wanted, logits, strict=True) if p > 0)

    def normed(part, whole, name):
        """A norm applied to the whole, and the share of it that the part makes up; no shift."""
        divisor = norm(whole, kind, 1e-5, 1.0, 0.0)[0] or 1.0
        part = part - part.mean() if kind in ("LN", "LNPre") else part
        return part / divisor * s.get(f"{name}.w", 1.0)

    def mlp(x, layer):
        block = f"blocks.{layer}"
        pre = norm(x, kind, 1e-5, s.get(f"{block}.ln2.w"), s.get(f"{block}.ln2.b"))[2] @ s[f"{block}.mlp.W_in"] + s[f"{block}.mlp.b_in"]
        return np.array([activation("gelu", value) for value in pre]) @ s[f"{block}.mlp.W_out"] + s[f"{block}.mlp.b_out"]

    expected = {(None, "direct"): 0.0, (0, "mlp"): 0.0, (1, "mlp"): 0.0, (2, "mlp"): 0.0}
    for v in units:
        x, wanted = s["embed.W_E"][v], task.language.bigram[v]
        expected[None, "direct"] += divergence(normed(x, x, "ln_final") @ s["unembed.W_U"], wanted) / len(units)
        for layer in range(3):
            written = mlp(x, layer)
            expected[layer, "mlp"] += divergence(normed(written, x + written, "ln_final") @ s["unembed.W_U"], wanted) / len(units)
    rows = [row for row in rows_of(model, task) if row["metric"] == "bigram_probe"]
    found = values_of(rows, "bigram_probe", "layer", "part")
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-5)
    uniform = np.mean([math.log(19) - task.language.entropies()[v] for v in units])
    for row in rows:
        assert row["n"] == len(units) and row["baseline"] == pytest.approx(uniform)


def asked_for(name, t, tokens, asked, predicted):
    """(whether position t counts, the positions where its largest attention should be)."""
    if name == "argmax_previous_token":
        return any(asked[r] and 1 <= t <= r and tokens[t - 1] == tokens[r] for r in range(len(tokens))), [t - 1]
    if name == "argmax_prefix_match":
        after = [s for s in range(1, t + 1) if tokens[s - 1] == tokens[t]]
        return bool(asked[t] and after), after
    return bool(asked[t]), [s for s in range(t + 1) if tokens[s] == predicted[t]]


def largest_on(name, pattern, tokens, asked, predicted):
    """(right, counted) of one head on one sequence: right where every position with the largest attention should be one."""
    right = count = 0
    for t in range(len(tokens)):
        counts, places = asked_for(name, t, tokens, asked, predicted)
        count += counts
        right += counts and all(s in places for s in range(t + 1) if pattern[t][s] == max(pattern[t]))
    return right, count


def chance(name, tokens, asked, predicted):
    """(right in expectation, counted) of a position drawn evenly from 0 .. t."""
    found = [asked_for(name, t, tokens, asked, predicted) for t in range(len(tokens))]
    return sum(counts * len(places) / (t + 1) for t, (counts, places) in enumerate(found)), sum(counts for counts, _ in found)


@pytest.mark.parametrize("name", ["argmax_previous_token", "argmax_prefix_match", "attended_is_predicted"])
def test_activation_probes_against_a_loop(name):
    rng = np.random.default_rng(0)
    for _ in range(20):
        tokens, predicted = rng.integers(0, 3, (2, 5, 11))
        asked = rng.random((5, 11)) < 0.6
        # Few different values, so that rows have several largest.
        weights = torch.from_numpy(rng.integers(1, 4, (5, 2, 11, 11)).astype(np.float32)).tril()
        pattern = weights / weights.sum(dim=-1, keepdim=True)
        arguments = [torch.from_numpy(tokens), torch.from_numpy(asked)]
        if name == "attended_is_predicted":
            arguments.insert(1, torch.from_numpy(predicted))
        sample = getattr(attention_probes, name)(pattern, *arguments)
        for b, h in itertools.product(range(5), range(2)):
            right, count = largest_on(name, pattern[b, h].tolist(), tokens[b], asked[b], predicted[b])
            assert (sample.sums[b, h], sample.counts[b]) == (right, count)


@pytest.mark.parametrize("task", [EQUAL, JITTERED, make_task(BIGRAMS)])
def test_activation_rows_are_those_of_the_scoring_half(task, monkeypatch):
    monkeypatch.setattr(attention_probes, "CHUNK", 7)
    model = random_model(d_vocab=D_VOCAB, n_ctx=17)
    data = AnalysisData.draw(model.config, task, sequences=46)
    batch = data.scoring
    with torch.no_grad():
        logits, cache = model.run_with_cache(batch.tokens)
    predicted = logits.argmax(-1).tolist()
    for row in probes.measure(model, data):
        if row["metric"] in ("argmax_previous_token", "argmax_prefix_match", "attended_is_predicted"):
            pattern = cache["pattern", row["layer"]][:, row["head"]].tolist()
            arguments = list(zip(batch.tokens.tolist(), batch.answered.tolist(), predicted, strict=True))
            loops = [largest_on(row["metric"], pattern[b], *arguments[b]) for b in range(len(batch))]
            value, error = mean_and_error(*zip(*loops, strict=True))
            assert row["value"] == pytest.approx(value, abs=1e-6)
            assert (row["ci_high"] - row["ci_low"]) / 2 == pytest.approx(1.959964 * error, abs=1e-5)
            totals, counts = zip(*(chance(row["metric"], *arguments[b]) for b in range(len(batch))), strict=True)
            assert row["baseline"] == pytest.approx(sum(totals) / sum(counts), abs=1e-6)


@pytest.mark.parametrize(("stream", "copying"), [("none", "own"), ("value", "own"), ("value", "stream"), ("value", "both")])
def test_an_induction_circuit_recalls_everything(stream, copying):
    rows = rows_of(induction(stream, copying))
    assert values_of(rows, "previous_token_probe", "head", "part") == {(0, None): 1, (1, None): 0, (0, "causal"): 1, (1, "causal"): 0}
    matches = values_of(rows, "trigger_match_probe", "source_head", "head")
    assert matches == {(0, 0): 1, (0, 1): 0, (1, 0): 0, (1, 1): 0, (None, 0): 1, (None, 1): 0}
    copies = values_of(rows, "copying_probe", "layer", "head", "part")
    expected = {"own": {"own": 1, "streamed": 0, "total": 1}, "stream": {"own": 0, "streamed": 1, "total": 1}}
    for part, value in expected.get(copying, dict.fromkeys(("own", "streamed", "total"), 1)).items():
        if part == "own" or stream == "value":
            assert [copies.pop((1, head, part)) for head in (0, 1, None)] == [value, 0, value]
    assert set(copies.values()) == {0} and all(layer == 0 for layer, _, _ in copies)
    assert values_of(rows, "argmax_previous_token", "layer", "head") == {(0, 0): 1, (0, 1): 0, (1, 0): 0, (1, 1): 0}
    assert values_of(rows, "argmax_prefix_match", "layer", "head") == {(0, 0): 0, (0, 1): 0, (1, 0): 1, (1, 1): 0}
    predicted = values_of(rows, "attended_is_predicted", "layer", "head")
    assert predicted[1, 0] == 1 and max(predicted[0, 1], predicted[1, 1]) < 0.2
    for row in rows:
        assert row["value"] == row["sample"].estimate().value.item() and row["n"] == row["sample"].estimate().n


@pytest.mark.parametrize("model", [bag_of_tokens(), positional(7), blank()])
def test_models_without_associations_recall_nothing(model):
    rows = rows_of(model, JITTERED)
    for name in ("previous_token_probe", "trigger_match_probe", "argmax_previous_token"):
        assert {row["value"] for row in rows if row["metric"] == name} == {0}
    assert max(values_of(rows, "argmax_prefix_match", "layer", "head").values()) < 0.35
    copies = values_of(rows, "copying_probe", "layer", "head")
    copying = {} if model.blocks[1].attn.W_O.eq(0).all() else {(1, 0): 1, (1, None): 1}
    assert copies == {key: copying.get(key, 0) for key in copies}


def test_a_tie_of_scores_is_no_recall():
    """Twice the same token vector: neither is recalled, the other ones are."""
    model = induction()
    with torch.no_grad():
        model.embed.W_E[3] = model.W_E[8]
    rows = rows_of(model)
    assert values_of(rows, "trigger_match_probe", "source_head", "head")[0, 0] == pytest.approx(11 / 13)
    assert values_of(rows, "copying_probe", "layer", "head")[1, 0] == pytest.approx(12 / 13)


def test_an_mlp_that_stores_the_bigrams():
    model = blank(attn_only=False, d_mlp=D_VOCAB, act_fn="relu")
    task = make_task(BIGRAMS)
    with torch.no_grad():
        model.blocks[1].mlp.W_in[TOKEN] = torch.eye(D_VOCAB)
        model.blocks[1].mlp.W_out[:, OUTPUT] = torch.tensor(task.language.bigram).float().clamp(min=1e-12).log()
    rows = [row for row in rows_of(model, task) if row["metric"] == "bigram_probe"]
    found = {(row.get("layer"), row["part"]): row for row in rows}
    assert found.keys() == {(None, "direct"), (0, "mlp"), (1, "mlp")}
    assert found[1, "mlp"]["value"] == pytest.approx(0.0, abs=1e-5)
    for silent in ((None, "direct"), (0, "mlp")):
        assert found[silent]["value"] == pytest.approx(found[silent]["baseline"]) and found[silent]["value"] > 0.1


def test_tokens_that_never_occur_have_no_bigrams_to_recall():
    task = make_task(BIGRAMS)
    unigram, bigram = np.ones(D_VOCAB), np.full((D_VOCAB, D_VOCAB), 1 / 11)
    unigram[[2, 5]], bigram[:, [2, 5]] = 0, 0
    task.language = Language(unigram / 11, bigram, task.language.strings)
    row = next(row for row in rows_of(random_model(d_vocab=D_VOCAB, n_ctx=16), task) if row["metric"] == "bigram_probe")
    assert row["n"] == len(set(range(D_VOCAB)) - {2, 5} - set(task.fixed_triggers.tolist()))
    assert row["baseline"] == pytest.approx(math.log(13 / 11))


def test_no_rows_where_there_is_nothing_to_probe():
    for positions in ("relative", "rotary", "none"):
        names = {row["metric"] for row in rows_of(random_model(d_vocab=D_VOCAB, n_ctx=16, positional_embedding_type=positions))}
        assert "previous_token_probe" not in names and "copying_probe" in names and "bigram_probe" not in names
    assert "trigger_match_probe" not in {row["metric"] for row in rows_of(random_model(d_vocab=D_VOCAB, n_ctx=16, n_layers=1))}


@pytest.mark.parametrize(("stream", "layers"), [("query", set()), ("key", {1, 2}), ("value", {1})])
def test_heads_permuted_by_position(stream, layers):
    """One matrix a head describes the values of layer 0, and keys as the probe reads them, but no streamed query or value."""
    rows = rows_of(random_model(d_vocab=D_VOCAB, n_ctx=16, stream=stream, stream_permute_heads="by-position"))
    assert {row["layer"] for row in rows if row["metric"] == "trigger_match_probe"} == layers
    assert {row["part"] for row in rows if row["metric"] == "copying_probe"} == {"own"}


def test_a_few_scores_at_a_time_give_the_same(monkeypatch):
    model = random_model(d_vocab=D_VOCAB, n_ctx=16)
    whole = rows_of(model)
    monkeypatch.setattr(probes, "LARGEST_TABLE", 3 * D_VOCAB * 2)
    assert [{**row, "sample": None} for row in rows_of(model)] == [{**row, "sample": None} for row in whole]


def test_nothing_is_left_behind():
    model, state = random_model(d_vocab=D_VOCAB, n_ctx=N_CTX), torch.get_rng_state()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows = rows_of(model)
    assert torch.equal(torch.get_rng_state(), state) and not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
    assert not any(row["sample"].sums.requires_grad for row in rows)
