"""AMICL against loops in plain Python, the theory of the dot product and of position 0, and the published proportions."""

from __future__ import annotations

import functools
import math
import time

import numpy as np
import pytest
from scipy import stats

from workbench.amicl import AmiclConfig, Sequences, accuracy, draw, sweep
from workbench.amicl import model as amicl
from workbench.amicl.accuracy import OVER, outcomes, pearson_ceiling, wilson
from workbench.amicl.attention import attention_table, token_names
from workbench.amicl.config import PAPER
from workbench.amicl.published import MOST, PUBLISHED, SIZE_SETTING, by_size, by_strength, comparison
from workbench.errors import ConfigError, UsageError

SIMILARITIES = ("dot", "pearson", "manhattan", "euclidean")
SURE = 0.9999
"""of an exact binomial bound: a right model fails one of these tests at fewer than one in a hundred seeds"""


def between(count: int, n: int, p: float) -> bool:
    """Whether `count` of `n` is within the exact binomial bounds of the probability `p`."""
    low, high = stats.binom.interval(SURE, n, p)
    return low <= count <= high


def sample(config: AmiclConfig = PAPER, trials: int = 1000, seed: int = 0) -> tuple[Sequences, np.ndarray]:
    """Sequences and keys of their empty slots."""
    generator = np.random.default_rng(seed)
    return draw(config, trials, generator), amicl.empty_keys(config, trials, generator)


# Loops, one number at a time.


def naive_similarity(name: str, key: list[float], query: list[float]) -> float:
    if name == "dot":
        return sum(k * q for k, q in zip(key, query, strict=True))
    if name == "manhattan":
        return -sum(abs(k - q) for k, q in zip(key, query, strict=True))
    if name == "euclidean":
        return -math.sqrt(sum((k - q) ** 2 for k, q in zip(key, query, strict=True)))
    if len(set(key)) == 1 or len(set(query)) == 1:
        return 0.0
    key, query = ([x - sum(vector) / len(vector) for x in vector] for vector in (key, query))
    return sum(k * q for k, q in zip(key, query, strict=True)) / math.sqrt(sum(k * k for k in key) * sum(q * q for q in query))


def naive_scores(tokens: np.ndarray, empty: np.ndarray, a: float, name: str) -> list[list[float]]:
    n, d = tokens.shape
    queries = [[(a * (tokens[t - 1][i] if t else 0.0) + tokens[t][i]) / (a + 1) for i in range(d)] for t in range(n)]
    keys = [*queries[:-1], list(empty)]
    return [[naive_similarity(name, key, query) for key in keys] for query in queries]


def naive_answer(tokens: np.ndarray, empty: np.ndarray, config: AmiclConfig) -> list[float]:
    scores = naive_scores(tokens, empty, config.a, config.similarity)[-1]
    if config.answer == "argmax":
        return list(tokens[scores.index(max(scores))])
    weights = [math.exp(config.beta * score) for score in scores]
    return [sum(w * x[i] for w, x in zip(weights, tokens, strict=True)) / sum(weights) for i in range(config.d)]


def naive_nearest(answer: list[float], tokens: np.ndarray) -> np.ndarray:
    def cosine(token: np.ndarray) -> float:
        return sum(t * y for t, y in zip(token, answer, strict=True)) / math.sqrt(sum(t * t for t in token))

    return max(list(tokens[:-1]), key=cosine)


@pytest.mark.parametrize("a", [0.0, 0.7, 1.3, 2.0])
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("answer", ["argmax", "softmax"])
def test_answers_are_those_of_a_loop(similarity, answer, a):
    config = AmiclConfig(d=7, n_classes=5, n_tokens=14, a=a, similarity=similarity, answer=answer, beta=3.0, eps=0.5)
    drawn, empty = sample(config, trials=11)
    exact = Sequences(drawn.tokens.astype(float), drawn.labels.astype(float))
    expected = [naive_answer(tokens, key, config) for tokens, key in zip(exact.tokens, empty, strict=True)]
    assert amicl.answers(config, exact.tokens, empty) == pytest.approx(np.array(expected), abs=1e-6)
    said = [naive_nearest(vector, tokens) if answer == "softmax" else vector for vector, tokens in zip(expected, exact.tokens, strict=True)]
    right = [list(vector) == list(label) for vector, label in zip(said, exact.labels, strict=True)]
    assert amicl.right(config, exact, empty).tolist() == right


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_scores_are_those_of_a_loop(similarity):
    config = AmiclConfig(d=5, n_classes=3, n_tokens=8, a=1.7, similarity=similarity)
    drawn, empty = sample(config, trials=3)
    found = amicl.scores(config, drawn.tokens, empty)
    expected = [naive_scores(tokens, key, 1.7, similarity) for tokens, key in zip(drawn.tokens.astype(float), empty, strict=True)]
    assert found.shape == (3, 8, 8) and found == pytest.approx(np.array(expected), abs=1e-5)


