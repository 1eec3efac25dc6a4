"""The documentation is true: generated pages are up to date, links lead somewhere, and every block of Python on the pages runs."""

from __future__ import annotations

import ast
import doctest
import importlib
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from docs import generate
from tests.language_model import make_language_model
from workbench.analysis.metrics import METRICS
from workbench.analysis.sections import SECTIONS, all_metrics
from workbench.errors import UsageError
from workbench.preset import presets
from workbench.report.sections import SECTIONS as REPORT
from workbench.tasks import TASKS
from workbench.tasks.configs import TASK_CONFIGS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GENERATED = "python docs/generate.py makes it anew"


# What is generated


def test_the_page_of_metrics_is_up_to_date():
    assert (ROOT / "docs/metrics.md").read_text() == generate.metrics_page(), GENERATED


def test_the_order_of_metrics_is_that_of_the_code(monkeypatch):
    """METRICS is filled as modules are imported, and who imports which first is chance."""
    expected, backwards = generate.metrics_page(), dict(reversed(all_metrics().items()))
    monkeypatch.setattr(generate, "all_metrics", lambda: backwards)
    assert generate.metrics_page() == expected


def test_the_page_of_tasks_is_up_to_date():
    text = (ROOT / "docs/tasks.md").read_text()
    assert text == generate.tasks_page(text), GENERATED
    assert set(generate.task_tables()) == {name for _, name in re.findall(r"(<!-- generated: (.+?) -->)", text)}


def test_every_metric_and_preset_is_on_its_page():
    metrics, tasks = ((ROOT / "docs" / name).read_text() for name in ("metrics.md", "tasks.md"))
    for name, metric in all_metrics().items():
        (row,) = [line for line in metrics.splitlines() if line.startswith(f"| [{name}]")]
        assert metric.summary.replace("|", "\\|") in row and metric.source in row
    prose = re.sub(r"^\|.*$", "", tasks, flags=re.MULTILINE)
    for name in presets:
        assert f"| `{name}` |" in tasks and f"`{name}`" in prose


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_rows_of_a_table_have_as_many_cells(page):
    for rows in re.findall(r"(?:^\|.*\n)+", page.read_text(), flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows.splitlines()}) == 1, rows


def test_options_are_read_off_the_configurations():
    text = "length of the repeated block (jittered: the longest); default seq_len // 2"
    assert f"| `--task.block-len` | `none` | integer or `none` | {text} |\n" in generate.task_tables()["options of repeated-tokens"]
    for name, kind in TASK_CONFIGS.items():
        default, rows = kind().to_dict(), generate.task_tables()[f"options of {name}"].splitlines()[2:]
        assert [row.split("`")[1].removeprefix("--task.").replace("-", "_") for row in rows] == [key for key in default if key != "name"]
        assert all(row.split("|")[4].strip() for row in rows)


def test_generating_changes_what_is_marked_and_nothing_else():
    text = "before\n<!-- generated: presets of repeated-tokens -->\nold\n<!-- end -->\nafter\n"
    made = generate.tasks_page(text)
    assert made.startswith("before\n<!--") and made.endswith("<!-- end -->\nafter\n") and "old" not in made and "`repeated-tokens`" in made
    assert generate.tasks_page(made) == made
    with pytest.raises(KeyError, match="options of nothing"):
        generate.tasks_page("<!-- generated: options of nothing -->\n<!-- end -->\n")
    assert doctest.testmod(generate).failed == 0


# Links


def broken_links(page: Path) -> list[str]:
    """The links of a page to files or headings that there are not."""
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            found.append(target)
    return found


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", without_code(page.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    assert broken_links(page) == []


def test_a_broken_link_is_noticed(tmp_path):
    (tmp_path / "other.md").write_text("# What it is, in short\n")
    page = tmp_path / "page.md"
    page.write_text("[a](other.md) [b](other.md#what-it-is-in-short) [c](gone.md) [d](other.md#gone) [e](#here) ![f](f.png)\n## Here\n")
    assert broken_links(page) == ["gone.md", "other.md#gone", "f.png"]


