"""The dashboard in a real browser: the runs, a curve, a run's config, groups, and what appears while it is open."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gpt_lab.store import Run
from tests.browser import Browser, Tab
from tests.dashboard.run_folders import free_port, log, make

pytestmark = [pytest.mark.browser, pytest.mark.slow]

INK = """(() => {
  const canvas = [...document.querySelectorAll('canvas.marks')].find(c => c.width > 0);
  const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  let coloured = 0;
  for (let i = 0; i < data.length; i += 4)
    if (data[i + 3] > 0 && Math.max(data[i], data[i+1], data[i+2]) - Math.min(data[i], data[i+1], data[i+2]) > 60)
      coloured++;
  return coloured;
})()"""
"""Pixels of the first chart that are neither grey nor white: its curves."""

TEXT = """(function text(node) {
  return node.nodeValue || [...(node.shadowRoot?.childNodes ?? []), ...node.childNodes].map(n => text(n)).join(' ');
})(document.body)"""
"""All text of the page, that of its web components too."""


@contextlib.contextmanager
def dashboard(folder: Path, *options: str) -> Iterator[str]:
    """A dashboard over `folder`/runs, by its address; Ctrl-C ends it cleanly."""
    command = [sys.executable, "-m", "gpt_lab.cli.dashboard", str(folder / "runs"), "--no-browser"]
    command += ["--port", str(free_port()), *options]
    environ = {**os.environ, "GPT_LAB_CACHE": str(folder / "cache"), "PYTHONFAULTHANDLER": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("http://127.0.0.1:"), line + process.stdout.read()
            assert "new ones and new lines appear" in process.stdout.readline()
            yield line.split()[0]
            process.send_signal(signal.SIGINT)
            assert (process.wait(60), process.stdout.read()) == (0, "")
        finally:
            process.kill()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    for position in ("rope", "alibi"):
        for seed in (0, 1):
            make(folder / "runs", "pos_enc", f"{position}-{seed}", 20, position=position, seed=seed, label=position)
    make(folder / "runs", "pos_enc", "just-begun")
    return folder


def texts(selector: str) -> str:
    return f"[...document.querySelectorAll({selector!r})].map(e => e.textContent.trim())"


def clean(tab: Tab) -> None:
    """Nothing was asked of the outside, and nothing went wrong."""
    assert {urlsplit(url).hostname for url in tab.requests if url != "about:blank"} == {"127.0.0.1"}
    assert [line for line in tab.console if line.startswith("error:")] == []


def test_trackio_shows_runs_curves_configs_and_groups_live(store: Path) -> None:
    with dashboard(store) as url, Browser() as browser:
        tab = browser.open(url)
        tab.wait("document.body.innerText.includes('Runs (5)')")
        shown = tab.evaluate("document.body.innerText")
        for name in ("rope-0", "rope-1", "alibi-0", "alibi-1", "just-begun"):
            assert name in shown
        assert tab.wait(f"{INK} > 300 && {INK}") > 300, "curves are drawn"
        tab.wait("document.querySelectorAll('.run-group-label').length === 3")
        groups = tab.evaluate(texts(".run-group-header"))
        assert [" ".join(group.split()) for group in sorted(groups)] == ["alibi (2)", "default (1)", "rope (2)"], (
            "by arm"
        )

        box = "document.querySelector('input[aria-label=\"Group by\"]')"
        opened = f"{texts('ul.options li')}.length || ({box}.blur(), {box}.focus(), 0)"  # the page's news may close it
        options = tab.wait(f"({opened}) && {texts('ul.options li')}")
        keys = {option.lstrip("✓ ") for option in options}
        assert {"position.name", "optim.lr", "attention.qkv_bias", "norm.gain", "seed", "state", "label"} <= keys
        pick = (
            "[...document.querySelectorAll('ul.options li')].find(e => e.textContent.includes('position.name'))"
            ".dispatchEvent(new MouseEvent('mousedown', {bubbles: true, cancelable: true}))"
        )
        tab.evaluate(pick)
        tab.wait("document.querySelectorAll('.run-group-label').length === 2")
        groups = tab.evaluate(texts(".run-group-header"))
        assert [" ".join(group.split()) for group in sorted(groups)] == ["alibi (2)", "rope (3)"]

        make(store / "runs", "pos_enc", "begun-later", 3)
        tab.wait("document.body.innerText.includes('begun-later')")
        clean(tab)

        tab.goto(url.replace("/metrics?", "/runs?"))
        row = "[...document.querySelectorAll('tr')].find(e => e.textContent.includes('rope-0'))"
        tab.wait(f"{row}.textContent.includes('20')")
        tab.evaluate(f"{row}.querySelector('button.link-btn').click()")
        config = tab.wait("document.querySelector('.config-block').textContent")
        assert '"optim.lr": 0.002' in config and '"position.name": "rope"' in config and '"state": "running"' in config
        clean(tab)


def test_a_line_that_is_appended_appears_in_trackio(store: Path) -> None:
    with dashboard(store) as url, Browser() as browser:
        tab = browser.open(f"{url}&metrics=train/loss")
        tab.wait(f"{INK} > 100")
        before = tab.evaluate("document.querySelector('canvas.marks').toDataURL()")
        run = Run.open(store / "runs" / "pos_enc" / "rope-0")
        log(run, 21, 40)
        tab.wait(f"document.querySelector('canvas.marks').toDataURL() !== {before!r} && {INK} > 100")
        tab.goto(url.replace("/metrics?", "/runs?"))
        tab.wait("[...document.querySelectorAll('tr')].some(e => /rope-0\\s+40\\s+40/.test(e.innerText))")
        clean(tab)


def test_tensorboard_shows_runs_curves_and_settings(store: Path) -> None:
    with dashboard(store, "--tensorboard") as url, Browser() as browser:
        tab = browser.open(url)
        tab.wait(f"{TEXT}.includes('pos_enc/rope-0')")
        first = "document.querySelector('scalar-card').innerText.replace(/\\s/g, '')"
        tab.wait(f"{first}.includes('val/bpb')")
        tab.wait("document.querySelector('scalar-card line-chart canvas')")
        clean(tab)
        tab.goto("about:blank")  # from one hash to another nothing would be loaded
        tab.goto(url.replace("#timeseries", "#hparams"))
        tab.wait(f"{TEXT}.includes('position.name') && {TEXT}.includes('alibi')")
        clean(tab)
