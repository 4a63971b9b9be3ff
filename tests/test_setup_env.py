"""The set-up behind `tools/run` and `tools/test`: what it keeps, what it makes again, what it says.

Nothing is downloaded: environments are made without pip, and a script stands where pip would be.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from subprocess import PIPE
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


PARALLEL = "-n|auto|--maxprocesses|4|--dist|loadfile|"


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """Load the script for a checkout of its own; making an environment takes no time there."""
    spec = importlib.util.spec_from_file_location("environment", ROOT / "tools" / "environment.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "environment", module)
    spec.loader.exec_module(module)
    checkout = tmp_path / "my checkout"
    checkout.mkdir()
    (checkout / "pyproject.toml").write_text("first", encoding="utf-8")
    monkeypatch.setattr(module, "ROOT", checkout)
    monkeypatch.setattr(module, "report_device", lambda venv: None)
    monkeypatch.setattr(module, "QUIET_SECONDS", 0.1)
    make = module.venv_command
    monkeypatch.setattr(module, "venv_command", lambda venv: [*make(venv), "--without-pip"])
    return module


def let_pip(module: ModuleType, monkeypatch: pytest.MonkeyPatch, script: str) -> list[bool]:
    """Put a shell script in pip's place; the returned list grows by `dev` at each call."""
    calls: list[bool] = []

    def command(venv: Path, dev: bool) -> list[str]:
        calls.append(dev)
        return ["bash", "-c", script]

    monkeypatch.setattr(module, "pip_command", command)
    return calls


