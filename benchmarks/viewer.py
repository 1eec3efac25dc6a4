"""The attention viewer's size in a page, its first drawing and its steps, on patterns of random scores, which deflate worse
than a trained model's.

Needs playwright and a chromium (the environment variable CHROMIUM names another than /usr/bin/chromium).

python -m benchmarks.viewer
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from playwright.sync_api import Browser, sync_playwright

from workbench.figures.viewer import ViewerRun, viewer_html, viewer_payload, viewer_script, viewer_style
from workbench.report.attention import VIEWER_BUDGET

CASES = {"50 checkpoints x 8 heads x 64 tokens": (50, 2, 4, 64), "3 checkpoints x 64 heads x 256 tokens": (3, 8, 8, 256)}
"""name -> checkpoints, layers, heads of a layer, tokens"""
STEPS = """async () => {
    const viewer = document.querySelector('.wbv').workbenchViewer, times = [];
    for (let turn = 0; turn < 40; turn++) {
        const step = viewer.run.steps[turn % viewer.run.steps.length];
        const started = performance.now();
        viewer.set({ step });
        times.push(performance.now() - started);
        await new Promise(requestAnimationFrame);
    }
    times.sort((a, b) => a - b);
    return [times[20], times[38]];
}"""


def synthetic(n_steps: int, n_layers: int, n_heads: int, n_tokens: int) -> ViewerRun:
    """A run on one sequence whose scores drift over the checkpoints, with noise at each."""
    random = np.random.default_rng(0)
    shape = (n_layers, n_heads, n_tokens, n_tokens)
    scores, drift = random.normal(0, 1, shape), random.normal(0, 3, shape)
    lower = np.tril_indices(n_tokens)
    layer, head, _ = (index.reshape(n_layers, n_heads, -1)[..., : len(lower[0])] for index in np.indices((*shape[:2], n_tokens**2)))
    parts = []
    for step in range(n_steps):
        weights = np.tril(np.exp(scores + drift * step / n_steps + random.normal(0, 0.5, shape)))
        values = (weights / weights.sum(axis=-1, keepdims=True))[..., *lower].astype(np.float32)
        columns = {"layer": layer, "head": head, "destination": lower[0] + 0 * layer, "source": lower[1] + 0 * layer}
        table = pd.DataFrame({name: column.ravel().astype(np.int16) for name, column in columns.items()})
        parts.append(table.assign(step=100 * step, sequence=0, attention=values.ravel(), value_weighted=values.ravel()))
    words = {"text": [f"w{position}" for position in range(n_tokens)], "position": range(n_tokens), "sequence": 0}
    tokens = pd.DataFrame({**words, "answered": False, "read_from": -1})
    return ViewerRun("synthetic", pd.concat(parts, ignore_index=True), tokens)


def measure(browser: Browser, run: ViewerRun, budget: int | None) -> None:
    """Print one case."""
    payload = viewer_payload([run], budget)
    html = viewer_html(payload)
    manifest = payload.manifest["runs"][0]
    kept = f"{len(manifest['steps'])} x {len(manifest['heads'])} x {manifest['positions']}"
    begin = "<script>window.began = performance.now()</script>"
    ready = "\nawait document.querySelector('.wbv').workbenchViewer.ready; window.first = performance.now() - window.began;"
    page = browser.new_context(offline=True, viewport={"width": 1280, "height": 900}).new_page()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "page.html")
        style = f"<!DOCTYPE html><style>{viewer_style()}</style>"
        path.write_text(f"{style}{html}{begin}<script type=module>{viewer_script()}{ready}</script>", encoding="utf-8")
        page.goto(path.as_uri())
        page.wait_for_function("window.first")
        first = page.evaluate("window.first")
        median, worst = page.evaluate(STEPS)
    page.context.close()
    step = f"a step {median:4.1f} ms (95 % within {worst:4.1f} ms)"
    print(f"  {len(html) / 1e6:5.2f} MB ({kept} kept), first drawing {first:4.0f} ms, {step}")


def main() -> None:
    """Measure and print."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox"])
        for name, sizes in CASES.items():
            run = synthetic(*sizes)
            for budget in (None, VIEWER_BUDGET):
                print(name + (", everything" if budget is None else f", in {budget / 1e6:g} MB"))
                measure(browser, run, budget)
        browser.close()


if __name__ == "__main__":
    main()
