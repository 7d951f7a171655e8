"""Write what the code already says: conf/<kind>/<name>.yaml, docs/components.md, sweeps/screens, tables of the pages.

The registry is the source of every swappable part and its defaults; presets (conf/model, conf/scale) are by hand. A
table stands in README.md or docs/*.md between `<!-- name -->` and `<!-- /name -->`, with a name of TABLES.

    uv run python scripts/generate.py           write what is stale, remove files of parts that are gone
    uv run python scripts/generate.py --check   change nothing; exit code 1 and a line for each stale file
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from gpt_lab import registry
from gpt_lab.atlas import atlas_files, collect, studies
from gpt_lab.config import components
from gpt_lab.devices import gpu_runs
from gpt_lab.report import gate
from gpt_lab.study import cells, sweep_file
from gpt_lab.sweep.search import search
from gpt_lab.validity import rules

ROOT = Path(__file__).resolve().parent.parent
COMMAND = "uv run python scripts/generate.py"
COMPONENTS = "docs/components.md"
RECORDED, CHECKS = "gpt_lab/devices/gpu_runs.json", "benchmarks/results"
ATLAS_PAGE, ATLAS_RUNS = "docs/atlas.md", "sweeps/results/atlas"
HEAD = f"""# Components

Every part that can be swapped, from the registry: `uv run components` prints the same. Written by `{COMMAND}`.
"""

BASELINES = {
    "attention": "mha",
    "position": "rope",
    "mlp": "swiglu",
    "norm": "rmsnorm",
    "residual": "pre",
    "init": "normal",
}
"""Kinds of parts with a sweep over all their options, and what these are compared with."""
SCREEN = """# {arms} arms x 3 seeds, written by `{command}`. Three seeds only point.
program: train
description: Every option of {kind} at a fixed budget
method: grid
metric: {{name: val/bpb, goal: minimize}}
parameters:
  {kind}: {{values: [{values}]}}
  seed: {{values: [0, 1, 2]}}
  budget.steps: {{value: 200}}
  eval.every: {{value: 100}}
command: [uv, run, train, study=screen_{kind}, "${{args_no_hyphens}}"]
gpt_lab:
  study: screen_{kind}
  question: Which options of {kind} are promising for a small model at equal parameters and a fixed budget?
  baseline: {{{kind}: {baseline}}}
  family: screen_{kind}
  match: params
  sesoi: 0.02  # bits per byte: 6 % more steps bring as much at this length
"""

TUNED = ("norm", "residual", "init", "objective")
"""Kinds that move the learning rate which is best: their arms are tuned alike."""
ATLAS_BASELINES = BASELINES | {"objective": "ce"}
ATLAS = """# {arms} arms, written by `{command}`; `uv run atlas` runs it on every corpus.
program: train
description: Every option of {kind} at a fixed budget
method: grid
metric: {{name: val/bpb, goal: minimize}}
parameters:
  {kind}: {{values: [{values}]}}
  seed: {{values: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]}}
  scale: {{value: micro}}
  tokenizer: {{value: byte}}  # below the bigram floor within the budget
  data.val_fraction: {{value: 0.02}}
  optim.lr: {{value: 8.0e-3}}  # adamw's best at this size and length
  budget.steps: {{value: 100}}
  eval.every: {{value: 100}}
command: [uv, run, train, study=atlas_{kind}, "${{args_no_hyphens}}"]
gpt_lab:
  study: atlas_{kind}
  question: Which options of {kind} help a small model at equal parameters and a fixed budget?
  baseline: {{{kind}: {baseline}}}
  family: atlas_{kind}
  match: params
  sesoi: 0.05  # bits per byte
  seeds: {{min: 3, max: 10, stop: decided}}
"""
ATLAS_RATE = "  optim.lr: {value: 8.0e-3}  # adamw's best at this size and length\n"
ATLAS_TUNE = """\
  tune:
    optim.lr: {start: 8.0e-3, factor: 2, points: 3, widen: 1}
    seeds: 2
