"""Ablation: hand-built circuits whose loss is known exactly, weights without the head, loops over sequences and positions;
matching by hand; and the count of forward passes against the model's own calls."""

from __future__ import annotations

import functools
import math

import pytest
import torch

from tests.hand_built import bag_of_tokens, induction, positional
from tests.reference_model import random_model
from workbench import HookedTransformer, ModelConfig, RepeatedTokensConfig
from workbench.analysis import causal
from workbench.analysis.causal import ablate, matched_controls, measure, output_norm
from workbench.analysis.data import AnalysisData
from workbench.analysis.interventions import SUBSTITUTES, run
from workbench.analysis.roles import Head, Roles
from workbench.tasks.base import Batch
from workbench.tasks.repeated_tokens import RepeatedTokens

EFFECTS = ("ablation_accuracy_loss", "ablation_loss_increase", "ablation_bigram_increase")
CIRCUIT = Roles(previous_token=(Head(0, 0),), induction=(Head(1, 0),))


@pytest.fixture
def whole_section() -> None:
    """Asked for by tests that need patching, too."""


@pytest.fixture(autouse=True)
def ablations_only(request, monkeypatch):
    """Patching takes half of the time, and has tests of its own."""
    if "whole_section" not in request.fixturenames:
        monkeypatch.setattr(causal, "patching_rows", lambda *_: ())


def repeats(sequences: int = 38) -> AnalysisData:
    """Sequences on which a lookup is never ambiguous, for the hand-built models."""
    task = RepeatedTokens(RepeatedTokensConfig(d_vocab=13, seq_len=16, placement="non-periodic", distinct=True))
    return AnalysisData.draw(ModelConfig(d_vocab=13, n_ctx=17), task, sequences=sequences)


def random_data(model: HookedTransformer, sequences: int = 8) -> AnalysisData:
    return AnalysisData.draw(model.config, None, sequences=sequences)


def measured(model: HookedTransformer, data: AnalysisData, roles: Roles | None = None) -> dict[tuple, dict]:
    """(metric, intervention, head or group) -> row."""
    found = {}
    for row in measure(model, data, roles):
        where = f"L{row['layer']}H{row['head']}" if "head" in row else row.get("part")
        if row["metric"] == "matched_control":
            where = (row["part"], where)
        if row["metric"] != "patching_recovery":
            found[row["metric"], row.get("intervention"), where] = row
    return found


@functools.cache
def of_induction(stream: str = "none", copying: str = "own") -> dict[tuple, dict]:
    return measured(induction(stream, copying), repeats())


def evaluated(logits: torch.Tensor, batch: Batch) -> tuple[float, float, float]:
    """In-context accuracy, in-context loss and bigram loss, one position at a time."""
    right, losses, bigram = [], [], []
    for b in range(len(batch)):
        for t in range(batch.tokens.shape[1]):
            row, target = logits[b, t].tolist(), int(batch.targets[b, t])
            loss = math.log(sum(math.exp(x) for x in row)) - row[target]
            if batch.answered[b, t]:
                right.append(row.index(max(row)) == target)
                losses.append(loss)
            if batch.unanswerable[b, t]:
                bigram.append(loss)
    return tuple(sum(values) / len(values) for values in (right, losses, bigram))  # type: ignore


def expected_effects(clean: torch.Tensor, ablated: torch.Tensor, batch: Batch) -> dict[str, float]:
    before, after = evaluated(clean, batch), evaluated(ablated, batch)
    return dict(zip(EFFECTS, (before[0] - after[0], after[1] - before[1], after[2] - before[2]), strict=True))


def close(found: dict, metric: str, how: str, where: str, expected: float) -> None:
    assert found[metric, how, where]["value"] == pytest.approx(expected, abs=2e-5), (metric, how, where)


