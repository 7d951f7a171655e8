"""The committed certificates are those of the parts and cases of this checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt_lab import registry
from gpt_lab.certify import measure
from gpt_lab.cli import components as command
from gpt_lab.config import certificates
from gpt_lab.errors import ConfigError
from tests.parity.case import TOLERANCE, cases

AGAIN = "run `uv run components --parity`"


def test_every_part_and_case_has_its_certificate() -> None:
    found = certificates.read()
    parts = {(kind, name) for kind in measure.COSTED for name in registry.index()[kind]}
    assert parts <= set(found), AGAIN
    optimizers = {name: found["optim", name].state for name in registry.index()["optim"]}
    assert all(optimizers.values()) and optimizers["adamw"] == pytest.approx(8, abs=0.01), AGAIN
    held = {key: {(one.reference, one.options) for one in certificate.parity} for key, certificate in found.items()}
    for case in cases():
        assert (case.reference, case.options) in held.get((case.kind, case.name), set()), f"{case}: {AGAIN}"
    assert sum(map(len, held.values())) == len(cases()), AGAIN
    for certificate in found.values():
        for one in certificate.parity:
            assert 0 <= one.outputs <= TOLERANCE and len(one.date) == 10


def test_measuring_writes_what_reading_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (certificates, measure):
        monkeypatch.setattr(module, "PATH", tmp_path / "certificates.json")
    assert certificates.read() == {}
    assert command.run(["mlp", "relu", "--parity"]) == 0
    (key,) = certificates.read()
    certificate = certificates.read()[key]
    assert key == ("mlp", "relu") and certificate.parameters == 2 * 256 * 1024 and certificate.flops == 4 * 256 * 1024
    (one,) = certificate.parity
    assert one.reference == "transformers.MarianForCausalLM" and one.version and one.outputs <= TOLERANCE
    assert certificate.brief.endswith(f"equal to {one.reference} {one.version} within {one.outputs:.0e}")


def test_a_pattern_costs_what_its_layers_do() -> None:
    """Half of the layers of the default one have attention, the others none."""
    known = certificates.read()
    pattern, all_of_them = known["attention", "hybrid"], known["attention", "mha"]
    assert (pattern.parameters, pattern.flops) == (all_of_them.parameters // 2, all_of_them.flops // 2)


def test_check_says_what_it_tried_and_fails_with_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    from gpt_lab.certify import contract

    plain = contract.same_when_compiled
    try:
        contract.same_when_compiled = lambda cfg: contract.Finding("compiled", 1.0, 1e-3, "planted")
        assert command.run(["--check", "norm=rmsnorm"]) == 1
    finally:
        contract.same_when_compiled = plain
    out = capsys.readouterr().out
    assert "norm=rmsnorm" in out and "FAILED compiled" in out and "planted" in out
    assert all(f"ok     {name}" in out for name in ("leaks", "decoding", "lengths", "documents", "gradients"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--check", "gqaa"], "did you mean 'gqa'?"),
        (["--check", "gqa", "mlp"], "--check takes settings such as attention.OPTION=VALUE, not 'mlp'"),
        (["attention", "gqa", "attention.kv_heads=1"], "components takes settings with --check only"),
        (["attention", "gqaa", "--parity"], "did you mean 'gqa'?"),
    ],
)
def test_wrong_words(arguments: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        command.run(arguments)
    assert said in str(refused.value)
