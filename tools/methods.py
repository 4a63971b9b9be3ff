"""The table of methods: measure what their small presets reach, and write `methods/README.md`.

    python tools/methods.py measure              # every method, seeds 0 1 2; minutes each
    python tools/methods.py measure byol --seeds 0
    python tools/methods.py prove                # `sslgraph prove` of every method
    python tools/methods.py table                # the README and the pictures

A measurement is a run of the `tiny` preset on the embedded digits. Results stand in
`tools/methods.json`, `tools/proofs.json`, `tools/mutants.json` (`tools/mutate.py`) and
`tools/collapse.json` (`tools/collapse.py`) with date and commit; `table` reads nothing else but the
methods themselves.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sslgraph
from sslgraph.drawn import draw
from sslgraph.files import write_text
from sslgraph.loading import shipped_methods
from sslgraph.plan import make_plan

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "tools" / "methods.json"
PROOFS = ROOT / "tools" / "proofs.json"
MUTANTS = ROOT / "tools" / "mutants.json"
COLLAPSE = ROOT / "tools" / "collapse.json"
README = ROOT / "methods" / "README.md"
SEEDS = (0, 1, 2)
# Points of kNN; 2.8 are two standard errors of a difference near 12 % on 1,090 pictures.
MARGIN = 3.0


def measure(names: Sequence[str], seeds: Sequence[int]) -> None:
    """Run small presets and keep what they reached."""
    for name in names:
        for seed in seeds:
            print(f"{name}, seed {seed}", flush=True)
            result = one_run(name, seed)
            known = read_results()  # only now: another process may measure beside this one
            found = {**known.get(name, {}).get("seeds", {}), str(seed): result}
            known[name] = {
                "date": today(),
                "commit": commit(),
                "seeds": dict(sorted(found.items())),
            }
            write_text(RESULTS, json.dumps(dict(sorted(known.items())), indent=1) + "\n")


def prove_all(names: Sequence[str]) -> bool:
    """Prove small presets and keep what was found; whether nothing failed."""
    from sslgraph.proving import prove

    fine = True
    for name in names:
        start = time.perf_counter()
        found = prove(sslgraph.load(name, preset="tiny"))
        seconds = time.perf_counter() - start
        for result in found:
            print(f"{name}: {result}", flush=True)
        failed = {r.name: r.found for r in found if r.status == "failed"}
        known = read(PROOFS)
        known[name] = {
            "date": today(),
            "commit": commit(),
            "seconds": round(seconds, 1),
            "passed": [r.name for r in found if r.status == "passed"],
            "failed": failed,
            "does_not_apply": {r.name: r.found for r in found if r.status == "does_not_apply"},
        }
        write_text(PROOFS, json.dumps(dict(sorted(known.items())), indent=1) + "\n")
        fine &= not failed
    return fine


def one_run(name: str, seed: int) -> dict[str, float]:
    """One run of a small preset: accuracies in percent, and what the features are like."""
    from sslgraph.data import EmbeddedDigits
    from sslgraph.train import train

    graph = sslgraph.load(name, preset="tiny")
    canvas = make_plan(graph).largest_view()
    with tempfile.TemporaryDirectory() as folder:
        result = train(
            graph,
            EmbeddedDigits("train", canvas=canvas),
            test_source=EmbeddedDigits("test", canvas=canvas),
            out=Path(folder) / "run",
            seed=seed,
        )
    quality, floors = result.quality, result.floors
    if quality is None or quality.knn is None or result.signal:
        sys.exit(f"{name}, seed {seed}: the run has no kNN")
    facts = {
        "knn": quality.knn * 100,
        "untrained": (floors.untrained or 0) * 100,
        "pixels": (floors.pixels or 0) * 100,
        "loss": result.loss,
        "rank": quality.rank,
        "std": quality.std,
    }
    return {key: round(float(value), 4) for key, value in facts.items()}


def table() -> None:
    """Write the README and a picture of each method."""
    results = read_results()
    for name in shipped_methods():
        draw(sslgraph.load(name), picture_of(name))
    write_text(README, text(results))


def picture_of(name: str) -> Path:
    """Where the picture of a method is: beside its file."""
    return ROOT / "methods" / place_of(name).with_suffix(".svg")


def place_of(name: str) -> Path:
    """The file of a method, from the folder of methods."""
    path = shipped_methods()[name]
    return Path(*path.parts[path.parts.index("methods") + 1 :])


def row(name: str, graph: sslgraph.Graph, result: Mapping[str, Any] | None) -> str:
    """One method as a line of the table."""
    file = place_of(name)
    title = f"[{graph.title or name}]({file})"
    cells = [
        f"{title} ([paper]({graph.paper}))" if graph.paper else title,
        graph.family,
        f"[picture]({file.with_suffix('.svg')})",
        str(lines_of(graph) if file.parent == Path() else written_lines(name)),
        str(len(checks_of(name))),
        proved(read(PROOFS).get(name)),
        judged(read(MUTANTS).get(name)),
        *reached(result),
    ]
    return f"| {' | '.join(cells)} |"


def proved(result: Mapping[str, Any] | None) -> str:
    """How many properties hold, of those that apply."""
    if result is None:
        return "not proved"
    holds, fails = len(result["passed"]), len(result["failed"])
    return f"{holds} of {holds + fails}"


def judged(result: Mapping[str, Any] | None) -> str:
    """How many mutants that change something are caught, and how many without goldens."""
    if result is None:
        return ""
    real = [m for m in result["mutants"] if m["by"] != "equivalent"]
    caught = sum(bool(m["by"]) for m in real)
    early = sum(m["by"] in ("check", "prove") for m in real)
    return f"{caught} ({early}) of {len(real)}"


def reached(result: Mapping[str, Any] | None) -> list[str]:
    """The measured cells: kNN of each seed, of the untrained encoder and of raw pixels."""
    if result is None:
        return ["not measured", "", "", ""]
    seeds = list(result["seeds"].values())
    every = " / ".join(f"{seed['knn']:.1f}" for seed in seeds)
    untrained = [seed["untrained"] for seed in seeds]
    return [
        every if is_above(result) else f"{every}, **not above untrained**",
        f"{min(untrained):.1f} to {max(untrained):.1f}",
        f"{statistics.mean(seed['pixels'] for seed in seeds):.1f}",
        f"{result['date']}, {result['commit']}",
    ]


def is_above(result: Mapping[str, Any]) -> bool:
    """Whether every seed beats its untrained encoder by more than chance explains."""
    return all(seed["knn"] - seed["untrained"] > MARGIN for seed in result["seeds"].values())


def text(results: Mapping[str, Any]) -> str:
    """The README."""
    rows = [row(name, sslgraph.load(name), results.get(name)) for name in shipped_methods()]
    below = [name for name in shipped_methods() if name in results and not is_above(results[name])]
    reasons = [f"- **{sslgraph.load(n).title}**: {REASONS[n]}" for n in below if n in REASONS]
    others = [sslgraph.load(name).title or name for name in below if name not in REASONS]
    if others:
        reasons.append(f"- **{', '.join(others)}**: {SHORT}")
    why = ["Not above untrained, and why:", "", *reasons, ""] if reasons else []
    head = [
        "| method | family | wiring | lines | checks | proof | mutants | kNN (%), each seed "
        "| untrained (%) | pixels (%) | measured |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([INTRODUCTION, *head, *rows, "", EXPLANATION, *why, *collapsed(), ""])


def collapsed() -> list[str]:
    """What happens without that which keeps features apart."""
    found = read(COLLAPSE)
    if not found:
        return []
    rows = [
        f"| {sslgraph.load(name).title} | {case['what']} | {', '.join(case['warned'])} "
        f"| {case['intact']['std']:.3f} -> {case['broken']['std']:.3f} "
        f"| {case['intact']['rank']:.1f} -> {case['broken']['rank']:.1f} "
        f"| {case['steps']} steps, {case['date']}, {case['commit']} |"
        for name, case in found.items()
    ]
    return [
        "Without what keeps features apart `check` warns, and a short run of the small preset "
        "collapses (`python -m tools.collapse`): of what the loss compares, embeddings or (DINO) "
        "probabilities of unseen pictures, the standard deviation or the RankMe falls to less than "
        "half, from intact to broken. The views of Barlow Twins keep their colours there.",
        "",
        "| method | taken away | warning | std | RankMe | run |",
        "|---|---|---|---|---|---|",
        *rows,
    ]


INTRODUCTION = """# Methods