def test_pearson_of_a_constant_vector_is_zero():
    """Also where rounding leaves a constant vector not quite centred."""
    generator = np.random.default_rng(0)
    keys, queries = generator.standard_normal((2, 5, 7)), np.full((2, 3, 7), 0.1)
    queries[0, 1] = generator.standard_normal(7)
    found = amicl.pearson(queries, keys)
    assert found[0, 1, 2] == pytest.approx(np.corrcoef(queries[0, 1], keys[0, 2])[0, 1])
    found[0, 1] = 0
    assert not found.any()


# The data.


def test_a_sequence_alternates_objects_and_labels_and_ends_with_a_query_and_an_empty_slot():
    config = AmiclConfig(d=101, n_classes=37, n_tokens=14)
    drawn, _ = sample(config)
    assert drawn.tokens.shape == (1000, 14, 101) and drawn.labels.shape == (1000, 101)
    assert not drawn.tokens[:, -1].any() and drawn.answered.any(axis=1).all()
    # The query is near the object of a pair whose label is the answer, and near no other.
    distances = np.linalg.norm(drawn.tokens[:, :-2:2] - drawn.tokens[:, -2:-1], axis=2)
    assert ((distances < 0.1) == drawn.answered).all()
    # All vectors but the empty slot are N(0, 1/D).
    assert drawn.tokens[:, :-1].std() == pytest.approx(101**-0.5, rel=0.01)


@pytest.mark.parametrize(("n_classes", "n_tokens"), [(3, 14), (6, 14), (7, 14), (41, 14), (1, 4)])
def test_classes_are_drawn_with_replacement_and_each_pair_is_asked_for_as_often(n_classes, n_tokens):
    config = AmiclConfig(d=2, n_classes=n_classes, n_tokens=n_tokens, eps=0.0)
    drawn, _ = sample(config, trials=4000)
    objects, labels = drawn.tokens[:, :-2:2], drawn.tokens[:, 1:-2:2]
    if n_tokens > 4:
        same = (objects[:, 0] == objects[:, 1]).all(axis=1)
        assert (same == (labels[:, 0] == labels[:, 1]).all(axis=1)).all() and between(int(same.sum()), 4000, 1 / n_classes)
    m = config.n_pairs
    for pair in range(m):
        assert between(int(drawn.answered[:, pair].sum()), 4000, 1 / m + (1 - 1 / m) / n_classes)
    # Vectors are new in every sequence.
    assert len(np.unique(labels[:, 0], axis=0)) == 4000


def test_objects_of_a_class_differ_by_the_noise_of_the_papers_code():
    for eps in (0.1, 3.0):
        drawn, _ = sample(AmiclConfig(d=53, n_classes=1, n_tokens=4, eps=eps))
        gap = drawn.tokens[:, 0] - drawn.tokens[:, 2]
        assert gap.std() == pytest.approx(2**0.5 * eps / 53 / (1 + eps**2) ** 0.5, rel=0.02)


# What the paper says.


def test_published_proportions():
    table = comparison()
    assert table["a"].tolist() == list(PUBLISHED) == [1.0, 1.25, 1.5, 2.0] and set(table["n"]) == {1000}
    counts = (table["value"] * 1000).round().astype(int)
    for count, published in zip(counts, table["published"], strict=True):
        # 1.000 of 1,000 trials is likely for any rate up to 1 / 1,000 or so below it.
        assert between(count, 1000, min(published, 0.9985)), (count, published)


