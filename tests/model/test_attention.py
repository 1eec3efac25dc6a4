"""The model against slow loops: logits and every activation, for every position scheme, norm and activation."""

import subprocess
import sys

import pytest
import torch

from tests.reference_model import random_model, random_tokens, reference
from workbench import analyze
from workbench.analysis.interventions import run as run_edited
from workbench.config import ModelConfig, RepeatedTokensConfig
from workbench.errors import CheckpointError, ConfigError, UsageError
from workbench.evaluation import evaluate
from workbench.model import HookedTransformer
from workbench.tasks import make_task
from workbench.tasks.base import Batch

POSITIONS = ("standard", "sinusoidal", "relative", "rotary", "none")


def assert_equals_reference(model: HookedTransformer, tokens: torch.Tensor) -> None:
    with torch.no_grad():
        logits, cache = model.run_with_cache(tokens)
    expected_logits, expected = reference(model.state_dict(), tokens, **model.config.to_dict())
    # The rotary angles are float32, whatever the model is.
    near = {"rtol": 1e-5, "atol": 1e-5} if model.config.positional_embedding_type == "rotary" else {"rtol": 1e-6, "atol": 1e-6}
    assert set(cache.keys()) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(cache[name], value, **near, msg=lambda text, name=name: f"{name}: {text}")
    torch.testing.assert_close(logits, expected_logits, **near)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("norm", ["LN", "LNPre", "RMS", "RMSPre", None])
def test_positions_and_norms(positions, norm):
    model = random_model(positional_embedding_type=positions, normalization_type=norm, eps=0.01, attn_scale=1.0 if norm == "RMS" else -1.0)
    assert_equals_reference(model, random_tokens())


@pytest.mark.parametrize("act_fn", ["relu", "gelu", "gelu_new", "silu", "linear"])
@pytest.mark.parametrize("parallel", [False, True])
def test_mlps(act_fn, parallel):
    assert_equals_reference(random_model(attn_only=False, act_fn=act_fn, parallel_attn_mlp=parallel), random_tokens())


def test_unscaled_and_oddly_scaled_scores_and_rotary_base():
    for scale in (1.0, 2.7):
        assert_equals_reference(random_model(attn_scale=scale), random_tokens())
    assert_equals_reference(random_model(positional_embedding_type="rotary", rotary_base=7.0), random_tokens())


def test_tied_embeddings_and_missing_biases():
    tied = random_model(tie_word_embeddings=True, stream="value")
    assert "unembed.W_U" not in tied.state_dict() and torch.equal(tied.W_U, tied.W_E.T)
    assert_equals_reference(tied, random_tokens())
    assert_equals_reference(random_model(attn_bias=False, mlp_bias=False, unembed_bias=False, attn_only=False), random_tokens())


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("stream", ["none", "query", "key", "value"])
def test_no_position_sees_the_future(positions, stream):
    model = random_model(positional_embedding_type=positions, stream=stream, stream_source="accumulated", attn_only=False)
    tokens = random_tokens()
    changed = tokens.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 7
    with torch.no_grad():
        (before, cache), (after, _) = model.run_with_cache(tokens), model.run_with_cache(changed)
    assert torch.equal(before[:, :3], after[:, :3])
    assert (before[:, 3:] - after[:, 3:]).abs().amax(dim=(0, 2)).min() > 1e-4
    for layer in range(3):
        pattern = cache["pattern", layer]
        torch.testing.assert_close(pattern.sum(dim=-1), torch.ones_like(pattern[..., 0]))
        assert (pattern.triu(1) == 0).all() and (pattern.tril() >= 0).all()


def test_sequences_beyond_n_ctx():
    long = random_tokens(pos=11)
    model = random_model()
    batch = Batch(long, long, torch.ones_like(long, dtype=torch.bool), torch.zeros_like(long, dtype=torch.bool))
    for run in (
        lambda: model(long),
        lambda: model(long, "loss"),
        lambda: model(inputs_embeds=model.embed(long)),
        lambda: model.run_with_hooks(long),
        lambda: model.run_with_cache(long),
        lambda: evaluate(model, batch),
        lambda: run_edited(model, batch),
        lambda: analyze(model, make_task(RepeatedTokensConfig(d_vocab=7, seq_len=11)), only=["length"]),
    ):
        with pytest.raises(UsageError, match="11 positions is longer than the learned position table \\(n_ctx=5\\)"):
            run()
    for positions in ("sinusoidal", "relative", "rotary", "none"):
        assert_equals_reference(random_model(positional_embedding_type=positions), long)