"""


def outdated(root: Path = ROOT) -> dict[Path, str | None]:
    """Files whose content is not what it should be, with what it should be; None for one that should not exist."""
    wanted: dict[Path, str | None] = {root / "conf" / name: text for name, text in part_files().items()}
    for kind in registry.KINDS:
        for path in (root / "conf" / kind).glob("*.yaml"):
            wanted.setdefault(path, None)
    wanted |= {root / "sweeps" / "screens" / name: text for name, text in screens().items()}
    wanted |= {root / "sweeps" / "atlas" / name: text for name, text in atlas_sweeps().items()}
    wanted[root / RECORDED] = json.dumps(ran_on_gpus(), indent=1) + "\n"
    wanted[root / COMPONENTS] = "\n".join(catalogue_page())
    wanted[root / ATLAS_PAGE] = atlas_page()
    for page in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        if page not in (root / COMPONENTS, root / ATLAS_PAGE) and page.is_file():
            wanted[page] = filled(page.read_text(encoding="utf-8"))
    return {path: text for path, text in wanted.items() if text != _content(path)}


def part_files() -> dict[str, str]:
    """`kind/name.yaml` -> its text: the name, then each option with the default of its class."""
    return {
        f"{kind}/{name}.yaml": _yaml({"name": name} | {key: choice.default for key, choice in entry.choices.items()})
        for kind, entries in _shipped().items()
        if kind in registry.KINDS
        for name, entry in entries.items()
    }


def _compared(kind: str, baseline: str) -> list[str]:
    """The options of a kind that a sweep over them has, the baseline first."""
    offered = [name for name in _shipped()[kind] if (kind, name) not in studies.LEFT_OUT]
    return sorted(offered, key=lambda name: name != baseline)


def screens() -> dict[str, str]:
    """File name -> text of the sweep over the options of a kind; the baseline comes first."""
    files = {}
    for kind, baseline in BASELINES.items():
        names = _compared(kind, baseline)
        text = SCREEN.format(kind=kind, baseline=baseline, arms=len(names), values=", ".join(names), command=COMMAND)
        files[f"{kind}.yaml"] = text
    return files


def atlas_sweeps() -> dict[str, str]:
    """File name -> text of the sweep that compares the options of a kind for docs/atlas.md."""
    files = {}
    for kind, baseline in ATLAS_BASELINES.items():
        names = _compared(kind, baseline)
        text = ATLAS.format(kind=kind, baseline=baseline, arms=len(names), values=", ".join(names), command=COMMAND)
        if kind in TUNED:
            text = text.replace(ATLAS_RATE, "") + ATLAS_TUNE
        files[f"{kind}.yaml"] = text
    return files


def atlas_page() -> str:
    """The text of docs/atlas.md, from the runs that are committed."""
    return atlas_files.markdown(collect.from_folder(ROOT / ATLAS_RUNS), f"../{ATLAS_RUNS}/")


def catalogue_page() -> Iterator[str]:
    """The lines of docs/components.md."""
    yield HEAD
    for kind, entries in _shipped().items():
        yield f"## {kind}\n"
        yield f"{components.KINDS[kind].capitalize()}.\n"
        for name, entry in entries.items():
            yield f"### {kind}={name}\n"
            yield f"{_sentence(entry.summary)}{f' {_sentence(entry.paper)}' if entry.paper else ''}\n"
            if entry.on_gpu:
                yield f"{_sentence(entry.on_gpu)}\n"
            if entry.choices:
                yield "| key | default | allowed | meaning |\n|---|---|---|---|"
                for key, choice in entry.choices.items():
                    dotted = key if kind == "model" else f"{kind}.{key}"
                    default = "required" if choice.required else f"`{choice.shown}`"
                    yield f"| `{dotted}` | {default} | {_cell(choice.allowed)} | {_cell(choice.meaning)} |"
                yield ""


def ran_on_gpus(root: Path = ROOT) -> dict[str, list[str]]:
    """What the committed checks of GPUs (`doctor --cuda`) have seen to run -> their names."""
    found: dict[str, list[str]] = {}
    for path in sorted((root / CHECKS).glob("device-*.json")):
        checked = json.loads(path.read_text(encoding="utf-8"))
        for step, outcome in checked["steps"].items():
            if outcome["state"] == "ok":
                found.setdefault(step, []).append(checked["device"]["gpu"])
    return found


def devices_table() -> list[str]:
    """What each device computes, and where it has been seen to."""
    rows = ["| what | on a GPU |", "|---|---|"]
    every = ("kernel=math", "kernel=sdpa", "precision=bf16", "precision=fp16")
    whole = ("compile=on", "chunked_loss=on", "resume", "throughput, kernel=auto", "trials")
    found = ran_on_gpus()
    for what in (*every, *gpu_runs.ONLY_THERE, *whole):
        rows.append(f"| {what} | {', '.join(found.get(what, [])) or gpu_runs.NEVER} |")
    return rows


def components_table() -> list[str]:
    """What each kind decides, and its names."""
    rows = ["| group | what it decides | names |", "|---|---|---|"]
    for kind, entries in _shipped().items():
        rows.append(f"| `{kind}` | {components.KINDS[kind]} | {' '.join(f'`{name}`' for name in entries)} |")
    return rows


def screens_table() -> list[str]:
    """The files of sweeps/screens, how many runs they take, and what came out where it is committed."""
    rows = ["| file | runs | report |", "|---|---|---|"]
    for name, text in screens().items():
        kind, asked = name.removesuffix(".yaml"), yaml.safe_load(text)["parameters"]
        count = len(asked[kind]["values"]) * len(asked["seed"]["values"])
        place = f"sweeps/results/screens/{kind}/report.md"
        report = f"[report](../{place})" if (ROOT / place).is_file() else "not run yet"
        rows.append(f"| [{kind}](../sweeps/screens/{kind}.yaml) | {count} | {report} |")
    return rows


def sweeps_table() -> list[str]:
    """The sweeps that are no ready-made question: what each asks, linked to a committed report, and its runs."""
    asked = json.loads((ROOT / "benchmarks" / "results" / "questions.json").read_text(encoding="utf-8"))["questions"]
    rows = ["| file | question | runs |", "|---|---|---|"]
    for path in sorted((ROOT / "sweeps").glob("*.yaml")):
        if path.stem not in asked:
            sweep = sweep_file.load(path)
            tuner = search.Search(sweep).tuner
            sizes = (
                [len(cells.cells(sweep))] if tuner is None else [n + len(tuner.rows) for n in (tuner.least, tuner.most)]
            )
            count = " to ".join(map(str, sizes))
            place = f"sweeps/results/{path.stem}/report.md"
            asks = f"[{sweep.design.question}](../{place})" if (ROOT / place).is_file() else sweep.design.question
            rows.append(f"| [{path.stem}](../sweeps/{path.name}) | {asks} | {count} |")
    return rows


def fairness_table() -> list[str]:
    """Each rule on fair comparison, what it withholds, and the way out."""
    rows = ["| what is not fair | withheld | way out |", "|---|---|---|"]
    return rows + [f"| {rule.title} | {rule.withheld} | {rule.way} |" for rule in rules.RULES.values()]


def smallest_rule() -> list[str]:
    """The shortest file of a rule, as an example."""
    files = sorted(Path(rules.__file__).parent.glob("[a-z]*.py"))
    text = min((path.read_text(encoding="utf-8") for path in files), key=len)
    return ["```python", *text.splitlines(), "```"]


def gate_table() -> list[str]:
    """The exit statuses of `report --gate`, by the verdict."""
    rows = ["| status | decision | verdict |", "|---|---|---|"]
    for decision, status in gate.EXIT.items():
        verdicts = "; ".join(verdict for verdict, what in gate.TABLE.items() if what == decision)
        rows.append(f"| {status} | {decision} | {verdicts} |")
    return rows


TABLES: Mapping[str, Callable[[], list[str]]] = {
    "components": components_table,
    "devices": devices_table,
    "sweeps": sweeps_table,
    "screens": screens_table,
    "fairness": fairness_table,
    "rule": smallest_rule,
    "gate": gate_table,
}


def filled(text: str) -> str:
    """A page with its marked tables as they should be."""
    for name, table in TABLES.items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if marked.search(text):
            rows = "\n".join(table()) + "\n"
            text = marked.sub(lambda found, rows=rows: found[1] + rows + found[2], text)  # type: ignore[misc]
    return text


def _shipped() -> components.Catalogue:
    """The catalogue without parts of one's own, which a clone may hold in parts/."""
    parts = registry.index()
    return {
        kind: {
            name: entry
            for name, entry in entries.items()
            if kind in components.PRESETS or parts[kind][name].module.startswith("gpt_lab.")
        }
        for kind, entries in components.catalogue().items()
    }


def _yaml(values: Mapping[str, object]) -> str:
    known = {key: "???" if value is registry.REQUIRED else value for key, value in values.items()}
    text: str = yaml.safe_dump(known, sort_keys=False, allow_unicode=True, default_flow_style=False, width=1000)
    return text


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _content(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes or checks; see the module's head."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if a file is stale")
    check = parser.parse_args(arguments).check
    stale = outdated()
    for path, text in stale.items():
        print(f"{'stale' if check else 'written' if text is not None else 'removed'}: {path.relative_to(ROOT)}")
        if not check:
            if text is None:
                path.unlink()
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    if not check and ROOT / RECORDED in stale:  # the catalogue and the pages read it
        gpu_runs.read.cache_clear()
        return main(arguments)
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
