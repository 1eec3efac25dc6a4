"""The language of facts: its tables against a loop over the relations, its triggers, and prompts that read like it."""

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from workbench.analysis.data import AnalysisData
from workbench.config import ModelConfig, TriggerBigramConfig
from workbench.errors import ConfigError, UsageError
from workbench.tasks import language
from workbench.tasks.alias import UNITS
from workbench.tasks.facts import RELATIONS, SEPARATOR, WORDS
from workbench.tasks.hijack import Design, beat_of, grid, hijack_prompts, in_time
from workbench.tasks.language import Language
from workbench.tasks.trigger_bigram import TriggerBigram

FACTS = language.facts(65)
RANKED = [token for token, word in enumerate(WORDS) if any(word in relation.facts for relation in RELATIONS.values())]
"""subjects in the order of the vocabulary: Zipf's ranks"""
ID = {word: token for token, word in enumerate(WORDS)}
SUBJECTS = {ID[subject] for relation in RELATIONS.values() for subject in relation.facts}
OBJECTS = {ID[word] for relation in RELATIONS.values() for word in relation.facts.values()}


def task(**fields) -> TriggerBigram:
    return TriggerBigram(TriggerBigramConfig(**({"language": "facts", "seq_len": 31, "n_triggers": 3} | fields)))


def test_every_word_stands_once():
    said = [word for relation in RELATIONS.values() for fact in relation.facts.items() for word in fact]
    assert len(said) == len(set(said)) == 64 and {*said, SEPARATOR} == set(WORDS) and len(WORDS) == 65
    assert all(len(relation.facts) == 8 and relation.template.count("{subject}") == 1 for relation in RELATIONS.values())
    assert all(word.isalpha() for word in said)


def test_what_follows_what():
    for relation in RELATIONS.values():
        for subject, true in relation.facts.items():
            row = FACTS.bigram[ID[subject]]
            for word in WORDS:
                expected = 0.8 if word == true else 0.2 / 7 if word in relation.facts.values() else 0.0
                assert row[ID[word]] == pytest.approx(expected, abs=8 / UNITS)
            assert FACTS.bigram[ID[true], ID["."]] == 1
    after = FACTS.bigram[ID["."]]
    harmonic = sum(1 / rank for rank in range(1, 33))
    assert {token for token in range(65) if after[token]} == SUBJECTS == set(RANKED)
    assert [after[token] for token in RANKED] == pytest.approx([1 / rank / harmonic for rank in range(1, 33)], abs=1e-8)
    alike = language.facts(65, zipf_exponent=0.0).bigram[ID["."]]
    assert [alike[token] for token in RANKED] == [1 / 32] * 32


def test_the_unigram_is_what_a_long_text_shows():
    assert np.abs(FACTS.unigram @ FACTS.bigram - FACTS.unigram).max() < 1e-8
    assert FACTS.unigram[ID["."]] == pytest.approx(1 / 3)
    alike = language.facts(65, zipf_exponent=0.0).unigram
    assert alike[ID["Paris"]] == pytest.approx(1 / 96)


def test_another_share_of_true_facts():
    assert language.facts(65, true_share=0.5).bigram[ID["dog"], ID["puppy"]] == pytest.approx(0.5)
    assert language.facts(65, true_share=1.0).bigram[ID["dog"], ID["puppy"]] == 1