def test_the_first_time_installs_and_the_second_does_nothing(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = let_pip(setup, monkeypatch, "exit 0")
    venv = setup.ROOT / ".venv"
    setup.set_up(venv, dev=False)
    said = capsys.readouterr().err
    assert "PyTorch" in said
    assert "GB on disk" in said
    assert "minutes" in said
    setup.set_up(venv, dev=False)
    assert calls == [False]
    assert capsys.readouterr().err == ""
    assert setup.is_ready(venv, dev=False)


def test_a_changed_project_is_installed_again_and_keeps_the_tools_for_tests(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = let_pip(setup, monkeypatch, "exit 0")
    venv = setup.ROOT / ".venv"
    setup.set_up(venv, dev=False)
    setup.set_up(venv, dev=True)
    (venv / "kept").touch()
    (setup.ROOT / "pyproject.toml").write_text("second", encoding="utf-8")
    setup.set_up(venv, dev=False)
    assert calls == [False, True, True]
    assert (venv / "kept").exists()


def test_an_interrupted_installation_is_made_again_from_nothing(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    venv = setup.ROOT / ".venv"
    let_pip(setup, monkeypatch, f"touch '{venv}/half'; exit 0")

    def interrupt(process: object, venv: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(setup, "watch", interrupt)
        with pytest.raises(KeyboardInterrupt):
            setup.set_up(venv, dev=False)
    assert not setup.is_ready(venv, dev=False)
    (venv / "half").touch()
    let_pip(setup, monkeypatch, f"test ! -e '{venv}/half'")
    setup.set_up(venv, dev=False)
    assert "is incomplete or was moved; it is made again" in capsys.readouterr().err
    assert setup.is_ready(venv, dev=False)


def test_a_moved_checkout_gets_a_new_environment(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = let_pip(setup, monkeypatch, "exit 0")
    setup.set_up(setup.ROOT / ".venv", dev=False)
    moved = setup.ROOT.with_name("moved")
    setup.ROOT.rename(moved)
    monkeypatch.setattr(setup, "ROOT", moved)
    assert not setup.is_ready(moved / ".venv", dev=False)
    setup.set_up(moved / ".venv", dev=False)
    assert calls == [False, False]


def test_a_failure_shows_the_end_of_the_log_and_what_may_help(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "for i in $(seq 40); do echo line $i; done; echo 'OSError: [Errno 28] No space'; exit 2"
    )
    let_pip(setup, monkeypatch, script)
    venv = setup.ROOT / ".venv"
    with pytest.raises(setup.SetupError) as caught:
        setup.set_up(venv, dev=False)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"pip failed (exit code 2). The end of {venv}/install.log:"
    assert lines[1:-1] == [f"  line {i}" for i in range(27, 41)] + [
        "  OSError: [Errno 28] No space"
    ]
    assert lines[-1].startswith("The disk is full.")
    assert not setup.is_ready(venv, dev=False)


def test_a_failed_update_leaves_the_environment_as_good_as_it_was(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv = setup.ROOT / ".venv"
    let_pip(setup, monkeypatch, "exit 0")
    setup.set_up(venv, dev=False)
    (setup.ROOT / "pyproject.toml").write_text("second", encoding="utf-8")
    with monkeypatch.context() as context:
        let_pip(setup, context, "exit 1")
        with pytest.raises(setup.SetupError, match="exit code 1"):
            setup.set_up(venv, dev=False)
    assert not setup.is_ready(venv, dev=False)
    (venv / "kept").touch()
    setup.set_up(venv, dev=False)
    assert (venv / "kept").exists()


def test_a_folder_of_the_users_is_not_removed(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = let_pip(setup, monkeypatch, "exit 0")
    venv = setup.ROOT / ".venv"
    venv.mkdir()
    (venv / "theirs").touch()
    with pytest.raises(setup.SetupError, match="has no Python that runs"):
        setup.set_up(venv, dev=False)
    assert (venv / "theirs").exists()
    assert calls == []


def test_a_long_installation_says_that_it_is_alive(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    let_pip(setup, monkeypatch, "echo Downloading torch; sleep 1")
    setup.set_up(setup.ROOT / ".venv", dev=False)
    assert "setup: 0:00  Downloading torch" in capsys.readouterr().err


def checkout_of_tools(folder: Path) -> Path:
    """Copy the commands alone, to a path with a space."""
    copy = folder / "a checkout"
    shutil.copytree(ROOT / "tools", copy / "tools")
    (copy / "pyproject.toml").touch()
    return copy


def path_with(folder: Path, scripts: dict[str, str]) -> str:
    """Make a PATH of these scripts, bash and what the commands need of the system."""
    folder.mkdir()
    for name in ("bash", "dirname", "env"):
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n", encoding="utf-8")
        (folder / name).chmod(0o755)
    return str(folder)


@pytest.mark.parametrize(
    ("scripts", "expected"),
    [
        ({}, "no Python 3.11 or newer found"),
        ({"python3.12": "echo 'not installed' >&2; exit 127"}, "no Python 3.11 or newer found"),
        (
            {"python3": 'case "$2" in *version*) exit 0;; *) exit 1;; esac'},
            "apt install python3-venv",
        ),
    ],
)
def test_a_missing_python_gives_one_clear_line(
    tmp_path: Path, scripts: dict[str, str], expected: str
) -> None:
    copy = checkout_of_tools(tmp_path)
    environment = {"PATH": path_with(tmp_path / "bin", scripts)}
    done = subprocess.run(
        [copy / "tools" / "run"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_commands_pass_their_arguments_on(tmp_path: Path) -> None:
    copy = checkout_of_tools(tmp_path)
    (copy / "tools" / "setup_env").write_text("#!/usr/bin/env bash\n", encoding="utf-8")
    venv = copy / ".venv" / "bin"
    venv.mkdir(parents=True)
    for name in ("sslgraph", "python"):
        (venv / name).write_text('#!/usr/bin/env bash\nprintf "%s|" "$@"\n', encoding="utf-8")
        (venv / name).chmod(0o755)
    expected = {
        ("run",): "run|simclr|--preset|tiny|",
        ("run", "run", "my file.yaml"): "run|my file.yaml|",
        ("test",): f"-m|pytest|{PARALLEL}",
        ("test", "-k", "a or b"): f"-m|pytest|{PARALLEL}-k|a or b|",
    }
    environment = {k: v for k, v in os.environ.items() if k != "SSLGRAPH_VENV"}
    for (command, *arguments), text in expected.items():
        done = subprocess.run(
            [copy / "tools" / command, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == text


def test_a_killed_setup_keeps_others_out_until_pip_has_ended(tmp_path: Path) -> None:
    copy = checkout_of_tools(tmp_path)
    (copy / ".venv").mkdir()
    load = (
        "import sys; sys.path.insert(0, 'tools'); import environment as e; from pathlib import Path"
    )
    first = f"""{load}
e.prepare = lambda venv, dev, locked: e.Stamp(str(e.ROOT), True, False, dev, "", "")
wait = "touch started; until [ -e go ]; do sleep 0.1; done"
e.pip_command = lambda venv, dev: ["bash", "-c", wait]
e.set_up(Path(".venv").absolute(), False)
"""
    second = f"{load}\nwith e.lock(Path.cwd()): print(Path('go').exists())"
    with subprocess.Popen([sys.executable, "-c", first], cwd=copy) as killed:
        while not (copy / "started").exists():
            time.sleep(0.05)
        killed.kill()
    with subprocess.Popen(
        [sys.executable, "-c", second], cwd=copy, stdout=PIPE, stderr=PIPE, text=True
    ) as waiting:
        assert waiting.stderr is not None
        said = waiting.stderr.readline()
        (copy / "go").touch()
        output, _ = waiting.communicate()
    assert said == "setup: another set-up is at work here; waiting for it\n"
    assert output == "True\n"