def logits_of(model: HookedTransformer, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return model(batch.tokens)


def test_without_the_induction_head_nothing_is_predicted():
    """All logits are 0: the first choice is token 0, and every loss is ln 13."""
    data = repeats()
    batch, found = data.scoring, of_induction()
    chance = (batch.targets[batch.answered] == 0).float().mean().item()
    assert 0 < chance < 0.3
    close(found, EFFECTS[0], "zero", "L1H0", 1 - chance)
    close(found, EFFECTS[1], "zero", "L1H0", math.log(13) - (math.log(math.exp(3) + 12) - 3))
    _, _, bigram = evaluated(logits_of(induction(), batch), batch)
    close(found, EFFECTS[2], "zero", "L1H0", math.log(13) - bigram)


def test_without_the_previous_token_head_the_induction_head_is_a_bag_of_tokens():
    """It attends evenly to positions 1 to t."""
    data = repeats()
    batch = data.scoring
    bag = torch.zeros(len(batch), 16, 13)
    for b, tokens in enumerate(batch.tokens.tolist()):
        for t in range(16):
            seen = tokens[1 : t + 1] or tokens[:1]
            for token in seen:
                bag[b, t, token] += 3 / len(seen)
    found = of_induction()
    for metric, expected in expected_effects(logits_of(induction(), batch), bag, batch).items():
        if metric != EFFECTS[0]:
            close(found, metric, "zero", "L0H0", expected)
    # Rounding decides between tokens that are equally frequent: the answer is chosen at least where it leads alone.
    leading = bag >= bag.max(dim=-1, keepdim=True).values - 1e-5
    leads = leading.gather(2, batch.targets[..., None]).squeeze(2)
    alone = leads & (leading.sum(dim=-1) == 1)
    right = 1 - found[EFFECTS[0], "zero", "L0H0"]["value"]
    assert alone[batch.answered].float().mean() - 1e-6 <= right <= leads[batch.answered].float().mean() + 1e-6 < 0.3


@pytest.mark.parametrize("model", [induction(), induction("value", "stream"), bag_of_tokens(), positional(7), positional(7, 0)])
def test_idle_heads_carry_nothing(model):
    found = measured(model, repeats(), CIRCUIT)
    idle = [key for key in found if key[0] in EFFECTS and (str(key[2]).endswith("H1") or str(key[2]).startswith("controls"))]
    assert len(idle) == len(EFFECTS) * len(SUBSTITUTES) * 4
    for key in idle:
        assert (found[key]["value"], found[key]["ci_low"], found[key]["ci_high"]) == (0.0, 0.0, 0.0), key


@pytest.mark.parametrize("model", [bag_of_tokens(), positional(7)])
def test_where_nothing_is_composed_layer_0_carries_nothing(model):
    found = measured(model, repeats())
    for metric in EFFECTS:
        for how in SUBSTITUTES:
            assert found[metric, how, "L0H0"]["value"] == 0.0
            assert abs(found[metric, how, "L1H0"]["value"]) > 1e-3 or metric == EFFECTS[0]


def test_the_wire_is_left_alone():
    """With copying along the wire, L0H0 writes only what L1H0 looks for: without it, L1H0 still copies along the wire."""
    plain, streamed = of_induction(), of_induction("value", "stream")
    for metric in EFFECTS:
        for where in ("L0H0", "L1H0"):
            close(streamed, metric, "zero", where, plain[metric, "zero", where]["value"])


def without(model: HookedTransformer, heads: list[Head]) -> HookedTransformer:
    """The model with these heads' W_O zeroed: they write nothing, and send the same along a wire."""
    rest = HookedTransformer(model.config).to(model.W_E.dtype).eval()
    rest.load_state_dict(model.state_dict())
    with torch.no_grad():
        for head in heads:
            rest.blocks[head.layer].attn.W_O[head.head] = 0.0
    return rest


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"stream": "value", "stream_source": "accumulated", "stream_mix": "learned"},
        {"stream": "query", "stream_permute_heads": "fixed", "normalization_type": "RMS"},
        {"attn_only": False, "parallel_attn_mlp": True, "positional_embedding_type": "rotary"},
    ],
)
def test_zero_is_the_model_without_the_heads_output(fields):
    model = random_model(n_ctx=13, **fields)
    data = random_data(model)
    roles = Roles(previous_token=(Head(2, 1), Head(0, 1)), induction=(Head(1, 0),))
    found, clean = measured(model, data, roles), logits_of(model, data.scoring)
    places = {str(Head(layer, head)): [Head(layer, head)] for layer in range(3) for head in range(2)}
    places |= {name: list(heads) for name, heads in roles.groups.items()}
    places |= {
        "controls of previous-token heads": [Head(0, 0), Head(2, 0)],
        "controls of induction heads": [Head(1, 1)],
    }
    for where, heads in places.items():
        expected = expected_effects(clean, logits_of(without(model, heads), data.scoring), data.scoring)
        for metric, value in expected.items():
            close(found, metric, "zero", where, value)
    assert abs(found[EFFECTS[1], "zero", "previous-token heads"]["value"]) > 1e-3


