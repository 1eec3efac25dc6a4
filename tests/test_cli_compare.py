"""`workbench compare` on runs that were never trained: logs and tables whose answer is known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest

from tests.small_runs import small_config
from workbench import Run, compare
from workbench.cli import main
from workbench.errors import UsageError
from workbench.variant import variant_fields

NONE = (430, 395, 510, 388, 460, 441)
VALUE = (330, 285, 390, 258, 320, 291)


def make(path: Path, variant: str, seed: int, reached: float, *, task: dict = {}, rows: list[dict] = [], until: int = 600, **train) -> Run:
    """A run whose in-context accuracy is 0.97 from step `reached` on, and 0.5 before; with an analysis where there are rows for it."""
    config = small_config({**variant_fields(variant), "seed": seed}, task, steps=600, data_seed=seed, checkpoint_every=None, **train)
    run = Run.create(path, config)
    for step in sorted({0, until, *(step for step in (reached, reached + 7) if step < until)}):
        run.log({"step": int(step), "in_context_accuracy": 0.97 if step >= reached else 0.5, "loss": 3.0 - step / 600})
    if rows:
        names = {"run": run.name, "variant": variant, "task": "trigger-bigram", "seed": seed}
        for name in {row["table"] for row in rows}:
            own = [{**names, **row} for row in rows if row["table"] == name]
            run.tables.write(name, pd.DataFrame(own).drop(columns="table"))
    return run


def probe(layer: int, step: int, value: float) -> dict:
    return {"table": "probes", "metric": "copying_probe", "part": "own", "layer": layer, "step": step, "value": value}


@pytest.fixture
def study(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for variant, steps in (("none", NONE), ("value", VALUE)):
        for seed, step in enumerate(steps):
            rows = [probe(layer, at, layer + at / 1000 + seed / 100) for layer in (0, 1) for at in (0, 600)]
            make(Path("runs") / variant / f"seed_{seed}", variant, seed, step, rows=rows)
    return tmp_path / "runs"


def type_(capsys, *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["compare", *arguments])
    printed = capsys.readouterr()
    return int(end.value.code or 0), printed.out, printed.err


def test_what_is_printed(study, capsys):
    status, out, err = type_(capsys, "runs")
    assert status == 0 and err == ""
    lines = out.splitlines()
    assert lines[0].split("  ")[:3] == ["variant", "seeds", "steps to 0.95"]
    assert lines[1].startswith("none     6      437 [") and lines[2].startswith("value    6      312 [") and "-125 [-145, -105]" in lines[2]
    assert lines[4] == "value reaches 0.95 125 [105, 145] steps (29 %) earlier than none (6 pairs)."
    assert any(line.startswith("Steps are those of the first evaluation past the threshold (metrics.jsonl)") for line in lines)


def test_for_scripts(study, capsys):
    answer = json.loads(type_(capsys, "runs", "--json", "--out", "o")[1])
    none, value = (row for row in answer["table"] if row["quantity"] == "steps to 0.95")
    assert (none["mean"], none["pairs"], none["difference"]) == (pytest.approx(sum(NONE) / 6), 0, None)
    assert value["difference"] == pytest.approx(-125) and value["pairs"] == 6
    assert {
        row["seed"]: row["difference"] for row in answer["seeds"] if row["variant"] == "value" and row["quantity"] == "steps to 0.95"
    } == {seed: value - none for seed, (none, value) in enumerate(zip(NONE, VALUE, strict=True))}
    assert answer["sentences"] == ["value reaches 0.95 125 [105, 145] steps (29 %) earlier than none (6 pairs)."]
    assert Path(answer["files"]["markdown"]).read_text().startswith("| variant | seeds | steps to 0.95 | difference from none | % | d_z |")
    assert len(pd.read_parquet(answer["files"]["seeds"])) == 24


def test_a_run_that_did_not_get_there_is_counted(study, capsys):
    make(study / "value/seed_6", "value", 6, math.inf)
    make(study / "none/seed_6", "none", 6, 400)
    out = type_(capsys, "runs")[1]
    assert "not reached by 1 of 7; median 320 [258, unbounded]" in out and "median at least -150" in out
    assert "1 of 7 pairs has no value on one side or both" in out and "steps earlier" not in out
    # A seed that only one of them has belongs to its mean and to no pair.
    make(study / "none/seed_7", "none", 7, 400)
    table = compare("runs").table
    assert table["n"].tolist()[:2] == [8, 7] and table["pairs"].tolist()[:2] == [0, 7]


def test_any_metric_of_a_table(study, capsys):
    out = type_(capsys, "runs", "--metric", "copying_probe", "--layer", "1")[1]
    assert "final copying_probe (layer 1)" in out and "no difference from none in any of 6 pairs" in out
    found = compare("runs", metric="copying_probe", over="max")
    assert found.table["mean"].tolist() == pytest.approx([1.625] * 2) and len(found.curves) == 4
    losses = compare("runs", metric="loss", threshold=2.5, falling=True)
    assert losses.source == "metrics.jsonl" and losses.table["quantity"].tolist()[::2] == ["steps to loss 2.5", "final loss"]
    # The first evaluation at which the loss is 2.5 or less is that of the step reached, where that is 300 or later.
    assert losses.seeds.iloc[0]["value"] == 430


def test_an_event_without_a_row_did_not_take_place(tmp_path):
    for variant, shift in (("none", 100), ("value", 0)):
        for seed in range(3):
            happened = seed or variant == "value"
            rows = [{"part": "copying", "value": 90.0}, *([{"part": "trigger match", "value": 200.0 + shift + seed}] if happened else [])]
            rows = [{"table": "emergence", "metric": "threshold_step", "step": None, **row} for row in rows]
            run = make(tmp_path / variant / f"seed_{seed}", variant, seed, 100, rows=rows)
            (run.path / "checkpoints/step_00000600").mkdir(parents=True)
    found = compare(tmp_path, metric="threshold_step", place={"part": "trigger match"})
    none, value = found.table.itertuples()
    assert (none.n, none.censored, value.censored, value.mean) == (3, 1, 0, 201)
    first = found.seeds[(found.seeds["variant"] == "value") & (found.seeds["seed"] == 0)].iloc[0]
    assert (first["low"], first["high"]) == (-math.inf, 200 - 600)
    with pytest.raises(UsageError, match="its parts are: copying, trigger match"):
        compare(tmp_path, metric="threshold_step", place={"part": "triger match"})


def test_each_variant_at_its_own_best_learning_rate(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for variant, by_rate in (("none", {1e-3: 500, 3e-3: 400}), ("value", {1e-3: 300, 3e-3: math.inf})):
        for lr, step in by_rate.items():
            for seed in range(3):
                make(Path("runs", variant, f"lr_{lr:g}", f"seed_{seed}"), variant, seed, step + 5 * seed * (variant == "none"), lr=lr)
    found = compare("runs")
    assert found.table["lr"].tolist() == [0.003, 0.001] * 2
    assert found.rates["censored"].tolist() == [0, 0, 0, 3] and found.table["difference"].iloc[1] == -105
    out = type_(capsys, "runs", "--out", "o")[1]
    assert "none: 0.003 of 0.001, 0.003; value: 0.001 of 0.001, 0.003." in out
    assert "Fewer than 5 learning rates were tried for none, value." in out and "at the edge of the grid for none, value" in out
    assert out.splitlines()[0].split()[:2] == ["variant", "lr"]
    assert "Learning rates" in Path("o/compare.html").read_text()
    # The rate is chosen by steps, whatever is compared.
    assert compare("runs", metric="loss").table["lr"].tolist() == [0.003, 0.001]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--reference", "valu"], "unknown reference 'valu'; did you mean value?"),
        (["--metric", "copying_prob"], "unknown metric in these runs: 'copying_prob'; did you mean copying_probe?"),
        (
            ["--metric", "copying_probe"],
            "copying_probe has several rows in runs/none/seed_0; choose by --layer (0, 1), or pass --over first",
        ),
        (["--metric", "copying_probe", "--layer", "5"], "unknown layer of copying_probe in runs/none/seed_0: '5'; there are: 0, 1"),
        (["--metric", "copying_probe", "--head", "1"], "copying_probe has no head in the table probes"),
        (["--metric", "copying_probe", "--over", "sum"], "unknown choice of several rows: 'sum'"),
        (["--falling"], "--falling needs a --threshold"),
        (["nowhere"], "there is no nowhere"),
        (["."], "they are of one configuration"),
    ],
)
def test_calls_that_will_not_do(study, capsys, arguments, message):
    if arguments == ["."]:
        make(study.parent / "again", "none", 0, 100)
    status, out, err = type_(capsys, "runs", *arguments)
    assert status == 2 and out == "" and message in err and err.count("\n") == 1


def test_runs_that_cannot_be_compared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(Path("a"), "none", 0, 100)
    make(Path("b"), "value", 1, 100)
    with pytest.raises(UsageError, match=r"value shares no seed with none \(value: 1; none: 0\); train the same seeds"):
        compare(["a", "b"])
    make(Path("c"), "value", 0, 100, task={"n_triggers": 2})
    with pytest.raises(UsageError, match=r"a and c are of different tasks \(task.n_triggers is 3, not 2\)"):
        compare(["a", "c"])
    make(Path("d"), "none", 0, 100, batch_size=7)
    with pytest.raises(UsageError, match=r"a and d are both none, seed 0, lr 0.003 \(they differ in: train.batch_size is 5, not 7\)"):
        compare(["a", "d"])
    make(Path("e"), "value", 0, 100, batch_size=7)
    found = compare(["a", "e", "a"])
    assert "The runs also differ in train.batch_size is 5, not 7 in e" in found.notes[0] and found.table["n"].tolist() == [1] * 4
    with pytest.raises(UsageError, match="no runs of the variant none to compare with"):
        make(Path("f"), "key", 0, 100)
        compare(["e", "f"])
    assert compare("a").reference is None
    make(Path("g"), "value-first", 0, math.inf, until=250)
    assert any("1 of 2 runs have no value at their last step, stopped or not finished: g." in note for note in compare(["a", "g"]).notes)
