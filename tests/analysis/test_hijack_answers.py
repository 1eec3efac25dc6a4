"""What is read off the ends of hijack prompts, against loops; the direct contributions of a constructed model against the closed form."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import reference_hijack
from tests.reference_model import random_model
from workbench.analysis import interventions
from workbench.analysis.attribution import direct_contributions, needed
from workbench.analysis.data import AnalysisData
from workbench.analysis.hijack import attention, attention_mass
from workbench.analysis.hijack_answers import answers, global_margins, margins_of
from workbench.analysis.roles import Head
from workbench.config import TriggerBigramConfig
from workbench.model.constructed import Strengths, associative_memory
from workbench.tasks import make_task

TASK = make_task(TriggerBigramConfig(d_vocab=23, seq_len=31, n_triggers=3))
MODELS = [
    {},
    {"stream": "value", "attn_only": False, "normalization_type": "RMS"},
    {"stream": "value", "stream_mix": "learned", "positional_embedding_type": "rotary", "d_head": 4},
    {"stream": "key", "normalization_type": None, "positional_embedding_type": "relative"},
]


def few(model, n=7):
    data = AnalysisData.draw(model.config, TASK, sequences=5)
    every = len(data.hijack_prompts) // n
    return data.hijack_prompts[: n * every : every], data.batches[data.own]


@pytest.mark.parametrize("fields", MODELS)
def test_margins_gaps_and_contributions_against_loops(fields):
    model = random_model(n_layers=2, n_heads=3, d_vocab=23, n_ctx=31, **fields)
    prompts, _ = few(model)
    heads = (Head(1, 2), Head(0, 1))
    found = answers(model, prompts, heads)
    with torch.no_grad():
        logits, cache = model.run_with_cache(prompts.tokens)
    assert found.global_margins is None
    for i in range(len(prompts)):
        c, g = prompts.design["context"][i].item(), prompts.design["prior"][i].item()
        assert found.margins[i].item() == pytest.approx((logits[i, -1, c] - logits[i, -1, g]).item(), rel=1e-9)
        gap = 0.0
        for head, (s, token) in itertools.product(heads, enumerate(prompts.tokens[i].tolist())):
            gap += cache["pattern", head.layer][i, head.head, -1, s].item() * ((token == c) - (token == g)) / 2
        assert found.gaps[i].item() == pytest.approx(gap)
    # Own and streamed parts split their heads; everything else is a part of the sum.
    split = {place for place in found.contributions if place[2] in ("own", "streamed")}
    assert len(split) == (6 if fields.get("stream") == "value" else 0)
    whole = sum(values for place, values in found.contributions.items() if place not in split)
    torch.testing.assert_close(whole, found.margins, rtol=1e-8, atol=1e-8)
    for layer, head in {place[:2] for place in split}:
        parts = sum(found.contributions[layer, head, part] for part in ("own", "streamed"))
        torch.testing.assert_close(parts, found.contributions[layer, head, None], rtol=1e-8, atol=1e-8)
    assert answers(model, prompts).gaps is None


@pytest.mark.parametrize("fields", MODELS)
def test_the_global_part_against_a_pass_for_each_prompt(fields):
    """Every head's z at every position by its mean over the corpus there: the slow way."""
    model = random_model(n_layers=2, n_heads=3, d_vocab=23, n_ctx=31, **fields)
    prompts, corpus = few(model, 5)
    with torch.no_grad():
        _, clean = model.run_with_cache(corpus.tokens)
        means = {layer: clean["z", layer].mean(dim=0) for layer in range(2)}
        hooks = [(f"blocks.{layer}.attn.hook_z", lambda z, hook: means[hook.layer()].expand_as(z)) for layer in means]
        expected = []
        for i in range(len(prompts)):
            logits = model.run_with_hooks(prompts.tokens[i : i + 1], fwd_hooks=hooks)[0, -1]
            expected.append((logits[prompts.design["context"][i]] - logits[prompts.design["prior"][i]]).item())
    assert global_margins(model, prompts, corpus).tolist() == pytest.approx(expected, rel=1e-8)
    assert answers(model, prompts, corpus=corpus).global_margins.tolist() == pytest.approx(expected, rel=1e-8)
    assert len(set(expected)) > 1


