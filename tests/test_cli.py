"""The commands as a user types them: where results go, what is printed, and what a script can rely on."""

from __future__ import annotations

import html
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import save_file

from tests.terminal import type_command
from workbench import HookedTransformer, ModelConfig, Run, RunConfig, TrainConfig, TriggerBigramConfig, presets
from workbench.analysis.sections import SECTIONS, all_metrics
from workbench.cli import main
from workbench.errors import UsageError
from workbench.tasks.configs import TASK_CONFIGS

WORKBENCH = Path(sys.executable).with_name("workbench")
CONFIG = RunConfig(
    task=TriggerBigramConfig(d_vocab=11, seq_len=13, n_triggers=2),
    model=ModelConfig(n_heads=3, d_model=21, d_vocab=11, n_ctx=17),
    train=TrainConfig(steps=7, batch_size=5, eval_every=7, eval_size=19, checkpoint_steps=(3,)),
)


@pytest.fixture
def typed(capsys, monkeypatch, tmp_path):
    """Type a command in an empty folder that holds tiny.yaml: what it prints, once its status is 0."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(CONFIG.to_yaml())

    def run(*arguments: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(arguments)
        printed = capsys.readouterr()
        assert end.value.code == 0, printed.err
        return printed.out

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with runs/none/seed_0 and runs/value/seed_0, neither analysed."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(CONFIG.to_yaml())
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit, match="0"):
        patch.chdir(folder)
        main(["train", "--config", "tiny.yaml", "--stream", "none,value", "--out", "runs"])
    return folder


def test_lists(typed):
    assert [line.split()[0] for line in typed("presets").splitlines()] == list(presets)
    assert [line.split()[0] for line in typed("tasks").splitlines()] == list(TASK_CONFIGS)
    printed = typed("metrics")
    for metric in all_metrics().values():
        assert f"{metric.section} · {metric.name} (one a {metric.kind}; {metric.range}; {metric.source})" in printed


def test_lists_for_scripts(typed):
    assert json.loads(typed("presets", "--json")) == {name: config.to_dict() for name, config in presets.items()}
    assert list(json.loads(typed("tasks", "--json"))) == list(TASK_CONFIGS)
    found = json.loads(typed("metrics", "--json"))
    assert list(found) == list(all_metrics()) and found["loss"]["section"] == "formation"


@pytest.mark.parametrize("name", presets)
def test_a_printed_preset_is_a_configuration_file(typed, name):
    printed = typed("presets", name)
    assert RunConfig.from_yaml(printed) == presets[name]
    assert json.loads(typed("presets", name, "--json")) == yaml.safe_load(printed)


def test_train_one_run_into_its_folder(typed):
    printed = typed("train", "--config", "tiny.yaml", "--out", "r")
    run = Run.load("r")
    last = run.metrics().iloc[-1]
    assert printed == f"r: step 7, in-context accuracy {last['in_context_accuracy']:.3f}, loss {last['loss']:.3f} nats\n"
    assert run.steps == [0, 3, 7] and run.config == CONFIG


def test_a_printed_preset_trains(typed, tmp_path):
    (tmp_path / "preset.yaml").write_text(typed("presets", "trigger-bigram"))
    typed("train", "--config", "preset.yaml", "--steps", "1", "--train.eval-size", "3", "--train.batch-size", "3", "--out", "r")
    assert Run.load("r").config == presets["trigger-bigram"].override(train={"steps": 1, "eval_size": 3, "batch_size": 3})


def test_train_variants_and_seeds_into_folders_of_their_own(typed):
    streams = ["--stream", "none,value", "--stream-source", "first"]
    printed = typed("train", "--config", "tiny.yaml", *streams, "--seeds", "2:4", "--out", "r", "--json")
    paths = [f"r/{variant}/seed_{seed}" for variant in ("none", "value-first") for seed in (2, 3)]
    assert json.loads(printed) == {"runs": paths}
    for path in paths:
        run = Run.load(path)
        assert run.steps[-1] == 7 and str(run.path) == f"r/{run.config.model.variant}/seed_{run.config.model.seed}"
        assert run.config.train.data_seed == run.config.model.seed and run.config.train.eval_seed == 0


def test_train_a_grid_of_learning_rates(typed):
    """Every variant and seed at each rate, in folders that `compare` finds; one rate is a field like any other."""
    grid = ["--stream", "none,value", "--seeds", "0:2", "--lr", "1e-3,0.003,1e-3", "--out", "r"]
    paths = [f"r/{variant}/lr_{lr}/seed_{seed}" for variant in ("none", "value") for lr in ("0.001", "0.003") for seed in (0, 1)]
    printed = typed("train", "--config", "tiny.yaml", *grid, "--json")
    assert json.loads(printed) == {"runs": paths}
    for path in paths:
        config = Run.load(path).config
        assert path == f"r/{config.model.variant}/lr_{config.train.lr:g}/seed_{config.model.seed}"
    assert json.loads(typed("compare", "r", "--json"))["rates"][0]["variant"] == "none"
    typed("train", "--config", "tiny.yaml", "--lr", "1e-4", "--out", "s")
    assert Run.load("s").config == CONFIG.override(train={"lr": 1e-4})


def test_train_position_types_into_folders_of_their_own(typed):
    """A variant that two names stand for is trained once; a name without a position type keeps the configuration's."""
    options = ["--steps", "3", "--seed", "0", "--out", "r", "--json"]
    printed = typed("train", "--config", "tiny.yaml", "--stream", "none,none-standard,none-nopos,value-relative", *options)
    assert json.loads(printed) == {"runs": [f"r/{variant}/seed_0" for variant in ("none", "none-nopos", "value-relative")]}
    assert Run.load("r/none-nopos/seed_0").config.model.positional_embedding_type == "none"
    kept = ["--model.positional-embedding-type", "none", "--stream", "none,value", *options]
    printed = typed("train", "--config", "tiny.yaml", *kept, "--resume")
    assert json.loads(printed) == {"runs": [f"r/{variant}/seed_0" for variant in ("none-nopos", "value-nopos")]}


