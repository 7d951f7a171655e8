"""What W&B's variables and settings files come to: each is honoured, or has no effect."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import ConfigError
from gpt_lab.store import Run
from gpt_lab.trackers import build_tracker
from gpt_lab.trackers.wandb import Wandb
from gpt_lab.trackers.wandb_env import agent, as_client, base_url, choose_mode, client, login
from tests.trackers.wandb_double import KEY

AGENT = {"SWEEP_ID": "sweep1", "RUN_ID": "asked", "SWEEP_PARAM_PATH": "wandb/config.yaml"}


def variables(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"WANDB_{name}", value)


def header(run: Run, cfg: RunConfig, **options: Any) -> dict[str, Any]:
    """What the process that speaks to W&B is told."""
    tracker = build_tracker({"name": "wandb", **options}, run, cfg)
    assert isinstance(tracker, Wandb)
    return {**tracker._header, "sweep": tracker._sweep}


def test_modes(run: Run, cfg: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert login() is None
    assert choose_mode("auto") == "offline"
    assert choose_mode("online") == "online"
    with pytest.raises(ConfigError, match="wandb login"):
        build_tracker({"name": "wandb", "mode": "online"}, run, cfg)
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(ConfigError, match="tracker.mode=offline"):
        build_tracker({"name": "auto"}, run, cfg)
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert choose_mode("auto") == "offline"
    monkeypatch.setenv("WANDB_MODE", "oflline")
    with pytest.raises(ConfigError, match="did you mean 'offline'"):
        build_tracker({"name": "auto"}, run, cfg)
    assert choose_mode("offline") == "offline", "an explicit mode beats the variable"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    tracker = build_tracker({"name": "auto"}, run, cfg)
    tracker.start()
    tracker.log({"a": 1.0}, 1)
    tracker.finish("finished", {})
    assert not (run.path / "wandb").exists()


def wandb_default() -> str:
    """The server of the installed client, where no setting names one."""
    from wandb.sdk.lib.urls import DEFAULT_BASE_URL

    return DEFAULT_BASE_URL


def test_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    netrc.write_text("machine example.com\n  login user\n  password x\n")
    netrc.chmod(0o600)
    assert login() is None
    for host in ("api.forge.coreweave.com", "api.wandb.ai"):  # what `wandb login` writes, and what it used to write
        netrc.write_text(f"machine {host}\n  login user\n  password x\nmachine example.com\n  login u\n  password x\n")
        assert login() == str(netrc)
    assert base_url() == wandb_default()
    netrc.write_text("machine example.com\n  login user\n  password x\n")
    (tmp_path / "settings").write_text("[default]\nbase_url = https://example.com\n")
    assert login() == str(netrc)
    monkeypatch.setenv("WANDB_BASE_URL", "https://other.example")
    assert login() is None
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert login() == "WANDB_API_KEY"
    assert choose_mode("auto") == "online"


@pytest.mark.parametrize("some", [{}, {"RUN_ID": "mine"}, {"SWEEP_ID": "old"}, {"SWEEP_ID": "old", "RUN_ID": "mine"}])
def test_a_run_s_id_is_its_own(run: Run, cfg: RunConfig, monkeypatch: pytest.MonkeyPatch, some: dict[str, str]) -> None:
    """Two runs under one WANDB_RUN_ID would write into one: what is left of an agent is no agent."""
    variables(monkeypatch, **some)
    assert agent() is None
    told = header(run, cfg)
    assert (told["init"]["id"], told["init"]["project"], told["sweep"]) == (run.record["id"], "gpt_lab", {})
    assert not {"WANDB_RUN_ID", "WANDB_SWEEP_ID"} & client(told["sweep"]).keys()


def test_an_agent_s_run_is_the_agent_s(run: Run, cfg: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    variables(monkeypatch, **AGENT, PROJECT="swept")
    assert agent() == "asked"
    told = header(run, cfg, project="ignored", entity="ignored")
    assert (told["init"]["id"], told["init"]["project"], told["init"]["entity"]) == ("asked", None, None)
    inside = client(told["sweep"])
    assert [inside[f"WANDB_{name}"] for name in ("SWEEP_ID", "RUN_ID", "PROJECT")] == ["sweep1", "asked", "swept"]
    assert Path(told["sweep"]["WANDB_SWEEP_PARAM_PATH"]).is_absolute(), "it must be found from elsewhere, later"
    run.update(wandb={"id": "asked", "sweep": told["sweep"], "uploaded": False})
    for name in AGENT:
        monkeypatch.delenv(f"WANDB_{name}")
    assert header(run, cfg)["sweep"] == told["sweep"], "a resume without the agent stays in the sweep"


def test_options_win_over_variables(run: Run, cfg: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    variables(monkeypatch, PROJECT="p", ENTITY="e", RUN_GROUP="g", NAME="n", TAGS="a,b", NOTES="why")
    stated = {"project": "p", "entity": "e", "group": "g", "name": "n", "tags": ["a", "b"]}
    told = header(run, cfg)["init"]
    assert {key: told[key] for key in stated} == stated
    options = {"project": "P", "entity": "E", "group": "G", "run_name": "N", "tags": ["T"]}
    told = header(run, cfg, **options)["init"]
    assert [told[key] for key in stated] == list(options.values())
    assert client()["WANDB_NOTES"] == "why", "the client knows what to do with it"


def test_what_would_spoil_a_run_stays_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    spoils = {"RESUME": "never", "RESUME_FROM": "x?_step=1", "FORK_FROM": "x?_step=1", "JOB_TYPE": "report"}
    variables(monkeypatch, **spoils, MODE="disabled", NAME="n", RUN_ID="r", SERVICE="s")
    assert not {f"WANDB_{name}" for name in (*spoils, "MODE", "NAME", "RUN_ID", "SERVICE")} & client().keys()
    with as_client(WANDB_MODE="online"):
        assert os.environ["WANDB_MODE"] == "online"
        assert "WANDB_RUN_ID" not in os.environ
    assert (os.environ["WANDB_MODE"], os.environ["WANDB_RUN_ID"]) == ("disabled", "r")


def test_wandb_offline_and_disabled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`wandb offline` writes into the folder's settings; WANDB_DISABLED is what other tools obey."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    assert choose_mode("auto") == "online"
    settings = tmp_path / "wandb" / "settings"
    settings.parent.mkdir()
    settings.write_text("[default]\nmode = offline\n")
    assert choose_mode("auto") == "offline"
    monkeypatch.setenv("WANDB_MODE", "online")
    assert choose_mode("auto") == "online"
    monkeypatch.setenv("WANDB_DISABLED", "true")
    assert choose_mode("auto") == "disabled"
    for name in ("WANDB_DISABLED", "WANDB_MODE"):
        monkeypatch.delenv(name)
    settings.write_text("torn [")
    assert choose_mode("auto") == "online"
