"""The wheel: built without network, installed away from the repository, and used from there."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Printed as one line of JSON by a Python that knows only the installed wheel.
USE_IT = """
import json, sys
import sslgraph
from sslgraph.loading import shipped_methods
graphs = {name: list(sslgraph.load(name).nodes) for name in shipped_methods()}
assert "torch" not in sys.modules
from sslgraph.data.digits import optdigits
images, labels = optdigits()
print(json.dumps({
    "home": sslgraph.__file__,
    "version": sslgraph.__version__,
    "graphs": graphs,
    "images": list(images.shape),
    "labels": labels.bincount().tolist(),
}))
"""


def pip(*arguments: str | Path) -> None:
    """Run pip cut off from every index: what is needed must be there."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
    environment["PIP_NO_INDEX"] = "1"
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_carries_methods_data_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        folder = ROOT / "methods"
        files = folder.rglob("*.yaml")
        methods = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
        carried = {
            name.removeprefix("sslgraph/_methods/"): archive.read(name)
            for name in names
            if name.startswith("sslgraph/_methods/")
        }
    assert methods
    assert carried == methods
    assert {"sslgraph/py.typed", "sslgraph/data/digits.npz"} <= names
    assert {"sslgraph/data/digits.LICENSE.txt", "sslgraph/__init__.py"} <= names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"sslgraph"}


def test_the_installed_wheel_loads_every_method_and_the_digits(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site packages"
    pip("install", "--no-deps", "--target", target, wheel)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", USE_IT],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert Path(found["home"]).is_relative_to(target)
    assert f"sslgraph-{found['version']}-py3-none-any.whl" == wheel.name
    assert set(found["graphs"]) == {path.stem for path in (ROOT / "methods").rglob("*.yaml")}
    assert all(found["graphs"].values())
    # Counts of each class as the data set's own description gives them.
    assert found["images"] == [1797, 8, 8]
    assert found["labels"] == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert (target / "bin" / "sslgraph").exists()