def test_train_with_any_field_changed(typed):
    typed(
        "train", "--config", "tiny.yaml", "--out", "r", "--steps", "2", "--dtype", "fp32", "--device", "cpu", "--seed", "3",
        "--train.lr", "1e-4", "--train.betas", "0.8,0.9", "--train.checkpoint-steps", "1", "--train.grad-clip", "0.5",
        "--model.normalization-type", "none", "--model.frozen", "embed.W_E", "--task.no-repeat", "true",
    )  # fmt: skip
    assert Run.load("r").config == CONFIG.override(
        task={"no_repeat": True},
        model={"normalization_type": None, "frozen": ("embed.W_E",), "seed": 3},
        train={"steps": 2, "lr": 1e-4, "betas": (0.8, 0.9), "checkpoint_steps": (1,), "grad_clip": 0.5, "data_seed": 3},
    )


def test_train_without_out_names_the_preset(typed):
    typed("train", "trigger-bigram", "--steps", "1", "--train.eval-size", "3", "--train.batch-size", "3", "--seeds", "5,7")
    assert [str(run.path) for run in Run.find(Path("runs"))] == [f"runs/trigger-bigram/none/seed_{seed}" for seed in (5, 7)]


def test_a_comma_splits_lists_only(typed, tmp_path):
    (tmp_path / "a,b.txt").write_text("abcde fghij " * 50)
    typed("train", "--config", "tiny.yaml", "--task.language", "a,b.txt", "--out", "r")
    assert Run.load("r").config.task.language == "a,b.txt"


def test_resume(typed):
    typed("train", "--config", "tiny.yaml", "--out", "r", "--resume")
    before = Run.load("r").model().state_dict()
    assert typed("train", "--config", "tiny.yaml", "--out", "r", "--resume").startswith("r: step 7")
    assert all(torch.equal(value, before[name]) for name, value in Run.load("r").model().state_dict().items())


