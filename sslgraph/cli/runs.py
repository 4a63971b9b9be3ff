"""`sslgraph run`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from sslgraph.cli.failures import fail
from sslgraph.cli.options import METHOD, changes, checked, examples, own_nodes, read_graph, register
from sslgraph.cli.output import console, printable
from sslgraph.errors import did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

    from sslgraph.data import Source
    from sslgraph.plan import Plan
    from sslgraph.spec import Graph
    from sslgraph.train import Result

_DIGIT_CHANNELS = 3
_MOST_WORKERS = 8
_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command(
    epilog=examples(
        "sslgraph run simclr --preset tiny",
        "sslgraph run mine.yaml --data ~/photos --steps 2000",
        "sslgraph run --resume runs/mine-001",
    )
)
@click.argument("source", type=METHOD, metavar="METHOD", required=False)
@click.option("--data", metavar="DIR", type=Path, help="Folder of images, in any layout.")
@click.option(
    "--clutter",
    metavar="RUNG",
    help="How hard the digits are, without --data: A plain, E with colour, B moved about, C both, "
    "D with clutter (the default), D10 with more.",
)
@changes
@click.option("--out", metavar="DIR", type=_FOLDER, help="Run folder; runs/NAME-001 and so on.")
@click.option("--steps", metavar="N", type=click.IntRange(min=1), help="Length of the run.")
@click.option("--seed", metavar="N", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--workers",
    metavar="N",
    type=click.IntRange(min=0),
    help="Processes that read images ahead; as many as suit the data if left out.",
)
@click.option("--device", metavar="NAME", help="Such as cpu or cuda:1; a GPU if there is one.")
@own_nodes
@click.option("--resume", metavar="RUN_DIR", type=_FOLDER, help="Go on with a stopped run.")
@click.pass_context
def run(
    ctx: click.Context,
    source: str | None,
    data: Path | None,
    clutter: str | None,
    preset: str | None,
    settings: Sequence[str],
    out: Path | None,
    steps: int | None,
    seed: int,
    workers: int | None,
    device: str | None,
    node_files: Sequence[str],
    resume: Path | None,
) -> None:
    """Train a method on images, and leave a run folder.

    Without --data it trains on images of digits that come with sslgraph. The method is checked
    first: with a mistake in it, nothing is run or written. Exits with 3 if the loss is not finite,
    with 75 if it was stopped and saved.
    """
    if resume is not None:
        _only_resume(ctx)
        ctx.exit(_guarded(lambda console: _resumed(resume, console)))
    if source is None:
        raise click.UsageError("give a METHOD, or --resume RUN_DIR", ctx)
    graph = read_graph(source, preset, settings)
    register(node_files)
    plan = checked(graph, sizes=False).plan
    assert plan is not None  # the graph has no errors
    notes = _notes(graph, plan, data, clutter, node_files)

    def work(console: Console) -> Result:
        from sslgraph.train import train

        named = f"{graph.title or graph.name}{f', preset {preset}' if preset else ''}"
        _tell("graph", f"{named}: {', '.join(step.name for step in plan.steps)}", console)
        images, tests = _images(data, notes, console)
        return train(
            graph,
            images,
            test_source=tests,
            out=out,
            steps=steps,
            seed=seed,
            device=device,
            workers=_workers(data) if workers is None else workers,
            draw=_drawer(console),
            target=source if preset is None else f"{source} --preset {preset}",
            notes=notes,
            console=console,
        )

    ctx.exit(_guarded(work))


def _notes(
    graph: Graph, plan: Plan, data: Path | None, clutter: str | None, node_files: Sequence[str]
) -> dict[str, Any]:
    """What a resumed run needs to find the same images and node types again."""
    return {
        "data": str(data.expanduser().resolve()) if data else None,
        # Digits are drawn as large as a view; photographs are larger, to leave room for the crop.
        "canvas": plan.canvas() if data else plan.largest_view(),
        "channels": graph.data.batch.channels,
        "clutter": clutter,
        "nodes": [str(Path(path).resolve()) for path in node_files],
    }


def _only_resume(ctx: click.Context) -> None:
    """A resumed run takes everything from its folder.

    Raises:
        UsageError: Something else was given beside `--resume`.
    """
    for parameter in ctx.command.params:
        name = parameter.name or ""
        given = ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name != "resume":
            called = parameter.opts[-1] if isinstance(parameter, click.Option) else "METHOD"
            raise click.UsageError(
                f"{called} has no place beside --resume: a run goes on as it began", ctx
            )


def _resumed(path: Path, console: Console) -> Result:
    from sslgraph.train import resume, run_settings

    notes = run_settings(path).get("notes", {})
    register(notes.get("nodes", ()))
    data = notes.get("data")
    images, tests = _images(Path(data) if data else None, notes, console)
    return resume(path, images, test_source=tests, console=console)


def _guarded(work: Callable[[Console], Result]) -> int:
    """Train and give the exit code; what data and training say of themselves is one line."""
    from sslgraph.data import DataError
    from sslgraph.train import RunError

    try:
        return work(console()).exit_code
    except RunError as failure:
        fail(str(failure), failure.exit_code)
    except DataError as failure:
        fail(str(failure))


def _images(
    data: Path | None, notes: Mapping[str, Any], out: Console
) -> tuple[Source, Source | None]:
    """Images to train on, and to test on where there are some; says what they are.

    Raises:
        DataError: There are none, or they do not suit the method.
    """
    from sslgraph.data import RUNGS, DataError, EmbeddedDigits, ImageFolder

    canvas, channels = notes["canvas"], notes["channels"]
    rung = notes.get("clutter")
    if data is not None:
        if rung is not None:
            raise DataError("--clutter is for the embedded digits: leave it out beside --data")
        folder = ImageFolder(data, canvas=canvas, channels=channels)
        _tell("data", str(folder.summary()), out)
        return folder, None
    if channels != _DIGIT_CHANNELS:
        raise DataError(
            f"the embedded digits have {_DIGIT_CHANNELS} channels, and the method asks for "
            f"{channels} (data.batch.channels): give images of your own by --data DIR"
        )
    if rung is not None and rung not in RUNGS:
        raise DataError(f"no clutter '{rung}': {did_you_mean(rung, RUNGS, show='there are')}")
    clutter = RUNGS[rung] if rung else None
    images = EmbeddedDigits("train", canvas=canvas, clutter=clutter)
    tests = EmbeddedDigits("test", canvas=canvas, clutter=clutter)
    _tell("data", f"no --data was given, so these come with sslgraph:\n{images}\n{tests}", out)
    return images, tests


def _tell(label: str, text: str, out: Console) -> None:
    for number, line in enumerate(printable(text).splitlines()):
        out.print(f"{'' if number else label:8}{line}", soft_wrap=True)


def _workers(data: Path | None) -> int:
    """Embedded images are kept in memory; files are read beside the training."""
    return min(_MOST_WORKERS, max(1, (os.cpu_count() or 1) - 1)) if data else 0


def _drawer(out: Console) -> Callable[[Graph, Path], None]:
    """Draw a graph; a picture that can't be made is no reason to stop."""

    def draw_or_warn(graph: Graph, path: Path) -> None:
        from sslgraph.drawing import DrawingError
        from sslgraph.drawn import draw

        try:
            draw(graph, path)
        except DrawingError as failure:
            _tell("", f"warning: no picture of the graph: {failure}", out)

    return draw_or_warn
