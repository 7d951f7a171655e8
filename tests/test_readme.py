"""README says what is true: its commands run, its lists are the registry's, its links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from benchmarks import questions
from gpt_lab import components
from gpt_lab.plan import paces
from gpt_lab.study import cells, sweep_file
from gpt_lab.study.design import Sweep
from gpt_lab.sweep.search import search
from tests import commands
from tests.helpers import stand_in

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "CONTRIBUTING.md")
SHORT = [
    *("scale.depth=2", "scale.width=64", "scale.context=64", "batch.tokens=512", "eval.tokens=2048"),
    *("eval.every=4", "compile=off"),
]
"""What makes a README training run short; how long it trains is the last part of what it does."""


@dataclass(frozen=True)
class Run:
    """A command that is executed here; `more` only makes it shorter; `statuses` are those that it may leave with."""

    output: str
    more: list[str] = field(default_factory=list)
    statuses: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Elsewhere:
    """A command that cannot run inside a test, or is one: the file that covers it, and why."""

    covered_by: str
    why: str


STEPS = [*SHORT, "budget.steps=8"]
COMMANDS: dict[str, Run | Elsewhere] = {
    "uv run train": Run("val bits per byte", STEPS),
    "uv run pytest": Elsewhere(".ci/run", "it is what runs this test"),
    'uv run generate run=latest prompt="ROMEO:"': Run("ROMEO:"),
    "uv run train model=gqa_rope optim=muon": Run("val bits per byte", STEPS),
    "uv run train attention=gqa attention.kv_heads=2 position=alibi": Run("val bits per byte", STEPS),
    "uv run train scale=nano norm=layernorm budget.tokens=2e6 seed=1": Run(
        "val bits per byte", [*SHORT, "budget.tokens=4e3"]
    ),
    "uv run train +experiment=shakespeare_char_cpu": Run("val bits per byte", [*STEPS, "schedule.warmup=2"]),
    "uv run components": Run("attention: "),
    "uv run components attention gqa": Run("attention=gqa"),
    "uv run train model=llama --cfg": Run("attention:"),
    'uv run generate run=latest prompt="JULIET:" temperature=0.7 top_k=50 max_tokens=100': Run("JULIET:"),
    "uv run generate --help": Run("usage: generate"),
    "uv run train data=text data.path=my_texts/": Run("val bits per byte", [*STEPS, "tokenizer=byte"]),
    "uv run prepare data=text data.path=my_texts/": Run("tokens", ["tokenizer=byte"]),
    "uv run sweep sweeps/pos_enc.yaml --dry-run": Run("better from a true difference"),
    "uv run sweep sweeps/pos_enc.yaml": Run("5 cells: 5 finished", ["--seeds", "1"]),
    "uv run report sweeps/pos_enc.yaml": Run("report.html"),
    "uv run sweep sweeps/attention.yaml match=params --dry-run": Run("matched by", STEPS),
    "uv run train mlp=gelu match=flops": Run("val bits per byte", STEPS),
    "uv run report runs/pos_enc --details": Run("position=alibi"),
    "uv run report --help": Run("usage: report"),
    "uv run report sweeps/pos_enc.yaml --claim positions": Run("wrote claims/positions"),
    "uv run verify positions": Run("verified: 2 of 2 runs"),
    "uv run report sweeps/pos_enc.yaml --gate alibi": Run(": position=alibi: ", statuses=(0, 1, 2)),
    "uv run noise sweeps/pos_enc.yaml": Run("sd of a null pair's difference", ["--seeds", "3"]),
    "uv run sweep sweeps/pos_enc.yaml --dry-run --target-effect 0.05": Run("null pairs of"),
    "uv run noise --list": Run("Noise floors in runs"),
    "uv run sweep sweeps/budgets.yaml --dry-run": Run("trunk and branch: 24 runs for the cost of 12.5"),
    "uv run sweep sweeps/optim.yaml --dry-run": Run("tuning: 36 to 48 runs, as many for each of 4 arms", STEPS),
    "uv run train position=alibi 'eval.contexts=[1,2,4,8]'": Run(
        "val bits per byte at 2x the context", [*STEPS, "eval.contexts=[1,2]"]
    ),
    "uv run sweep sweeps/interactions.yaml --dry-run": Run("full two-level factorial of 3 factors: 8 arms", STEPS),
    "uv run sweep recall --report": Run("wrote runs/recall/report/report.md", ["--seeds", "1"]),
    "uv run sweep sweeps/position_seeds.yaml --dry-run": Run("sequential seeds: 3 to 8 for each of 4 arms", STEPS),
    "uv run wandb sweep sweeps/pos_enc.yaml": Elsewhere("tests/sweep/test_wandb_agent.py", "needs a server"),
    "uv run wandb agent ENTITY/gpt_lab/SWEEP_ID": Elsewhere("tests/sweep/test_wandb_agent.py", "needs a server"),
    "uv run report sweeps/pos_enc.yaml --from wandb:ENTITY/gpt_lab/SWEEP_ID": Elsewhere(
        "tests/frame/sources/test_wandb_server.py", "needs a server"
    ),
    "uv sync --extra dashboard": Elsewhere("tests/cli/test_dashboard.py", "needs an index"),
    "uv run dashboard": Run("mirror", ["--once"]),
    "uv run dashboard runs/pos_enc --tensorboard": Run("mirror", ["--once"]),
    "uv run wandb login": Elsewhere("tests/trackers", "it asks for a key"),
    "uv run components norm my_norm": Elsewhere("tests/test_thirdparty.py", "needs the file of parts/"),
    "uv run upload": Elsewhere("tests/trackers/test_wandb.py", "needs a server"),
    "uv run train norm=my_norm attention=my_attention attention.slope=2.0": Elsewhere(
        "tests/test_thirdparty.py", "needs the file of parts/"
    ),
    "uv run doctor": Run("Ready to train"),
    "uv run ruff check --fix": Elsewhere(".ci/run", "lint is a step of its own"),
    "uv run ruff format": Elsewhere(".ci/run", "format is a step of its own"),
    "uv run mypy": Elsewhere(".ci/run", "types are a step of its own"),
    'uv run pytest -m "not slow"': Elsewhere(".ci/run", "part of the whole run"),
    "uv run pytest -n 0 tests/test_registry.py": Elsewhere("tests/test_registry.py", "part of the whole run"),
    "uv add some-package": Elsewhere("tests/test_portable_lock.py", "needs an index"),
    "uv run python scripts/portable_lock.py": Elsewhere("tests/test_portable_lock.py", "rewrites uv.lock"),
    "git add pyproject.toml uv.lock": Elsewhere("tests/test_portable_lock.py", "changes the checkout"),
}


def shown(page: str) -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    return [re.sub(r"\s+#.*$", "", line) for line in lines if line.strip() and not line.startswith("#")]


ALL = [line for page in PAGES for line in shown(page)]


def test_every_command_is_known() -> None:
    unknown = [line for line in ALL if line not in COMMANDS]
    assert not unknown, "say in COMMANDS what they do"
    stale = [line for line in COMMANDS if line not in ALL]
    assert not stale, "these are in no page any more"


@pytest.mark.parametrize("line", [line for line, what in COMMANDS.items() if isinstance(what, Elsewhere)])
def test_what_runs_elsewhere_exists(line: str) -> None:
    what = COMMANDS[line]
    assert isinstance(what, Elsewhere)
    assert (ROOT / what.covered_by).exists()


@pytest.mark.slow
def test_commands_run(tmp_path: Path) -> None:
    """All of them in README's order, in one folder: later ones build on earlier ones."""
    texts = tmp_path / "my_texts"
    texts.mkdir()
    for number in range(4):
        words = " ".join(f"word{(i * i + number) % 97}" for i in range(4000))
        (texts / f"{number}.txt").write_text(words, encoding="utf-8")
    shutil.copytree(ROOT / "sweeps", tmp_path / "sweeps")
    make_short(tmp_path / "sweeps" / "pos_enc.yaml", STEPS)
    make_short(tmp_path / "sweeps" / "recall.yaml", ["budget.steps=4", "eval.every=4"])
    for line in ALL:
        what = COMMANDS[line]
        if isinstance(what, Run):
            done = execute(line, what.more, tmp_path)
            assert done.returncode in what.statuses, f"{line}\n{done.stdout}\n{done.stderr}"
            assert what.output in done.stdout, f"{line}\n{done.stdout}\n{done.stderr}"
            assert "Traceback" not in done.stderr, line
    studies = [path.parent.parent.name for path in tmp_path.glob("runs/*/*/run.json")]
    assert sum(name.startswith("noise-") for name in studies) == 6, "three null pairs"
    alone = [name for name in studies if name not in ("pos_enc", "recall") and not name.startswith("noise-")]
    assert len(alone) == sum(
        isinstance(what, Run) and line.startswith("uv run train") and "--cfg" not in line
        for line, what in COMMANDS.items()
    ), "each training command is a run of its own"