Each method is one YAML file: the published recipe, and a `tiny` preset with the same wiring that
trains in minutes on two CPU cores. `sslgraph show METHOD` prints it, `sslgraph draw METHOD` draws
it, `sslgraph run METHOD --preset tiny` trains it on the digits that come with the package.
`python tools/methods.py table` writes this file.
"""

REASONS = {
    "byol": "without negatives it may keep what is easiest to foretell of the other view, such as "
    "the ground's brightness; RankMe stays at 6 to 20 of 64, whether colours change less or more "
    "and the target follows sooner or later (a dozen settings tried).",
    "dino": "with weak colour changes images seem to be told apart by colour (the loss falls far, "
    "the digits are not found); with the strong ones of other presets it falls with 64 prototypes "
    "and sharper targets alone, and the digits are not found either.",
    "mae": "most of the pixels that it rebuilds are ground and clutter, and nearest neighbours say "
    "less of it than fine-tuning does, by which the paper judges too.",
}
"""Why the small preset of a method does not beat its untrained encoder, where it does not."""

SHORT = (
    "their presets run for a minute or two on one core, 90 to 600 steps; longer ones, or other "
    "views, were hardly looked for. Their losses fall."
)
"""The same for those whose presets were not looked into."""

EXPLANATION = """- **lines**: what `sslgraph show` prints, presets left out; hybrids, which
  stand last, have the lines of their files.