@pytest.mark.parametrize("triggers", ["fixed", "random"])
def test_only_subjects_are_triggers_and_outputs_stay_in_their_relation(triggers):
    made = task(triggers=triggers, outputs="followers", n_triggers=5)
    drawn, outputs = made.design(701, np.random.default_rng(0))
    assert {*drawn.ravel().tolist()} == (SUBJECTS if triggers == "random" else {*made.fixed_triggers.tolist()})
    assert all(len(set(row)) == 5 for row in drawn.tolist()) and set(made.fixed_triggers.tolist()) <= SUBJECTS
    of = {ID[subject]: {ID[word] for word in relation.facts.values()} for relation in RELATIONS.values() for subject in relation.facts}
    pairs = set(zip(drawn.ravel().tolist(), outputs.ravel().tolist(), strict=True))
    assert all(output in of[trigger] for trigger, output in pairs)
    # Each of the eight alike: with the true one at 0.8, as "bigram" draws it, its count would be far out.
    true = np.mean([WORDS[output] == next(r for r in RELATIONS.values() if WORDS[q] in r.facts).facts[WORDS[q]]
                    for q, output in zip(drawn.ravel(), outputs.ravel(), strict=True)])  # fmt: skip
    assert abs(true - 1 / 8) < 4 * (1 / 8 * 7 / 8 / drawn.size) ** 0.5


def test_followers_are_uniform_over_what_can_follow():
    probabilities = task(outputs="followers", triggers="random").output_probabilities()
    for subject in SUBJECTS:
        assert set(probabilities[subject][probabilities[subject] > 0].tolist()) == {1 / 8}
        assert set(np.flatnonzero(probabilities[subject])) == set(np.flatnonzero(FACTS.bigram[subject]))


def test_sequences_are_sentences():
    batch = task(triggers="random", outputs="followers").sample(101, np.random.default_rng(1))
    kinds = np.array([0 if token in SUBJECTS else 1 if token in OBJECTS else 2 for token in range(65)])[batch.tokens.numpy()]
    assert ((kinds[:, 1:] - kinds[:, :-1]) % 3 == 1).all()


def test_a_language_of_the_wrong_size_or_with_too_many_triggers():
    with pytest.raises(ConfigError, match="facts has 65 words, but d_vocab=64; set d_vocab to 65"):
        task(d_vocab=64)
    with pytest.raises(ConfigError, match="n_triggers=33, but only 32 tokens of this language can be triggers"):
        task(n_triggers=33)
    assert task(n_triggers=32).fixed_triggers.shape == (32,)
    with pytest.raises(ConfigError, match="true_share must lie in"):
        language.facts(65, true_share=1.5)
    with pytest.raises((ConfigError, TypeCheckError), match="eligible"):
        Language(FACTS.unigram, FACTS.bigram, FACTS.strings, np.ones(64, dtype=bool))


def test_words_for_people():
    words = task(triggers="random", outputs="followers").describe()
    for phrase in ("plain facts", "80% of the time", "65 tokens", "drawn anew from the subjects", "tokens that can follow the trigger"):
        assert phrase in words
    assert task().to_strings([ID["France"], 64]) == ["France", "."]


def test_the_fingerprint_tells_who_may_be_a_trigger():
    one = task()
    before = one.fingerprint()
    assert before == task().fingerprint() != task(outputs="followers").fingerprint()
    eligible = FACTS.eligible.copy()
    eligible[ID["dog"]] = False
    one.language = Language(FACTS.unigram, FACTS.bigram, FACTS.strings, eligible)
    assert one.fingerprint() != before


def test_the_oracle_pays_the_entropy_of_true_facts_and_of_subjects():
    one = task(triggers="random", outputs="followers", n_triggers=1, seq_len=301, zipf_exponent=0.0)
    facts, subjects = FACTS.entropies()[ID["dog"]], np.log(32)
    assert facts == pytest.approx(-0.8 * np.log(0.8) - 0.2 * np.log(0.2 / 7), abs=1e-6)
    # Of the free steps a third starts at each kind of word, but for the one trigger in 32.
    weights = np.array([31 / 32, 1, 1])
    assert one.references()["bigram_loss"] == pytest.approx(weights @ [facts, 0, subjects] / weights.sum(), rel=0.01)


