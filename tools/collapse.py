"""Collapse: take away what keeps a method's features apart, and see whether they fall together.

    python -m tools.collapse                # every case; minutes
    python -m tools.collapse byol --steps 200

For each case `check` has to warn, and a short run of the small preset has to collapse while the
same run of the method itself does not: of what the loss compares, the standard deviation or the
RankMe falls to less than half. Features (those of DINO are its targets, probabilities) are of
unseen pictures; for the standard deviation they have unit length, for RankMe each dimension is
standardised, as a loss that normalises over the batch sees them. Results stand in
`tools/collapse.json` with date and commit.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sslgraph
from sslgraph.files import write_text
from sslgraph.plan import make_plan
from tools.methods import commit, read, today

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "tools" / "collapse.json"
FALL, PICTURES = 0.5, 512


@dataclass(frozen=True)
class Case:
    """One thing taken away.

    Args:
        what: In words.
        features: What the loss compares: an embedding, or probabilities over prototypes.
        changes: The settings that do it.
        run: Settings of both runs.
        steps: Length of both runs.
    """

    what: str
    features: str
    changes: Mapping[str, Any]
    run: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 60


# Colours survive these, so that there is enough on which two views can agree.
PLAIN_VIEWS = [
    {"crop": [0.5, 1]},
    {"normalize": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}},
]


CASES = {
    "byol": Case(
        "no predictor",
        "projector",
        {"nodes.loss.in": {"prediction": "projector", "target": "target"}},
    ),
    "simsiam": Case(
        "no stop-gradient",
        "projector",
        {"nodes.loss.in": {"prediction": "predictor", "target": "projector"}},
        steps=80,
    ),
    "dino": Case("no center", "target", {"nodes.target.in": "teacher"}, steps=120),
    "barlow_twins": Case(
        "no decorrelation",
        "projector",
        {"nodes.loss.weight": 0},
        run={"nodes.views.ops": PLAIN_VIEWS},
        steps=150,
    ),
    "vicreg": Case("no variance term", "expander", {"nodes.loss.variance": 0}),
    "swav": Case(
        "softmax in the place of Sinkhorn",
        "projector",
        {
            "nodes.codes": {"use": "sharpen", "in": "prototypes.0:2", "temperature": 0.05},
            "nodes.queue": None,
            "nodes.queue_scores": None,
        },
    ),
}


def run(names: Sequence[str], steps: int | None, seed: int) -> bool:
    """Run the cases; whether each is warned of and collapses."""
    fine = True
    for name in names:
        case = CASES[name]
        length = steps or case.steps
        settings = {"train.steps": length, "outputs.embedding": case.features, **case.run}
        warned = [p.code for p in problems(name, {**settings, **case.changes})]
        intact = one_run(name, settings, seed)
        broken = one_run(name, {**settings, **case.changes}, seed)
        fell = sorted(key for key in ("std", "rank") if broken[key] < FALL * intact[key])
        known = read(RESULTS)
        known[name] = {
            "date": today(),
            "commit": commit(),
            "what": case.what,
            "steps": length,
            "warned": [code for code in warned if code.startswith("W5")],
            "intact": intact,
            "broken": broken,
            "fell": fell,
        }
        write_text(RESULTS, json.dumps(dict(sorted(known.items())), indent=1) + "\n")
        print(f"{name}, {case.what}: {known[name]}", flush=True)
        fine &= bool(known[name]["warned"] and fell)
    return fine


def problems(name: str, changes: Mapping[str, Any]) -> list[sslgraph.Problem]:
    """What check says of a case."""
    return sslgraph.check(sslgraph.load(name, preset="tiny", set=dict(changes)))


def one_run(name: str, changes: Mapping[str, Any], seed: int) -> dict[str, float]:
    """What the features are like after a short run."""
    from sslgraph.data import EmbeddedDigits
    from sslgraph.evaluate.diagnostics import feature_std, rankme
    from sslgraph.train import checkpoint, train

    graph = sslgraph.load(name, preset="tiny", set=dict(changes))
    canvas = make_plan(graph).largest_view()
    unseen = EmbeddedDigits("test", canvas=canvas)
    with tempfile.TemporaryDirectory() as folder:
        result = train(
            graph, EmbeddedDigits("train", canvas=canvas), out=Path(folder) / "run", seed=seed
        )
        last = max((Path(folder) / "run" / "checkpoints").iterdir())
        state: Any = checkpoint.read(last).state
    method = sslgraph.compile(graph, seed=seed)
    method.load_state_dict(state["method"])
    images = unseen.images(range(PICTURES))
    features = method.outputs({"image": images}, ["embedding"])["embedding"][0]
    centred = features - features.mean(0)
    standard = centred / centred.std(0).clamp(min=1e-12)
    facts = {"loss": result.loss, "std": feature_std(features), "rank": rankme(standard)}
    return {key: round(float(value), 5) for key, value in facts.items()}


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*CASES, []], metavar="METHOD")
    parser.add_argument("--steps", type=int, help="instead of each case's own length")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.exit(0 if run(given.names or list(CASES), given.steps, given.seed) else 1)


if __name__ == "__main__":
    main()