@pytest.mark.parametrize("wrong", [{"similarity": "pearson"}, {"answer": "softmax"}, {"d": 20}])
def test_published_proportions_are_not_those_of_another_model(wrong):
    table = sweep("a", PUBLISHED, AmiclConfig(**wrong))
    counts = (table["value"] * 1000).round().astype(int)
    assert not all(between(count, 1000, min(p, 0.9985)) for count, p in zip(counts, PUBLISHED.values(), strict=True))


def test_below_one_an_object_answers_and_above_one_a_label():
    drawn, empty = sample()
    objects, labels = drawn.tokens[:, ::2], drawn.tokens[:, 1:-2:2]
    for a, tokens, others in ((0.5, objects, labels), (1.7, labels, objects)):
        said = amicl.answers(AmiclConfig(a=a), drawn.tokens, empty)[:, None]
        assert (said == tokens).all(axis=2).any(axis=1).mean() > 0.99 and (said == others).all(axis=2).any(axis=1).mean() < 0.01


def test_ties_at_one():
    """Of a label and two objects, whose scores differ by what else is in their keys, each wins as often. At position 0 nothing else
    is in the object's key, and the label has to beat 0 and the query: 3 of 8."""
    drawn, empty = sample(trials=7000, seed=1)
    right = amicl.right(AmiclConfig(a=1.0), drawn, empty)
    once = drawn.answered.sum(axis=1) == 1
    inside = once & ~drawn.answered[:, 0] & ~drawn.answered[:, -1]
    first = once & drawn.answered[:, 0]
    assert inside.sum() > 5000 and between(int(right[inside].sum()), int(inside.sum()), 1 / 3)
    assert first.sum() > 600 and between(int(right[first].sum()), int(first.sum()), 3 / 8)
    assert not between(int(right[inside].sum()), int(inside.sum()), 3 / 8)


def test_pearson_fails_exactly_where_the_class_of_the_query_stands_first():
    for n_classes in (512, 11):
        config = AmiclConfig(similarity="pearson", n_classes=n_classes)
        drawn, empty = sample(config)
        right, first = amicl.right(config, drawn, empty), drawn.answered[:, 0]
        assert not right[first].any() and right[~first].mean() > 0.999
        if n_classes == 11:
            assert (drawn.answered[first].sum(axis=1) > 1).sum() > 100  # another place of the class is no help
        assert between(int(right.sum()), 1000, pearson_ceiling(20, n_classes))
        # The dot product has no such ceiling.
        assert amicl.right(config.replace(similarity="dot"), drawn, empty).mean() > 0.995
    assert pearson_ceiling(20, 512) == pytest.approx(0.887, abs=1e-3)


@pytest.mark.parametrize("similarity", ["manhattan", "euclidean"])
def test_distances_fail_there_below_two_only(similarity):
    drawn, empty = sample()
    first = drawn.answered[:, 0]
    below, above = (amicl.right(AmiclConfig(similarity=similarity, a=a), drawn, empty) for a in (1.6, 2.6))
    assert not below[first].any() and below[~first].mean() > 0.99 and above[first].mean() > 0.99


def test_the_ceiling_is_the_share_of_sequences_whose_first_class_is_not_the_querys():
    drawn, _ = sample(AmiclConfig(d=3, n_classes=3, n_tokens=10), trials=5000)
    assert between(int((~drawn.answered[:, 0]).sum()), 5000, pearson_ceiling(10, 3))
    assert pearson_ceiling(10, 1) == pearson_ceiling(4, 7) == 0.0


def test_the_empty_slot_must_not_match_itself():
    """With its own query as key it is the best match of itself: always where a perfect match is unbeatable, half the time for the dot
    product, where the label's key has the same share of the query and the rest by chance."""
    drawn, empty = sample()
    for similarity in SIMILARITIES:
        config = AmiclConfig(similarity=similarity)
        own = amicl.queries(drawn.tokens, config.a)[:, -1]
        assert amicl.right(config, drawn, empty).mean() > 0.85
        assert amicl.right(config, drawn, own).mean() < (0.7 if similarity == "dot" else 0.001)
    keys = amicl.keys(amicl.queries(drawn.tokens, 2.0), empty)
    assert (keys[:, -1] == empty).all() and (keys[:, :-1] == amicl.queries(drawn.tokens, 2.0)[:, :-1]).all()
    assert empty.std() == pytest.approx(0.1, rel=0.01) and len(np.unique(empty, axis=0)) == 1000