- **checks**: tests against a version written by hand (loss, gradients and state over three
  optimizer steps) and against numbers of the recipe (sizes, losses, schedules), in `tests/methods`.
- **proof**: properties of `sslgraph prove` that hold, of those that apply
  (`python tools/methods.py prove`).
- **mutants**: methods broken on purpose, a wire cut or crossed, a setting turned or state out of
  order (`python -m tools.mutate --sample 40`, at most forty drawn of each method): those that were
  caught, in brackets those without the method's goldens, of those that change loss or gradients.
- **kNN**: top-1 of 20 nearest neighbours after the `tiny` preset, on 1,090 pictures of digits that
  training never saw (10 classes, chance 10.1 %). Beside it the same encoder untrained, and raw
  pixels.

That a wiring is the published one is shown by the checks. The digits show what a few hundred steps
on pictures of 32 pixels in coloured clutter come to; they rank nothing, and the presets were not
tuned alike.
"""


def lines_of(graph: sslgraph.Graph) -> int:
    """Lines of a method as `show` prints it, presets aside."""
    return len(graph.document.text.split("\npresets:")[0].splitlines())


def written_lines(name: str) -> int:
    """Lines of the file of a method that says only what differs from another one."""
    return len(shipped_methods()[name].read_text(encoding="utf-8").splitlines())


def checks_of(name: str) -> list[str]:
    """Names of the tests of a method."""
    path = ROOT / "tests" / "methods" / f"test_{name}.py"
    if not path.is_file():
        return []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [n.name for n in tree.body if isinstance(n, ast.FunctionDef) and n.name[:5] == "test_"]


def read_results() -> dict[str, Any]:
    """What was measured so far."""
    return read(RESULTS)


def read(path: Path) -> dict[str, Any]:
    """What a file of results holds, nothing where there is none yet."""
    if not path.is_file():
        return {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def today() -> str:
    """The date."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def commit() -> str:
    """The commit that is measured."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("measure", help="run small presets")
    runs.add_argument("names", nargs="*", metavar="METHOD")
    runs.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    proofs = commands.add_parser("prove", help="prove small presets")
    proofs.add_argument("names", nargs="*", metavar="METHOD")
    commands.add_parser("table", help="write methods/README.md and the pictures")
    given = parser.parse_args()
    if given.command == "table":
        table()
        return
    names = given.names or list(shipped_methods())
    unknown = sorted(set(names) - set(shipped_methods()))
    if unknown:
        parser.error(f"no method {', '.join(unknown)}; there are {', '.join(shipped_methods())}")
    if given.command == "prove":
        sys.exit(0 if prove_all(names) else 1)
    measure(names, given.seeds)


if __name__ == "__main__":
    main()
