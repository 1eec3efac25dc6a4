"""`workbench hijack` as a user types it: on a run whose answers are known, on a language model, and wrong calls."""

from __future__ import annotations

import json

import pytest

from tests.language_model import make_language_model
from workbench import ModelConfig, Run, RunConfig, TriggerBigramConfig
from workbench.cli import main
from workbench.model import HookedTransformer
from workbench.model.constructed import Strengths, associative_memory
from workbench.tasks import language


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """facts: the context loses at step 3 and wins at step 5; other: a run of another task; none: one without; lm: a language model."""
    folder = tmp_path_factory.mktemp("hijack")
    model = associative_memory(language.facts(65).bigram, 41, Strengths(t2=8.0)).float()
    facts = TriggerBigramConfig(language="facts", seq_len=37, n_triggers=3, triggers="random", outputs="followers")
    run = Run.create(folder / "runs" / "facts", RunConfig(model=model.config, task=facts))
    run.save(3, associative_memory(language.facts(65).bigram, 41, Strengths(t2=2.0)).float())
    run.save(5, model)
    small = ModelConfig(d_vocab=11, d_model=14, n_heads=2, n_ctx=13)
    for name, task in (("other", TriggerBigramConfig(d_vocab=11, seq_len=13, n_triggers=2)), ("none", None)):
        Run.create(folder / "runs" / name, RunConfig(model=small, task=task)).save(0, HookedTransformer(small))
    make_language_model(folder / "lm")
    return folder


@pytest.fixture
def typed(capsys, monkeypatch, folder):
    """Type `workbench hijack ...`: status, stdout and stderr."""
    monkeypatch.chdir(folder)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["hijack", *arguments])
        return (end.value.code, *capsys.readouterr())

    return run


def test_a_prompt_with_two_words(typed):
    status, out, err = typed("runs/facts", ". France Rome . France", "--context", "Rome", "--prior", "Paris")
    assert (status, err) == (0, "")
    first, second = out.splitlines()
    assert first == "Rome (context) beats Paris (prior) by 4.67 logits"
    assert second.startswith("most likely next: Rome 0.99, Paris 0.01, ")
    turned = typed("runs/facts", ". France Rome . France", "--context", "Paris", "--prior", "Rome")[1]
    assert turned.startswith("Rome (prior) beats Paris (context) by 4.67 logits: hijacked\n")


def test_a_prompt_alone(typed):
    status, out, _ = typed("runs/facts/checkpoints/step_00000005", ". dog")
    assert status == 0 and out.startswith("most likely next: puppy 0.") and len(out.splitlines()) == 1


def test_an_earlier_checkpoint(typed):
    out = typed("runs/facts/checkpoints/step_00000003", ". France Rome . France", "--context", "Rome", "--prior", "Paris")[1]
    assert out.startswith("Paris (prior) beats Rome (context) by 1.33 logits: hijacked\n")
    assert ", hijacked\n" in typed("runs/facts/checkpoints/step_00000003", "--relation", "colour")[1]


def test_a_prompt_for_scripts(typed):
    said = json.loads(typed("runs/facts", ". France Rome . France", "--context", "Rome", "--prior", "Paris", "--json")[1])
    assert said["winner"] == "context" and said["margin"] == pytest.approx(4.668, abs=1e-3) and said["answers"][0]["word"] == "Rome"
    assert set(json.loads(typed("runs/facts", ". France", "--json")[1])) == {"prompt", "answers"}


def test_the_facts_of_a_run(typed):
    status, out, err = typed("runs/facts", "--relation", "capital,young")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["statements", "prompts", "context", "wins", "prior", "wins", "margin", "says", "context", "says", "prior"]
    table = [line.split() for line in lines[1:5]]
    assert [row[:4] for row in table] == [[str(k), "16", "0.00" if k == 0 else "1.00", "1.00" if k == 0 else "0.00"] for k in (0, 1, 2, 4)]
    examples = [line for line in lines[5:] if line]
    assert len(examples) == 8 and all(" -> " in line for line in examples)
    assert all(line.endswith(", the context wins") for line in examples[2:]) and "hijacked" not in out
    assert not examples[0].endswith("wins")


