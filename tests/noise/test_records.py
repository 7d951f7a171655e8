"""The noise ledger: planted spreads come back, and nothing is taken for the noise of a recipe that is not."""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from gpt_lab.cli import noise as command
from gpt_lab.cli import sweep as sweep_command
from gpt_lab.config.schema import RunConfig
from gpt_lab.errors import ConfigError, DataError, LabError
from gpt_lab.noise import null_pairs, records
from gpt_lab.noise.records import Noise
from gpt_lab.plan import sample_size
from gpt_lab.stats import power_analysis
from gpt_lab.store import Run
from gpt_lab.study import cells, sweep_file
from gpt_lab.study.sweep import Sweep
from gpt_lab.sweep import runner
from gpt_lab.sweep.ledger.ledger import entries
from tests.helpers import tiny_config
from tests.report.stores import finished
from tests.sweep.sweep_helpers import write_sweep

A = (2.00, 2.03, 1.98, 2.01, 2.05)
B = (2.02, 2.01, 1.99, 2.04, 2.02)
ENDED = {"device": "cpu", "precision": "fp32", "kernel": "math", "compile": "off", "data": "fingerprint"}


def made(scores: list[tuple[float, float]]) -> Noise:
    seeds = tuple(range(1000, 1000 + len(scores)))
    return Noise(Path("runs/noise-x"), "val/bpb", seeds, tuple(scores), 0, ENDED, "", 2.0, "", "", (), ())


def folder(root: Path, **settings: Any) -> Path:
    return records.folder_of(root, tiny_config(**settings).flat())


def pairs(root: Path, a: tuple[float, ...] = A, b: tuple[float, ...] = B, first: int = 1000, **settings: Any) -> Path:
    """Null pairs of `tiny_config` with these scores."""
    fields = settings.pop("fields", None)
    place = folder(root, **settings)
    for number, scores in enumerate(zip(a, b, strict=True)):
        for replica, score in enumerate(scores):
            draw = {"study": place.name, "seed": first + number, "replica": replica}
            finished(root, score, fields=fields, **draw, **settings)
    return place


def test_planted_spreads_come_back() -> None:
    rng = np.random.default_rng(0)
    run_sd, rho = 0.02, 0.6
    shared, own = rng.standard_normal((4000, 1)), rng.standard_normal((4000, 2))
    scores = 2 + run_sd * (math.sqrt(rho) * shared + math.sqrt(1 - rho) * own)
    found = made([(float(a), float(b)) for a, b in scores])
    assert found.run_sd == pytest.approx(run_sd, rel=0.03)
    assert found.rho == pytest.approx(rho, abs=0.03)
    assert found.sd == pytest.approx(run_sd * math.sqrt(2 * (1 - rho)), rel=0.03)
    low, high = found.interval()
    assert low < run_sd * math.sqrt(2 * (1 - rho)) < high and (found.df, found.usable) == (3999, True)


def test_the_interval_covers_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(1000):
        low, high = made([(float(a), float(b)) for a, b in rng.standard_normal((5, 2))]).interval()
        hits += low <= math.sqrt(2) <= high
    assert 930 <= hits <= 970
    exact = made(list(zip(A, B, strict=True)))
    quantiles = stats.chi2.ppf([0.975, 0.025], 4)
    assert exact.interval() == pytest.approx(exact.sd * np.sqrt(4 / quantiles))
    with pytest.raises(ValueError, match="one pair"):
        made([(2.0, 2.1)]).interval()


def test_what_runs_say(tmp_path: Path) -> None:
    place = pairs(tmp_path)
    (found,) = records.measured(place, "val/bpb")
    d = np.subtract(B, A)
    assert (found.seeds, found.pairs) == ((1000, 1001, 1002, 1003, 1004), 5)
    assert found.sd == pytest.approx(d.std(ddof=1))
    assert found.run_sd == pytest.approx(math.sqrt((np.var(A, ddof=1) + np.var(B, ddof=1)) / 2))
    assert found.rho == pytest.approx(1 - d.var(ddof=1) / (np.var(A, ddof=1) + np.var(B, ddof=1)))
    assert (found.resolved, found.commits, found.machines) == (ENDED, ("a" * 12,), ("a CPU",))
    assert found.seconds == 2.5 and found.first <= found.last and found.last.startswith("20")
    assert found.settings == "position=rope"
    (loss,) = records.measured(place, "val/loss")
    assert loss.sd == pytest.approx(1.2 * found.sd)
    assert records.measured(place, "val/accuracy") == []
    assert records.everything(tmp_path, "val/bpb") == [found]
    assert records.everything(tmp_path / "nowhere", "val/bpb") == []


