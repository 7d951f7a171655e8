"""The W&B double with sweeps, agents, and what `wandb.Api` reads."""

from __future__ import annotations

import itertools
import json
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from tests.trackers.wandb_double import RecordedRun, WandbDouble

Arguments = dict[str, Any]
"""The swept values of one run."""


@dataclass
class RecordedSweep:
    """One sweep as the server knows it."""

    name: str
    project: str
    entity: str
    config_text: str
    state: str = "PENDING"
    agents: list[str] = field(default_factory=list)
    runs: dict[str, Arguments] = field(default_factory=dict)
    """What was handed out, by run."""
    waiting: list[Arguments] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    """Runs that an agent shall resume."""

    @property
    def config(self) -> dict[str, Any]:
        return dict(yaml.safe_load(self.config_text))


class SweepDouble(WandbDouble):
    """Hands out the cells of a grid one by one, and stops runs and sweeps on demand.

    `page` is how many runs one answer to `wandb.Api().runs` holds at most.
    """

    page = 50

    def __init__(self, port: int = 0) -> None:
        super().__init__(port)
        self.sweeps: dict[str, RecordedSweep] = {}
        self._guard = threading.Lock()

    @property
    def sweep(self) -> RecordedSweep:
        """The only sweep."""
        (sweep,) = self.sweeps.values()
        return sweep

    def resume_run(self, name: str) -> None:
        """Lets the next agent that is free run this run again, with the values that it had."""
        self.sweep.again.append(name)

    # sweeps and agents

    def on_UpsertSweep(self, variables: dict[str, Any]) -> dict[str, Any]:
        if variables.get("id"):
            sweep = self.sweeps[variables["id"].removeprefix("SW-")]
            sweep.state = variables.get("state") or sweep.state
        else:
            name = f"sweep{len(self.sweeps)}"
            project = variables.get("projectName") or "uncategorized"
            sweep = RecordedSweep(name, project, variables.get("entityName") or self.entity, variables["config"])
            sweep.waiting = cells(sweep.config)
            self.sweeps[name] = sweep
        project = {"id": "P", "name": sweep.project, "entity": {"id": "E", "name": sweep.entity}}
        return {"upsertSweep": {"sweep": {"name": sweep.name, "project": project}, "configValidationWarnings": []}}

    def on_SweepWithRuns(self, variables: dict[str, Any]) -> dict[str, Any]:
        sweep = self.sweeps.get(variables["sweep"])
        if sweep is None:
            return {"project": {"sweep": None}}
        nodes = [{"node": self._node(self.runs[name])} for name in sweep.runs if name in self.runs]
        return {"project": {"sweep": {**self._described(sweep), "runs": {"edges": nodes}}}}

    def on_CreateAgent(self, variables: dict[str, Any]) -> dict[str, Any]:
        sweep = self.sweeps[variables["sweep"]]
        sweep.agents.append(f"{sweep.name}:agent{len(sweep.agents)}")
        sweep.state = "RUNNING"
        return {"createAgent": {"agent": {"id": sweep.agents[-1]}}}

    def on_Heartbeat(self, variables: dict[str, Any]) -> dict[str, Any]:
        agent = variables["id"]
        sweep = self.sweeps[agent.partition(":")[0]]
        alive = [name for name, state in json.loads(variables["runState"]).items() if state]
        with self._guard:
            commands = self._commands(sweep, alive)
        return {"agentHeartbeat": {"agent": {"id": agent}, "commands": json.dumps(commands)}}

    def _commands(self, sweep: RecordedSweep, alive: list[str]) -> list[dict[str, Any]]:
        """As W&B: FINISHED lets living runs end, CANCELED stops them, PAUSED keeps the agent waiting."""
        known = [name for name in alive if name in self.runs]
        stopped = alive if sweep.state == "CANCELED" else [name for name in known if self.runs[name].stop]
        if stopped:
            return [{"type": "stop", "run_id": name} for name in stopped]
        if alive or sweep.state == "PAUSED":
            return []
        if sweep.state == "RUNNING" and sweep.again:
            name = sweep.again.pop(0)
            self.runs[name].stop = self.runs[name].complete = False
            return [self._job(sweep, "resume", name)]
        if sweep.state == "RUNNING" and sweep.waiting:
            name = f"{sweep.name}run{len(sweep.runs)}"
            sweep.runs[name] = sweep.waiting.pop(0)
            return [self._job(sweep, "run", name)]
        if sweep.state == "RUNNING":
            sweep.state = "FINISHED"
        return [{"type": "exit"}]

    def _job(self, sweep: RecordedSweep, kind: str, name: str) -> dict[str, Any]:
        values = {key: {"value": value} for key, value in sweep.runs[name].items()}
        return {"type": kind, "run_id": name, "program": sweep.config.get("program"), "args": values}

    # what wandb.Api reads

    def on_GetDefaultEntity(self, variables: dict[str, Any]) -> dict[str, Any]:
        return self.on_Viewer(variables)

    def on_GetSweep(self, variables: dict[str, Any]) -> dict[str, Any]:
        sweep = self.sweeps.get(variables["name"])
        if sweep is None or sweep.project != variables["project"]:
            return {"project": {"sweep": None}}
        return {"project": {"sweep": self._described(sweep)}}

    on_GetSweepLegacy = on_GetSweep

    def on_Runs(self, variables: dict[str, Any]) -> dict[str, Any]:
        mine = [run for run in self.runs.values() if run.project == variables["project"]]
        if not mine and all(sweep.project != variables["project"] for sweep in self.sweeps.values()):
            return {"project": None}
        wanted = [run for run in mine if matches(run, json.loads(variables.get("filters") or "{}"))]
        first = int(variables.get("cursor") or 0)
        last = first + min(self.page, variables.get("perPage") or 50)
        edges = [
            {"node": self._node(run), "cursor": str(number)} for number, run in enumerate(wanted[first:last], first + 1)
        ]
        info = {"endCursor": str(last), "hasNextPage": last < len(wanted)}
        runs = {"edges": edges, "pageInfo": info}
        return {"project": {"internalId": "7", "runCount": len(wanted), "readOnly": False, "runs": runs}}

    def on_Run(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(variables["name"])
        return {"project": {"run": self._node(run) if run else None}}

    on_RunHistoryKeys = on_Run

    def on_RunParquetHistory(self, variables: dict[str, Any]) -> dict[str, Any]:
        """Everything is live: nothing has been packed into parquet files yet."""
        rows = self.runs[variables["runName"]].history
        return {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": rows}}}}

    def on_HistoryPage(self, variables: dict[str, Any]) -> dict[str, Any]:
        first, last = variables["minStep"], variables["maxStep"]
        rows = [row for row in self.runs[variables["run"]].history if first <= row["_step"] < last]
        return {"project": {"run": {"history": [json.dumps(row) for row in rows[: variables["pageSize"]]]}}}

    def _described(self, sweep: RecordedSweep) -> dict[str, Any]:
        return {
            "__typename": "Sweep",
            "id": f"SW-{sweep.name}",
            "name": sweep.name,
            "displayName": None,
            "method": sweep.config["method"],
            "state": sweep.state,
            "description": None,
            "config": sweep.config_text,
            "bestLoss": None,
            "createdAt": "2026-01-01T00:00:00",
            "updatedAt": None,
            "heartbeatAt": "2026-01-01T00:00:00",
            "earlyStopJobRunning": False,
            "controller": None,
            "scheduler": None,
            "runCount": len(sweep.runs),
            "runCountExpected": len(sweep.runs) + len(sweep.waiting),
        }

    def _node(self, run: RecordedRun) -> dict[str, Any]:
        history = run.history
        return {
            "id": f"R-{run.name}",
            "projectId": "7",
            "name": run.name,
            "displayName": run.display_name,
            "sweepName": run.sweep,
            "state": state(run),
            "config": json.dumps(run.config),
            "group": run.group,
            "jobType": run.job_type,
            "tags": run.tags,
            "commit": None,
            "readOnly": False,
            "createdAt": "2026-01-01T00:00:00",
            "heartbeatAt": "2026-01-01T00:00:00",
            "description": None,
            "notes": None,
            "systemMetrics": "{}",
            "summaryMetrics": json.dumps(run.summary),
            "historyLineCount": len(history),
            "historyKeys": {"lastStep": max((row["_step"] for row in history), default=-1), "keys": {}},
            "user": {"name": self.entity, "username": self.entity},
            "exitcode": run.exit_code,
            "shouldStop": run.stop,
            "failed": False,
            "stopped": run.stop,
            "running": not run.complete,
            "sampledHistory": [[]],
        }


def state(run: RecordedRun) -> str:
    """W&B's word for how a run is."""
    if not run.complete:
        return "running"
    return {0: "finished", 255: "killed"}.get(run.exit_code or 0, "failed")


def cells(config: Mapping[str, Any]) -> list[Arguments]:
    """The values of each run of a sweep: all of a grid, three draws otherwise. Fixed values are among them.

    Raises:
        KeyError, ValueError: what the real server refuses (a nested parameter, one without values).
    """
    parameters = config["parameters"]
    if config["method"] == "grid":
        lists = [listed(spec) for spec in parameters.values()]
        return [dict(zip(parameters, choice, strict=True)) for choice in itertools.product(*lists)]
    draw = random.Random(0)
    return [{name: drawn(spec, draw) for name, spec in parameters.items()} for _ in range(3)]


def listed(spec: Mapping[str, Any]) -> list[Any]:
    """The values of a parameter in a grid; whole numbers may be given by their bounds."""
    if "min" in spec:
        return list(range(spec["min"], spec["max"] + 1))
    return list(spec["values"]) if "values" in spec else [spec["value"]]


def drawn(spec: Mapping[str, Any], draw: random.Random) -> Any:
    """One value of a parameter of a random or bayes sweep; uniform between min and max."""
    if "value" in spec:
        return spec["value"]
    if "values" in spec:
        return draw.choice(spec["values"])
    low, high = spec["min"], spec["max"]
    return draw.randint(low, high) if isinstance(low, int) and isinstance(high, int) else draw.uniform(low, high)


OPERATORS: dict[str, Callable[[Any, Any], bool]] = {"$ne": lambda a, b: a != b, "$in": lambda a, b: a in b}


def matches(run: RecordedRun, filters: Mapping[str, Any]) -> bool:
    """Whether a run passes a filter in MongoDB's form; knows what the lab asks for."""
    known = {"sweep": run.sweep, "group": run.group, "jobType": run.job_type, "name": run.name}
    for key, wanted in filters.items():
        if key in ("$and", "$or"):
            parts: Sequence[Mapping[str, Any]] = wanted
            if not (all if key == "$and" else any)(matches(run, part) for part in parts):
                return False
        elif isinstance(wanted, Mapping):
            ((operator, value),) = wanted.items()
            if not OPERATORS[operator](known[key], value):
                return False
        elif known[key] != wanted:
            return False
    return True