def make_short(file: Path, settings: Sequence[str]) -> None:
    """The file itself: settings on the command line would be another study, which later commands do not mean."""
    raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    for key, value in (one.split("=") for one in [*settings, "tracker=none"]):
        raw["parameters"][key] = {"value": yaml.safe_load(value)}
    file.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")


def execute(line: str, more: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """`uv run SCRIPT ARGUMENTS` without uv, which would look for an index."""
    words = shlex.split(line)
    assert words[:2] == ["uv", "run"]
    shorter = {one.partition("=")[0] for one in more}
    arguments = [*(word for word in words[2:] if word.partition("=")[0] not in shorter), *more]
    # tests/cli/test_sweep.py has a dry run that times steps
    return commands.run(arguments, folder, before=told_paces if "--dry-run" in words else None)


def told_paces() -> None:
    """A dry run is told how long a step takes."""
    paces._measure = stand_in


def test_it_leads_with_the_two() -> None:
    assert shown("README.md")[:3] == [
        "uv run train",
        "uv run pytest",
        'uv run generate run=latest prompt="ROMEO:"',
    ]


def test_ci_ends_with_the_test_command() -> None:
    """What prints last in .ci/run is pytest's closing line."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert script.splitlines()[-1] == shown("README.md")[1]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_the_list_of_questions() -> None:
    """The table is what the sweep files ask and, once they have all been run, what came out."""
    between = questions.BLOCK.search((ROOT / "README.md").read_text(encoding="utf-8"))
    assert between is not None
    assert between[0] == questions.table(questions.committed().get("questions", {}))


def sweep_of_one_s_own(name: str, folder: Path) -> Sweep:
    """A sweep file that README shows, read."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(rf"<!-- sweep: sweeps/{name} -->\n```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert block is not None
    path = folder / name
    path.write_text(block[1], encoding="utf-8")
    return sweep_file.load(path)


def test_the_sweep_file_of_one_s_own(tmp_path: Path) -> None:
    found = cells.cells(sweep_of_one_s_own("my_question.yaml", tmp_path))
    assert len(found) == 2 * 2 * 5
    assert {cell.arm for cell in found} == {
        f"mlp={m}, position={p}" for m in ("gelu", "swiglu") for p in ("rope", "alibi")
    }


def test_the_sweep_file_that_tunes(tmp_path: Path) -> None:
    found = search.Search(sweep_of_one_s_own("tuned_question.yaml", tmp_path))
    assert found.tuner is not None and found.most == 2 * 3 * (5 + 4) + 2 * 5
    assert [arm.ladders[0].start for arm in found.tuner.arms] == [0.004, 0.008], "AdamW's is its config's"


@pytest.mark.parametrize("page", PAGES)
def test_settings_exist(page: str) -> None:
    """Every `kind=name` and `section.key` that a page mentions in running text is one that the lab has."""
    from gpt_lab import config

    prose = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for kind, name in re.findall(r"`(\w+)=([\w.]+)`", prose):
        if kind in components.KINDS:
            assert name in components.catalogue(kind)[kind], f"{kind}={name}"
    tree = config.compose([]).flat()
    for key in re.findall(r"`((?:batch|budget|eval|checkpoint|log|sample|scale|model)\.\w+)`", prose):
        assert key in tree, key


@pytest.mark.parametrize("page", PAGES)
def test_local_links(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", text):
        assert (ROOT / target).exists(), target
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    places = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= places
    assert all(len(line) <= (800 if line.startswith("|") else 400) for line in text.splitlines())