def test_the_readme_links_every_page():
    text = (ROOT / "README.md").read_text()
    assert [page.name for page in PAGES[1:] if f"(docs/{page.name})" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_are_there(page):
    """All but those of the examples in extending.md."""
    named = set(re.findall(r"`((?:workbench|tests|docs)/[\w/]+\.(?:py|md|html))`", page.read_text()))
    examples = {name for name in named if "recall" in name or "sinks" in name}
    assert [name for name in sorted(named - examples) if not (ROOT / name).is_file()] == []
    assert not examples or page.name == "extending.md"


# Code on the pages


def run_page(page: Path, folder: Path) -> dict[str, Any]:
    """Run a page's blocks of Python in order, in one namespace, which is handed back. A block that begins with the name of a file
    is written to `folder`."""
    names: dict[str, Any] = {"__name__": "__page__"}
    text = page.read_text()
    for match in re.finditer(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        if file := re.match(r"# (\w+\.py)\n", match[1]):
            (folder / file[1]).write_text(match[1])
        else:
            lines = text.count("\n", 0, match.start(1))  # so that an error names the line of the page
            exec(compile("\n" * lines + match[1], str(page), "exec"), names)
    return names


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder to work in, from which modules can be imported. Registries and imports are afterwards as they were."""
    known: list[dict[str, Any]] = [TASKS, TASK_CONFIGS, SECTIONS, METRICS]
    before, report, modules = [dict(registry) for registry in known], list(REPORT), set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for registry, content in zip(known, before, strict=True):
        registry.clear()
        registry.update(content)
    REPORT[:] = report
    for name in set(sys.modules) - modules:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


def test_the_examples_of_extending(place):
    names = run_page(ROOT / "docs/extending.md", place)
    recall, sinks = importlib.import_module("recall"), importlib.import_module("sinks")

    # The task against its definition, read off each sequence token by token.
    task = recall.Recall(recall.RecallConfig(d_vocab=23, seq_len=19))
    batch = task.sample(7, np.random.default_rng(0))
    losses = []
    for row in range(7):
        sequence = [*batch.tokens[row].tolist(), batch.targets[row, -1].item()]
        pairs = [(sequence[at], sequence[at + 1]) for at in range(0, 20, 2)]
        assert len(sequence) == 20 and sorted(pairs[:5]) == sorted(pairs[5:])
        assert all(key < 11 for key in sequence[::2]) and all(11 <= value < 23 for value in sequence[1::2])
        for position, token in enumerate(sequence[:-1]):
            repeated = position % 2 == 0 and token in sequence[:position:2]
            assert batch.answered[row, position] == repeated
            assert not repeated or sequence[sequence.index(token) + 1] == batch.targets[row, position]
            fresh = position + 1 < 10
            assert batch.unanswerable[row, position] == fresh
            if fresh:
                losses.append(math.log(12) if position % 2 == 0 else math.log(11 - (position + 1) // 2))
    assert task.references()["bigram_loss"] == pytest.approx(sum(losses) / len(losses))
    assert torch.equal(batch.tokens, task.sample(7, np.random.default_rng(0)).tokens)
    for wrong in ({"seq_len": 17}, {"d_vocab": 9, "seq_len": 19}):
        with pytest.raises(UsageError, match=r"^task: "):
            recall.RecallConfig(**wrong)
    with pytest.raises(UsageError, match="unknown split 'ood'"):
        task.sample(2, np.random.default_rng(0), "ood")

    # The metric against a loop, and at its baseline where attention is even.
    assert doctest.testmod(sinks, extraglobs={"torch": torch}).failed == 0
    pattern = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)).tril()
    by_hand = [sum(pattern[row, head, t, 0].item() for row in range(2) for t in range(1, 5)) / 8 for head in range(3)]
    assert sinks.sink_score(pattern).estimate().value.tolist() == pytest.approx(by_hand)
    table = names["table"]
    assert len(table) == 3 * 2 * 2 and table["value"].between(0, 1).all()
    assert table["baseline"].iloc[0] == pytest.approx(sum(1 / (t + 1) for t in range(1, 15)) / 14)
    assert "sink_score" in generate_with(sinks)

    # The figure draws the table, and the report has the section.
    figure = names["sink_curves"](table)
    strongest = [table[table["step"] == step]["value"].max() for step in (0, 10, 20)]
    assert list(figure.data[0].x) == [0, 10, 20] and list(figure.data[0].y) == pytest.approx(strongest)
    with pytest.raises(UsageError, match="the sinks table lacks the columns step"):
        names["sink_curves"](table.drop(columns="step"))
    assert '<section id="sinks">' in (place / "report.html").read_text()
    assert names["sinks_section"]([]) is None


def generate_with(module) -> str:
    """The row that the page of metrics would have for the metric of a module."""
    metric = next(metric for metric in all_metrics().values() if metric.function.__module__ == module.__name__)
    return " ".join(generate._metric_row(metric))


def test_coming_from_hookedtransformer(place):
    make_language_model(place / "gpt2")
    page = ROOT / "docs/coming-from-hookedtransformer.md"
    names = run_page(page, place)
    exec("from workbench import *", names)
    classic, refused = tables_of(page)
    for _, ours in classic:
        eval(ours.strip("`"), names)
    assert len(refused) == 8
    for call, *_ in refused:
        with pytest.raises(UsageError):
            eval(call.strip("`"), names)
    # What the page says is right instead.
    instead = names["model"]
    instead.set_use_attn_result(True)
    exec('model.run_with_hooks(tokens, fwd_hooks=[("blocks.0.attn.hook_result", without_head_2)]); model.fold_value_biases()', names)
    config = eval(classic[0][1].strip("`"), names)
    written = eval(f"dict{classic[0][0].strip('`').removeprefix('HookedTransformerConfig')}")
    held = {**config.to_dict(), "d_head": config.head_width}
    assert {name: held[name] for name in written} == written
    learned = names["HookedTransformer"](names["streamed"].config.replace(stream_mix="learned"))
    added = set(learned.state_dict()) - set(names["model"].state_dict())
    assert added == {"blocks.1.attn.stream_own", "blocks.1.attn.stream_in"}
    assert set(names["streamed"].state_dict()) == set(names["model"].state_dict())


def tables_of(page: Path) -> list[list[list[str]]]:
    """The rows of each table of a page, without the head."""
    found = re.findall(r"(?:^\|.*\n)+", page.read_text(), flags=re.MULTILINE)
    return [[line.strip("| \n").split(" | ") for line in rows.splitlines()[2:]] for rows in found]


# What security.md says of the code

LOADERS = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "urllib", "requests", "httpx", "socket", "aiohttp"}
UNSAFE = re.compile(
    r"^(eval|exec|compile|__import__|os\.system|os\.popen|yaml\.(load|load_all|full_load|unsafe_load)|pd\.read_(pickle|csv)"
    r"|np\.load|torch\.hub\.load|subprocess\.\w+|torch\.load)$"
)
OPTIONS = {"allow_pickle=True", "trust_remote_code=True", "weights_only=False", "shell=True", "use_safetensors=False"}
ALLOWED = {("provenance.py", "subprocess.run"), ("commands/import_weights.py", "torch.load"), ("sweep.py", "submitit")}


def unsafe(source: str) -> set[str]:
    """Calls and imports that can run what a file says, reach the network or start a program."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if UNSAFE.match(called):
                found.add(called)
            found |= OPTIONS & {f"{keyword.arg}={ast.unparse(keyword.value)}" for keyword in node.keywords}
            if called == "torch.load" and not any(keyword.arg == "weights_only" for keyword in node.keywords):
                found.add("torch.load without weights_only")
        elif isinstance(node, ast.Dict):  # options that are handed on with **
            items = zip(node.keys, node.values, strict=True)
            found |= OPTIONS & {f"{key.value}={ast.unparse(value)}" for key, value in items if isinstance(key, ast.Constant)}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found |= {name for name in modules if name.split(".")[0] in LOADERS | {"submitit"}}
    return found


def test_nothing_that_is_read_can_run_code():
    package = ROOT / "workbench"
    found = {(str(path.relative_to(package)), name) for path in package.rglob("*.py") for name in unsafe(path.read_text())}
    assert found == ALLOWED


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import pickle", "pickle"),
        ("from urllib.request import urlopen", "urllib.request"),
        ("torch.load(path)", "torch.load without weights_only"),
        ("torch.load(path, weights_only=False)", "weights_only=False"),
        ("AutoModel.from_pretrained(name, trust_remote_code=True)", "trust_remote_code=True"),
        ("local = {'trust_remote_code': True}", "trust_remote_code=True"),
        ("yaml.load(text)", "yaml.load"),
        ("eval(text)", "eval"),
        ("np.load(path, allow_pickle=True)", "allow_pickle=True"),
        ("subprocess.run(words, shell=True)", "shell=True"),
    ],
)
def test_what_is_unsafe_is_noticed(source, name):
    assert name in unsafe(source)
    assert not unsafe("model.eval(); yaml.safe_load(text); re.compile(text); json.load(file)")
