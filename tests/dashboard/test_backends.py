"""Both mirrors hold what the store holds, whatever happens to the runs, the dashboard, or its lock."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpt_lab.dashboard import tensorboard_mirror, trackio_mirror
from gpt_lab.dashboard.follow import CLOCKS, Follower, Seen
from gpt_lab.errors import ConfigError
from gpt_lab.store import Run, all_runs
from tests.dashboard.run_folders import log, make

Curves = dict[str, dict[str, list[tuple[int, float]]]]
HERE = Path(os.environ["HOME"]) / f"trackio_{os.getpid()}"
"""trackio reads its folder once, when it is imported: the tests of a process share one."""


@pytest.fixture(scope="module", autouse=True)
def _imported_for_here() -> Iterator[None]:
    """Whichever test comes first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", os.environ.copy())
        trackio_mirror.TrackioMirror(HERE)
        yield


class TrackioCase:
    clocks = True

    def __init__(self) -> None:
        self.sink = trackio_mirror.TrackioMirror(HERE)

    def curves(self) -> Curves:
        storage, found = self.sink._storage, {}
        for project in storage.get_projects():
            for record in storage.get_run_records(project):
                curves: dict[str, list[tuple[int, float]]] = {}
                for row in storage.get_logs(project, record["name"], run_id=record["id"], max_points=None):
                    for name in row.keys() - {"step", "timestamp"}:
                        curves.setdefault(name.removeprefix("progress/"), []).append((row["step"], row[name]))
                found[f"{project}/{record['name']}"] = {name: sorted(points) for name, points in curves.items()}
        return found


def scalars(place: Path) -> dict[str, list[tuple[int, float]]]:
    """The curves in an event file, read as TensorBoard's server reads them."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(place), size_guidance={"tensors": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["tensors"] if not tag.startswith("_hparams_")]
    curves = {
        tag: sorted((event.step, make_ndarray(event.tensor_proto).item()) for event in events.Tensors(tag))
        for tag in tags
    }
    return {tag: points for tag, points in curves.items() if points}


class TensorBoardCase:
    clocks = False

    def __init__(self, folder: Path) -> None:
        self.sink = tensorboard_mirror.TensorBoardMirror(folder)

    def curves(self) -> Curves:
        found = {}
        for place in sorted(self.sink.logs.glob("*/*/")):
            found[f"{place.parent.name}/{place.name}"] = scalars(place)
        return found


@pytest.fixture(params=["trackio", "tensorboard"])
def case(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes backends over one mirror: each call is a dashboard that is started anew."""
    if request.param == "tensorboard":
        yield lambda: TensorBoardCase(tmp_path / "mirror")
        return
    monkeypatch.setattr(os, "environ", os.environ.copy())
    yield TrackioCase
    shutil.rmtree(HERE, ignore_errors=True)


def truth(runs_dir: Path, clocks: bool) -> Curves:
    """What metrics.jsonl holds, by run and metric; with tokens, flops and seconds where the backend has them."""
    found: Curves = {}
    for run in all_runs(runs_dir):
        curves = found[f"{run.study}/{run.name}"] = {}
        for row in run.metrics():
            for name in row.keys() - {"step"} - (set() if clocks else set(CLOCKS)):
                curves.setdefault(name, []).append((row["step"], pytest.approx(row[name])))
    return found


def test_whatever_happens_the_mirror_is_the_store(case: Any, tmp_path: Path) -> None:
    """Random lives of runs, looked at in between, with dashboards that end and begin again."""
    store, dice = tmp_path / "runs", random.Random(7)
    backend = case()
    follower = Follower([store], backend.sink)
    names = iter(range(1000))
    for _ in range(60):
        runs = all_runs(store)
        action = dice.choice(["new", "log", "log", "log", "validate", "truncate", "restart", "remove", "dashboard"])
        run = dice.choice(runs) if runs else None
        steps = [row["step"] for row in run.metrics()] if run else []
        last = steps[-1] if steps else 0
        if action == "new" or run is None:
            make(store, dice.choice(["pos_enc", "seeds"]), f"run{next(names)}", dice.randrange(3))
        elif action == "log":
            log(run, last + 1, last + dice.randrange(1, 5))
        elif action == "validate" and last:
            run.log(last, {"val/bpb": dice.random(), "train/loss": dice.random()})
        elif action == "truncate":
            run.truncate_after(dice.randrange(last + 1))
        elif action == "restart":
            run.restart()
        elif action == "remove" and len(runs) > 2:
            shutil.rmtree(run.path)
        elif action == "dashboard":
            backend = case()
            follower = Follower([store], backend.sink)
        if dice.random() < 0.7:
            follower.poll()
            assert backend.curves() == truth(store, backend.clocks), action
    follower.poll()
    assert backend.curves() == truth(store, backend.clocks)
    again = case()
    Follower([store], again.sink).poll()
    assert again.curves() == truth(store, backend.clocks), "a new dashboard doubles nothing"