def test_analyze_a_run(typed, trained):
    shutil.copytree(trained / "runs", "runs")
    printed = typed("analyze", "runs/none/seed_0")
    run = Run.load("runs/none/seed_0")
    lines = printed.splitlines()
    assert lines[0] == "none/seed_0 (none, seed 0)"
    assert [line.strip() for line in lines[1 : 1 + len(run.summary()["lines"])]] == run.summary()["lines"]
    assert lines[-1] == "report: runs/none/seed_0/report.html" and Path("runs/none/seed_0/report.html").is_file()
    table = run.table("formation")
    last = table[(table["step"] == 7) & (table["metric"] == "loss")].iloc[0]
    assert f"  {'loss':<22} {last['value']:8.3f}   [{last['ci_low']:.3f}, {last['ci_high']:.3f}]" in lines
    assert set(table["step"]) == {0, 3, 7}


def test_analyze_for_scripts(typed, trained):
    shutil.copytree(trained / "runs", "runs")
    [answer] = json.loads(typed("analyze", "runs/value/seed_0", "--json", "--out", "here"))
    assert answer["run"] == "runs/value/seed_0" and answer["variant"] == "value" and answer["seed"] == 0
    assert answer["tables"] == {
        name: f"here/{name}.parquet" for name in sorted([*SECTIONS, "attention", "emergence", "hijack_prompts", "predictions", "tokens"])
    }
    for path in answer["tables"].values():
        assert len(pd.read_parquet(path))
    assert answer["report"] == "here/report.html" and Path("here/report.html").is_file()
    assert answer["summary"] == json.loads(Path("here/summary.json").read_text())
    assert answer["summary"]["lines"]
    assert not Path("runs/value/seed_0/analysis").exists()


def test_the_wire_of_a_model_without_one_is_an_error_before_anything_is_measured(typed, trained, capsys):
    shutil.copytree(trained / "runs", "runs")
    with pytest.raises(SystemExit) as end:
        main(["analyze", "runs/none", "--only", "formation,stream"])
    assert end.value.code == 2
    assert "needs a model with a stream; this one has stream='none'" in capsys.readouterr().err
    assert not list(Path("runs").rglob("analysis"))


def test_each_run_of_a_folder_is_asked_for_what_it_has(typed, trained, capsys):
    shutil.copytree(trained / "runs", "runs")
    with pytest.raises(SystemExit, match="0"):
        main(["analyze", "runs", "--only", "circuits,stream"])
    assert "left out for none/seed_0: the section stream (or a metric of it) needs a model with a stream" in capsys.readouterr().err
    assert [name for name in Run.load("runs/none/seed_0").tables.names if name in SECTIONS] == ["circuits"]
    assert [name for name in Run.load("runs/value/seed_0").tables.names if name in SECTIONS] == ["circuits", "stream"]
    with pytest.raises(SystemExit, match="0"):
        main(["analyze", "runs", "--only", "cut_loss_increase", "--out", "cuts"])
    assert not Path("cuts/none").exists() and Path("cuts/value/seed_0/stream.parquet").is_file()


def test_analyze_one_checkpoint(typed, trained, monkeypatch):
    shutil.copytree(trained / "runs", "runs")
    printed = typed("analyze", "runs/none/seed_0/checkpoints/step_00000003", "--only", "loss,prefix_matching_score")
    place = "runs/none/seed_0/analysis/step_00000003"
    assert printed.splitlines()[-1] == f"report: {place}/report.html"
    table = pd.read_parquet(f"{place}/formation.parquet")
    assert set(table["step"]) == {3} and set(table["metric"]) == {"loss", "prefix_matching_score"}
    assert not Path("runs/none/seed_0/report.html").exists()
    # From inside, and through a link.
    monkeypatch.chdir("runs/none/seed_0/checkpoints/step_00000003")
    [answer] = json.loads(typed("analyze", ".", "--json"))
    assert answer["summary"]["step"] == 3
    monkeypatch.chdir("..")
    Path("latest").symlink_to("step_00000007")
    [answer] = json.loads(typed("analyze", "latest", "--json"))
    assert answer["summary"]["step"] == 7


