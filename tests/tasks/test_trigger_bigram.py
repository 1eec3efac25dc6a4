"""Trigger bigrams against a naive sampler, exact distributions, and sampled batches known by heart."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference_tasks import ABSURD, CHANCE, naive_count, naive_trigger_bigram, p_value, same_distribution
from workbench.config import TriggerBigramConfig
from workbench.errors import ConfigError, UsageError
from workbench.tasks.alias import UNITS, quantised
from workbench.tasks.base import Batch
from workbench.tasks.trigger_bigram import TriggerBigram

VARIANTS = [
    {},
    {"triggers": "random"},
    {"outputs": "bigram"},
    {"triggers": "random", "outputs": "bigram", "no_repeat": True},
    {"ood_fraction": 0.25, "no_repeat": True},
]


def small(**fields) -> TriggerBigram:
    return TriggerBigram(TriggerBigramConfig(**{"d_vocab": 11, "seq_len": 29, "n_triggers": 3, **fields}))


def draw(task: TriggerBigram, batch_size: int, seed: int, split: str = "train") -> tuple[Batch, np.ndarray, np.ndarray]:
    """A batch with its triggers and outputs [batch, k]: the design is what `sample` draws first."""
    triggers, outputs = task.design(batch_size, np.random.default_rng(seed), split)
    return task.sample(batch_size, np.random.default_rng(seed), split), triggers, outputs


def transitions(current: np.ndarray, following: np.ndarray, d_vocab: int) -> np.ndarray:
    return np.bincount(current * d_vocab + following, minlength=d_vocab**2).reshape(d_vocab, d_vocab)


@pytest.mark.parametrize("fields", VARIANTS)
def test_shapes_and_shifted_targets(fields):
    batch = small(**fields).sample(5, np.random.default_rng(0))
    for tensor in (batch.tokens, batch.targets, batch.answered, batch.unanswerable, batch.annotations["count"]):
        assert tensor.shape == (5, 29) and tensor.is_contiguous()
    assert (batch.tokens[:, 1:] == batch.targets[:, :-1]).all()


@pytest.mark.parametrize("fields", VARIANTS)
def test_annotations_equal_a_naive_recount(fields):
    batch, triggers, _ = draw(small(**fields), 67, 1)
    for row in range(67):
        expected = naive_count(batch.tokens[row].tolist(), triggers[row].tolist())
        assert batch.annotations["count"][row].tolist() == expected
        assert batch.answered[row].tolist() == [count >= 2 for count in expected]
        assert batch.unanswerable[row].tolist() == [count == 0 for count in expected]


@pytest.mark.parametrize("fields", VARIANTS)
def test_triggers_are_always_followed_by_their_output(fields):
    batch, triggers, outputs = draw(small(**fields), 67, 2)
    steps = 0
    for tokens, targets, qs, os in zip(batch.tokens.tolist(), batch.targets.tolist(), triggers.tolist(), outputs.tolist(), strict=True):
        output = dict(zip(qs, os, strict=True))
        assert len(output) == 3
        for token, target in zip(tokens, targets, strict=True):
            if token in output:
                assert target == output[token]
                steps += 1
    assert steps > 100


@pytest.mark.parametrize("fields", VARIANTS)
def test_other_steps_follow_the_bigrams_and_wrong_bigrams_are_noticed(fields):
    task = small(**fields)
    batch = task.sample(3001, np.random.default_rng(3))
    free = batch.unanswerable.numpy()
    counts = transitions(batch.tokens.numpy()[free], batch.targets.numpy()[free], 11)
    assert p_value(counts, task.language.bigram) > CHANCE
    assert p_value(counts, quantised(0.97 * task.language.bigram + 0.03 / 11)) < ABSURD
    everything = transitions(batch.tokens.numpy().ravel(), batch.targets.numpy().ravel(), 11)
    assert p_value(everything, task.language.bigram) < ABSURD


def test_the_first_token_follows_the_unigram():
    task = small()
    first = task.sample(20011, np.random.default_rng(4)).tokens[:, 0].numpy()
    counts = np.bincount(first, minlength=11)
    assert p_value(counts, task.language.unigram) > CHANCE
    assert p_value(counts, np.full(11, 1 / 11)) < ABSURD


def test_fixed_triggers_are_the_most_frequent_tokens():
    task = small()
    triggers, _ = task.design(7, np.random.default_rng(5))
    rarest_trigger = task.language.unigram[triggers[0]].min()
    assert (triggers == triggers[0]).all() and (task.language.unigram > rarest_trigger).sum() == 2


def test_random_triggers_are_unigram_draws_without_replacement():
    task = small(triggers="random", d_vocab=5, n_triggers=2)
    triggers, _ = task.design(20011, np.random.default_rng(6))
    u = task.language.unigram
    without = np.array([[u[a] * u[b] / (1 - u[a]) if a != b else 0.0 for b in range(5)] for a in range(5)])
    counts = transitions(triggers[:, 0], triggers[:, 1], 5).ravel()
    assert p_value(counts, without.ravel()) > CHANCE
    uniform_second = np.array([[u[a] / 4 if a != b else 0.0 for b in range(5)] for a in range(5)])
    assert p_value(counts, uniform_second.ravel()) < ABSURD


def test_as_many_random_triggers_as_tokens():
    task = small(triggers="random", d_vocab=7, n_triggers=7)
    batch, triggers, _ = draw(task, 31, 7)
    assert (np.sort(triggers, axis=1) == np.arange(7)).all()
    assert not batch.unanswerable.any()
    assert task.references() == {}


@pytest.mark.parametrize("no_repeat", [False, True])
@pytest.mark.parametrize("outputs", ["uniform", "bigram"])
def test_output_distributions(outputs, no_repeat):
    task = small(triggers="random", outputs=outputs, no_repeat=no_repeat)
    triggers, drawn = task.design(10007, np.random.default_rng(8))
    counts = transitions(triggers.ravel(), drawn.ravel(), 11)
    expected = task.language.bigram.copy() if outputs == "bigram" else np.ones((11, 11))
    if no_repeat:
        np.fill_diagonal(expected, 0)
    assert p_value(counts, expected / expected.sum(1, keepdims=True)) > CHANCE
    other = np.ones((11, 11)) if outputs == "bigram" else task.language.bigram
    assert p_value(counts, other / other.sum(1, keepdims=True)) < ABSURD
    assert (np.diag(counts).sum() == 0) == no_repeat


def test_out_of_distribution_outputs_are_the_held_out_ones():
    task = small(ood_fraction=0.25, language_seed=3)
    held = np.flatnonzero(task.held_out)
    assert len(held) == 3
    seen = {split: set(task.design(401, np.random.default_rng(9), split)[1].ravel().tolist()) for split in ("train", "ood")}
    assert seen == {"train": set(range(11)) - set(held), "ood": set(held)}
    batch = task.sample(401, np.random.default_rng(9), "ood")
    assert set(batch.targets[batch.answered].tolist()) == set(held)
    assert set(batch.targets[batch.unanswerable].tolist()) == set(range(11))
    assert any((small(ood_fraction=0.25, language_seed=seed).held_out != task.held_out).any() for seed in range(3))


def test_held_out_share_is_never_nothing_and_never_everything():
    assert small(ood_fraction=0.001).held_out.sum() == 1
    assert small(ood_fraction=0.999).held_out.sum() == 10
    assert small().held_out.sum() == 0


def test_bigram_outputs_fall_back_to_uniform_where_no_allowed_token_has_weight(tmp_path):
    path = tmp_path / "text"
    path.write_text("abcd" * 25)
    config = TriggerBigramConfig(language=str(path), d_vocab=4, n_triggers=1, outputs="bigram", ood_fraction=0.5, triggers="random")
    task = TriggerBigram(config)
    held = np.flatnonzero(task.held_out)
    for trigger, row in enumerate(task.output_probabilities("ood")):
        follower = (trigger + 1) % 4
        assert row.tolist() == [float(v == follower) if follower in held else 0.5 * (v in held) for v in range(4)]


@pytest.mark.parametrize("fields", VARIANTS)
def test_whole_sequences_look_like_the_naive_sampler(fields):
    task = small(**fields)
    config, batch_size = task.config, 1009
    batch = task.sample(batch_size, np.random.default_rng(10))
    rng = np.random.default_rng(11)
    triggers = task.fixed_triggers.tolist() if config.triggers == "fixed" else 3
    allowed = np.flatnonzero(~task.held_out).tolist()
    naive = [
        naive_trigger_bigram(
            task.language.unigram, task.language.bigram, 29, triggers, allowed, rng, config.outputs == "bigram", config.no_repeat
        )
        for _ in range(batch_size)
    ]
    tokens = np.array([sequence for sequence, _ in naive])
    counts = np.array([naive_count(sequence[:-1], list(output)) for sequence, output in naive])
    assert same_distribution(batch.targets[:, -1].numpy(), tokens[:, -1]) > CHANCE
    assert same_distribution((batch.tokens[:, 2] * 11 + batch.tokens[:, 3]).numpy(), tokens[:, 2] * 11 + tokens[:, 3]) > CHANCE
    assert same_distribution(batch.answered.sum(1).numpy(), (counts >= 2).sum(1)) > CHANCE
    assert same_distribution(batch.annotations["count"].max(1).values.numpy(), counts.max(1)) > CHANCE


def test_the_comparison_with_the_naive_sampler_notices_one_trigger_less():
    full, fewer = (small(n_triggers=n).sample(1009, np.random.default_rng(12 + n)) for n in (3, 2))
    assert same_distribution(full.answered.sum(1).numpy(), fewer.answered.sum(1).numpy()) < ABSURD


def test_the_same_seed_gives_the_same_batch_on_any_machine():
    task = small(seq_len=13, triggers="random", no_repeat=True)
    batch = task.sample(2, np.random.default_rng(7))
    assert batch.tokens.tolist() == GOLDEN_TOKENS
    assert batch.annotations["count"].tolist() == GOLDEN_COUNT
    assert (batch.tokens != task.sample(2, np.random.default_rng(8)).tokens).any()


def test_bigram_loss_is_what_an_oracle_of_the_language_pays():
    task = small(seq_len=31, triggers="random")
    batch = task.sample(3001, np.random.default_rng(13))
    free = batch.unanswerable
    losses = -np.log(task.language.bigram[batch.tokens[free].numpy(), batch.targets[free].numpy()])
    reference = task.references()["bigram_loss"]
    assert abs(losses.mean() - reference) < 4 * losses.std() / len(losses) ** 0.5 + 0.005
    # All positions pooled, triggers included, cost an oracle of the bigrams more: the test can tell.
    everywhere = -np.log(np.maximum(task.language.bigram[batch.tokens.numpy(), batch.targets.numpy()], 1 / UNITS))
    assert everywhere.mean() > reference + 0.3


def test_bigram_loss_is_the_unigram_entropy_where_the_context_tells_nothing():
    task = small(concentration=1e9)
    entropy = -(task.language.unigram * np.log(task.language.unigram)).sum()
    assert task.references()["bigram_loss"] == pytest.approx(entropy, abs=1e-3)


def test_fingerprint_follows_the_text_and_not_its_path(tmp_path):
    def fingerprint(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return TriggerBigram(TriggerBigramConfig(language=str(tmp_path / name), d_vocab=3, n_triggers=1)).fingerprint()

    assert fingerprint("one", "abc" * 20) == fingerprint("two", "abc" * 20)
    assert fingerprint("one", "abc" * 20) != fingerprint("one", "abc" * 20 + "a")
    assert fingerprint("one", "abc" * 20) != fingerprint("one", "abd" * 20)


def test_words_for_people():
    task = small(no_repeat=True, ood_fraction=0.25)
    assert task.to_strings([0, 10]) == ["a", "k"]
    for phrase in ("29 tokens", "3 trigger", "over 11", "never the trigger itself", "3 tokens are outputs only in the split 'ood'"):
        assert phrase in task.describe()


def test_refusals(tmp_path):
    with pytest.raises(UsageError, match=r"'ood' needs held-out outputs: set task.ood_fraction"):
        small().sample(3, np.random.default_rng(0), "ood")
    with pytest.raises(UsageError, match="batch_size must be at least 1, got 0"):
        small().sample(0, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="no_repeat leaves the trigger 'a' no output in the split 'ood'"):
        small(d_vocab=2, n_triggers=1, ood_fraction=0.5, no_repeat=True)
    with pytest.raises(ConfigError, match="only 1 tokens of this language ever occur"):
        small(zipf_exponent=30.0, concentration=0.1)
    with pytest.raises(UsageError, match="cannot read"):
        small(language=str(tmp_path / "none.txt"))


@given(
    d_vocab=st.integers(2, 13),
    seq_len=st.integers(2, 31),
    share=st.floats(0, 1),
    triggers=st.sampled_from(["fixed", "random"]),
    outputs=st.sampled_from(["uniform", "bigram"]),
    seed=st.integers(0, 2**32),
)
@settings(deadline=None, derandomize=True, max_examples=60)
def test_answered_means_that_the_answer_has_been_shown(d_vocab, seq_len, share, triggers, outputs, seed):
    n_triggers = 1 + int(share * (d_vocab - 1))
    config = TriggerBigramConfig(d_vocab=d_vocab, seq_len=seq_len, n_triggers=n_triggers, triggers=triggers, outputs=outputs)
    batch = TriggerBigram(config).sample(3, np.random.default_rng(seed))
    assert batch.tokens.min() >= 0 and batch.tokens.max() < d_vocab and batch.targets.max() < d_vocab
    assert not (batch.answered & batch.unanswerable).any()
    for tokens, targets, answered in zip(batch.tokens.tolist(), batch.targets.tolist(), batch.answered.tolist(), strict=True):
        for t in range(seq_len):
            if answered[t]:
                assert (tokens[t], targets[t]) in zip(tokens[:t], targets[:t], strict=True)


GOLDEN_TOKENS = [[0, 4, 3, 9, 1, 0, 4, 5, 8, 10, 0, 4, 1], [2, 0, 1, 3, 8, 7, 8, 7, 8, 7, 8, 7, 8]]
GOLDEN_COUNT = [[1, 0, 1, 0, 0, 2, 0, 0, 0, 0, 3, 0, 0], [0, 1, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5]]