def test_examples_are_the_clearest(typed):
    """Of each number of statements, the prompt on which the context is ahead by most, and the one on which the prior is."""
    step = "runs/facts/checkpoints/step_00000003"
    shown = [line for line in typed(step)[1].splitlines()[5:] if line]
    rows = json.loads(typed(step, "--json")[1])["prompts"]
    for number, said in ((1, shown[2:4]), (4, shown[-2:])):
        margins = {row["prompt"]: row["margin"] for row in rows if row["statements"] == number}
        for line, extreme in zip(said, (max(margins.values()), min(margins.values())), strict=True):
            assert margins[line.rpartition(" -> ")[0]] == extreme


def test_the_facts_for_scripts(typed):
    said = json.loads(typed("runs/facts", "--json")[1])
    assert [row["n"] for row in said["by_statements"]] == [32] * 4 and len(said["prompts"]) == 128
    assert said["prompts"][1]["relation"] == "capital" and said["prompts"][1]["statements"] == 1


def test_the_words_of_a_run_without_a_task_are_its_token_ids(typed):
    assert typed("runs/none", "3 1 4", "--context", "1", "--prior", "5")[0] == 0


def test_a_language_model(typed):
    status, out, err = typed("lm", "The capital of France is Rome. The capital of France is", "--context", "Rome", "--prior", "Paris")
    assert (status, err) == (0, "") and (out.startswith("Rome (context) beats Paris") or out.startswith("Paris (prior) beats Rome"))
    status, out, err = typed("lm", "--relation", "capital")
    assert status == 0 and err.startswith("workbench: ") and "of 32 prompts left out, with words of several tokens or too long" in err
    assert "The capital of France is Rome. " in out and out.splitlines()[1].split()[:2] == ["0", "1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs/facts", "France", "--context", "Rome"], "--context needs --prior as well"),
        (["runs/facts", "France", "--prior", "Rome"], "--prior needs --context as well"),
        (["runs/facts", "--context", "Rome", "--prior", "Paris"], "--context and --prior belong to a PROMPT"),
        (["runs/facts", "France", "--relation", "capital"], "--relation chooses facts, and a PROMPT replaces them"),
        (["runs/facts", "--relation", "capitl"], "unknown relation 'capitl'; did you mean capital?"),
        (["runs/facts", "--relation", ","], "--relation names nothing; there are: capital, opposite"),
        (["runs/facts", " "], "the prompt is empty"),
        (["runs/facts", "France Roma"], "unknown word 'Roma'; did you mean Rome"),
        (["runs/facts", "France", "--context", "Rome", "--prior", "Rome"], "context and prior must be two words, got 'Rome' for both"),
        (["runs/facts", "France . " * 21], "the prompt has 42 tokens, but the model reads at most n_ctx=41"),
        (["runs/facts/checkpoints/step_00000006", "France"], "step 6"),
        (["runs/other"], "runs/other was not trained on facts (task.language=facts, as in the preset analogies)"),
        (["runs/none"], "runs/none was not trained on facts"),
        (["runs", "France"], "runs holds 3 runs; name one of them, such as runs/facts"),
        (["lm", "--relation", "young"], "this model can be asked none of these facts"),
        (["lm", "The", "--context", "Rome", "--prior", "Reykjavik"], "'Reykjavik' is"),
        (["gpt2", "The"], "there is no folder gpt2, and the Hugging Face Hub is switched off"),
        (["runs/mistyped"], "there is no folder runs/mistyped, and the Hugging Face Hub"),
        (["lm/config.json", "The"], "lm/config.json is neither a folder nor the name of a model"),
    ],
)
def test_wrong_calls_are_one_plain_line(typed, arguments, message, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    status, out, err = typed(*arguments)
    assert status == 2 and out == "" and err.startswith("workbench: ") and message in err and len(err.splitlines()) == 1
