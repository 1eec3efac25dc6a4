"""Free prompts in words, for any model: which of two words does it say next, the context's or the one it learnt in training?

A prompt ends where the model is asked. With c the context's word and g the word of training (the prior), the margin is
logit(c) - logit(g) there: positive where the context wins, negative where it is hijacked (Wang & Sato, arXiv 2412.11459). Words
become tokens through a vocabulary (vocabulary.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.analysis.vocabulary import Vocabulary
from workbench.errors import UsageError, unknown_name
from workbench.tasks.facts import RELATIONS, SEPARATOR, Relation

CHUNK = 64
"""Prompts in a forward pass."""
STATEMENTS = (0, 1, 2, 4)
"""How often a prompt of facts states the counterfactual."""
CONTEXT, PRIOR, NEITHER = "context", "prior", "neither"


@dataclass(frozen=True)
class Prompt:
    """A text or token ids, and the two words that are weighed against each other at its end."""

    text: str | Sequence[int]
    context: str
    """c, what the context says"""
    prior: str
    """g, what the model knows from training"""


@dataclass(frozen=True)
class FactPrompt(Prompt):
    """A question about a fact, after a number of statements that say otherwise."""

    relation: str
    subject: str
    statements: int


@dataclass(frozen=True)
class Encoded:
    """A prompt as tokens."""

    prompt: Prompt
    tokens: list[int]
    context: int
    prior: int
    shown: str = field(default="")
    """the prompt as text"""


def encode(prompt: Prompt, vocabulary: Vocabulary, n_ctx: int, d_vocab: int) -> Encoded:
    """The tokens of a prompt and of its two words. Raises UsageError for a prompt that is empty, longer than the model's n_ctx, or has
    a token that is not in the vocabulary; and for words that are not one token each, or the same."""
    tokens, shown = prompt_tokens(prompt.text, vocabulary, n_ctx, d_vocab)
    text = prompt.text if isinstance(prompt.text, str) else None
    context, prior = (vocabulary.next_token(text, word) for word in (prompt.context, prompt.prior))
    if context == prior:
        raise UsageError(f"context and prior must be two words, got {prompt.context!r} for both")
    return Encoded(prompt, tokens, context, prior, shown)


def prompt_tokens(text: str | Sequence[int], vocabulary: Vocabulary, n_ctx: int, d_vocab: int) -> tuple[list[int], str]:
    """The tokens of a prompt, and the prompt as text. Raises UsageError as `encode` does."""
    if isinstance(text, str):
        tokens, shown = vocabulary.tokens(text), text
    else:
        tokens = list(text)
        for token in tokens:
            if not 0 <= token < d_vocab:
                raise UsageError(f"a prompt's token ids must be 0 to {d_vocab - 1}, got {token}")
        shown = " ".join(vocabulary.word(token).strip() for token in tokens)
    if not tokens:
        raise UsageError("the prompt is empty; give at least one word")
    if len(tokens) > n_ctx:
        raise UsageError(f"the prompt has {len(tokens)} tokens, but the model reads at most n_ctx={n_ctx}")
    return tokens, shown


def read(model: Any, prompts: Sequence[Prompt], vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """What a model says at the end of each prompt, one row each: `prompt`, `context` and `prior` (words), `context_logit` and
    `prior_logit`, `margin` (their difference), `winner` ("context", "prior", or "neither" where the margin is zero), and `answer`, the
    most likely next word, with its `probability`. A fact's row has also `relation`, `subject` and `statements`.

    `model` is a HookedTransformer, a TransformerBridge, or another callable from tokens to logits with `cfg.n_ctx` and `cfg.d_vocab`.
    Raises UsageError as `encode` does.
    """
    if not prompts:
        raise UsageError("there is no prompt; give at least one")
    encoded = [encode(prompt, vocabulary, model.cfg.n_ctx, model.cfg.d_vocab) for prompt in prompts]
    rows = []
    for one, logits in zip(encoded, last_logits(model, [one.tokens for one in encoded]), strict=True):
        probability, answer = logits.softmax(dim=-1).max(dim=-1)
        context, prior = logits[one.context].item(), logits[one.prior].item()
        prompt = one.prompt
        about = (
            {} if not isinstance(prompt, FactPrompt) else {name: getattr(prompt, name) for name in ("relation", "subject", "statements")}
        )
        rows.append(
            about
            | {"prompt": one.shown, "context": prompt.context, "prior": prompt.prior, "context_logit": context, "prior_logit": prior}
            | {"margin": context - prior, "winner": CONTEXT if context > prior else PRIOR if prior > context else NEITHER}
            | {"answer": vocabulary.word(int(answer)).strip(), "probability": probability.item()}
        )
    return rows


def top_answers(model: Any, text: str | Sequence[int], vocabulary: Vocabulary, count: int = 5) -> list[tuple[str, float]]:
    """The most likely next words of a prompt with their probabilities, the likeliest first. Raises UsageError as `encode` does."""
    tokens, _ = prompt_tokens(text, vocabulary, model.cfg.n_ctx, model.cfg.d_vocab)
    probabilities = last_logits(model, [tokens])[0].softmax(dim=-1)
    largest = probabilities.topk(min(count, len(probabilities)))
    return [(vocabulary.word(token), value) for token, value in zip(largest.indices.tolist(), largest.values.tolist(), strict=True)]


@torch.inference_mode()
def last_logits(model: Any, sequences: Sequence[Sequence[int]]) -> list[Float[Tensor, " d_vocab"]]:
    """The logits at the end of each sequence, on the CPU and in double precision. Sequences of one length share a forward pass: nothing
    is padded."""
    found: dict[int, Tensor] = {}
    device = next(model.parameters()).device
    order = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
    with _evaluating(model):
        for _, group in groupby(order, key=lambda index: len(sequences[index])):
            rows = list(group)
            for start in range(0, len(rows), CHUNK):
                part = rows[start : start + CHUNK]
                logits = model(torch.tensor([list(sequences[index]) for index in part], device=device))
                found |= dict(zip(part, logits[:, -1].double().cpu(), strict=True))
    return [found[index] for index in range(len(sequences))]


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def fact_prompts(
    relations: Iterable[str] | None = None, statements: Iterable[int] = STATEMENTS, *, sentences: bool = False
) -> list[FactPrompt]:
    """For every subject of some relations (None: all), prompts that state a counterfactual so many times and then ask. The
    counterfactual is the object of the relation's next subject; after each statement stands a true fact of another relation (where
    there is no statement, one such fact alone).

    In the words of the language `facts`, or in sentences for a language model. Raises UsageError for an unknown relation or a negative
    number of statements.

    >>> [prompt.text for prompt in fact_prompts(["capital"], [0, 1])[:2]]
    ['hot cold . France', 'France Rome . hot cold . France']
    """
    names = list(RELATIONS) if relations is None else list(relations)
    counts = list(statements)
    for name in names:
        if name not in RELATIONS:
            raise unknown_name("relation", name, RELATIONS)
    if any(count < 0 for count in counts):
        raise UsageError(f"the number of statements must be at least 0, got {min(counts)}")
    return [
        _fact_prompt(RELATIONS[name], subject, count, sentences) for name in names for subject in RELATIONS[name].facts for count in counts
    ]


def usable(model: Any, prompts: Sequence[FactPrompt], vocabulary: Vocabulary) -> list[FactPrompt]:
    """The prompts that `read` takes: their two words are one token each there, and they are not longer than the model's n_ctx."""

    def taken(prompt: FactPrompt) -> bool:
        try:
            encode(prompt, vocabulary, model.cfg.n_ctx, model.cfg.d_vocab)
        except UsageError:
            return False
        return True

    return [prompt for prompt in prompts if taken(prompt)]


