"""Training on numbers: the loss is the squared error where one is asked for, no accuracy is logged, and a run goes on where it stopped;
then its analysis, report, comparison and sweep."""

import json

import pandas as pd
import pytest
import torch

from tests.browser import unpacked
from workbench.analysis import formation
from workbench.analysis.comparison import compare
from workbench.analysis.data import AnalysisData
from workbench.analysis.interventions import run as run_batch
from workbench.analysis.sections import applicable, chosen
from workbench.analysis.sweep import analyze
from workbench.commands.analyze import analyze as analyze_command
from workbench.commands.lists import presets as presets_command
from workbench.commands.lists import tasks as tasks_command
from workbench.commands.sweep import sweep as sweep_command
from workbench.commands.train import train as train_command
from workbench.config import AffineRecurrenceConfig, LinearRegressionConfig, ModelConfig, RunConfig, TrainConfig
from workbench.errors import ConfigError, UsageError
from workbench.evaluation import Evaluation, evaluate, least_squares_errors
from workbench.figures.formation import loss_curves
from workbench.model import HookedTransformer
from workbench.preset import presets
from workbench.runs import Run
from workbench.sweep import Sweep
from workbench.tasks import make_task
from workbench.tasks.draw import TrainingBatches, generator
from workbench.training.loop import Trainer, train

MODEL = {"n_heads": 3, "d_head": 5, "d_model": 11, "d_vocab": 1, "n_ctx": 17, "attn_only": False, "d_mlp": 13}
TRAIN = {"steps": 4, "batch_size": 5, "eval_every": 2, "eval_size": 31, "checkpoint_every": 4}
LINEAR = LinearRegressionConfig(d_x=3, n_pairs=7, d_input=11)
AFFINE = AffineRecurrenceConfig(seq_len=13, d_input=11)


def config_of(task=LINEAR, model={}, **fields) -> RunConfig:
    return RunConfig(model=ModelConfig(**{**MODEL, **model}), task=task, train=TrainConfig(**{**TRAIN, **fields}))


def weights(run, step=None):
    return [value for _, value in sorted(run.model(step).state_dict().items())]


@pytest.fixture(scope="module")
def small_runs(tmp_path_factory):
    """Runs of both tasks, with and without a stream, analysed."""
    folder = tmp_path_factory.mktemp("runs")
    runs = {}
    for name, task, stream in (("linear", LINEAR, "value"), ("plain", LINEAR, "none"), ("affine", AFFINE, "none")):
        runs[name] = train(config_of(task, {"stream": stream}), folder / name, progress=False)
    for name in ("linear", "affine"):
        analyze(runs[name], sequences=23)
    return runs


