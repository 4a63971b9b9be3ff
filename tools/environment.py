"""Make the project's virtual environment and say what is being done; standard library only.

The environment carries a stamp: who made it, for which checkout, and whether the installation came
to its end. A stamp that does not say "ready" means an attempt was cut short; such an environment is
made again from nothing, because a half-copied package cannot be told from a whole one.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
STAMP = ".sslgraph.json"
LOG = "install.log"
LINUX = sys.platform == "linux"
SIZE_GB = 6 if LINUX else 1.5
TAIL = 15
QUIET_SECONDS = 30
TICK = 0.2
TICKS_PER_LOOK = 25

# What pip says when it fails, and what helps. The first that is found in the log's tail is shown.
ADVICE = (
    (
        r"No space left|Errno 28",
        "The disk is full. Free some space, or let pip unpack elsewhere: TMPDIR=/another/disk",
    ),
    (
        r"(?i)name resolution|timed out|connection|network is unreachable|SSL|max retries",
        "The package index could not be reached. Check the connection or the proxy (HTTPS_PROXY), "
        "then run this again.",
    ),
    (
        r"No matching distribution found|Could not find a version",
        f"A package has no build for this Python ({sys.version.split()[0]}) or platform. "
        "Another Python may help: PYTHON=python3.12 tools/run",
    ),
    (
        r"graphviz/cgraph\.h|pygraphviz",
        "pygraphviz has no build for this platform and needs Graphviz to be compiled. "
        "On Debian and Ubuntu: apt install graphviz libgraphviz-dev",
    ),
)

DEVICE_REPORT = """
import torch, sslgraph
line = f"PyTorch {torch.__version__}, "
if torch.cuda.is_available():
    line += f"GPU: {torch.cuda.get_device_name(0)}, it will be used"
else:
    line += "no GPU that it can use: everything runs on the CPU"
