"""The whole check of a device, and its file."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from gpt_lab.device_check import attention, speed, training
from gpt_lab.device_check.steps import Place, Step, tried
from gpt_lab.devices import hardware
from gpt_lab.devices.pick import pick
from gpt_lab.errors import LabError
from gpt_lab.kernels import available
from gpt_lab.store.record import code, machine

FORMATS = ("precision=tf32", "precision=bf16", "precision=fp16", "precision=fp8")


def steps() -> list[Step]:
    """All that is tried, in order: what is short and decides most comes first."""
    return [
        *(Step(f"kernel={name}", attention.kernel_step(name)) for name in available()),
        *(Step(word, training.format_step(word)) for word in FORMATS),
        Step("compile=on", training.compiled),
        Step("chunked_loss=on", training.chunked),
        Step("resume", training.resumed),
        *(Step(f"throughput, kernel={name}", speed.throughput_step(name)) for name in ("auto", *available())),
        Step("trials", speed.trials),
    ]


def check(place: Place, say: Callable[[str], None], into: Path) -> tuple[dict[str, Any], Path]:
    """Tries everything on a device, and says each outcome in a line; what was found, and its file.

    Args:
        into: the folder of that file, which is written anew after each step.

    Raises:
        ConfigError: there is no such device. LabError: the file cannot be written.
    """
    pick(place.device)
    device = {"kind": place.device, **hardware.gpu(place.device)}
    if place.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        device |= {"capability": [properties.major, properties.minor], "cuda": torch.version.cuda}
        device["memory_gb"] = round(properties.total_memory / 1e9, 1)
    found: dict[str, Any] = {
        "checked": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device,
        "machine": machine() | {"torch": torch.__version__},
        "code": code(),
        "steps": {},
    }
    path = into / file_name(found)
    write(found, path)
    kept = os.environ.get("GPT_LAB_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GPT_LAB_CACHE"] = folder
        try:
            for name, outcome in tried(steps(), replace(place, folder=Path(folder))):
                found["steps"][name] = outcome
                write(found, path)
                say(f"{outcome['state']:8s} {name} ({outcome['seconds']} s) {outcome.get('error', '')}".rstrip())
        finally:
            if kept is None:
                del os.environ["GPT_LAB_CACHE"]
            else:
                os.environ["GPT_LAB_CACHE"] = kept
    return found, path


def file_name(found: Mapping[str, Any]) -> str:
    """`device-<name>.json`, by the name of the GPU."""
    name = str(found["device"].get("gpu") or found["device"]["kind"])
    return f"device-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.json"


def write(found: Mapping[str, Any], path: Path) -> None:
    """The JSON to send in.

    Raises:
        LabError: it cannot be written.
    """
    try:
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise LabError(f"cannot write {path}: {error.strerror}") from error