def test_analyze_a_folder_of_runs(typed, trained):
    shutil.copytree(trained / "runs", "runs")
    answers = json.loads(typed("analyze", "runs", "--json", "--only", "formation", "--out", "here"))
    assert [answer["run"] for answer in answers] == ["runs/none/seed_0", "runs/value/seed_0"]
    assert [answer["tables"]["formation"] for answer in answers] == [f"here/{v}/seed_0/formation.parquet" for v in ("none", "value")]
    assert {answer["report"] for answer in answers} == {"here/report.html"}


def test_runs_of_one_variant_and_seed_keep_their_tables_apart(typed, trained):
    """Learning rates, say: neither the variant nor the seed tells them apart."""
    for name in ("low", "high"):
        shutil.copytree(trained / "runs/none/seed_0", f"both/{name}")
    answers = json.loads(typed("analyze", "both", "--json", "--out", "here", "--only", "loss"))
    assert [answer["tables"]["formation"] for answer in answers] == ["here/high/formation.parquet", "here/low/formation.parquet"]


def test_construct_a_model_and_analyse_it(typed):
    sizes = ("--d-vocab", "31", "--n-ctx", "48", "--t2", "30")
    printed = typed("construct", "associative-memory", "--stream", "--positions", "relative", *sizes, "--out", "m")
    assert printed == "m\n"
    run = Run.load("m")
    assert run.steps == [0] and run.config.model.variant == "value-relative" and run.config.model.stream == "value"
    assert run.provenance["constructed"] == {"name": "associative-memory", "b0": "inf", "t1": "inf", "t2": 30.0, "t3": 1.0}
    [answer] = json.loads(typed("analyze", "m", "--json", "--only", "formation,probes"))
    assert answer["summary"]["previous_token_head"] == "L0H0" and answer["summary"]["induction_heads"] == ["L1H0"]
    assert typed("construct", "associative-memory", "--d-vocab", "5", "--n-ctx", "8") == "runs/associative-memory\n"


def test_a_constructed_model_is_what_its_theory_says(typed):
    typed("construct", "associative-memory", "--t1", "2.5", "--d-vocab", "23", "--n-ctx", "48", "--out", "m")
    [answer] = json.loads(typed("analyze", "m", "--json", "--only", "hijack"))
    lines = " ".join(answer["summary"]["lines"])
    assert "fitted with t1 2.5 [2.5, 2.5], t2 8.0 [8.0, 8.0], t3 1.0 [1.0, 1.0], explains 100%" in lines and "It errs" not in lines
    prompts = pd.read_parquet(answer["tables"]["hijack_prompts"])
    np.testing.assert_allclose(prompts["margin"], prompts["predicted"], atol=0.02)