def by_statements(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of facts (of `read`) for each number of statements: `n` prompts; in which share of them the context wins
    (`context_wins`) and the prior (`prior_wins`); the mean `margin`; and how often the most likely next word is the one or the other
    (`says_context`, `says_prior`), which a third word may be."""
    table = []
    for number in sorted({row["statements"] for row in rows}):
        part = [row for row in rows if row["statements"] == number]
        shares = {
            "context_wins": [row["winner"] == CONTEXT for row in part],
            "prior_wins": [row["winner"] == PRIOR for row in part],
            "margin": [row["margin"] for row in part],
            "says_context": [row["answer"] == row["context"] for row in part],
            "says_prior": [row["answer"] == row["prior"] for row in part],
        }
        table.append({"statements": number, "n": len(part)} | {name: sum(values) / len(part) for name, values in shares.items()})
    return table


def _fact_prompt(relation: Relation, subject: str, statements: int, sentences: bool) -> FactPrompt:
    subjects = list(relation.facts)
    at = subjects.index(subject)
    said = relation.facts[subjects[(at + 1) % len(subjects)]]
    others = [other for other in RELATIONS.values() if other is not relation]
    parts = []
    for number in range(max(1, statements)):
        filler = others[number % len(others)]
        filler_subject = list(filler.facts)[(at + number) % len(filler.facts)]
        stated = [(relation, subject, said)] if statements else []
        for about, of, word in (*stated, (filler, filler_subject, filler.facts[filler_subject])):
            parts.append(about.statement(of, word) if sentences else f"{of} {word} {SEPARATOR}")
    parts.append(relation.question(subject) if sentences else subject)
    return FactPrompt(" ".join(parts), said, relation.facts[subject], relation.name, subject, statements)