@pytest.mark.parametrize("meanwhile", ["nothing", "taken back"])
def test_a_dashboard_that_was_killed_between_two_writes(
    case: Any, meanwhile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are there, the note of them is not (or the stale ones not yet gone): the next one mends it."""
    run = make(tmp_path / "runs", "pos_enc", "a", 5)
    backend = case()
    Follower([tmp_path / "runs"], backend.sink).poll()
    run.truncate_after(3)
    log(run, 4, 9)

    class Killed(BaseException):
        pass

    def kill(*args: Any) -> None:
        raise Killed

    backend = case()
    follower = Follower([tmp_path / "runs"], backend.sink)
    with monkeypatch.context() as patch:
        if isinstance(backend, TensorBoardCase):
            patch.setattr(backend.sink, "_keep_note", kill)
        else:
            patch.setattr(backend.sink, "_write", kill)
        with pytest.raises(Killed):
            follower.poll()
    if meanwhile == "taken back":
        run.truncate_after(2)
    backend = case()
    Follower([tmp_path / "runs"], backend.sink).poll()
    assert backend.curves() == truth(tmp_path / "runs", backend.clocks)


def test_values_that_are_not_finite_are_kept(case: Any, tmp_path: Path) -> None:
    run = make(tmp_path / "runs", "pos_enc", "a")
    for step, value in enumerate((1.0, float("nan"), float("inf"), 2.0), start=1):
        run.log(step, {"train/loss": value})
    backend = case()
    Follower([tmp_path / "runs"], backend.sink).poll()
    points = dict(backend.curves()["pos_enc/a"]["train/loss"])
    assert (points[1], points[4]) == (1.0, 2.0) and [str(points[2]), str(points[3])] == ["nan", "inf"]


def test_trackio_holds_settings_and_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    run = make(tmp_path, "pos_enc", "a", 3, position="alibi", seed=4)
    sink = trackio_mirror.TrackioMirror(HERE)
    follower = Follower([tmp_path], sink)
    follower.poll()
    configs = sink._storage.get_all_run_configs("pos_enc")
    (config,) = configs.values()
    expected = Seen(run.path, "a", Run.open(run.path).record, "default").settings
    assert config == expected and config["position.name"] == "alibi" and config["state"] == "running"
    run.finish("finished", {"val/bpb": 2.0})
    follower.poll()
    (config,) = sink._storage.get_all_run_configs("pos_enc").values()
    assert config == expected | {"state": "finished"}
    run.update(state="failed")  # while no dashboard looks
    Follower([tmp_path], trackio_mirror.TrackioMirror(HERE)).poll()
    (config,) = sink._storage.get_all_run_configs("pos_enc").values()
    assert config["state"] == "failed"
    (record,) = sink._storage.get_run_records("pos_enc")
    assert len(sink._storage.get_logs("pos_enc", "a", run_id=record["id"])) == 3, "the state is no row"
    shutil.rmtree(HERE)


def test_trackio_shows_a_run_before_its_first_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    run = make(tmp_path, "pos_enc", "a")
    sink = trackio_mirror.TrackioMirror(HERE, project="all")
    follower = Follower([tmp_path], sink)
    follower.poll()
    (record,) = sink._storage.get_run_records("all")
    assert record["name"] == "pos_enc/a"
    log(run, 1, 2)
    follower.poll()
    logs = sink._storage.get_logs("all", "pos_enc/a", run_id=record["id"])
    assert [row["step"] for row in logs] == [1, 2], "the empty row is gone"
    assert logs[0]["timestamp"] > str(run.record["started"])[:19]
    shutil.rmtree(HERE)


def test_nothing_of_the_users_environment_sends_data_away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("TRACKIO_SPACE_ID", "TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID", "GRADIO_SHARE", "GRADIO_SERVER_NAME"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("TRACKIO_PLOT_ORDER", "mine")
    trackio_mirror.TrackioMirror(HERE)
    kept = {name for name in os.environ if name.startswith(("TRACKIO_", "GRADIO_"))}
    assert kept == {"TRACKIO_DIR", "TRACKIO_PLOT_ORDER"} and os.environ["TRACKIO_PLOT_ORDER"] == "mine"
    assert (os.environ["HF_HUB_OFFLINE"], os.environ["HF_HUB_DISABLE_TELEMETRY"]) == ("1", "1")


@pytest.mark.parametrize("study", ["a b", "ab.", "model_system", "registry-x", "größe", "x_configs", "model_traces"])
def test_studies_that_trackio_cannot_name_get_a_name_of_their_own(study: str) -> None:
    from trackio.sqlite_storage import SQLiteStorage

    name = trackio_mirror.project_name(study)
    assert name != study and SQLiteStorage.get_project_db_filename(name) == f"{name}.db"
    SQLiteStorage.validate_project_name(name)
    assert len({trackio_mirror.project_name(text) for text in (study, study + " ", study + ".")}) == 3
    with pytest.raises(ConfigError, match="letters, digits"):
        trackio_mirror.check(study)


@pytest.mark.parametrize("study", ["pos_enc", "gqa-heads", "A1"])
def test_ordinary_studies_keep_their_name(study: str) -> None:
    from trackio.sqlite_storage import SQLiteStorage

    assert trackio_mirror.project_name(study) == study
    SQLiteStorage.validate_project_name(study)


def test_tensorboard_holds_settings_and_nothing_but_curves(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    run = make(tmp_path / "runs", "pos_enc", "a", 3, position="alibi")
    sink = tensorboard_mirror.TensorBoardMirror(tmp_path / "mirror")
    follower = Follower([tmp_path / "runs"], sink)
    follower.poll()
    run.finish("finished", {"val/bpb": 1.5, "note": "text"})
    for _ in range(3):
        follower.poll()
    events = EventAccumulator(str(sink.logs / "pos_enc" / "a"))
    events.Reload()
    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    settings = metadata.parse_session_start_info_plugin_data(content).hparams
    assert settings["position.name"].string_value == "alibi" and settings["optim.lr"].number_value == 0.002
    assert settings["attention.qkv_bias"].string_value == "null" and settings["norm.gain"].bool_value is True
    assert settings["arm"].string_value == "default"
    assert set(scalars(sink.logs / "pos_enc" / "a")) == {"train/loss", "train/lr", "val/bpb"}