@pytest.mark.parametrize(
    "change",
    [
        {"position": "none"},
        {"scale.width": 64},
        {"budget.steps": 21},
        {"budget.tokens": 1280},
        {"batch.tokens": 128},
        {"batch.seed": 5},
        {"optim.lr": 0.0042},
        {"eval.every": 5},
    ],
)
def test_another_recipe_scale_or_budget_is_another_noise(tmp_path: Path, change: dict[str, Any]) -> None:
    place = pairs(tmp_path)
    other = folder(tmp_path, **change)
    assert other != place
    assert records.find(place, "val/bpb", ENDED) is not None
    assert records.find(other, "val/bpb", ENDED) is None
    place.rename(other)  # a folder's name does not make its runs another recipe's
    assert records.find(other, "val/bpb", ENDED) is None


@pytest.mark.parametrize("change", [{"seed": 7}, {"replica": 3}, {"study": "x"}, {"log.every": 5}, {"label": "mine"}])
def test_what_changes_no_recipe(tmp_path: Path, change: dict[str, Any]) -> None:
    assert folder(tmp_path, **change) == folder(tmp_path)


def test_what_does_not_count(tmp_path: Path) -> None:
    place = pairs(tmp_path)
    assert records.find(place, "val/bpb", ENDED, without={1000, 7}).pairs == 4  # type: ignore[union-attr]
    assert records.find(place, "val/bpb", ENDED, without={1000, 1001, 1002}) is None, "two pairs are too few"
    assert records.find(place, "perf/tokens_per_s", ENDED) is None
    for key in records.RESOLVED:
        assert records.find(place, "val/bpb", {**ENDED, key: "other"}) is None
        assert records.find(place, "val/bpb", {**ENDED, key: None}) is not None
    alone = {"study": place.name, "seed": 2000}
    finished(tmp_path, 9.0, **alone)  # without its other replica
    finished(tmp_path, math.inf, **alone, replica=1)
    run = Run.create(tmp_path, place.name, "lost", {}, {"config": tiny_config(seed=2001).flat(), "resolved": ENDED})
    run.finish("diverged", {"val/bpb": 50.0})
    (found,) = records.measured(place, "val/bpb")
    assert (found.pairs, found.diverged) == (5, 1)


def test_runs_that_were_computed_differently_are_never_mixed(tmp_path: Path) -> None:
    pairs(tmp_path)
    gpu = {"resolved": {**ENDED, "device": "cuda", "precision": "bf16"}, "signature": "gpu"}
    place = folder(tmp_path)
    for number in range(3):
        for replica in (0, 1):
            config = tiny_config(study=place.name, seed=1000 + number, replica=replica)
            record = {**gpu, "config": config.flat(), "signature": f"gpu{number}{replica}"}
            run = Run.create(tmp_path, place.name, "gpu", config.to_dict(), record)
            run.finish("finished", {"val/bpb": 3.0 + replica * number})
    assert [one.pairs for one in records.measured(place, "val/bpb")] == [5, 3]
    assert records.find(place, "val/bpb", ENDED).pairs == 5  # type: ignore[union-attr]
    assert records.find(place, "val/bpb", {**ENDED, "device": "cuda", "precision": "bf16"}).pairs == 3  # type: ignore[union-attr]
    assert records.find(place, "val/bpb", {}) is None, "no telling which"


def test_a_replica_that_draws_nothing_is_no_noise(tmp_path: Path) -> None:
    place = pairs(tmp_path, A, A)
    assert records.find(place, "val/bpb", ENDED) is None
    assert not records.measured(place, "val/bpb")[0].usable


SWEPT = {"position": ["rope", "none"], "seed": [0, 1, 2]}
BASE = {"baseline": {"position": "rope"}}


def load(tmp_path: Path, swept: dict[str, Any] | None = None, *words: str, **changes: Any) -> Sweep:
    return sweep_file.load(write_sweep(tmp_path, swept or SWEPT, **{"gpt_lab": BASE, **changes}), words)