@pytest.mark.parametrize("task", [LINEAR, AFFINE])
@pytest.mark.parametrize("loss_on", ["all", "answered"])
def test_equals_the_plainest_loop(tmp_path, task, loss_on):
    config = config_of(task, optimizer="sgd", lr=0.1, momentum=0.0, loss_on=loss_on)
    model = HookedTransformer(config.model)
    batches = TrainingBatches(make_task(task), 5, 0)
    for step in range(4):
        batch = batches[step]
        predicted = model(inputs_embeds=batch.inputs)
        first = {"all": 0, "answered": 6 if task is LINEAR else 2}[loss_on]
        places = [t for t in range(first, task.seq_len) if task is AFFINE or t % 2 == 0]
        total = sum((predicted[row, t, 0] - batch.values[row, t]) ** 2 for row in range(5) for t in places)
        model.zero_grad()
        (total / (5 * len(places))).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.sub_(0.1 * parameter.grad)
    run = train(config, tmp_path / "x", progress=False)
    for one, (_, other) in zip(weights(run), sorted(model.state_dict().items()), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert not torch.equal(run.model(0).state_dict()["unembed.W_U"], run.model(4).state_dict()["unembed.W_U"])


@pytest.mark.parametrize("name", ["linear", "affine"])
def test_squared_errors_are_logged(small_runs, name):
    run = small_runs[name]
    metrics = run.metrics()
    assert list(metrics.columns) == ["step", "train_loss", "lr", "loss", "in_context_loss", "excess_loss", "seconds"]
    model, batch = run.model(4), run.task.sample(31, generator(0, "evaluate"))
    sums = {"loss": [], "in_context_loss": [], "excess_loss": []}
    for row in range(31):
        output = model(inputs_embeds=batch.inputs[row : row + 1])[0, :, 0]
        for t in range(run.config.task.seq_len):
            if name == "linear" and t % 2:
                continue
            error = (output[t] - batch.values[row, t]).item() ** 2
            sums["loss"].append(error)
            sums["excess_loss"].append(error - (batch.annotations["least_squares"][row, t] - batch.values[row, t]).item() ** 2)
            if t >= (6 if name == "linear" else 2):
                sums["in_context_loss"].append(error)
    for metric, values in sums.items():
        assert metrics[metric].iloc[-1] == pytest.approx(sum(values) / len(values), rel=1e-4)
    # The analysis measures the same, on sequences of its own.
    table = run.table("formation")
    assert set(table.loc[table["layer"].isna(), "metric"]) == set(sums)
    own = AnalysisData.of_run(run, 23).batches[run.config.task.name]
    errors = evaluate(model, own).losses
    last = table[table["step"] == 4].set_index("metric")["value"]
    assert last["loss"] == pytest.approx(errors[own.asked].mean().item(), rel=1e-4)
    assert last["excess_loss"] == pytest.approx((errors - least_squares_errors(own))[own.asked].mean().item(), rel=1e-4)


def test_a_resumed_run_is_the_same_bit_for_bit(tmp_path, small_runs):
    config = small_runs["linear"].config
    trainer = Trainer(Run.create(tmp_path / "cut", config), "cpu")
    trainer._evaluate()
    trainer._save()
    for _ in range(2):
        trainer._update()
    trainer._save()
    resumed = train(config, tmp_path / "cut", resume=True, progress=False)
    assert resumed.steps[-1] == 4 and all(map(torch.equal, weights(resumed), weights(small_runs["linear"])))


def test_it_learns(tmp_path):
    """From worse than saying 0 to better than the last value, on recurrences."""
    config = config_of(AFFINE, steps=100, batch_size=61, eval_every=50, eval_size=61, checkpoint_every=100, lr=0.01)
    run = train(config, tmp_path / "x", progress=False)
    batch = run.task.sample(61, generator(0, "evaluate"))
    losses = run.metrics()["loss"].tolist()
    last_value = ((batch.annotations["last_value"] - batch.values) ** 2).mean().item()
    assert losses[2] < losses[0] / 2 and losses[2] < last_value / 1.5, (losses, last_value)


def test_what_an_analysis_of_numbers_leaves_out(small_runs):
    run = small_runs["linear"]
    found = pd.concat([run.table(name) for name in ("formation", "causal", "stream")])
    assert "accuracy" not in " ".join(found["metric"]) and "bigram" not in " ".join(found["metric"])
    assert {"ablation_loss_increase", "cut_loss_increase", "path_loss_increase", "previous_token_score"} <= set(found["metric"])
    assert run.table("emergence") is None and set(found["task"]) == {"in-context-linear-regression"} and found["value"].notna().all()
    # Positions are all named differently: nothing occurs again.
    assert not set(found["metric"]) & {"prefix_matching_score", "previous_token_at_answers", "duplicate_token_score"}
    assert applicable(chosen(None)[0], run.config.model, LINEAR, asked=False) == ["formation", "stream", "causal"]
    for only, needed in (
        (["in_context_accuracy"], "in_context_accuracy needs a task that asks for classes or tokens; in-context-linear-regression asks"),
        (["emergence"], "needs a task that asks for classes or tokens"),
        (["probes"], "needs a model that reads tokens; the task in-context-linear-regression gives it vectors"),
    ):
        with pytest.raises(UsageError, match=needed):
            analyze(run, only=only, sequences=5, write=False)
    with pytest.raises(UsageError, match="excess_loss needs a task that asks for numbers"):
        analyze(HookedTransformer(ModelConfig()), only=["excess_loss"], sequences=5)
    mixed = analyze(run, only=["in_context_accuracy", "excess_loss"], sequences=5, write=False)
    assert set(mixed["metric"]) == {"excess_loss"}


def test_ablations_are_measured_on_numbers(small_runs):
    run = small_runs["affine"]
    model, data = run.model(4), AnalysisData.of_run(run, 23)
    batch = data.scoring
    clean = run_batch(model, batch).evaluation
    cut = run_batch(model, batch, {"blocks.0.attn.hook_z": lambda z, rows: torch.cat([z[:, :, :1] * 0, z[:, :, 1:]], dim=2)}).evaluation
    table = run.table("causal")
    row = table[(table["metric"] == "ablation_loss_increase") & (table["intervention"] == "zero") & (table["step"] == 4)]
    value = row[(row["layer"] == 0) & (row["head"] == 0)]["value"].item()
    assert value == pytest.approx((cut.losses - clean.losses)[batch.answered].mean().item(), rel=1e-3) and value != 0


def test_summary_and_report(small_runs, tmp_path, capsys):
    run = small_runs["linear"]
    summary = run.summary()
    assert "The squared error is " in summary["lines"][0] and "least squares on the context is lower by" in summary["lines"][0]
    assert not {"formed_step", "threshold", "in_context_accuracy"} & set(summary) and summary["excess_loss"] is not None
    assert "accuracy" not in " ".join(summary["lines"]) and "nats" not in " ".join(summary["lines"])
    analyze_command(run.path, only="formation", out=tmp_path)
    assert "excess_loss" in capsys.readouterr().out
    page = unpacked((tmp_path / "report.html").read_text())
    assert "Above least squares" in page and "squared error" in page and "cross-entropy (nats)" not in page


def test_loss_figures_say_what_the_loss_is(small_runs):
    table = small_runs["linear"].table("formation")
    figure = loss_curves(table, numbers=True, references={"excess_loss": 0.0})
    titles = [note.text for note in figure.layout.annotations]
    assert titles[:3] == ["All asked positions", "In-context positions", "Above least squares"]
    assert figure.layout.yaxis.title.text == "squared error" and "nats" not in figure.to_json()
    assert loss_curves(table).layout.yaxis.title.text == "cross-entropy (nats)"


def test_runs_are_compared_by_what_they_lose_to_least_squares(small_runs):
    runs = [small_runs["linear"], small_runs["plain"]]
    found = compare(runs)
    assert found.metric == "excess_loss" and [quantity.name for quantity in found.quantities] == ["final excess_loss"]
    final = found.table.set_index("variant")["mean"]
    assert final["value"] == pytest.approx(runs[0].metrics()["excess_loss"].iloc[-1])
    with pytest.raises(UsageError, match="unknown metric in these runs: 'in_context_accuracy'; did you mean in_context_loss"):
        compare(runs, metric="in_context_accuracy")


def test_several_learning_rates_need_a_threshold(small_runs, tmp_path):
    other = train(config_of(LINEAR, lr=1e-3), tmp_path / "slow", progress=False)
    with pytest.raises(UsageError, match="pass --threshold, with --falling for a loss"):
        compare([small_runs["plain"], other])
    found = compare([small_runs["plain"], other], metric="loss", threshold=99.0, falling=True)
    assert sorted(found.rates["lr"]) == [1e-3, 3e-3]


def test_a_sweep_has_the_losses(tmp_path, capsys):
    (tmp_path / "start.yaml").write_text(config_of(AFFINE, steps=2).to_yaml())
    file = tmp_path / "plan.yaml"
    file.write_text(f"config: {tmp_path / 'start.yaml'}\nseeds: 0:1\nvary: {{train.batch_size: [3, 5]}}\n")
    for member in Sweep.from_yaml(file).members():
        train(member.config, tmp_path / "out" / member.folder, progress=False)
    sweep_command(file, out=tmp_path / "out", jobs=1)
    assert "formation map" not in capsys.readouterr().out and not (tmp_path / "out" / "formation_map.html").exists()
    table = pd.read_parquet(tmp_path / "out" / "sweep.parquet")
    assert {"loss", "in_context_loss", "excess_loss"} <= set(table) and not {"formed_step", "in_context_accuracy"} & set(table)
    assert table["loss"].notna().all() and len(table) == 2


def test_the_command_line_says_squared_errors(tmp_path, capsys):
    (tmp_path / "start.yaml").write_text(config_of(AFFINE, steps=2).to_yaml())
    train_command(config=tmp_path / "start.yaml", out=tmp_path / "run")
    assert "(squared errors)" in capsys.readouterr().out
    tasks_command(json_output=True)
    assert {"in-context-linear-regression", "affine-recurrence"} <= set(json.loads(capsys.readouterr().out))
    presets_command()
    assert "affine-recurrence, 16 vectors" in capsys.readouterr().out


def test_sections_that_do_not_fit():
    with pytest.raises(ConfigError, match=r"model\.d_vocab=7, but the task affine-recurrence asks for one number; set model\.d_vocab to 1"):
        config_of(AFFINE, {"d_vocab": 7})
    with pytest.raises(ConfigError, match=r"model\.d_model=13 differs from the width of the inputs of the task affine-recurrence, 11"):
        config_of(AFFINE, {"d_model": 13})
    with pytest.raises(ConfigError, match=r"model\.n_ctx=7 is shorter than task\.seq_len=15"):
        config_of(LINEAR, {"n_ctx": 7})
    config = config_of()
    assert RunConfig.from_yaml(config.to_yaml()) == config
    for name in ("linear-regression", "affine-recurrence"):
        assert HookedTransformer(presets[name].model).config.d_vocab == 1


def test_calls_that_cannot_be():
    batch = make_task(LINEAR).sample(3, generator(0, "analyze"))
    model = HookedTransformer(ModelConfig(**{**MODEL, "d_vocab": 7}))
    with pytest.raises(UsageError, match=r"one output \(d_vocab=1\); this one has 7"):
        model(**batch.model_inputs, return_type="loss", values=batch.values)
    bare = type(batch)(batch.tokens, batch.targets, batch.answered, batch.unanswerable, inputs=batch.inputs, asked=batch.asked)
    with pytest.raises(UsageError, match="needs a task that asks for numbers"):
        least_squares_errors(bare)


def test_losses_by_position():
    batch = make_task(AFFINE).sample(3, generator(0, "analyze"))
    model = HookedTransformer(config_of(AFFINE).model)
    whole = model(**batch.model_inputs, return_type="loss", values=batch.values, loss_per_token=True, loss_mask=batch.answered)
    expected = (model(**batch.model_inputs)[..., 0] - batch.values) ** 2 * (batch.tokens >= 2)
    torch.testing.assert_close(whole, expected)
    found = Evaluation.of_logits(model(**batch.model_inputs), batch.targets, batch.values)
    torch.testing.assert_close(found.losses[:, 2:], expected[:, 2:])
    assert not found.correct.any()
    rows = list(formation.measure(model, AnalysisData({"own": make_task(AFFINE)}, {"own": batch})))
    assert {row["metric"] for row in rows if row.get("head") is None} == {"loss", "in_context_loss", "excess_loss"}