def test_random_vectors_say_how_far_they_are_expected_to_be_off(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    small = ("construct", "associative-memory", "--d-vocab", "5", "--n-ctx", "8", "--d-model", "128")
    for more, said in (
        (("--out", "one"), "with --t1 inf the crosstalk"),
        (("--t1", "2", "--out", "two"), "expected to be off the theory by "),
    ):
        with pytest.raises(SystemExit, match="0"):
            main([*small, *more])
        printed = capsys.readouterr()
        assert printed.out == f"{more[-1]}\n" and said in printed.err


def test_report_of_two_runs(typed, trained):
    shutil.copytree(trained / "runs", "runs")
    typed("analyze", "runs")
    Path("runs/report.html").unlink()
    assert typed("report", "runs/none/seed_0", "runs/value/seed_0", "--out", "both.html") == "both.html\n"
    assert typed("report", "runs") == "runs/report.html\n"
    for path in ("both.html", "runs/report.html"):
        page = Path(path).read_text()
        assert page.lstrip().lower().startswith("<!doctype html>")
        for name in ("none/seed_0", "value/seed_0"):
            for line in Run.load(f"runs/{name}").summary()["lines"]:
                assert line.split(",")[0] in html.unescape(page)


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_import_and_analyze(typed, ending):
    model = HookedTransformer(ModelConfig(n_heads=3, d_model=21, d_vocab=11, n_ctx=17, normalization_type="LNPre", seed=3))
    weights = {name: value.detach() for name, value in model.state_dict().items()}
    weights["blocks.0.attn.IGNORE"] = torch.tensor(float("-inf"))
    save_file(weights, "w.safetensors") if ending == "safetensors" else torch.save(weights, "w.pt")
    told = ["--model.normalization-type", "LNPre", "--model.seed", "3"]
    assert typed("import", f"w.{ending}", "--out", "r", "--step", "500", *told) == "r\n"
    run = Run.load("r")
    assert run.steps == [500] and run.config == RunConfig(model=model.config.replace(d_head=7))
    assert run.provenance["imported_from"] == f"w.{ending}"
    tokens = torch.arange(11)[None]
    assert torch.equal(run.model()(tokens), model(tokens))
    [answer] = json.loads(typed("analyze", "r", "--json"))
    assert answer["summary"]["step"] == 500 and answer["summary"]["task"] == "equal-repeats"


def test_demo(typed, monkeypatch, tmp_path):
    printed = typed("demo", "--steps", "2", "--out", "d").splitlines()
    assert printed[0] == "none:" and "value:" in printed
    assert printed[-1] == f"report: {tmp_path}/d/report.html" and Path("d/report.html").is_file()
    runs = Run.find(Path("d"))
    assert [run.config.model.stream for run in runs] == ["none", "value"]
    assert all(run.steps[-1] == 2 and run.summary() for run in runs)
    # Once more: nothing is trained again, and the answer is the same.
    weights = Path("d/none/seed_0/checkpoints/step_00000002/model.safetensors")
    written = weights.stat().st_mtime_ns
    assert typed("demo", "--steps", "2", "--out", "d").splitlines() == printed
    assert weights.stat().st_mtime_ns == written


def test_help_and_version(typed):
    for arguments in (["--help"], [], ["train", "--help"], ["analyze", "--help"]):
        assert "Usage: workbench" in typed(*arguments)
    assert typed("--version").strip() == "0.1.0"


def test_importing_and_asking_for_help_is_light():
    heavy = "{'torch', 'plotly', 'transformer_lens', 'numpy', 'pandas'}"
    code = f"import sys, workbench, workbench.cli; from workbench import ModelConfig, presets; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    code = f"""
import sys
from workbench.cli import main
for arguments in (["--help"], ["train", "--help"], ["presets"], ["tasks"], ["presets", "trigger-bigram"]):
    try: main(arguments)
    except SystemExit as end: assert end.code == 0
print(sorted({heavy} & set(sys.modules)))"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "[]"


def test_the_installed_script(tmp_path):
    help_text = subprocess.run([WORKBENCH, "--help"], capture_output=True, text=True, check=True)
    assert help_text.stdout.startswith("Usage: workbench COMMAND") and help_text.stderr == ""
    wrong = subprocess.run([WORKBENCH, "presets", "triger-bigram"], capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stdout == ""
    assert wrong.stderr == "workbench: unknown preset 'triger-bigram'; did you mean trigger-bigram or trigger-bigram-paper?\n"


def test_results_go_to_stdout_and_progress_to_stderr(trained, tmp_path):
    answer = type_command(["analyze", "runs/none/seed_0", "--out", str(tmp_path / "o"), "--json"], trained, tmp_path)
    assert answer.status == 0 and json.loads(answer.stdout)
    assert "analysing" in answer.stderr and answer.stderr.count("\n") == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_is_no_error(unbuffered):
    """workbench metrics | head -1: noticed at a print, or only when everything is printed."""
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    command = [WORKBENCH, "presets", "trigger-bigram"]
    answer = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(writing)
    assert answer.returncode == 0 and answer.stderr == ""


def test_debug_shows_the_traceback(typed):
    with pytest.raises(UsageError):
        main(["presets", "nope", "--debug"])
