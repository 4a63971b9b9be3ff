"""The command `sslgraph`.

Nothing heavy is imported before a command needs it: the commands that only read files answer at
once and need no PyTorch.
"""

from __future__ import annotations

import click

from sslgraph.cli.checks import check
from sslgraph.cli.descriptions import describe
from sslgraph.cli.differences import diff
from sslgraph.cli.drawings import draw
from sslgraph.cli.failures import Commands, version_text
from sslgraph.cli.pages import list_methods, nodes, show
from sslgraph.cli.proofs import prove
from sslgraph.cli.runs import run
from sslgraph.cli.starts import new, schema

_EPILOG = """\b
Try it:
  sslgraph list                      the methods that come with it
  sslgraph run simclr --preset tiny  train one on embedded data, minutes on a laptop
  sslgraph new mine --from simclr    a copy to change: mine.yaml
  sslgraph check mine.yaml           every mistake, with its line
"""


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EPILOG,
    no_args_is_help=False,
    invoke_without_command=True,
)
@click.version_option(message="%(version)s", version=version_text())
@click.pass_context
def main(context: click.Context) -> None:
    """Visual self-supervised learning methods as graphs in YAML: read, check, draw and train them.

    METHOD is the name of a method that comes with sslgraph, or the path of a YAML file.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for _command in (run, check, prove, list_methods, show, diff, draw, describe, nodes, new, schema):
    main.add_command(_command)
