"""Every kind of bad input, as a user gives it: a short error and an exit status, no traceback, and nothing on disk
that was not there before."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import filelock
import pytest
import torch
from safetensors.torch import save_file

from tests.terminal import type_command
from workbench import HookedTransformer, ModelConfig, Run, RunConfig, TrainConfig, TriggerBigramConfig, analyze, train
from workbench.checkpoints import write_checkpoint

CONFIG = RunConfig(
    task=TriggerBigramConfig(d_vocab=11, seq_len=13, n_triggers=2),
    model=ModelConfig(n_heads=3, d_model=21, d_vocab=11, n_ctx=17),
    train=TrainConfig(steps=7, batch_size=5, eval_every=7, eval_size=19, checkpoint_steps=(3,)),
)
EARLIER, LAST = "r/checkpoints/step_00000003", "r/checkpoints/step_00000007"
TRAIN_AGAIN = ["train", "--config", "r/config.yaml", "--out"]


class Bomb:
    """Unpickling it makes a file."""

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str, ...]]:
        return os.mkdir, ("bomb",)


def nothing(folder: Path) -> None:
    """The fixture's run is enough."""


def cut(name: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return prepare


def flip(name: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return prepare


def text(name: str, content: str | bytes) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return prepare


def edited(old: str, new: str) -> Callable[[Path], None]:
    """The run's configuration as a file of its own, with one line changed."""

    def prepare(folder: Path) -> None:
        content = (folder / "r/config.yaml").read_text()
        assert old in content
        (folder / "c.yaml").write_text(content.replace(old, new))

    return prepare


def other_architecture(folder: Path) -> None:
    """A checkpoint of another model, whole in itself."""
    model = HookedTransformer(CONFIG.model.replace(n_heads=7))
    write_checkpoint(folder / LAST, 7, model.config, model.state_dict())


def other_weights(folder: Path) -> None:
    """A checkpoint that names this model, with the weights of another."""
    write_checkpoint(folder / LAST, 7, CONFIG.model, HookedTransformer(CONFIG.model.replace(n_heads=7)).state_dict())


def newer_format(folder: Path) -> None:
    path = folder / LAST / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))


def analysed_beside_a_file(folder: Path) -> None:
    analyze(Run.load(folder / "r"), only=["loss"], sequences=3)
    (folder / "a.txt").touch()


def damaged_table(folder: Path) -> None:
    analysed_beside_a_file(folder)
    cut("r/analysis/formation.parquet")(folder)


def classic_beside_a_file(folder: Path) -> None:
    save_file(HookedTransformer(CONFIG.model).state_dict(), folder / "w.safetensors")
    (folder / "a.txt").touch()


def pickled(folder: Path) -> None:
    with (folder / "w.pt").open("wb") as file:
        pickle.dump(Bomb(), file)


def saved_object(folder: Path) -> None:
    """The same inside torch's own format."""
    torch.save({"embed.W_E": Bomb()}, folder / "w.pt")


def saved_numbers(folder: Path) -> None:
    torch.save({"embed.W_E": 3}, folder / "w.pt")


def other_tensors(folder: Path) -> None:
    save_file({"encoder.weight": torch.zeros(3, 5)}, folder / "w.safetensors")


def norm_unknown(folder: Path) -> None:
    model = HookedTransformer(CONFIG.model.replace(normalization_type="LNPre"))
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "w.safetensors")


@dataclass(frozen=True)
class Case:
    """What is typed in a folder that holds the run `r`, and what has to be answered."""

    name: str
    arguments: list[str]
    says: tuple[str, ...]
    status: int = 2
    prepare: Callable[[Path], None] = nothing
    bars: int = 0
    """progress bars that may stand before the error"""
    writes: str | None = None
    """a folder that this failure leaves in good order; otherwise nothing may change"""


