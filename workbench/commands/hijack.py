"""`workbench hijack`"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from workbench.errors import UsageError, unknown_name
from workbench.runs import Run
from workbench.tasks.facts import RELATIONS

if TYPE_CHECKING:
    from workbench.analysis.vocabulary import Vocabulary
    from workbench.analysis.word_prompts import FactPrompt

SHOWN, WIDTH = ("context_wins", "prior_wins", "margin", "says_context", "says_prior"), 14
"""columns of the table, and how wide they are"""


def hijack(
    target: Annotated[str, Parameter(help="a run, one of its checkpoints, or a language model: a folder or a name on the Hub (gpt2)")],
    prompt: Annotated[str | None, Parameter(help="a text that ends where the model is asked; default: the project's facts")] = None,
    *,
    context: Annotated[str | None, Parameter(help="the next word that the prompt says")] = None,
    prior: Annotated[str | None, Parameter(help="the next word that training taught")] = None,
    relation: Annotated[str | None, Parameter(help=f"facts to ask for ({', '.join(RELATIONS)}), by commas; default: all")] = None,
    json_output: Annotated[bool, Parameter(name="--json", help="print every row as JSON")] = False,
) -> None:
    """Ask a model in words: does the context win, or what it learnt in training?

    With a PROMPT: its most likely next words, and with --context and --prior which of the two is ahead. Without: facts that the
    prompt contradicts 0, 1, 2 and 4 times, and how often the contradiction wins. A run is asked in the words of its task (the facts
    need one with language facts, as in the preset analogies), a language model in sentences.
    """
    _check(prompt, context, prior, relation)
    names = None if relation is None else [name.strip() for name in relation.split(",") if name.strip()]
    for name in names or ():
        if name not in RELATIONS:
            raise unknown_name("relation", name, RELATIONS)
    if names == []:
        raise UsageError(f"--relation names nothing; there are: {', '.join(RELATIONS)}")
    if prompt is not None and not prompt.strip():
        raise UsageError("the prompt is empty; give at least one word")
    found = checkpoint_of(target)
    if found is not None and prompt is None and getattr(found[0].config.task, "language", None) != "facts":
        raise UsageError(
            f"{target} was not trained on facts (task.language=facts, as in the preset analogies); "
            "give a PROMPT in the words of its task, with --context and --prior"
        )

    from workbench.analysis.word_prompts import Prompt, fact_prompts, read, top_answers

    model, vocabulary = _asked(target, found)
    if prompt is None:
        _facts(model, vocabulary, fact_prompts(names, sentences=found is None), json_output)
        return
    answers = top_answers(model, prompt, vocabulary)
    row = None if context is None or prior is None else read(model, [Prompt(prompt, context, prior)], vocabulary)[0]
    if json_output:
        said = [{"word": word, "probability": probability} for word, probability in answers]
        print(json.dumps({"prompt": prompt, "answers": said} | ({} if row is None else row), indent=2))
        return
    if row is not None:
        print(_decided(row))
    print("most likely next: " + ", ".join(f"{word.strip() or repr(word)} {probability:.2f}" for word, probability in answers))


def checkpoint_of(target: str) -> tuple[Run, int | None] | None:
    """The run and step (None: the last) that a path names; None where it is no run. Raises UsageError for a folder that holds runs."""
    path = Path(target)
    if (found := Run.of_checkpoint(path)) is not None:
        return found
    if Run.is_run(path):
        return Run.load(path), None
    if path.is_dir() and not (path / "config.json").is_file() and (runs := Run.find(path)):
        raise UsageError(f"{target} holds {len(runs)} runs; name one of them, such as {runs[0].path}")
    return None


def _check(prompt: str | None, context: str | None, prior: str | None, relation: str | None) -> None:
    if (context is None) != (prior is None):
        given, missing = ("--context", "--prior") if prior is None else ("--prior", "--context")
        raise UsageError(f"{given} needs {missing} as well: two words are weighed against each other")
    if context is not None and prompt is None:
        raise UsageError("--context and --prior belong to a PROMPT; without one the facts bring their own")
    if relation is not None and prompt is not None:
        raise UsageError("--relation chooses facts, and a PROMPT replaces them; give one of the two")


def _asked(target: str, found: tuple[Run, int | None] | None) -> tuple[Any, Vocabulary]:
    """The model and its words. A run without a task has none: its words are token ids."""
    from workbench.analysis.vocabulary import TaskWords, TokenizerWords

    if found is None:
        from workbench.pretrained import load_pretrained

        model = load_pretrained(target)
        return model, TokenizerWords(model)
    run, step = found
    if run.task is not None and run.task.config.d_input is not None:
        raise UsageError(f"{target} reads vectors (task {run.task.config.name}), so that no prompt in words can be given")
    tokens = range(run.config.model.d_vocab)
    return run.model(step), TaskWords([str(token) for token in tokens] if run.task is None else run.task.to_strings(tokens))


def _facts(model: Any, vocabulary: Vocabulary, prompts: list[FactPrompt], json_output: bool) -> None:
    """Print what the model says to the facts, but for those that it cannot be asked."""
    from workbench.analysis.word_prompts import by_statements, read, usable

    asked = usable(model, prompts, vocabulary)
    if not asked:
        raise UsageError(
            "this model can be asked none of these facts: they have words of several tokens, or more tokens than its "
            f"n_ctx={model.cfg.n_ctx}; give a PROMPT with --context and --prior"
        )
    if left_out := len(prompts) - len(asked):
        print(f"workbench: {left_out} of {len(prompts)} prompts left out, with words of several tokens or too long", file=sys.stderr)
    rows = read(model, asked, vocabulary)
    table = by_statements(rows)
    if json_output:
        print(json.dumps({"by_statements": table, "prompts": rows}, indent=2))
        return
    print(f"{'statements':>{WIDTH}}{'prompts':>{WIDTH}}" + "".join(f"{name.replace('_', ' '):>{WIDTH}}" for name in SHOWN))
    for row in table:
        print(f"{row['statements']:>{WIDTH}}{row['n']:>{WIDTH}}" + "".join(f"{row[name]:>{WIDTH}.2f}" for name in SHOWN))
    for number in (row["statements"] for row in table):
        print()
        for row in _clearest([row for row in rows if row["statements"] == number]):
            print(f"{row['prompt']} -> {row['answer']} {row['probability']:.2f}{_outcome(row)}")


def _clearest(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The prompt on which the context is ahead by most, and the one on which the prior is."""
    rows = sorted(rows, key=lambda row: row["margin"])
    return [row for row in (rows[-1], rows[0]) if row["winner"] != "neither"] if rows[-1] is not rows[0] else rows


def _outcome(row: dict[str, Any]) -> str:
    if not row["statements"]:
        return ""
    return {"context": ", the context wins", "prior": ", hijacked", "neither": ", undecided"}[row["winner"]]


def _decided(row: dict[str, Any]) -> str:
    context, prior, margin = row["context"], row["prior"], row["margin"]
    if row["winner"] == "neither":
        return f"{context} (context) and {prior} (prior) are level"
    ahead, behind = (f"{context} (context)", f"{prior} (prior)") if margin > 0 else (f"{prior} (prior)", f"{context} (context)")
    return f"{ahead} beats {behind} by {abs(margin):.2f} logits" + ("" if margin > 0 else ": hijacked")