@pytest.mark.parametrize("how", ["mean", "resample"])
def test_mean_and_resampling_against_a_loop(how):
    model = random_model(n_ctx=13, stream="value")
    data = random_data(model)
    batch = data.scoring
    _, cache = model.run_with_cache(batch.tokens)
    n = len(batch)
    heads = [Head(0, 1), Head(2, 0), Head(2, 1)]

    def replacement(layer: int, b: int, t: int, head: int) -> torch.Tensor:
        z = cache["z", layer]
        return sum(z[c, t, head] for c in range(n)) / n if how == "mean" else z[(b + 1) % n, t, head]  # type: ignore

    def edit(z, hook):
        z = z.clone()
        for head in heads:
            if hook.layer() == head.layer:
                for b in range(n):
                    for t in range(z.shape[1]):
                        z[b, t, head.head] = replacement(head.layer, b, t, head.head)
        return z

    with torch.no_grad():
        ablated = model.run_with_hooks(batch.tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", edit) for layer in (0, 2)])
    found = measured(model, data, Roles(induction=tuple(heads)))
    for metric, expected in expected_effects(cache.model(batch.tokens), ablated, batch).items():
        close(found, metric, how, "induction heads", expected)
    assert abs(found[EFFECTS[1], how, "induction heads"]["value"]) > 1e-3


def test_chunks_do_not_matter(monkeypatch):
    model = random_model(n_ctx=13)
    data = random_data(model)
    whole = measured(model, data)
    monkeypatch.setattr("workbench.analysis.interventions.CHUNK", 2)
    for key, row in measured(model, data).items():
        if key[0] in EFFECTS:
            assert row["value"] == pytest.approx(whole[key]["value"], abs=1e-6)


def test_the_interval_is_of_the_paired_difference():
    data = repeats()
    batch = data.scoring
    clean = run(induction(), batch, record=["blocks.1.attn.hook_z"])
    ablated = ablate(induction(), batch, clean, "zero", [Head(1, 0)]).evaluation
    row = of_induction()[EFFECTS[0], "zero", "L1H0"]
    falls = [(clean.evaluation.correct[b].int() - ablated.correct[b].int())[batch.answered[b]] for b in range(len(batch))]
    total = sum(len(fall) for fall in falls)
    spread = sum((fall.sum().item() - row["value"] * len(fall)) ** 2 for fall in falls if len(fall))
    n = sum(len(fall) > 0 for fall in falls)
    assert row["n"] == n
    assert row["ci_high"] - row["value"] == pytest.approx(1.959963984540054 * math.sqrt(n / (n - 1) * spread) / total, rel=1e-4)
    assert row["sample"].estimate().value.item() == pytest.approx(row["value"])


NORMS = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 9.0, 6.0, 5.5]])


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        (Roles(), {}),
        (Roles(previous_token=(Head(0, 1),)), {"previous-token heads": (Head(0, 0),)}),  # a tie goes to the first head
        (Roles(induction=(Head(1, 0),)), {"induction heads": (Head(1, 3),)}),
        # A positional head and a head of another group are no controls.
        (Roles(induction=(Head(1, 0),), positional=(Head(1, 3),)), {"induction heads": (Head(1, 2),)}),
        (
            Roles(previous_token=(Head(1, 3),), induction=(Head(1, 0),)),
            {"previous-token heads": (Head(1, 2),), "induction heads": (Head(1, 2),)},
        ),
        # The nearest pair first (9 with 6), though 5.5 is named first; each control once.
        (Roles(induction=(Head(1, 3), Head(1, 1))), {"induction heads": (Head(1, 0), Head(1, 2))}),
        # As many as there are.
        (Roles(induction=(Head(1, 0), Head(1, 1), Head(1, 3))), {"induction heads": (Head(1, 2),)}),
        (Roles(induction=tuple(Head(1, head) for head in range(4))), {}),
        # Two layers, each with its own.
        (Roles(previous_token=(Head(1, 1), Head(0, 3))), {"previous-token heads": (Head(0, 2), Head(1, 2))}),
    ],
)
def test_matched_controls_by_hand(roles, expected):
    assert matched_controls(roles, NORMS) == expected


def test_the_nearest_pair_is_matched_first():
    """Head 0 (norm 4) would take head 2 (5), which is nearer to head 1 (5.5)."""
    norms = torch.tensor([[4.0, 5.5, 5.0, 2.0]])
    assert matched_controls(Roles(induction=(Head(0, 0),)), norms) == {"induction heads": (Head(0, 2),)}
    norms = torch.tensor([[4.0, 5.5, 5.0, 2.0, 99.0]])
    roles = Roles(previous_token=(Head(0, 0), Head(0, 1)))
    assert matched_controls(roles, norms) == {"previous-token heads": (Head(0, 2), Head(0, 3))}