def test_the_global_part_of_constructed_models():
    """All of the margin, where only bigrams speak; where only attention does, what it finds in the corpus on average."""
    model = associative_memory(TASK.language.bigram, 31, Strengths(t2=0.0))
    prompts, corpus = few(model, 24)
    found = answers(model, prompts, corpus=corpus)
    torch.testing.assert_close(found.global_margins, found.margins)
    torch.testing.assert_close(found.margins, -prompts.log_odds)
    copying = associative_memory(TASK.language.bigram, 31, Strengths(t2=5.0, t3=0.0))
    found = answers(copying, prompts, corpus=corpus)
    mass = attention_mass(attention(corpus.tokens, Strengths()), corpus.tokens, 23)[:, -1].mean(dim=0)
    expected = 5.0 * (mass[prompts.design["context"]] - mass[prompts.design["prior"]])
    torch.testing.assert_close(found.global_margins, expected)
    assert (found.margins - found.global_margins).abs().max() > 2


def test_chunks_change_nothing(monkeypatch):
    model = random_model(n_layers=2, n_heads=3, d_vocab=23, n_ctx=31, stream="value")
    prompts, corpus = few(model, 17)
    whole = answers(model, prompts, (Head(1, 0),), corpus)
    assert torch.equal(margins_of(model, prompts), whole.margins)
    monkeypatch.setattr(interventions, "PAIRS", 7 * 31**2)
    pieces = answers(model, prompts, (Head(1, 0),), corpus)
    for name in ("margins", "gaps", "global_margins"):
        torch.testing.assert_close(getattr(whole, name), getattr(pieces, name))
    for component, values in whole.contributions.items():
        torch.testing.assert_close(values, pieces.contributions[component])
    torch.testing.assert_close(margins_of(model, prompts), whole.margins)


V, T = 7, 11
BIGRAM = np.random.default_rng(0).dirichlet(np.ones(V), size=V)
LOG = torch.from_numpy(np.log(BIGRAM))
STRENGTHS = [Strengths(t2=5.0, t3=0.5), Strengths(2.0, 1.5, 3.0, 0.7)]
CONSTRUCTED = {
    (strengths, positions, stream, dtype): associative_memory(BIGRAM, T, strengths, [1, 3, 4], positions=positions, stream=stream).to(dtype)
    for strengths, positions, stream, dtype in itertools.product(
        STRENGTHS, ["standard", "relative"], [False, True], [torch.float64, torch.float32]
    )
}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, V - 1), min_size=1, max_size=T), st.sampled_from(list(CONSTRUCTED)), st.integers(0, V - 1))
def test_each_direct_contribution_of_a_constructed_model_is_a_term_of_the_closed_form(tokens, kind, target):
    strengths, _, stream, dtype = kind
    model = CONSTRUCTED[kind]
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor([tokens]), names_filter=needed(model.config))
        found = direct_contributions(model, cache, torch.full((1, len(tokens)), target)).by_component()
    terms: dict = {(1, 0, None): [], (1, None, "mlp"): []}
    for t in range(len(tokens)):
        for place, t2, t3 in (((1, 0, None), strengths.t2, 0.0), ((1, None, "mlp"), 0.0, strengths.t3)):
            logits = reference_hijack.logits(tokens, t, LOG.tolist(), strengths.b0, strengths.t1, t2, t3, [1, 3, 4])
            terms[place].append(logits[target] - sum(logits) / V)
    if stream:
        terms[1, 0, "streamed"] = terms[1, 0, None]
    near = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-5}
    for place, value in found.items():
        expected = torch.tensor(terms.get(place, [0.0] * len(tokens)), dtype=torch.float64)
        torch.testing.assert_close(value[0].double(), expected, **near, msg=lambda text, place=place: f"{place}: {text}")
    assert set(terms) <= set(found)
