"""The attention viewer in a real JupyterLab: what the browser does reaches the kernel, and what a cell sets reaches the browser."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

import nbformat
import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from tests.figures.synthetic import SMALL
from tests.figures.test_viewer import viewer_run
from tests.report.test_viewer_page import VIEW

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 120_000
"""milliseconds that a server, a kernel and JupyterLab's own start may take on a machine that does other things too"""
CELLS = [
    "from tests.figures.test_viewer import viewer_run\nfrom workbench.figures.widget import AttentionWidget\n"
    "viewer = AttentionWidget([viewer_run(), viewer_run('value')], head='L1H2')\nviewer",
    "print('in the kernel:', viewer.step, viewer.head)",
    "viewer.step, viewer.run = 200, 'value'",
]


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def settings(folder: Path) -> dict[str, str]:
    """The environment of a server that keeps everything, and looks for everything, inside `folder` or this Python's prefix."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "IPYTHON", "PYTEST"))}
    own = {name: str(folder / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    return {**kept, **own, "HOME": str(folder), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running JupyterLab with one notebook; its kernels end with it, whatever happens."""
    folder = tmp_path_factory.mktemp("jupyter")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in CELLS])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (folder / "work").mkdir()
    nbformat.write(notebook, folder / "work" / "viewer.ipynb")
    port, token = free_port(), secrets.token_hex(16)
    options = {
        "ServerApp.ip": "127.0.0.1", "ServerApp.port": port, "ServerApp.port_retries": 0, "ServerApp.open_browser": False,
        "ServerApp.allow_root": True, "ServerApp.root_dir": folder / "work", "IdentityProvider.token": token,
        "LabApp.expose_app_in_browser": True, "LabApp.news_url": "None", "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    }  # fmt: skip
    command = [sys.executable, "-m", "jupyterlab", *(f"--{name}={value}" for name, value in options.items())]
    log = folder / "log"
    with log.open("wb") as out:
        server = subprocess.Popen(command, cwd=folder, env=settings(folder), stdout=out, stderr=out, start_new_session=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/api/status?token={token}", server, log)
        yield f"http://127.0.0.1:{port}/doc/tree/viewer.ipynb?token={token}"
    finally:
        end(server)


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    opener = build_opener(ProxyHandler({}))  # no proxy stands between this machine and itself
    deadline = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with opener.open(url, timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.1)
    pytest.fail(f"JupyterLab does not answer (exit status {server.poll()}):\n{log.read_text(errors='replace')[-3000:]}")


def end(server: subprocess.Popen[bytes]) -> None:
    """Ask, so that the kernels are ended too; then kill."""
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(15)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(15)


RUN = """async ([cell, patience]) => {
    const late = new Promise((_, fail) => setTimeout(() => fail(new Error(`cell ${cell} did not end`)), patience));
    const run = async () => {
        await jupyterapp.restored;
        const panel = jupyterapp.shell.currentWidget;
        await panel.context.ready;
        await panel.sessionContext.ready;
        await panel.sessionContext.session.kernel.info;
        panel.content.activeCellIndex = cell;
        await jupyterapp.commands.execute("notebook:run-cell");
        return panel.content.widgets[cell].model.outputs.toJSON().map(({ output_type, text }) => [output_type, text ?? ""]);
    };
    return Promise.race([run(), late]);
}"""


def run_cell(page: Page, cell: int) -> list[list[str]]:
    """Run a cell to its end, as the command of JupyterLab's menu does: kind and text of each output."""
    return page.evaluate(RUN, [cell, PATIENCE])


def pixels(page: Page) -> np.ndarray:
    found = page.evaluate(
        """() => {
            const canvas = document.querySelector('[data-panel=this] .wbv-cells'), {width, height} = canvas;
            return [...canvas.getContext('2d').getImageData(0, 0, width, height).data];
        }"""
    )
    return np.array(found).reshape(SMALL.n_tokens, SMALL.n_tokens, 4)


def drawn_at(page: Page, variant: str, step: int) -> np.ndarray:
    """What must be drawn, from the table that the run is made of."""
    run = viewer_run(variant)
    rows = run.attention[(run.attention["step"] == step) & (run.attention["sequence"] == 0)]
    rows = rows[(rows["layer"] == 1) & (rows["head"] == 2)]
    scale = np.array([[value >> shift & 255 for shift in (0, 8, 16, 24)] for value in page.evaluate(f"[...{VIEW}.sequential]")])
    expected = np.zeros((SMALL.n_tokens, SMALL.n_tokens, 4), dtype=int)
    expected[rows["destination"], rows["source"]] = scale[np.rint(rows["attention"].to_numpy() * 255).astype(int)]
    return expected


def test_the_slider_moves_the_kernels_step_and_a_cell_moves_the_slider(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 1400})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    errors: list[str] = []
    elsewhere: list[str] = []
    home = urlsplit(address).netloc
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: elsewhere.append(request.url) if urlsplit(request.url).netloc not in (home, "") else None)
    try:
        page.goto(address)
        page.wait_for_selector(".jp-NotebookPanel:has(.jp-CodeCell)")
        assert [kind for kind, _ in run_cell(page, 0)] == ["execute_result"]
        page.wait_for_selector(".wbv[data-ready]")
        assert page.evaluate(f"{VIEW}.state.step") == 400
        np.testing.assert_array_equal(pixels(page), drawn_at(page, "none", 400))

        page.locator(".wbv input[type=range]").fill("1")
        assert page.evaluate(f"{VIEW}.state.step") == 100
        np.testing.assert_array_equal(pixels(page), drawn_at(page, "none", 100))
        assert run_cell(page, 1) == [["stream", "in the kernel: 100 L1H2\n"]]

        assert run_cell(page, 2) == []
        page.wait_for_function(f"() => {VIEW}.state.step === 200 && {VIEW}.state.run === 'value'")
        page.evaluate(f"{VIEW}.ready")
        np.testing.assert_array_equal(pixels(page), drawn_at(page, "value", 200))
        assert errors == [] and elsewhere == []
    finally:
        context.close()