def test_which_heads_were_controls_can_be_traced():
    model = random_model(n_ctx=13, n_heads=3)
    roles = Roles(previous_token=(Head(0, 0), Head(2, 1)), induction=(Head(1, 2),))
    found = measured(model, random_data(model), roles)
    norms = torch.tensor([[found["output_norm", None, f"L{layer}H{head}"]["value"] for head in range(3)] for layer in range(3)])
    expected = {(name, str(head)) for name, heads in matched_controls(roles, norms).items() for head in heads}
    traced = {where for metric, _, where in found if metric == "matched_control"}
    assert traced == expected and len(traced) == 3
    for group, head in traced:
        assert found["matched_control", None, (group, head)]["value"] == found["output_norm", None, head]["value"]


def test_output_norm_against_a_loop():
    model = random_model()
    tokens = torch.randint(7, (3, 5), generator=torch.Generator().manual_seed(0))
    _, cache = model.run_with_cache(tokens)
    W_O = model.blocks[1].attn.W_O.detach()
    found = output_norm(cache["z", 1], W_O).estimate()
    for head in range(2):
        lengths = []
        for b in range(3):
            for t in range(5):
                out = [sum(cache["z", 1][b, t, head, d] * W_O[head, d, m] for d in range(4)) for m in range(6)]
                lengths.append(math.sqrt(sum(x * x for x in out)))
        assert found.value[head].item() == pytest.approx(sum(lengths) / len(lengths), rel=1e-5)


@pytest.mark.parametrize("sequences", [38, 150])
def test_forward_passes_are_counted(whole_section, monkeypatch, sequences):
    """75 scored sequences go through in two chunks; patching uses 64 of them."""
    model, data = induction("value", "stream"), repeats(sequences)
    passed, forward = [], model.forward

    def counting(tokens, *rest, **more):
        passed.append(len(tokens))
        return forward(tokens, *rest, **more)

    monkeypatch.setattr(model, "forward", counting)
    found = measured(model, data, CIRCUIT)
    assert found["forward_passes", None, None]["value"] == pytest.approx(sum(passed) / len(data.scoring))
    # Clean, 3 x 4 heads (a group of one head is not run again), and patching: 1 + 2 + 2 + 2 x (5 + 7) x 2 over its pairs.
    pairs = found["patching_effect", "answer", None]["n"]
    assert found["forward_passes", None, None]["value"] == pytest.approx(13 + 53 * pairs / len(data.scoring))


def test_rows(whole_section):
    """Without roles, no groups; without sequences that show an answer, no effect on answers."""
    data = repeats()
    rows = list(measure(induction(), data))
    assert {row["task"] for row in rows} == {data.own}
    assert not any("part" in row for row in rows if row["metric"] != "patching_recovery")
    # L0H0 writes the token before; L1H0 writes 3 times a token, or less of several.
    norms = [row["value"] for row in rows if row["metric"] == "output_norm"]
    assert norms == pytest.approx([1.0, 0.0, norms[2], 0.0]) and 1.0 < norms[2] < 3.0
    batch = data.batches[data.own]
    nothing = Batch(batch.tokens, batch.targets, torch.zeros_like(batch.answered), batch.unanswerable)
    metrics = {row["metric"] for row in measure(induction(), AnalysisData(data.tasks, {data.own: nothing}))}
    assert metrics == {"output_norm", "ablation_bigram_increase", "forward_passes"}


def test_no_row_is_without_a_number(whole_section):
    model = random_model(n_ctx=13, stream="key")
    for row in measure(model, random_data(model), Roles(induction=(Head(1, 0),))):
        numbers = [row[name] for name in ("value", "ci_low", "ci_high") if name in row]
        assert numbers and all(math.isfinite(number) for number in numbers), row


def test_an_untrained_model_needs_none_of_its_heads():
    data = repeats()
    model = HookedTransformer(ModelConfig(d_vocab=13, n_ctx=17, n_heads=2, d_model=14)).eval()
    for (metric, _, _), row in measured(model, data).items():
        if metric in EFFECTS[1:]:
            assert abs(row["value"]) < 0.1
        if metric == EFFECTS[0]:
            assert abs(row["value"]) < 0.15


def test_the_model_comes_back_as_it_was(whole_section):
    """Also where the rows are not read to the end, and where a metric fails."""
    before, model = torch.get_rng_state(), induction()
    next(measure(model, repeats()))
    list(measure(model, repeats(), CIRCUIT))
    assert not any(hook.fwd_hooks for hook in model.hook_dict.values())
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_hook_is_left_after_an_exception(monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    model = induction()
    monkeypatch.setattr(causal, "patching_rows", broken)
    with pytest.raises(ZeroDivisionError):
        list(measure(model, repeats()))
    assert not any(hook.fwd_hooks for hook in model.hook_dict.values())
