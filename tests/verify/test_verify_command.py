"""`dmspec verify`: specs agree with a real kernel, differences are told, and what cannot be compared is refused."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dmspec.cli import main
from dmspec.runtime.targets.striped import Striped
from dmspec.verify import guest

ROOT = Path(__file__).parents[2]
# Few, because `make test` is to be quick; `make verify` compares every spec that can be compared.
SPECS = [f"specs/targets/{name}.dms" for name in ("mirror", "snapshot")]
FIRST = "disk pv1 1MiB\ndevice vol { linear pv1 }\n"


def verify(*args: str) -> Result:
    return CliRunner().invoke(main, ["verify", *args])


def spec(folder: Path, text: str) -> str:
    file = folder / "spec.dms"
    file.write_text(text)
    return str(file)


@pytest.mark.requires("guest-kernel")
@pytest.mark.timeout(300)
def test_targets_agree_and_a_planted_bug_does_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result = verify(*(str(ROOT / name) for name in SPECS), "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["dmspec_verify"] == 1
    assert document["ok"]
    assert document["kernel"].startswith("6.")
    assert [one["differences"] for one in document["scenarios"]] == [[]] * len(SPECS)

    monkeypatch.setattr(Striped, "info", lambda _self: "2 is what it should say")
    result = verify(spec(tmp_path, "disk pv1 1MiB\ndevice vol { striped pv1 pv1@512KiB chunk=8KiB }\n"
                                   "process app { flush vol }\n"))
    assert result.exit_code == 1
    assert "status" in result.stdout
    assert "kernel: vol: 0 2048 striped 2 pv1 pv1 1 AA" in result.stdout
    assert "dmspec: vol: 0 2048 striped 2 is what it should say" in result.stdout


@pytest.mark.parametrize(("body", "reason"), [
    ("process a { parallel { flush vol } { read vol } }", "`parallel` has more than one order of steps"),
    ("process a { choose { flush vol } or { read vol } }", "`choose` has more than one order of steps"),
    ("process a { write vol at=1 }", "in whole sectors"),
    ("process a { detach pv1 }", "can do `detach`"),
    ("process a { fail pv1 writes after=2 }", "does not count how often it has failed"),
    ("process a { fail pv1 writes times=1 }", "does not count how often it has failed"),
    ("process a { fail pv1 error=ENOSPC }", "fails with EIO, not with ENOSPC"),
    ("kernel 2.6.32\nprocess a { flush vol }", "it asks for kernel 2.6.32"),
    ("filesystem fs on vol\nprocess a { write fs }", "filesystem fs is simulated"),
    ("process a { flush vol }\nscenario s { run a\nfault fail pv1 at=any }", "cannot be halted"),
])
@pytest.mark.requires("guest-kernel")
def test_what_cannot_be_compared_is_refused(tmp_path: Path, body: str, reason: str) -> None:
    result = verify(spec(tmp_path, FIRST + body + "\n"))
    assert result.exit_code == 2, result.output
    assert "cannot be compared" in result.stdout
    assert reason in result.stdout


def test_without_a_guest_the_command_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(guest, "_command", lambda _name: None)
    result = verify(spec(tmp_path, FIRST + "process a { flush vol }\n"))
    assert result.exit_code == 3
    assert "there is no linux.uml, no static busybox, no dmsetup" in result.stderr
    assert "apt-get install -y user-mode-linux busybox-static dmsetup" in result.stderr


def test_a_wrong_spec_is_a_diagnostic(tmp_path: Path) -> None:
    result = verify(spec(tmp_path, "device vol { linear nix }\n"))
    assert result.exit_code == 2
    assert "DM" in result.stderr


def test_a_guest_that_hangs_is_ended_with_all_its_processes(tmp_path: Path) -> None:
    fake = tmp_path / "linux"
    fake.write_text("#!/bin/sh\nfor word; do case $word in rootflags=*) root=${word#*=};; esac; done\n"
                    "echo '@kernel 0' >$root/output\nsleep 1000 & sleep 1000\n")
    fake.chmod(0o755)
    shell = guest.Guest(fake, Path("/bin/sh"), Path("/bin/sh"), ())
    run = guest.boot(shell, "", [], silence_s=1)
    assert not run.ended
    assert run.output == "@kernel 0\n"