NEW = ["train", "trigger-bigram", "--out", "new"]
HEAD, BARE = edited("n_heads: 3", "head: 3"), text("c.yaml", "model: {}")
CASES = [
    # Names.
    Case("command", ["trian"], ("trian", "train")),
    Case("preset", ["train", "triger-bigram"], ("unknown preset 'triger-bigram'", "did you mean trigger-bigram")),
    Case("preset-far", ["presets", "xyz"], ("unknown preset 'xyz'", "repeated-tokens")),
    Case(
        "task", ["train", "--config", "c.yaml"], ("unknown task 'triger-bigram'", "did you mean trigger-bigram", "c.yaml"),
        prepare=edited("name: trigger-bigram", "name: triger-bigram"),
    ),
    Case("metric", ["analyze", "r", "--only", "loss,prefix_maching"], ("metric 'prefix_maching'; did you mean prefix_matching_score",)),
    Case("causal-every", ["analyze", "r", "--causal-every", "0"], ("--causal-every must be at least 1", "0")),
    Case("suffix", [*NEW, "--stream", "value-detach"], ("'value-detach'", "did you mean detached")),
    Case("construct", ["construct", "asociative"], ("unknown construction 'asociative'", "associative-memory")),
    Case("construct-t1", ["construct", "associative-memory", "--b0", "2"], ("t1=inf needs b0=inf", "b0=2.0")),
    Case("construct-d", ["construct", "associative-memory", "--d-model", "0"], ("--d-model must be at least 1", "0")),
    Case("metric-none", ["analyze", "r", "--only", ","], ("--only", "names nothing", "formation")),
    Case("stream", [*NEW, "--stream", "none,valeu"], ("unknown stream 'valeu'", "value")),
    Case("device", [*NEW, "--device", "tpu"], ("device 'tpu'", "cpu")),
    Case("task-options", ["train", "--config", "c.yaml", "--task.d-vocab", "5"], ("--task. options need",), prepare=BARE),
    Case("no-task", ["train", "--config", "c.yaml"], ("needs the sections task and train",), prepare=BARE),
    Case("option", [*NEW, "--stpes", "5"], ("--stpes", "--steps")),
    Case("field", [*NEW, "--model.d-modle", "5"], ("unknown option '--model.d-modle'", "--model.d-model")),
    Case("field-in-yaml", ["train", "--config", "c.yaml"], ("c.yaml: model: unknown field 'head'", "n_heads"), prepare=HEAD),
    # Values.
    Case("no-arguments", ["train"], ("trigger-bigram", "--config")),
    Case("preset-and-file", [*NEW, "--config", "r/config.yaml"], ("not both",)),
    Case("type", [*NEW, "--steps", "many"], ("--steps", "many", "int")),
    Case("type-of-field", [*NEW, "--train.lr", "fast"], ("train.lr: expected a number, got 'fast'",)),
    Case("no-value", [*NEW, "--steps"], ("--steps",)),
    Case("field-without-name", [*NEW, "--model", "5"], ("--model",)),
    Case("part-of-a-list", [*NEW, "--train.betas", "0.9"], ("train.betas: expected 2 values of a number",)),
    Case("several-for-one", [*NEW, "--train.lr", "1e-3,1e-4"], ("train.lr: expected a number", "got '1e-3,1e-4'")),
    Case("rates", [*NEW, "--lr", "1e-3,fast"], ("--lr expects one learning rate or several such as 1e-3,3e-3,1e-2, got '1e-3,fast'",)),
    Case("equal-rates", [*NEW, "--lr", "0.001,0.00100000001"], ("--lr has two rates that agree in six digits",)),
    Case("two-rates", [*NEW, "--lr", "1e-3", "--train.lr", "1e-3"], ("give --lr or --train.lr, not both",)),
    Case("no-jobs", [*NEW, "--seeds", "0:2", "--jobs", "0"], ("--jobs must be at least 1, got 0",)),
    Case("nan", [*NEW, "--train.lr", "nan"], ("train.lr: expected a number, got 'nan'",)),
    Case("negative", [*NEW, "--steps", "-3"], ("steps must be at least 1, got -3",)),
    Case("seeds", [*NEW, "--seeds", "8:0"], ("--seeds expects a range such as 0:8", "8:0")),
    Case("seed-and-seeds", [*NEW, "--seeds", "0:2", "--seed", "1"], ("not both",)),
    Case("heads", [*NEW, "--model.n-heads", "7"], ("d_model=64 is not a multiple of n_heads=7",)),
    Case("n-ctx", [*NEW, "--model.n-ctx", "31"], ("model.n_ctx=31 is shorter than task.seq_len=64",)),
    Case("one-layer", [*NEW, "--stream", "value", "--model.n-layers", "1"], ("stream='value' needs at least two layers",)),
    # Files.
    Case("yaml", ["train", "--config", "c.yaml"], ("c.yaml, line 2: not valid YAML",), prepare=text("c.yaml", "model: {\n]")),
    Case("yaml-bytes", ["train", "--config", "c.yaml"], ("c.yaml: not UTF-8",), prepare=text("c.yaml", b"model: \xff\xfe")),
    Case("yaml-list", ["train", "--config", "c.yaml"], ("c.yaml", "task, model and train"), prepare=text("c.yaml", "- 1\n- 2\n")),
    Case("yaml-empty", ["train", "--config", "c.yaml"], ("c.yaml", "task, model and train"), prepare=text("c.yaml", "")),
    Case("yaml-missing", ["train", "--config", "c.yaml"], ("c.yaml", "No such file")),
    Case("yaml-folder", ["train", "--config", "r"], ("cannot read the configuration r", "directory")),
    Case(
        "short-text", [*NEW, "--task.language", "t.txt", "--task.d-vocab", "5", "--model.d-vocab", "5"],
        ("t.txt has 10 characters", "at least 50"), prepare=text("t.txt", "abcde abcdef"),
    ),
    Case("no-text", [*NEW, "--task.language", "t.txt"], ("t.txt", "synthetic, prose, facts or the path")),
    # Paths.
    Case("no-path", ["analyze", "nowhere"], ("there is no nowhere",)),
    Case("not-a-run", ["analyze", "notes"], ("notes is not a run",), prepare=text("notes/a.txt", "a")),
    Case("a-file", ["analyze", "a.txt"], ("a.txt is not a run",), prepare=text("a.txt", "a")),
    Case("no-step", ["analyze", "r/checkpoints/step_00000005"], ("r has no checkpoint of step 5; it has 0, 3, 7",)),
    Case("report-no-path", ["report", "r", "nowhere"], ("there is no nowhere",)),
    Case("report-not-a-run", ["report", "notes"], ("notes is not a run",), prepare=text("notes/a.txt", "a")),
    Case("not-analysed", ["report", "r"], ("r has not been analysed", "workbench analyze r")),
    Case("no-checkpoints", ["analyze", "r"], ("r has no checkpoints",), prepare=lambda folder: shutil.rmtree(folder / "r/checkpoints")),
    Case("in-the-way", ["train", "trigger-bigram", "--out", "notes"], ("notes already exists",), prepare=text("notes/a.txt", "a")),
    Case("this-run", [*TRAIN_AGAIN, "r"], ("r already holds this run (step 7 of 7)", "--resume")),
    Case("another-run", [*TRAIN_AGAIN, "r", "--resume", "--train.lr", "1e-3"], ("another configuration (train.lr is 0.003, not 0.001)",)),
    Case("in-use", [*TRAIN_AGAIN, "r", "--resume"], ("r is in use by another process",)),
    Case("unwritable", [*TRAIN_AGAIN, "a.txt/new"], ("cannot write a.txt/new", "Not a directory"), 1, text("a.txt", "a")),
    Case("unwritable-tables", ["analyze", "r", "--out", "a.txt/new"], ("cannot write a.txt/new",), 1, text("a.txt", "a"), bars=1),
    Case("unwritable-report", ["report", "r", "--out", "a.txt/new"], ("cannot write the report a.txt/new",), 1, analysed_beside_a_file),
    Case("unwritable-import", ["import", "w.safetensors", "--out", "a.txt/new"], ("cannot write a.txt/new",), 1, classic_beside_a_file),
    # Damage.
    Case("run-config", ["analyze", "r"], ("r/config.yaml, line", "not valid YAML"), prepare=text("r/config.yaml", "model: {\n]")),
    Case("half", ["analyze", "r"], (f"{LAST}/model.safetensors is damaged",), 1, cut(f"{LAST}/model.safetensors")),
    Case("half-config", ["analyze", LAST], (f"{LAST}/config.json is damaged",), 1, cut(f"{LAST}/config.json")),
    Case("half-earlier", ["analyze", "r"], (f"{EARLIER}/model.safetensors is damaged",), 1, cut(f"{EARLIER}/model.safetensors"), bars=1),
    Case("flipped", ["analyze", LAST], (f"{LAST}/model.safetensors is damaged",), 1, flip(f"{LAST}/model.safetensors")),
    Case("flipped-config", ["analyze", "r"], (f"{LAST}/config.json", "damaged"), 1, flip(f"{LAST}/config.json")),
    Case("resume-flipped", [*TRAIN_AGAIN, "r", "--resume"], ("trainer.safetensors is damaged",), 1, flip(f"{LAST}/trainer.safetensors")),
    Case("architecture", ["analyze", "r"], ("of another architecture: n_heads is 7, the run has 3",), 1, other_architecture),
    Case("weights", ["analyze", "r"], ("W_Q has shape (7, 21, 3), this architecture expects (3, 21, 7)",), 1, other_weights),
    Case("format", ["analyze", "r"], (f"{LAST} has format 2, this version reads up to 1",), 1, newer_format),
    Case("report-flipped", ["report", "r"], ("formation.parquet is damaged",), 1, damaged_table),
    Case("report-summary", ["report", "r"], ("summary.json is damaged",), 1, text("r/analysis/summary.json", "{")),
    # State dicts.
    Case("import-missing", ["import", "w.pt", "--out", "new"], ("there is no file w.pt",)),
    Case("import-kind", ["import", "r/config.yaml", "--out", "new"], ("r/config.yaml is neither .safetensors nor .pt",)),
    Case("import-text", ["import", "w.pt", "--out", "new"], ("w.pt is damaged, or holds more than tensors",), 1, text("w.pt", "hello")),
    Case("import-safetensors", ["import", "w.safetensors", "--out", "new"], ("w.safetensors is damaged",), 1, text("w.safetensors", "hi")),
    Case("import-pickle", ["import", "w.pt", "--out", "new"], ("w.pt is damaged, or holds more than tensors",), 1, pickled),
    Case("import-object", ["import", "w.pt", "--out", "new"], ("w.pt is damaged, or holds more than tensors",), 1, saved_object),
    Case("import-numbers", ["import", "w.pt", "--out", "new"], ("w.pt is not a state dict",), 1, saved_numbers),
    Case("import-other", ["import", "w.safetensors", "--out", "new"], ("state dict: it lacks embed.W_E",), 1, other_tensors),
    Case("import-untold", ["import", "w.safetensors", "--out", "new"], ("normalization_type", "--model.norm"), 2, norm_unknown),
    # Numbers that explode.
    Case(
        "diverging", [*TRAIN_AGAIN, "new", "--train.lr", "1e38", "--steps", "31"],
        ("training diverged", "at step 1", "checkpoint: step 0", "smaller lr"), 1, bars=1, writes="new",
    ),
]  # fmt: skip


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, with the bytes of files. Lock files aside: they are empty, and stay."""
    paths = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.name != ".lock"}
    return {name: None if path.is_dir() else path.read_bytes() for name, path in paths.items()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run `r`."""
    folder = tmp_path_factory.mktemp("trained")
    train(CONFIG, folder / "r", device="cpu", progress=False)
    return folder


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input(case: Case, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    shutil.copytree(trained, folder)
    case.prepare(folder)
    before = contents(folder)
    with filelock.FileLock(folder / "r/.lock") if case.name == "in-use" else nullcontext():
        answer = type_command(case.arguments, folder, tmp_path)
    after = contents(folder)

    assert answer.status == case.status, answer.stderr
    assert answer.stdout == ""
    assert "Traceback" not in answer.stderr
    # A progress bar that was running is one line, rewritten again and again; the error follows below it.
    *bar, message = answer.stderr.removesuffix("\n").split("\n")
    assert len(bar) <= case.bars and all(line.startswith("\r") for line in bar), answer.stderr
    assert message.startswith("workbench: ")
    for words in case.says:
        assert words in message
    if case.writes is None:
        assert before == after
        return
    assert before == {name: content for name, content in after.items() if name.split("/")[0] != case.writes}
    run = Run.load(folder / case.writes)
    assert run.steps and all(value.isfinite().all() for step in run.steps for value in run.model(step).state_dict().values())
    assert not [name for name in after if name.endswith(".part")]
