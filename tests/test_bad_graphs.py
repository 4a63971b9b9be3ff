"""What a user reads about a broken file, word for word: `x.yaml` beside `x.txt`.

After a deliberate change of a text: `python -m tests.test_bad_graphs` writes all of them anew; read
the difference before committing it.
"""

import os
from pathlib import Path

import pytest

from sslgraph import registry
from sslgraph.checking import check
from sslgraph.errors import render
from sslgraph.loading import read

FOLDER = Path(__file__).parent / "bad_graphs"
FILES = sorted(path.name for path in FOLDER.glob("*.yaml"))


def report(name: str) -> str:
    """What checking one file prints; the working directory is the folder."""
    graph, problems = read(name)
    if graph is not None:
        problems = check(graph)
    return "\n\n".join(render(problem) for problem in problems) + "\n"


@pytest.mark.parametrize("name", FILES)
def test_the_report_of_a_bad_graph(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    shipped = {use: registry.find(use) for use in registry.SHIPPED}
    monkeypatch.setattr(registry, "_declared", shipped)  # no type of another test is listed
    expected = (FOLDER / name).with_suffix(".txt").read_text(encoding="utf-8")
    assert report(name) == expected


def test_every_report_has_its_file() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.txt")) == [Path(f).stem for f in FILES]


if __name__ == "__main__":
    os.chdir(FOLDER)
    for file in FILES:
        Path(file).with_suffix(".txt").write_text(report(file), encoding="utf-8")