def test_beats():
    assert beat_of(FACTS.bigram, ID["dog"])[0] == 3
    classes = beat_of(FACTS.bigram, ID["dog"])[1]
    assert {int(classes[token]) for token in SUBJECTS} == {0} and {int(classes[token]) for token in OBJECTS} == {1}
    ring = np.roll(np.eye(7), 1, axis=1)
    assert beat_of(ring, 2)[0] == 7 and beat_of(ring, 2)[1].tolist() == [5, 6, 0, 1, 2, 3, 4]
    short_cut = ring.copy()
    short_cut[0, :] = [0, 0.5, 0, 0.5, 0, 0, 0]  # walks of 7 and of 5 steps
    assert beat_of(short_cut, 0)[0] == 1
    assert beat_of(language.synthetic(13).bigram, 0)[0] == 1
    leads_nowhere = np.array([[1.0, 0.0], [0.5, 0.5]])
    assert beat_of(leads_nowhere, 0)[0] == 1
    assert [in_time(distance, 7) for distance in (0, 4, 5, 11, 12, 13)] == [5, 5, 5, 5, 12, 12]


def test_prompts_of_facts_are_sentences():
    dog, cub, puppy = ID["dog"], ID["cub"], ID["puppy"]
    prompts = hijack_prompts([Design(dog, cub, puppy, 2, 1, 4)] * 50, FACTS.bigram, 29, np.random.default_rng(2))
    steps = prompts.tokens.numpy()
    assert (FACTS.bigram[steps[:, :-1], steps[:, 1:]] > 0).all()
    for row in steps.tolist():
        said = [row[t + 1] for t in range(28) if row[t] == dog]
        assert sorted(said) == sorted([cub, cub, puppy]) and row[-1] == dog and row[-7] == dog
    assert len({tuple(np.flatnonzero(row == dog)) for row in steps}) > 5


def test_the_shortest_prompt_of_facts_and_what_does_not_fit():
    design = Design(ID["dog"], ID["cub"], ID["puppy"], 2, 1, 1)
    assert design.shortest(3) == 10
    row = hijack_prompts([design], FACTS.bigram, 10, np.random.default_rng(0)).tokens[0].tolist()
    assert [row[t] for t in (0, 3, 6, 9)] == [ID["dog"]] * 4
    with pytest.raises(UsageError, match="3 pairs, a distance of 1 and the trigger need 10 tokens, but the prompt has 9"):
        hijack_prompts([design], FACTS.bigram, 9, np.random.default_rng(0))
    with pytest.raises(UsageError, match="can only stand every 3 tokens: the distance must be 1 more than a multiple of 3, got 2"):
        hijack_prompts([Design(ID["dog"], ID["cub"], ID["puppy"], 1, 0, 2)], FACTS.bigram, 29, np.random.default_rng(0))


def test_the_grid_of_facts_has_no_design_twice():
    """One of the two is the true object, so the log-odds are +-log 28: 0, 2 and 4 all find the same pair."""
    designs = grid(FACTS.bigram, [ID["dog"], ID["hot"]])
    assert len(designs) == len(set(designs)) == 2 * 2 * 4 * 2 * 3
    odds = {round(float(np.log(FACTS.bigram[d.trigger, d.prior] / FACTS.bigram[d.trigger, d.context])), 3) for d in designs}
    assert odds == {-3.332, 3.332}
    assert {design.distance for design in designs} == {1, 7, 22}
    assert all({design.context, design.prior} <= OBJECTS for design in designs)


def test_an_analysis_has_prompts_of_facts():
    made = task(seq_len=47, triggers="random", outputs="followers", n_triggers=2)
    prompts = AnalysisData.draw(ModelConfig(d_vocab=65, n_ctx=47), made, sequences=4).hijack_prompts
    assert prompts is not None and prompts.tokens.shape == (4 * 2 * 4 * 2 * 3 * 2, 47)
    assert set(prompts.design["trigger"].tolist()) == {RANKED[rank] for rank in (0, 4, 8, 12)}
    steps = prompts.tokens.numpy()
    assert (FACTS.bigram[steps[:, :-1], steps[:, 1:]] > 0).all()