# The softmax answer.


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_a_cold_softmax_is_argmax_and_a_hot_one_is_the_mean(similarity):
    config = AmiclConfig(d=31, n_classes=17, a=1.1, similarity=similarity)
    drawn, empty = sample(config, trials=300)
    soft = config.replace(answer="softmax")
    assert (amicl.right(soft.replace(beta=1e6), drawn, empty) == amicl.right(config, drawn, empty)).all()
    assert 0.1 < amicl.right(config, drawn, empty).mean() < 0.9
    assert amicl.answers(soft.replace(beta=0), drawn.tokens, empty) == pytest.approx(drawn.tokens.mean(axis=1), abs=1e-6)


def test_no_answer_is_nearest_to_the_empty_slot():
    drawn, _ = sample(trials=13)
    tokens = np.concatenate([drawn.tokens[:, :3], np.zeros_like(drawn.tokens[:, :1]), drawn.tokens[:, 3:]], axis=1)
    assert (amicl.nearest_token(tokens[:, 2] / 1e6, tokens) == tokens[:, 2]).all()
    assert (amicl.nearest_token(np.zeros_like(tokens[:, 2]), tokens) == tokens[:, 0]).all()


# Sweeps.


def test_a_sweep_is_a_tidy_table_that_a_seed_decides():
    config = AmiclConfig(d=23, n_classes=13, n_tokens=12)
    table = sweep("a", [0.9, 1.1, 2.0], config, trials=211, seed=5)
    expected = [
        "d",
        "n_classes",
        "n_tokens",
        "eps",
        "a",
        "similarity",
        "answer",
        "beta",
        "seed",
        "metric",
        "value",
        "ci_low",
        "ci_high",
        "n",
    ]
    assert list(table) == expected and set(table["metric"]) == {"amicl_accuracy"} and set(table["n"]) == {211}
    assert table.equals(sweep("a", [0.9, 1.1, 2.0], config, trials=211, seed=5))
    # A row does not depend on the others.
    assert table.iloc[1:2].reset_index(drop=True).equals(sweep("a", [1.1], config, trials=211, seed=5))
    assert not table["value"].equals(sweep("a", [0.9, 1.1, 2.0], config, trials=211, seed=6)["value"])
    right = outcomes([config.replace(a=1.1)], 211, 5)[0]
    assert table["value"][1] == right.mean() == amicl.right(config.replace(a=1.1), *sample(config, 211, 5)).mean()


def test_the_interval_is_wilsons():
    z, n, k = stats.norm.ppf(0.975), 37, 29
    p = k / n
    middle, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert wilson(np.arange(n) < k) == pytest.approx(((middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)))


def test_the_proportion_rises_with_a():
    for similarity in SIMILARITIES:
        values = sweep("a", [0.5, 0.9, 1.0, 1.1, 1.3], AmiclConfig(similarity=similarity), trials=500)["value"]
        assert values.is_monotonic_increasing and values[0] < 0.01 and values[4] > 0.8


def test_the_proportion_falls_with_n_where_d_is_small_and_rises_with_d():
    by_n = sweep("n", [10, 40, 200], SIZE_SETTING.replace(d=10), trials=500)
    by_d = sweep("d", [10, 20, 40, 100], SIZE_SETTING, trials=500)
    assert by_n["n_tokens"].tolist() == [10, 40, 200] and (by_n["ci_high"][1:].to_numpy() < by_n["ci_low"][:-1].to_numpy()).all()
    assert by_d["d"].tolist() == [10, 20, 40, 100] and by_d["value"].is_monotonic_increasing
    assert by_d["ci_low"][1] > by_d["ci_high"][0] and by_d["value"][3] == 1.0


def test_a_large_sweep_is_done_in_pieces_and_with_fewer_trials(monkeypatch):
    sizes = []

    def watched(config, trials, generator):
        sizes.append(trials)
        return draw(config, trials, generator)

    sweep("n", [1000], SIZE_SETTING.replace(d=1000), trials=5, draw=watched)
    assert sizes == [2, 2, 1]
    monkeypatch.setattr(accuracy, "CHUNK", 3 * 12 * 23)
    sizes.clear()
    table = sweep("n", [12, 24], AmiclConfig(d=23, n_classes=13), trials=101, draw=watched, most=12 * 23 * 80)
    assert table["n"].tolist() == [80, 50] and sizes == [*[3] * 26, 2, *[1] * 50]


