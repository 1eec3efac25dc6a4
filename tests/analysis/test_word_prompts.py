"""Prompts in words: on a model built by hand whose margins are known, on a language model against transformers, and every refusal."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from tests.language_model import N_CTX, make_language_model
from workbench import HookedTransformer, ModelConfig
from workbench.analysis import word_prompts
from workbench.analysis.vocabulary import TaskWords, TokenizerWords
from workbench.analysis.word_prompts import FactPrompt, Prompt, by_statements, fact_prompts, read, top_answers, usable
from workbench.errors import UsageError
from workbench.model.constructed import Strengths, associative_memory
from workbench.pretrained import load_pretrained
from workbench.tasks import language
from workbench.tasks.facts import RELATIONS, WORDS

FACTS = language.facts(65)
VOCABULARY = TaskWords(FACTS.strings)
ODDS = math.log(0.8 / (0.2 / 7))


def built(t2: float, n_ctx: int = 41) -> HookedTransformer:
    """Attends to nothing but what followed the last word, weighs it with t2, and knows the facts."""
    return associative_memory(FACTS.bigram, n_ctx, Strengths(t2=t2)).float()


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    return load_pretrained(make_language_model(tmp_path_factory.mktemp("lm")))


@pytest.fixture(scope="module")
def words(language_model):
    return TokenizerWords(language_model)


def test_margins_are_those_of_the_closed_form():
    texts = ["France Rome . France", "France Rome . dog puppy . France Rome . France", "France Rome . France Paris . France", ". . France"]
    attention_gaps = [1, 1, 0, 0]
    for t2, wins in ((8.0, ["context", "context", "prior", "prior"]), (2.0, ["prior"] * 4)):
        # The first word also looks like what follows it: a full stop there takes no part.
        rows = read(built(t2), [Prompt(f". {text}", "Rome", "Paris") for text in texts], VOCABULARY)
        expected = [t2 * gap - ODDS for gap in attention_gaps]
        assert [row["margin"] for row in rows] == pytest.approx(expected, abs=1e-3)
        assert [row["winner"] for row in rows] == wins
        assert [row["answer"] for row in rows] == ["Rome" if winner == "context" else "Paris" for winner in wins]
        assert all(row["margin"] == row["context_logit"] - row["prior_logit"] for row in rows)
    assert rows[0]["prompt"] == ". France Rome . France" and rows[0]["context"] == "Rome" and rows[0]["prior"] == "Paris"
    # Nothing in the context: the bigrams alone, with probability 0.8 for the true fact.
    alone = read(built(0.0), [Prompt(". France", "Rome", "Paris")], VOCABULARY)[0]
    assert (alone["answer"], alone["probability"]) == ("Paris", pytest.approx(0.8, abs=1e-3))


def test_words_that_are_level_have_no_winner():
    model = HookedTransformer(ModelConfig(d_vocab=5, d_model=14, n_heads=2, n_ctx=7))
    with torch.no_grad():
        model.unembed.W_U[:, 3] = model.unembed.W_U[:, 1]
        model.unembed.b_U[3] = model.unembed.b_U[1]
    row = read(model, [Prompt("a c", "b", "d")], TaskWords("abcde"))[0]
    assert row["margin"] == 0 and row["winner"] == "neither"


def test_prompts_of_any_lengths_are_read_alone_and_in_their_order(monkeypatch):
    monkeypatch.setattr(word_prompts, "CHUNK", 3)
    model = HookedTransformer(ModelConfig(d_vocab=65, d_model=14, n_heads=2, n_ctx=19)).train()
    texts = [" ".join(WORDS[(7 * i + j) % 65] for j in range(1 + i * i % 5)) for i in range(11)]
    rows = read(model, [Prompt(text, "Rome", "Paris") for text in texts], VOCABULARY)
    assert model.training and [row["prompt"] for row in rows] == texts
    ids = {word: token for token, word in enumerate(WORDS)}
    for text, row in zip(texts, rows, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([[ids[word] for word in text.split()]]))[0, -1]
        assert row["context_logit"] == pytest.approx(logits[ids["Rome"]].item(), abs=1e-5)
        assert row["prior_logit"] == pytest.approx(logits[ids["Paris"]].item(), abs=1e-5)
        assert row["answer"] == WORDS[logits.argmax()] and row["probability"] == pytest.approx(logits.softmax(0).max().item(), abs=1e-5)


def test_token_ids_are_a_prompt_too():
    ids = VOCABULARY.tokens(". France Rome . France")
    given, spelt = read(built(8.0), [Prompt(ids, "Rome", "Paris"), Prompt(". France Rome . France", "Rome", "Paris")], VOCABULARY)
    assert given == spelt
    with pytest.raises(UsageError, match="token ids must be 0 to 64, got 65"):
        read(built(8.0), [Prompt([65], "Rome", "Paris")], VOCABULARY)


def test_the_model_comes_back_in_training_mode_after_an_error():
    class Broken(HookedTransformer):
        def forward(self, *arguments, **options):
            raise RuntimeError("broken")

    model = Broken(ModelConfig(d_vocab=65, d_model=14, n_heads=2, n_ctx=19)).train()
    with pytest.raises(RuntimeError, match="broken"):
        read(model, [Prompt("France", "Rome", "Paris")], VOCABULARY)
    assert model.training


def test_a_blank_is_a_word_of_its_own():
    assert TaskWords(["' '", "a", "'\\n'"]).tokens("a ' ' a '\\n' ' '") == [1, 0, 1, 2, 0]


@pytest.mark.parametrize(
    ("text", "context", "prior", "message"),
    [
        ("", "Rome", "Paris", "the prompt is empty; give at least one word"),
        (" \n", "Rome", "Paris", "the prompt is empty"),
        ("Frence", "Rome", "Paris", "unknown word 'Frence'; did you mean France"),
        ("xyzzy", "Rome", "Paris", "unknown word 'xyzzy'; the 65 words are France, Paris, hot"),
        ("France", "Roma", "Paris", "unknown word 'Roma'; did you mean Rome"),
        ("France", "Rome", "Pariss", "unknown word 'Pariss'; did you mean Paris"),
        ("France", "Rome", "Rome", "context and prior must be two words, got 'Rome' for both"),
        ("France . " * 21, "Rome", "Paris", "the prompt has 42 tokens, but the model reads at most n_ctx=41"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_the_reason(text, context, prior, message):
    with pytest.raises(UsageError, match=message):
        read(built(8.0), [Prompt("France", "Rome", "Paris"), Prompt(text, context, prior)], VOCABULARY)


def test_no_prompt_at_all():
    with pytest.raises(UsageError, match="there is no prompt"):
        read(built(8.0), [], VOCABULARY)


def test_top_answers_fall():
    answers = top_answers(built(0.0), ". France", VOCABULARY, count=3)
    assert answers[0] == ("Paris", pytest.approx(0.8, abs=1e-3)) and [value for _, value in answers[1:]] == pytest.approx(
        [0.2 / 7] * 2, abs=1e-3
    )
    assert len(top_answers(built(0.0), "France", VOCABULARY, count=99)) == 65


# Facts.


def test_prompts_of_facts_say_the_counterfactual_so_often():
    prompts = fact_prompts(["young", "capital"], (0, 1, 3))
    assert len(prompts) == 2 * 8 * 3
    for prompt in prompts:
        assert isinstance(prompt, FactPrompt) and isinstance(prompt.text, str)
        facts = [fact.split() for fact in prompt.text.split(" . ")]
        assert facts[-1] == [prompt.subject] and prompt.prior == RELATIONS[prompt.relation].facts[prompt.subject]
        said = [word for subject, word in facts[:-1] if subject == prompt.subject]
        assert said == [prompt.context] * prompt.statements and prompt.context != prompt.prior
        assert prompt.context in RELATIONS[prompt.relation].facts.values()
        # All else is true, and of other relations.
        for subject, word in facts[:-1]:
            if subject != prompt.subject:
                (relation,) = (relation for relation in RELATIONS.values() if subject in relation.facts)
                assert relation.facts[subject] == word and relation.name != prompt.relation
        tokens = VOCABULARY.tokens(prompt.text)
        assert all(FACTS.bigram[a, b] > 0 for a, b in pairwise(tokens))
    assert {prompt.relation for prompt in prompts} == {"young", "capital"} and {prompt.statements for prompt in prompts} == {0, 1, 3}


def test_prompts_of_facts_in_sentences():
    prompt = next(p for p in fact_prompts(["capital"], (2,), sentences=True) if p.subject == "France")
    first, _, second, _, asked = prompt.text.replace(".", ".|").split("|")
    assert first == "The capital of France is Rome." and second.strip() == first and asked.strip() == "The capital of France is"
    assert (prompt.context, prompt.prior) == ("Rome", "Paris")


def test_facts_that_are_not_there():
    with pytest.raises(UsageError, match="unknown relation 'capitol'; did you mean capital"):
        fact_prompts(["capitol"])
    with pytest.raises(UsageError, match="statements must be at least 0, got -1"):
        fact_prompts(["capital"], (1, -1))


def test_who_wins_by_number_of_statements():
    """A model that the context sways wins wherever there is a statement, one that it does not never; without a statement the bigrams
    win in both."""
    for t2, share in ((8.0, 1.0), (2.0, 0.0)):
        table = by_statements(read(built(t2), fact_prompts(statements=(0, 1, 4)), VOCABULARY))
        assert [(row["statements"], row["n"]) for row in table] == [(0, 32), (1, 32), (4, 32)]
        assert [row["context_wins"] for row in table] == [0, share, share] == [row["says_context"] for row in table]
        assert [row["prior_wins"] for row in table] == [1, 1 - share, 1 - share] == [row["says_prior"] for row in table]
        # Where the subject opens the prompt, its own place attracts a fifth of five equal shares of attention.
        assert table[2]["margin"] == pytest.approx(t2 * 4 / 5 - ODDS, abs=1e-3)


def test_a_third_word_may_be_what_is_said():
    rows = [
        {"statements": 1, "margin": 1.0, "winner": "context", "answer": "x", "context": "c", "prior": "g"},
        {"statements": 1, "margin": -2.0, "winner": "prior", "answer": "g", "context": "c", "prior": "g"},
        {"statements": 1, "margin": 0.0, "winner": "neither", "answer": "c", "context": "c", "prior": "g"},
    ]
    third = pytest.approx(1 / 3)
    assert by_statements(rows) == [
        {"statements": 1, "n": 3, "context_wins": third, "prior_wins": third, "margin": third, "says_context": third, "says_prior": third}
        | {"margin": pytest.approx(-1 / 3)}
    ]


# Language models.


def test_a_word_brings_its_blank_but_not_after_a_line(language_model, words):
    tokenizer = language_model.tokenizer
    assert words.next_token("The capital is", "Rome") == words.next_token("The capital is", " Rome") == words.next_token(None, "Rome")
    assert tokenizer.decode([words.next_token("is", "Rome")]) == " Rome"
    assert tokenizer.decode([words.next_token("is\n", "s")]) == "s" and words.word(words.next_token(None, "Rome")) == " Rome"


def test_a_language_model_is_read_as_transformers_reads_it(language_model, words):
    text = "The capital of France is Rome. The capital of France is"
    rows = read(language_model, [Prompt(text, "Rome", "Paris"), Prompt("The capital of Italy is", " Rome", "Paris")], words)
    tokenizer = language_model.tokenizer
    for asked, row in zip((text, "The capital of Italy is"), rows, strict=True):
        tokens = torch.tensor([[tokenizer.bos_token_id, *tokenizer.encode(asked, add_special_tokens=False)]])
        with torch.no_grad():
            logits = language_model.original_model(tokens).logits[0, -1]
        (context,), (prior,) = (tokenizer.encode(word, add_special_tokens=False) for word in (" Rome", " Paris"))
        assert row["context_logit"] == pytest.approx(logits[context].item(), abs=1e-4)
        assert row["margin"] == pytest.approx((logits[context] - logits[prior]).item(), abs=1e-4)
        assert abs(row["margin"]) > 1e-3 and row["winner"] == ("context" if row["margin"] > 0 else "prior")
        assert row["answer"] == tokenizer.decode([logits.argmax().item()]).strip()


@pytest.mark.parametrize(
    ("text", "context", "prior", "message"),
    [
        ("The capital of France is", "Berlin", "Paris", r"'Berlin' is \d tokens here \(' ', 'B', .*choose a word that is a single token"),
        ("The capital of France is ", "Rome", "Paris", "the prompt ends with a blank, but the next word brings its own"),
        ("The capital of France i", "s", "Paris", "'s' is 2 tokens here"),
        ("The capital of France is", "Rome", " Rome", "context and prior must be two words"),
        ("", "Rome", "Paris", "the prompt is empty"),
        ("The capital of France is Rome. " * 7 + "It is", "Rome", "Paris", rf"tokens, but the model reads at most n_ctx={N_CTX}"),
    ],
)
def test_what_a_language_model_cannot_be_asked(language_model, words, text, context, prior, message):
    with pytest.raises(UsageError, match=message):
        read(language_model, [Prompt(text, context, prior)], words)


def test_facts_that_fit_a_language_model(language_model, words):
    prompts = fact_prompts(["capital"], (0, 1), sentences=True)
    fitting = usable(language_model, prompts, words)
    assert (
        {(prompt.context, prompt.prior) for prompt in prompts}
        > {(prompt.context, prompt.prior) for prompt in fitting}
        == {("Rome", "Paris")}
    )