def test_the_null_pairs_of_a_sweep_are_its_baseline_again(tmp_path: Path) -> None:
    sweep = load(tmp_path, None, "scale.width=32")
    recipe = null_pairs.of_sweep(sweep)
    assert (recipe.metric, recipe.taken, recipe.folder.parent) == ("val/bpb", {0, 1, 2}, tmp_path / "runs")
    base = next(cell for cell in cells.cells(sweep) if str(cell.arm) == "position=rope")
    assert records.recipe(cells.configs([base])[0].flat()) == recipe.folder.name.removeprefix("noise-")
    asked = null_pairs.null_sweep(recipe, [1000, 1001, 1002])
    found = cells.cells(asked)
    assert [(cell.values["seed"], cell.values["replica"]) for cell in found] == [
        (seed, replica) for seed in (1000, 1001, 1002) for replica in (0, 1)
    ]
    for cfg in cells.configs(found):
        assert records.folder_of(cfg.runs_dir, cfg.flat()) == recipe.folder
        assert (cfg.study, cfg.position["name"], cfg.scale.width) == (recipe.folder.name, "rope", 32)
    assert {cell.identity for cell in found}.isdisjoint(cell.identity for cell in cells.cells(sweep))
    settings = [word for word in recipe.words if not word.startswith("runs_dir=")]
    by_hand = null_pairs.of_settings([*settings, f"runs_dir={tmp_path / 'runs'}"])
    assert by_hand.folder == recipe.folder


def test_seeds_that_the_study_has_are_skipped(tmp_path: Path) -> None:
    recipe = null_pairs.of_sweep(load(tmp_path, {**SWEPT, "seed": [0, 1000, 1002]}))
    assert null_pairs.missing(recipe, [], 3) == [1001, 1003, 1004]
    assert null_pairs.missing(recipe, [1001, 7], 4) == [1003, 1004]
    assert null_pairs.missing(recipe, [1001, 1003, 1004], 3) == []


def test_a_tuned_baseline_needs_a_choice(tmp_path: Path) -> None:
    swept = {**SWEPT, "optim.lr": [0.001, 0.002]}
    block = {**BASE, "nuisance": ["optim.lr"]}
    path = write_sweep(tmp_path, swept, gpt_lab=block)
    with pytest.raises(ConfigError, match=r"tried with 2 settings.*`uv run noise \S+ optim.lr=0.001`"):
        null_pairs.of_sweep(sweep_file.load(path))
    rest, chosen = null_pairs.split(path, ["optim.lr=0.002", "scale.width=32"])
    assert (rest, chosen) == (["scale.width=32"], ["optim.lr=0.002"])
    recipe = null_pairs.of_sweep(sweep_file.load(path, rest), chosen)
    assert recipe.cfg.optim["lr"] == 0.002 and recipe.cfg.scale.width == 32
    assert [one.cfg.optim["lr"] for one in null_pairs.recipes(sweep_file.load(path))] == [0.001, 0.002]
    with pytest.raises(ConfigError, match=r"unknown value of optim.lr in the baseline: '0.003'.*0.001, 0.002"):
        null_pairs.of_sweep(sweep_file.load(path), ["optim.lr=0.003"])