def test_one_sequence_and_given_embeddings():
    model, tokens = random_model(), random_tokens()
    logits = model(tokens)
    torch.testing.assert_close(model(tokens[1]), logits[1:])
    assert torch.equal(model(inputs_embeds=model.embed(tokens)), logits)
    with pytest.raises(UsageError, match="either tokens or inputs_embeds"):
        model()
    with pytest.raises(UsageError, match="either tokens or inputs_embeds"):
        model(tokens, inputs_embeds=model.embed(tokens))


def test_the_loss_is_the_mean_surprise_of_the_next_token():
    model, tokens = random_model(), random_tokens()
    logits = model(tokens)
    surprise = torch.tensor([[-logits[b, t].softmax(0)[tokens[b, t + 1]].log().item() for t in range(4)] for b in range(2)]).double()
    torch.testing.assert_close(model(tokens, "loss", loss_per_token=True), surprise)
    torch.testing.assert_close(model(tokens, "loss"), surprise.mean())
    both = model(tokens, "both")
    assert torch.equal(both[0], logits) and both[1] == model(tokens, "loss")
    assert model(tokens, None) is None
    torch.testing.assert_close(model(tokens[0], "loss"), surprise[0].mean())

    mask = torch.tensor([[True, False, True, False, True], [False, False, False, True, True]])
    torch.testing.assert_close(model(tokens, "loss", loss_mask=mask), (surprise[0, 0] + surprise[0, 2] + surprise[1, 3]) / 3)
    torch.testing.assert_close(model(tokens, "loss", loss_mask=mask, loss_per_token=True), surprise * mask[:, :-1])
    assert model(tokens, "loss", loss_mask=torch.zeros_like(mask)) == 0

    targets = random_tokens(seed=5)
    given = torch.tensor([[-logits[b, t].log_softmax(0)[targets[b, t]].item() for t in range(5)] for b in range(2)]).double()
    torch.testing.assert_close(model(tokens, "loss", targets=targets, loss_per_token=True), given)
    torch.testing.assert_close(model(inputs_embeds=model.embed(tokens), return_type="loss", targets=targets), given.mean())
    torch.testing.assert_close(model(tokens, "loss", targets=targets, loss_mask=mask), given[mask].mean())
    with pytest.raises(UsageError, match="needs targets"):
        model(inputs_embeds=model.embed(tokens), return_type="loss")


WRONG_CALLS = """
import torch
from workbench import HookedTransformer, ModelConfig, WorkbenchError

model = HookedTransformer(ModelConfig(n_heads=2, d_model=6, d_vocab=7, n_ctx=5))
tokens = torch.zeros(2, 5)
for call in (lambda: model(tokens.long(), "entropy"), lambda: model(tokens), lambda: model("3 1 4")):
    try:
        call()
    except WorkbenchError as error:
        print(error)
"""


def test_wrong_calls_are_refused_in_a_line():
    # In a process of its own: here the runtime check of shapes refuses these calls before the model sees them.
    done = subprocess.run([sys.executable, "-c", WRONG_CALLS], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "return_type must be logits, loss, both or None, got 'entropy'",
        "tokens must be integers, got torch.float32; continuous inputs go to inputs_embeds",
        "tokens must be a tensor of token ids, got str; model.to_tokens makes one",
    ]


def test_dropout_acts_in_training_only():
    model = random_model(dropout=0.5, attn_only=False)
    tokens = random_tokens()
    assert torch.equal(model(tokens), model(tokens))
    torch.testing.assert_close(model(tokens), reference(model.state_dict(), tokens, **model.config.to_dict())[0], rtol=1e-6, atol=1e-6)
    model.train()
    torch.manual_seed(0)
    first, second = model(tokens), model(tokens)
    assert (first - second).abs().max() > 0.01
    torch.manual_seed(0)
    assert torch.equal(model(tokens), first)


def test_one_seed_gives_one_initialisation_to_every_variant():
    def weights(**fields):
        return HookedTransformer(ModelConfig(n_layers=3, n_heads=2, d_model=6, d_vocab=7, n_ctx=5, **fields)).state_dict()

    first = weights(seed=3)
    assert all(torch.equal(value, first[name]) for name, value in weights(seed=3).items())
    assert not torch.equal(weights(seed=4)["embed.W_E"], first["embed.W_E"])
    for stream in ("query", "key", "value"):
        other = weights(seed=3, stream=stream)
        assert other.keys() == first.keys() and all(torch.equal(other[name], first[name]) for name in first)
    assert all((value == (name.endswith(".w"))).all() for name, value in first.items() if name.rsplit(".", 1)[1][:2] != "W_")