def test_a_thousand_published_trials_take_well_under_a_second():
    outcomes([AmiclConfig()], 10, 0)
    start = time.process_time()
    outcomes([AmiclConfig()], 1000, 0)
    assert time.process_time() - start < 0.7


def test_the_papers_figures_have_the_papers_settings(monkeypatch):
    table = by_strength(trials=3)
    assert table.groupby("similarity").size().to_dict() == dict.fromkeys(SIMILARITIES, 100)
    assert table["a"].min() == 0 and table["a"].max() == 2
    monkeypatch.setattr(accuracy, "outcomes", lambda configs, trials, seed, draw: [np.ones(trials, dtype=bool)])
    sizes = by_size(trials=1000)
    at = {(row["n_tokens"], row["d"]): row["n"] for row in sizes.to_dict("records")}
    assert len(at) == 36 and set(sizes["n_classes"]) == {50} and set(sizes["a"]) == {2.0}
    assert at[1000, 1000] == MOST // 1000**2 == 100 and at[500, 100] == 1000
    assert len(by_size(trials=3, quick=True)) == 16


# Data of one's own.


def test_orthonormal_vectors_of_ones_own_have_a_known_answer():
    """No vector is like another by chance: right above 1, an object below. At 1 the first of those that tie answers."""
    basis = np.eye(499)
    mine = functools.partial(draw, class_vectors=basis[:13], label_vectors=basis[13:26])
    config = AmiclConfig(d=499, n_classes=13, n_tokens=12, eps=0.0)
    table = sweep("a", [0.99, 1.0, 1.01], config, trials=101, draw=mine)
    assert table["value"].tolist() == [0.0, 0.0, 1.0]
    drawn = mine(config, 7, np.random.default_rng(0))
    assert set(np.unique(drawn.tokens)) == {0, 1} and (drawn.tokens[:, :-1].sum(axis=2) == 1).all()
    assert (drawn.tokens[:, :-1:2].argmax(axis=2) < 13).all() and (drawn.labels.argmax(axis=1) >= 13).all()
    only = draw(config, 7, np.random.default_rng(0), label_vectors=basis[13:26])
    assert set(np.unique(only.labels)) == {0, 1} and len(np.unique(only.tokens[:, 0])) > 100


def test_a_function_of_ones_own_draws_the_sequences():
    def next_label(config, trials, generator):
        """Counts as right the label of the pair after the one that is asked for, which differs unless both are of one class."""
        drawn = draw(config, trials, generator)
        after = (drawn.answered.argmax(axis=1) + 1) % config.n_pairs
        return Sequences(drawn.tokens, drawn.tokens[np.arange(trials), 2 * after + 1])

    assert sweep("a", [2.0], trials=53, draw=next_label)["value"][0] < 0.1 < sweep("a", [2.0], trials=53)["value"][0]


def test_labels_that_stand_nowhere_are_told():
    """As after arithmetic in another precision: such sequences could never be answered rightly."""
    drawn = draw(AmiclConfig(d=7, n_classes=5, n_tokens=6), 11, np.random.default_rng(0))
    labels = drawn.labels.copy()
    labels[3, 2] += 1
    with pytest.raises(UsageError, match=r"number for number .*; in 1 of 11 it does not"):
        Sequences(drawn.tokens, labels)
    with pytest.raises(UsageError, match="in 11 of 11"):
        Sequences(drawn.tokens, 0.1 * drawn.labels.astype(float))