@pytest.mark.parametrize(
    "words, expected",
    [
        ([], "whose noise?"),
        (["nosuch"], "unknown sweep 'nosuch'"),
        (["{file}", "other"], "one sweep file"),
        (["{file}", "--seeds", "2"], "3 null pairs are the fewest"),
        (["{file}", "--seeds", "two"], "a whole number from 1 to 100,000"),
        (["{file}", "--metric", "val/loss"], "--metric is for --list"),
        (["{file}", "scale.dept=2"], "did you mean 'depth'"),
        (["seed=3"], "null pairs draw their own seeds"),
        (["replica=1"], "null pairs draw their own seeds"),
        (["study=mine"], "named by its recipe"),
        (["force=true"], "force cannot be set here"),
        (["scale.depth=0"], "depth"),
        (["--list", "{file}"], "--list takes runs_dir=DIR"),
        (["--list", "--jobs", "2"], "not --jobs"),
        (["--list", "--metric", "val/bbp"], "did you mean 'val/bpb'"),
        (["{other}"], "paired by batch.seed"),
        (["{open}"], "names no arm"),
        (["{drawn}"], "no fixed baseline"),
        (["{speed}"], "measures the machine"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, words: list[str], expected: str) -> None:
    by_data = {"position": ["rope", "none"], "batch.seed": [0, 1]}
    drawn = {"optim.lr": {"min": 0.001, "max": 0.01}, "seed": [0]}
    files = {
        "file": write_sweep(tmp_path, SWEPT, gpt_lab=BASE, name="file"),
        "other": write_sweep(tmp_path, by_data, gpt_lab={**BASE, "pair": "batch.seed"}, name="other"),
        "open": write_sweep(tmp_path, SWEPT, name="open"),
        "drawn": write_sweep(tmp_path, drawn, method="random", run_cap=2, name="drawn"),
        "speed": write_sweep(
            tmp_path, SWEPT, gpt_lab=BASE, name="speed", metric={"name": "perf/mfu", "goal": "maximize"}
        ),
    }
    with pytest.raises(LabError) as caught:
        command.run([word.format(**files) for word in words])
    assert expected in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_nothing_known_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(["--list", f"runs_dir={tmp_path}"]) == 0
    assert "knows no noise yet" in capsys.readouterr().out


def resolved(cfg: RunConfig) -> dict[str, str]:
    from gpt_lab.data.dataset import open_dataset
    from gpt_lab.train.resolve_auto import resolve

    return resolve(cfg, open_dataset(cfg)).resolved


def planted(sweep: Sweep, metric: str = "val/bpb") -> Noise:
    """Null pairs of a sweep's baseline, as this machine would compute them, without training."""
    recipe = null_pairs.of_sweep(sweep)
    how = resolved(recipe.cfg)
    for seed, scores in enumerate(zip(A, B, strict=True), records.FIRST):
        for replica, score in enumerate(scores):
            cfg = dataclasses.replace(recipe.cfg, seed=seed, replica=replica, study=recipe.folder.name)
            record = {"config": cfg.flat(), "resolved": how, "signature": cfg.identity()}
            run = Run.create(cfg.runs_dir, cfg.study, f"{seed}-{replica}", cfg.to_dict(), record)
            run.finish("finished", {metric: score})
    found = records.find(recipe.folder, metric, how)
    assert found is not None
    return found


def test_the_target_effect_sets_the_seeds(tmp_path: Path) -> None:
    sweep = load(tmp_path)
    with pytest.raises(ConfigError, match=r"not known here: `uv run noise \S+tiny.yaml` first"):
        sample_size.with_enough_seeds(sweep, 0.02)
    floor = planted(sweep)
    for effect in (0.2, 0.08, 0.03):
        grown, line = sample_size.with_enough_seeds(sweep, effect)
        n = len(grown.design.values["seed"])
        assert n == power_analysis.sample_size(effect / floor.sd) and f"in 80 % of studies of {n} seeds" in line
        assert grown.design.values["seed"] == tuple(range(n))
    assert "null pairs of" in line
    with_margin = load(tmp_path, gpt_lab={**BASE, "sesoi": 0.02})
    planned = sample_size.with_enough_seeds(with_margin, 0.05)[0]
    assert len(planned.design.values["seed"]) == power_analysis.sample_size(0.03, sd=floor.sd)
    with pytest.raises(ConfigError, match="no number of seeds calls it better"):
        sample_size.with_enough_seeds(with_margin, 0.02)
    with pytest.raises(ConfigError, match="number above 0"):
        sample_size.with_enough_seeds(sweep, -1.0)
    with pytest.raises(ConfigError, match="not within reach of 1000 seeds"):
        sample_size.with_enough_seeds(sweep, 1e-9)
    with pytest.raises(ConfigError, match="two arms or more"):
        sample_size.with_enough_seeds(load(tmp_path, {"seed": [0, 1]}, gpt_lab={}), 0.1)
    other = load(tmp_path, None, "budget.steps=25")
    with pytest.raises(ConfigError, match=r"uv run noise \S+ budget.steps=25` first"):
        sample_size.with_enough_seeds(other, 0.02)


def test_data_that_is_no_text_is_planned_in_its_loss(tmp_path: Path) -> None:
    sweep = load(tmp_path)
    floor = planted(sweep, "val/loss")
    known = sample_size.spread(sweep)
    assert known is not None and (known.metric, known.sd, known.df) == ("val/loss", floor.sd, floor.df)
    assert "a difference of 0.02 in val/loss is called better" in sample_size.with_enough_seeds(sweep, 0.02)[1]


def test_the_dry_run_speaks_in_units_of_the_metric(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = load(tmp_path, gpt_lab={**BASE, "sesoi": 0.011})
    assert sweep_command.run([str(sweep.path), "--dry-run"]) == 0
    before = capsys.readouterr().out
    assert "run sd (rho 0.9)" in before
    assert f"`uv run noise {sweep.path}` measures it" in before
    floor = planted(sweep)
    assert sweep_command.run([str(sweep.path), "--dry-run", "--target-effect", "0.04"]) == 0
    after = capsys.readouterr().out
    seeds = len(sample_size.with_enough_seeds(sweep, 0.04)[0].design.values["seed"])
    size = 0.011 + floor.sd * power_analysis.detectable(seeds)
    assert seeds >= 5 and f"{2 * seeds} trials: 2 arms x {seeds} values of seed" in after
    words = f"with {seeds} seeds (confirm), 80 % of studies call an arm better whose true difference is at least"
    assert f"{words} {size:.4f} in val/bpb" in after
    assert size <= 0.0401 and "run sd (rho" not in after and "measures it" not in after
    with pytest.raises(ConfigError, match="leave one out"):
        sweep_command.run([str(sweep.path), "--target-effect", "0.03", "--seeds", "4"])
    with pytest.raises(ConfigError, match="a number above 0 is expected, not 'much'"):
        sweep_command.run([str(sweep.path), "--target-effect", "much"])


@pytest.mark.slow
@pytest.mark.usefixtures("one_server")
def test_from_the_command_to_the_floor_and_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Real, tiny runs: each pair once, more on request, none again; then a study uses them."""
    path = write_sweep(tmp_path, {**SWEPT, "seed": [0, 1, 1000]}, gpt_lab=BASE)
    place = null_pairs.of_sweep(sweep_file.load(path)).folder
    assert command.run([str(path), "--seeds", "3", "--jobs", "2"]) == 0
    text = capsys.readouterr().out
    (found,) = records.measured(place, "val/bpb")
    assert found.seeds == (1001, 1002, 1003) and found.usable and found.machines and found.resolved["device"] == "cpu"
    assert f"sd of a null pair's difference  {found.sd:.4f}" in text and "3 seeds" in text and "code " in text
    times = {run: run.stat().st_mtime_ns for run in place.glob("*/run.json")}
    assert len(times) == 6

    assert command.run([str(path), "--seeds", "3"]) == 0
    assert "has 3 null pairs: nothing to run" in capsys.readouterr().out
    shutil.rmtree(next(iter(times)).parent)
    assert command.run([str(path), "--seeds", "4"]) == 0
    assert "3 of 8 runs are left" in capsys.readouterr().out
    again = {run: run.stat().st_mtime_ns for run in place.glob("*/run.json")}
    assert len(again) == 8 and len({*times.items()} & {*again.items()}) == 5
    assert {entry.state for entry in entries(place)} == {"finished"}
    (grown,) = records.measured(place, "val/bpb")
    assert grown.seeds == (1001, 1002, 1003, 1004) and grown.scores[:3] == found.scores, "on a CPU bit for bit"

    assert command.run(["--list", f"runs_dir={tmp_path / 'runs'}"]) == 0
    listed = "".join(capsys.readouterr().out.split())
    assert place.name[:8] in listed and f"{grown.sd:.4f}" in listed
    assert sweep_command.run([str(path), "--dry-run"]) == 0
    assert f"{grown.sd:.4f} (95 %" in capsys.readouterr().out


def test_too_few_that_end_well_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_sweep(tmp_path, SWEPT, gpt_lab=BASE)
    monkeypatch.setattr(runner, "run_sweep", lambda *_: 1)
    with pytest.raises(DataError, match="0 finished null pairs, and 3 are the fewest"):
        command.run([str(path)])
    monkeypatch.setattr(runner, "run_sweep", lambda *_: 130)
    assert command.run([str(path)]) == 130