def test_initial_standard_deviations():
    def std(model, name):
        return model.get_parameter(name).std().item()

    model = HookedTransformer(ModelConfig(n_layers=1, d_model=64, d_vocab=211))
    for name in ("embed.W_E", "blocks.0.attn.W_Q", "blocks.0.attn.W_O", "unembed.W_U", "pos_embed.W_pos"):
        assert std(model, name) == pytest.approx(0.8 / 8, rel=0.05), name
    model = HookedTransformer(ModelConfig(n_layers=1, d_model=64, d_vocab=211, initializer_range=0.3, embed_std=1.7))
    assert std(model, "blocks.0.attn.W_V") == pytest.approx(0.3, rel=0.05)
    assert all(std(model, name) == pytest.approx(1.7, rel=0.05) for name in ("embed.W_E", "unembed.W_U", "pos_embed.W_pos"))


def test_what_is_frozen_does_not_train():
    config = ModelConfig(
        n_layers=3, n_heads=1, d_model=6, d_vocab=7, n_ctx=5, attn_only=False, stream="value", frozen=("embed.*", "blocks.*.attn.W_O"),
        identity=("blocks.1.attn.W_V",), attn_bias=False, mlp_bias=False, unembed_bias=False,
    )  # fmt: skip
    model = HookedTransformer(config)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    model(random_tokens(), "loss").backward()
    optimizer.step()
    still = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    biases = {name for name in before if name.rsplit(".", 1)[1] in ("b_Q", "b_K", "b_V", "b_O", "b_in", "b_out", "b_U")}
    assert still == {"embed.W_E", "blocks.1.attn.W_V"} | {f"blocks.{layer}.attn.W_O" for layer in range(3)} | biases
    assert all(model.get_parameter(name).grad is None for name in still)
    assert all((before[name] == 0).all() for name in biases)
    assert torch.equal(before["blocks.1.attn.W_V"], torch.eye(6)[None])


def test_patterns_that_name_nothing_are_refused():
    with pytest.raises(ConfigError, match=r"model.frozen: no parameter matches 'blocks.9.\*'"):
        HookedTransformer(ModelConfig(frozen=("blocks.9.*",)))
    with pytest.raises(ConfigError, match=r"only attention matrices can be the identity, got embed\.W_E"):
        HookedTransformer(ModelConfig(n_heads=1, identity=("embed.W_E",)))


def test_weights_are_replaced_as_a_whole_or_not_at_all():
    model, other = random_model(seed=1), random_model(seed=2)
    broken = other.state_dict() | {"unembed.b_U": torch.zeros(3)}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"unembed.b_U has shape \(3,\), this architecture expects \(7,\)"):
        model.load_weights(broken)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.load_weights(other.state_dict())
    assert torch.equal(model(random_tokens()), other(random_tokens()))


def test_mixed_precision_stays_near():
    model = random_model(stream="value", attn_only=False, normalization_type="LN").float()
    tokens = random_tokens()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, loss = model(tokens, "both")
    assert loss.dtype == torch.float32
    assert (logits.float() - model(tokens)).abs().max() < 0.1 * model(tokens).abs().max()


@pytest.mark.parametrize("longest", [1, 2, 3, 9])
def test_relative_positions_are_clipped_at_the_longest_distance(longest):
    model = random_model(positional_embedding_type="relative", max_distance=longest)
    assert model.blocks[0].attn.rel_pos.shape == (2, longest + 1, 4)
    assert_equals_reference(model, random_tokens())
    # Distances from the longest on share a vector: far tokens that are equal get equal scores.
    _, cache = model.run_with_cache(torch.zeros(1, 5, dtype=torch.long))
    scores = cache["attn_scores", 0][0, :, 4]
    assert torch.allclose(scores[:, : max(1, 5 - longest)], scores[:, :1])


def test_relative_positions_depend_on_distance_alone_and_have_no_end():
    model = random_model(positional_embedding_type="relative", n_layers=1, n_ctx=5)
    tokens = torch.tensor([[1, 1, 1, 1, 1, 1, 1, 1, 1]])
    _, cache = model.run_with_cache(tokens)
    scores = cache["attn_scores", 0][0]
    for t in range(1, 9):
        for s in range(1, t + 1):
            torch.testing.assert_close(scores[:, t, s], scores[:, t - 1, s - 1])
