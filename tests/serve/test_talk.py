"""The command in a report that opens two arms, run as far as the two models that it serves."""

from __future__ import annotations

import html
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from gpt_lab.cli.trained import serve
from gpt_lab.report import talk
from gpt_lab.report.page import page
from gpt_lab.report.tables import Report
from gpt_lab.serve import served_model
from tests.made_run import run_maker
from tests.report.fabricated import comparison, plain


def test_the_shown_command_opens_the_baseline_and_the_best_other_arm(tmp_path: Path) -> None:
    _, made = plain()
    make = run_maker(tmp_path)
    for position in ("rope", "learned", "alibi"):
        run = make(f"{position}-1", study="pos_enc", position=position)
        place = (made.runs["config.position.name"] == position) & (made.runs["pair"] == "1")
        made.runs.loc[place, "run"] = str(run.path)
    compared = comparison(made)
    shown = page(Report(compared, made), [], "report pos_enc")
    (line,) = re.findall(r"<pre><code>(\S.* serve .*|serve .*)</code></pre>", shown)
    words = shlex.split(html.unescape(line))
    arguments = serve.parse(words[words.index("serve") + 1 :])
    opened = served_model.load(arguments.models, arguments.runs_dir, None, "cpu")
    assert list(opened) == ["pos_enc/learned-1", "pos_enc/rope-1"]


def test_runs_that_are_not_here_are_not_offered() -> None:
    assert talk.command(*plain()) == ""


@pytest.mark.parametrize("why", ["reads both ways", "has no checkpoint", "is damaged"])
def test_runs_that_serve_refuses_are_not_offered(tmp_path: Path, why: str) -> None:
    _, made = plain()
    make = run_maker(tmp_path)
    for position in ("rope", "learned"):
        weights: dict[str, Any] = {"checkpoints": {}, "links": {}} if why == "has no checkpoint" else {}
        run = make(f"{position}-1", study="pos_enc", position=position, **weights)
        place = (made.runs["config.position.name"] == position) & (made.runs["pair"] == "1")
        made.runs.loc[place, "run"] = str(run.path)
        if why == "reads both ways":
            run.update(text={"generates": ""})
        elif why == "is damaged":
            (run.path / "run.json").write_text("{", encoding="utf-8")
    assert talk.command(comparison(made), made) == ""
