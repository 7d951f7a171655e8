"""Serialization of a sweep: JSON in the ledger, readable text beside it."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

from gpt_lab import yamlfile
from gpt_lab.study import sweep_file
from gpt_lab.study.design import Design, Looks
from gpt_lab.study.sweep import Sweep


def to_json(sweep: Sweep) -> str:
    fields = {
        "path": str(sweep.path),
        "raw": sweep.content,
        "design": dataclasses.asdict(sweep.design),
        "method": sweep.method,
        "overrides": sweep.overrides,
        "run_cap": sweep.run_cap,
    }
    return dump(fields)


def from_json(text: str) -> Sweep:
    fields = json.loads(text)
    design = fields.pop("design")
    for name in ("factors", "within", "nuisance", "tuning_pairs"):
        design[name] = tuple(design.get(name, ()))
    design["values"] = {key: tuple(values) for key, values in design["values"].items()}
    if design.get("factorial") is not None:
        design["factorial"] = tuple(map(tuple, design["factorial"]))
    if design.get("looks") is not None:
        design["looks"] = Looks(**design["looks"])
    return sweep_file.restore(
        Path(fields["path"]),
        fields["raw"],
        Design(**design),
        fields["method"],
        fields["overrides"],
        fields["run_cap"],
    )


def search(sweep: Sweep) -> str:
    """What draws depend on: drawn cells of another search are no part of this one."""
    parts = {key: sweep.content.get(key) for key in ("method", "parameters", "metric")}
    return dump({**parts, "gpt_lab": sweep.content.get("gpt_lab"), "overrides": sweep.overrides})


def readable(sweep: Sweep) -> str:
    """The file's own text, comments included; written anew where the command line changed what it says."""
    import yaml

    head = f"# overrides of the command line: {shlex.join(sweep.overrides)}\n" if sweep.overrides else ""
    try:
        text = sweep.path.read_text(encoding="utf-8")
        if yaml.safe_load(text) == dict(sweep.content):
            return head + text
    except (OSError, ValueError, yaml.YAMLError):
        pass
    return head + yamlfile.text(json.loads(dump(sweep.content)))


def dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
