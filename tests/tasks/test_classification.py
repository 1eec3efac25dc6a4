"""In-context classification against exact counting, closed forms and a naive generator that shares no code with it."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from tests.reference_tasks import ABSURD, CHANCE, p_value, same_distribution
from workbench.config import ClassificationConfig
from workbench.errors import ConfigError, UsageError
from workbench.tasks import make_task

SIZES = {"n_classes": 35, "n_labels": 7, "n_pairs": 6, "max_pairs": 11, "d_content": 13, "burstiness": 2, "n_novel": 21, "novel_every": 5}


def task(**fields):
    return make_task(ClassificationConfig(**{**SIZES, **fields}))


def draw(config_task, n=4000, split="train", seed=0):
    return config_task.sample(n, np.random.default_rng(seed), split)


def parts(batch, config):
    """context [batch, N] and query [batch] as written in `tokens`, and the labels that are shown [batch, N]."""
    tokens = batch.tokens.numpy()
    return tokens[:, :-1:2], tokens[:, -1], tokens[:, 1::2] - config.n_classes


def naive_sequence(config, frequencies, split, rng):
    """One sequence as (classes of the context, class of the query, novel), in plain loops from the description."""
    classes = list(range(config.n_classes))
    novel = split == "in-context" or (split == "train" and rng.random() < config.p_novel)
    bursty = novel or split == "flipped" or (split == "train" and rng.random() < config.p_bursty)
    if novel:
        classes, frequencies = list(range(config.n_novel)), np.ones(config.n_novel)
    if not bursty:
        weights = np.array(frequencies) / sum(frequencies)
        return [int(rng.choice(classes, p=weights)) for _ in range(config.n_pairs)], int(rng.choice(classes, p=weights)), False
    chosen: list[int] = []
    while len(chosen) < config.n_pairs // config.burstiness:
        left = [
            k
            for k in classes
            if k not in chosen and not (config.no_repeats and k % config.n_labels in {c % config.n_labels for c in chosen})
        ]
        weights = np.array([frequencies[k] for k in left])
        chosen.append(int(rng.choice(left, p=weights / weights.sum())))
    context = chosen * config.burstiness
    rng.shuffle(context)
    return context, chosen[int(rng.integers(len(chosen)))], novel


def shape_of(context, query):
    """A number for which positions of the context share a class with each other and with the query."""
    order = {}
    for k in [*context, query]:
        order.setdefault(int(k), len(order))
    return sum(order[int(k)] * 7**place for place, k in enumerate([*context, query]))


def test_one_sequence_in_words():
    config_task = task(eps=0.0)
    config = config_task.config
    for split in ("train", "in-context", "flipped", "in-weights"):
        batch = draw(config_task, 31, split)
        context, query, shown = parts(batch, config)
        novel = query >= config.n_classes + config.n_labels
        first_of_new = config.n_classes + config.n_labels
        right = np.where(novel[:, None], context - first_of_new, context) % config.n_labels
        wanted = np.where(novel, query - first_of_new, query) % config.n_labels
        shift = int(split == "flipped")
        assert (shown == (right + shift) % config.n_labels).all()
        assert (batch.targets[:, -1].numpy() == (wanted + shift) % config.n_labels).all()
        assert torch.equal(batch.targets[:, :-1:2], batch.targets[:, 1::2]) and (batch.targets[:, 1::2].numpy() == shown).all()
        assert batch.asked.sum(dim=1).eq(1).all() and batch.asked[:, -1].all()
        assert torch.equal(batch.answered | batch.unanswerable, batch.asked) and not (batch.answered & batch.unanswerable).any()
        assert (batch.answered[:, -1].numpy() == (context == query[:, None]).any(axis=1)).all()
        assert novel.any() == (split in ("train", "in-context")) and novel.all() == (split == "in-context")
        assert batch.inputs.dtype == torch.float32 and batch.inputs.shape == (31, 13, 23 + 13)
        # Without noise, content is a mean, exactly; a label is the mean of the label that is shown.
        content = batch.inputs[:, :, 23:].numpy()
        assert np.array_equal(content[:, 1::2], config_task.label_means[shown])
        known = ~novel
        assert np.array_equal(content[known][:, :-1:2], config_task.class_means[context[known]])
        assert np.array_equal(content[known][:, -1], config_task.class_means[query[known]])
        # Novel classes: one vector a class in a set, another in the next set, none of them known.
        vectors = {}
        for row in np.flatnonzero(novel):
            for k, vector in zip([*context[row], query[row]], content[row, ::2], strict=True):
                assert np.array_equal(vectors.setdefault((row // 5, k), vector), vector)
        assert len({vector.tobytes() for vector in vectors.values()}) == len(vectors)
        assert not {vector.tobytes() for vector in vectors.values()} & {mean.tobytes() for mean in config_task.class_means}


def test_positions():
    batch = draw(task(), 5000)
    window = batch.inputs[:, :, :23].numpy()
    assert set(np.unique(window)) == {0.0, 1.0} and (window.sum(axis=2) == 1).all()
    place = window.argmax(axis=2)
    assert (np.diff(place, axis=1) == 1).all()
    starts = np.bincount(place[:, 0], minlength=11)
    assert len(starts) == 11  # 23 - 13 + 1 places
    assert p_value(starts, np.full(11, 1 / 11)) > CHANCE > ABSURD > p_value(starts, np.full(11, 1 / 11) + np.linspace(-0.03, 0.03, 11))
    full = draw(task(max_pairs=6), 17)
    assert torch.equal(full.inputs[:, :, :13], torch.eye(13).expand(17, -1, -1))


def test_noise_and_means():
    config = ClassificationConfig(**{**SIZES, "eps": 0.7, "d_content": 997, "n_classes": 14})
    config_task = make_task(config)
    for means in (config_task.class_means, config_task.label_means):
        assert abs(means.std() * math.sqrt(997) - 1) < 5 / math.sqrt(2 * means.size)
    batch = draw(config_task, 401, "in-weights")
    context, query, _ = parts(batch, config)
    objects = batch.inputs[:, ::2, config.window :].numpy()
    noise = objects * math.sqrt(1 + 0.49) - config_task.class_means[np.concatenate([context, query[:, None]], axis=1)]
    assert abs(noise.std() * math.sqrt(997) / 0.7 - 1) < 5 / math.sqrt(2 * noise.size) and abs(noise.mean()) < 1e-3
    assert abs(np.corrcoef(noise[:, 0].ravel(), noise[:, -1].ravel())[0, 1]) < 5 / math.sqrt(noise[:, 0].size)


@pytest.mark.parametrize("fields", [{}, {"no_repeats": False}, {"burstiness": 3, "zipf_exponent": 1.0}])
def test_bursty_sequences(fields):
    config_task = task(**fields)
    config = config_task.config
    for split in ("in-context", "flipped"):
        batch = draw(config_task, 2000, split)
        context, query, shown = parts(batch, config)
        for row, (classes, asked) in enumerate(zip(context, query, strict=True)):
            _, counts = np.unique(classes, return_counts=True)
            assert (counts == config.burstiness).all() and asked in classes
            if config.no_repeats:
                assert len(set(shown[row])) == config.n_bursty
        assert batch.answered[:, -1].all()
        labels = np.array([len(set(row)) for row in shown])
        assert (labels < config.n_bursty).any() != config.no_repeats
        # Which positions share a class, and with the query: against the naive generator, and uniform in closed form.
        seen = np.array([shape_of(*pair) for pair in zip(context, query, strict=True)])
        rng = np.random.default_rng(1)
        naive = [naive_sequence(config, config_task.frequencies, split, rng) for _ in range(2000)]
        reference = np.array([shape_of(classes, asked) for classes, asked, _ in naive])
        every = np.unique(np.concatenate([seen, reference]), return_inverse=True)[1]
        assert same_distribution(every[:2000], every[2000:]) > CHANCE
        n = math.factorial(6) // math.factorial(config.burstiness) ** config.n_bursty // math.factorial(config.n_bursty) * config.n_bursty
        found = np.unique(seen, return_counts=True)[1]
        assert len(found) == n and p_value(found, np.full(n, 1 / n)) > CHANCE
        # The query is as often of each of the context's classes, and the control: always of the first pair's.
        assert p_value(np.array([(query == context[:, 0]).sum(), (query != context[:, 0]).sum()]), np.array([0.9, 0.1])) < ABSURD


@pytest.mark.parametrize("no_repeats", [True, False])
def test_classes_of_a_bursty_sequence_are_drawn_by_frequency(no_repeats):
    config_task = task(n_classes=9, n_labels=3, n_novel=3, n_pairs=2, burstiness=1, zipf_exponent=1.3, no_repeats=no_repeats)
    p = config_task.frequencies
    np.testing.assert_allclose(p, [1 / k**1.3 / sum(1 / j**1.3 for j in range(1, 10)) for k in range(1, 10)])
    pairs = list(itertools.combinations(range(9), 2))

    def probability(a, b):
        rivals = [k for k in range(9) if (k % 3 != a % 3 if no_repeats else k != a)]
        return p[a] * p[b] / sum(p[rivals]) if b in rivals else 0.0

    wanted = np.array([probability(a, b) + probability(b, a) for a, b in pairs])
    assert abs(wanted.sum() - 1) < 1e-12
    context, query, _ = parts(draw(config_task, 20000, "flipped"), config_task.config)
    index = {pair: number for number, pair in enumerate(pairs)}
    found = np.bincount([index[tuple(sorted(row))] for row in context.tolist()], minlength=len(pairs))
    assert p_value(found, wanted) > CHANCE
    assert p_value(found, np.full(len(pairs), 1 / len(pairs))) < ABSURD
    # The order of the context is a fair coin.
    assert stats.binomtest(int((context[:, 0] < context[:, 1]).sum()), 20000).pvalue > CHANCE
    assert stats.binomtest(int((query == context[:, 0]).sum()), 20000).pvalue > CHANCE


def test_shares_of_the_mixture():
    config_task = task(p_novel=0.3, p_bursty=0.7)
    config = config_task.config
    batch = draw(config_task, 8000)
    context, query, _ = parts(batch, config)
    novel = query >= 42
    assert stats.binomtest(int(novel.sum()), 8000, 0.3).pvalue > CHANCE and stats.binomtest(int(novel.sum()), 8000, 0.35).pvalue < ABSURD
    assert ((context >= 42).all(axis=1) == novel).all() and ((context >= 42).any(axis=1) == novel).all()
    # Of known classes, a sequence that is not bursty shows the query's class by chance alone.
    shown = batch.answered[:, -1].numpy()
    p = 0.7 + 0.3 * (1 - (34 / 35) ** 6)
    assert stats.binomtest(int(shown[~novel].sum()), int((~novel).sum()), p).pvalue > CHANCE and shown[novel].all()
    rng = np.random.default_rng(2)
    naive = [naive_sequence(config, config_task.frequencies, "train", rng) for _ in range(4000)]
    kinds = lambda rows: np.array([len(set(classes)) + 7 * (asked in classes) + 14 * new for classes, asked, new in rows])  # noqa: E731
    ours = kinds(zip(context.tolist(), query.tolist(), novel.tolist(), strict=True))
    assert same_distribution(ours, kinds(naive)) > CHANCE


def test_what_the_weights_know_is_asked_without_help():
    config_task = make_task(ClassificationConfig(d_content=3))  # published K, L and N
    batch = draw(config_task, 20000, "in-weights")
    context, query, shown = parts(batch, config_task.config)
    labels = query % 32
    class_shown = int((context == query[:, None]).any(axis=1).sum())
    label_shown = int((shown == labels[:, None]).any(axis=1).sum())
    assert stats.binomtest(class_shown, 20000, 1 - (511 / 512) ** 8).pvalue > CHANCE and round(1 - (511 / 512) ** 8, 3) == 0.016
    assert stats.binomtest(label_shown, 20000, 1 - (31 / 32) ** 8).pvalue > CHANCE and round(1 - (31 / 32) ** 8, 2) == 0.22
    assert p_value(np.bincount(context.ravel(), minlength=512), np.full(512, 1 / 512)) > CHANCE
    assert p_value(np.bincount(labels, minlength=32), np.full(32, 1 / 32)) > CHANCE
    assert batch.unanswerable[:, -1].sum() == 20000 - class_shown


def test_the_query_can_be_kept_out_of_the_context():
    config_task = task(zipf_exponent=0.9, exclude_query=True)
    p = config_task.frequencies
    context, query, shown = parts(draw(config_task, 20000, "in-weights"), config_task.config)
    assert not (shown == (query % 7)[:, None]).any()
    found = np.zeros((7, 35))
    np.add.at(found, ((query % 7)[:, None].repeat(6, axis=1), context), 1)
    allowed = np.array([[k % 7 != label for k in range(35)] for label in range(7)]) * p
    assert p_value(found, allowed / allowed.sum(axis=1, keepdims=True)) > CHANCE
    assert p_value(np.bincount(query, minlength=35), p) > CHANCE and p_value(np.bincount(query, minlength=35), np.full(35, 1 / 35)) < ABSURD
    # The other splits do not change.
    plain = task(zipf_exponent=0.9)
    assert torch.equal(draw(plain, 97).inputs, draw(config_task, 97).inputs)


def test_a_batch_is_decided_by_the_generator_and_the_configuration():
    one, again, other = (draw(task(), 11, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.inputs, again.inputs) and torch.equal(one.tokens, again.tokens) and not torch.equal(one.tokens, other.tokens)
    assert not np.array_equal(task(means_seed=1).class_means, task().class_means)
    part = one[3:5]
    assert len(part) == 2 and torch.equal(part.inputs, one.inputs[3:5]) and torch.equal(part.asked, one.asked[3:5])
    assert one.to("cpu").inputs is not None and set(one.model_inputs) == {"inputs_embeds"}
    assert task().fingerprint() != task(eps=0.2).fingerprint() and task().fingerprint() == task().fingerprint()


def test_words():
    assert task().to_strings([0, 34, 35, 41, 42]) == ["x0", "x34", "y0", "y6", "n0"]
    assert "6 pairs" in task().describe() and "35 classes carry 7 labels" in task().describe()
    config = task().config
    assert (config.d_vocab, config.seq_len, config.d_input, config.window) == (7, 13, 36, 23)
    published = ClassificationConfig()
    assert (published.d_input, published.window, published.seq_len, published.d_vocab) == (150, 65, 17, 32)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"n_classes": 36}, "n_classes must be a multiple of n_labels=7, got 36"),
        ({"n_novel": 22}, "n_novel must be a multiple of n_labels=7, got 22"),
        ({"n_labels": 1}, "n_labels must be at least 2, got 1"),
        ({"n_pairs": 7}, "n_pairs=7 is not a multiple of burstiness=2"),
        ({"max_pairs": 5}, "max_pairs must be at least n_pairs=6, got 5"),
        ({"n_pairs": 8, "burstiness": 1}, "8 different classes, but n_labels=7"),
        ({"n_classes": 7, "n_novel": 7, "n_pairs": 8, "burstiness": 1, "no_repeats": False}, "8 different classes, but n_classes=7"),
        ({"p_novel": 1.5}, r"p_novel must lie in \[0, 1\], got 1.5"),
        ({"eps": -0.1}, "eps must be at least 0, got -0.1"),
        ({"novel_every": 0}, "novel_every must be at least 1, got 0"),
        ({"d_vocab": 7}, "unknown field 'd_vocab'"),
    ],
)
def test_configurations_that_cannot_be(fields, words):
    with pytest.raises(ConfigError, match=f"task: .*{words}"):
        ClassificationConfig.from_dict({**SIZES, **fields})


def test_calls_that_cannot_be():
    with pytest.raises(UsageError, match="unknown split 'ood'"):
        draw(task(), 3, "ood")
    with pytest.raises(UsageError, match="batch_size must be at least 1, got 0"):
        draw(task(), 0)