def test_what_does_not_fit_is_told():
    generator, config = np.random.default_rng(0), AmiclConfig(d=7, n_classes=5, n_tokens=6)
    with pytest.raises(UsageError, match=r"class_vectors must be \[n_classes, d\] = \[5, 7\], got \[7, 5\]"):
        draw(config, 3, generator, class_vectors=np.ones((7, 5)))
    with pytest.raises(UsageError, match=r"gave tokens \[3, 6, 7\], expected \[3, 8, 7\]"):
        sweep("n", [8], config, trials=3, draw=lambda _, trials, generator: draw(config, trials, generator))
    tokens, labels = np.ones((3, 6, 7)), np.ones((3, 7))
    for wrong, message in (
        ((tokens[:, :5], labels), r"tokens must be \[trials, an even number of at least 4, d\], got \[3, 5, 7\]"),
        ((tokens, labels[:2]), r"labels must be \[3, 7\], one for each sequence of tokens \[3, 6, 7\], got \[2, 7\]"),
        ((tokens * np.nan, labels), "tokens must be an array of finite floating-point numbers"),
    ):
        # The types that tests check at run time would object first.
        unchecked = object.__new__(Sequences)
        unchecked.__dict__.update(zip(("tokens", "labels"), wrong, strict=True))
        with pytest.raises(UsageError, match=message):
            unchecked.__post_init__()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_tokens": 7}, "amicl: n_tokens must be even and at least 4"),
        ({"n_tokens": 2}, "amicl: n_tokens must be even and at least 4"),
        ({"d": 0}, "amicl: d must be at least 1, got 0"),
        ({"n_classes": 0}, "amicl: n_classes must be at least 1, got 0"),
        ({"a": -0.5}, "amicl: a must not be negative, got -0.5"),
        ({"beta": -1}, "amicl: beta must not be negative, got -1"),
        ({"eps": float("inf")}, "amicl.eps: expected a number, got inf"),
        ({"similarity": "cosine"}, "amicl.similarity: expected one of dot, pearson, manhattan, euclidean, got 'cosine'"),
        ({"answer": "max"}, "amicl.answer: expected one of argmax, softmax, got 'max'"),
    ],
)
def test_a_configuration_that_cannot_be(fields, message):
    with pytest.raises(ConfigError, match=message):
        AmiclConfig(**fields)


def test_a_sweep_that_cannot_be():
    with pytest.raises(UsageError, match="unknown sweep over 'b'; there are: a, d, n"):
        sweep("b", [1])
    with pytest.raises(UsageError, match="the sweep over d has no values"):
        sweep("d", [])
    for trials, seed in ((0, 0), (1, -1)):
        with pytest.raises(UsageError, match=f"got trials={trials}, seed={seed}"):
            sweep("a", [1], trials=trials, seed=seed)
    with pytest.raises(ConfigError, match="n_tokens must be even"):
        sweep("n", [10, 11])
    assert set(OVER) == {"a", "n", "d"}


# The attention of one sequence.


def test_the_table_of_attention():
    table = attention_table(AmiclConfig(n_tokens=12, d=101), seed=2)
    assert len(table) == 4 * 3 * 12 * 12
    last = table[table["dst"] == 11]
    for similarity in SIMILARITIES:
        rows = last[last["similarity"] == similarity]
        scores, softmax, argmax = (rows[rows["part"] == part] for part in ("scores", "softmax", "argmax"))
        assert argmax["value"].sum() == 1 and softmax["value"].sum() == pytest.approx(1, abs=1e-6)
        assert (argmax["value"] == argmax["answered"]).all()
        assert softmax["value"].to_numpy() == pytest.approx(np.exp(scores["value"]) / np.exp(scores["value"]).sum(), abs=1e-6)
        whole = table[(table["similarity"] == similarity) & (table["part"] == "argmax")].pivot(index="dst", columns="src", values="value")
        if similarity != "dot":
            assert (np.diag(whole)[:-1] == 1).all()
    names = table[(table["dst"] == 0) & (table["similarity"] == "dot") & (table["part"] == "scores")]["src_token"].tolist()
    answered = names[int(last["src"][last["answered"]].iloc[0])]
    assert names[-2:] == [f"{answered.upper()}?", "_"] and names[:2] == ["A", "a"] and names.count(answered) == 1
    with pytest.raises(UsageError, match="inside the context"):
        attention_table(AmiclConfig(n_tokens=6))


def test_names_of_tokens():
    basis = np.eye(11)
    classes = [3, 1, 3, 0]
    pairs = [vector for c in classes for vector in (basis[c], basis[c + 5])]
    one = Sequences(np.array([[*pairs, basis[1], np.zeros(11)]]), basis[6][None])
    assert token_names(one) == ["A", "a", "B", "b", "A", "a", "C", "c", "B?", "_"]