print(line)
"""


class SetupError(Exception):
    """The environment cannot be made; the text says why and what to do."""


@dataclass(frozen=True)
class Stamp:
    """What an environment says about itself.

    Args:
        root: The checkout it was installed from. An environment cannot be moved.
        ours: This script made it and may remove it; a user's own is never removed.
        ready: The installation came to its end.
        dev: The tools for tests are installed too.
        project: Hash of pyproject.toml at the installation.
        python: The interpreter's version, `3.11`.
    """

    root: str
    ours: bool
    ready: bool
    dev: bool
    project: str
    python: str


def say(text: str) -> None:
    """Print to the standard error: the output of `tools/run show x` stays clean."""
    print(f"setup: {text}", file=sys.stderr, flush=True)


def read_stamp(venv: Path) -> Stamp | None:
    try:
        return Stamp(**json.loads((venv / STAMP).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_stamp(venv: Path, stamp: Stamp) -> None:
    temporary = venv / f"{STAMP}.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(asdict(stamp), file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(venv / STAMP)


def project_hash() -> str:
    return hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()


def python_version(venv: Path) -> str:
    """Ask the environment's interpreter for its version; empty where it does not run."""
    program = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run(
            [venv / "bin" / "python", "-c", program], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def is_whole(venv: Path, stamp: Stamp) -> bool:
    """Tell whether the environment works, though perhaps for an older pyproject.toml."""
    return stamp.ready and stamp.root == str(ROOT) and stamp.python == python_version(venv)


def is_ready(venv: Path, dev: bool) -> bool:
    stamp = read_stamp(venv)
    return (
        stamp is not None
        and stamp.project == project_hash()
        and (stamp.dev or not dev)
        and is_whole(venv, stamp)
    )


@contextmanager
def lock(folder: Path) -> Iterator[int]:
    """Let one set-up work at a time. The lock is on the folder: a crash leaves nothing behind."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up is at work here; waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            pass  # some network file systems have no locks
        yield descriptor
    finally:
        os.close(descriptor)


def venv_command(venv: Path) -> list[str]:
    return [sys.executable, "-m", "venv", str(venv)]


def pip_command(venv: Path, dev: bool) -> list[str]:
    python = str(venv / "bin" / "python")
    target = ".[dev]" if dev else "."
    return [python, "-m", "pip", "install", "--progress-bar", "off", "-e", target]


def make_venv(venv: Path, dev: bool, locked: int) -> Stamp:
    """Make an empty environment, in place of what an earlier attempt left.

    The stamp is written first and the rest removed after it, so that an interruption at any point
    leaves something this script recognises as its own.
    """
    stamp = Stamp(str(ROOT), True, False, dev, project_hash(), "")
    venv.mkdir(parents=True, exist_ok=True)
    write_stamp(venv, stamp)
    for child in venv.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        elif child.name != STAMP:
            child.unlink()
    done = subprocess.run(
        venv_command(venv),
        capture_output=True,
        text=True,
        check=False,
        pass_fds=(locked,),
    )
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip()
        raise SetupError(
            f"{sys.executable} could not make a virtual environment in {venv}:\n{said}"
        )
    return replace(stamp, python=python_version(venv))


def prepare(venv: Path, dev: bool, locked: int) -> Stamp:
    """Find or make the environment to install into.

    Raises:
        SetupError: There is one that this script did not make, and it does not work.
    """
    stamp = read_stamp(venv)
    if stamp is not None and is_whole(venv, stamp):
        say(f"bringing {venv} up to date")
        return stamp
    if stamp is not None and stamp.ours:
        say(f"{venv} is incomplete or was moved; it is made again")
        return make_venv(venv, dev or stamp.dev, locked)
    if not venv.exists() or not any(venv.iterdir()):
        return make_venv(venv, dev, locked)
    version = python_version(venv)
    if not version or tuple(map(int, version.split("."))) < (3, 11):
        found = f"has Python {version}" if version else "has no Python that runs"
        raise SetupError(
            f"{venv} was not made by this script and {found}; Python 3.11 or newer is needed. "
            f"Remove or rename the folder, then run this again."
        )
    say(f"installing into the environment that is already in {venv}")
    return Stamp(str(ROOT), False, False, dev, project_hash(), version)


def announce(venv: Path, first: bool, dev: bool) -> None:
    what = "PyTorch, timm, kornia and what they need" + (", and the tools for tests" if dev else "")
    if not first:
        say(f"installing {what}; what is there already is kept")
        return
    build = " with CUDA" if LINUX else ""
    say(f"installing into {venv}: {what}")
    say(f"PyTorch comes{build}: about {SIZE_GB} GB on disk, 2 to 10 minutes; this happens once")
    free = shutil.disk_usage(venv).free / 1e9
    if free < SIZE_GB + 0.5:
        say(f"warning: only {free:.1f} GB are free there")


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def tail(log: Path, count: int) -> list[str]:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 16_384))
        return file.read().decode("utf-8", "replace").splitlines()[-count:]


def gigabytes(folder: Path) -> float:
    """Sum the sizes of the files below a folder that pip may be changing at this moment."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(path, name)).st_size
    return total / 1e9


def progress(venv: Path) -> str:
    """Say what pip is at: its log is silent for the minutes in which it unpacks."""
    last = "".join(tail(venv / LOG, 1)).strip()
    if re.match(r"Collecting|Downloading|Using cached", last):
        return last
    return f"{gigabytes(venv):.1f} GB of about {SIZE_GB} GB are in place"


def watch(process: subprocess.Popen[bytes], venv: Path) -> int:
    """Show that pip is alive: a line that renews itself on a terminal, else one line in a while."""
    terminal = sys.stderr.isatty()
    start = time.monotonic()
    for beat in itertools.count():
        try:
            code = process.wait(timeout=TICK if terminal else QUIET_SECONDS)
        except subprocess.TimeoutExpired:
            elapsed = clock(time.monotonic() - start)
            if not terminal:
                say(f"{elapsed}  {progress(venv)}"[:100])
                continue
            if beat % TICKS_PER_LOOK == 0:
                seen = progress(venv)
            width = shutil.get_terminal_size().columns - 1
            line = f"setup: {'|/-'[beat % 3]} {elapsed}  {seen}"[:width]
            sys.stderr.write(f"\r\033[K{line}")
            sys.stderr.flush()
        else:
            break
    if terminal:
        sys.stderr.write("\r\033[K")
    if code == 0:
        say(f"installed in {clock(time.monotonic() - start)}")
    return code


def install(venv: Path, dev: bool, locked: int) -> None:
    """Install the project, editable, with pip.

    Raises:
        SetupError: pip failed; the text ends with the log's last lines and what may help.
    """
    log = venv / LOG
    with log.open("wb") as file:
        # pip holds the lock too: if this script is killed, nobody else starts before pip has ended.
        process = subprocess.Popen(
            pip_command(venv, dev),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            pass_fds=(locked,),
        )
        try:
            code = watch(process, venv)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if code != 0:
        lines = tail(log, TAIL)
        text = "\n".join(lines)
        advice = next((help_ for pattern, help_ in ADVICE if re.search(pattern, text)), "")
        shown = "\n".join(f"  {line}" for line in lines)
        raise SetupError(
            f"pip failed (exit code {code}). The end of {log}:\n{shown}\n"
            + (advice or "Read the log, then run this again.")
        )


def report_device(venv: Path) -> None:
    """Say which device will be used; this also proves that the installation can be imported.

    Raises:
        SetupError: PyTorch or the project cannot be imported.
    """
    done = subprocess.run(
        [venv / "bin" / "python", "-W", "ignore", "-c", DEVICE_REPORT],
        cwd=venv,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        lines = "\n".join(f"  {line}" for line in done.stderr.splitlines()[-TAIL:])
        raise SetupError(
            f"what was installed does not work:\n{lines}\nRun this again to reinstall."
        )
    say(done.stdout.strip())


def set_up(venv: Path, dev: bool) -> None:
    """Bring the environment to the state that the checkout asks for."""
    with lock(venv.parent) as locked:
        if is_ready(venv, dev):
            return
        stamp = prepare(venv, dev, locked)
        wanted = replace(stamp, dev=stamp.dev or dev, ready=False, project=project_hash())
        write_stamp(venv, wanted)
        announce(venv, not stamp.ready, wanted.dev)
        try:
            install(venv, wanted.dev, locked)
            report_device(venv)
        except SetupError:
            # pip itself gave up and put back what it had changed: what was whole before still is.
            write_stamp(venv, stamp)
            raise
        write_stamp(venv, replace(wanted, ready=True))


def stop(number: int, frame: FrameType | None) -> None:
    """Turn a request to end into the exception that Ctrl-C raises, so that pip is ended too."""
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the project's virtual environment.")
    parser.add_argument("--dev", action="store_true", help="with the tools for tests")
    parser.add_argument("--check", action="store_true", help="only tell whether it is complete")
    options = parser.parse_args()
    venv = Path(os.environ.get("SSLGRAPH_VENV") or ROOT / ".venv").absolute()
    if options.check:
        return 0 if is_ready(venv, options.dev) else 1
    signal.signal(signal.SIGTERM, stop)
    try:
        venv.parent.mkdir(parents=True, exist_ok=True)
        set_up(venv, options.dev)
    except SetupError as error:
        say(str(error))
        return 1
    except OSError as error:
        say(f"{error.filename or venv}: {error.strerror or error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; run this again, it starts over")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
