"""The command line: every command under one name, and what a fault looks like.

The commands parse, call one function and print; heavy imports come inside the command that needs them.
"""

import os
import sys
from typing import NoReturn

import click

from byolt import __version__
from byolt.commands.comparing import ablate, study
from byolt.commands.delivering import bench, build_engine, export, verify
from byolt.commands.inspecting import data, doctor, recipe
from byolt.commands.learning import embed, evaluate, finetune, pretrain, report
from byolt.console.status import print_any_name, show_logs
from byolt.library_errors import as_ours


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="byolt")
@click.option("--debug", is_flag=True, help="Show the traceback of a fault.")
def cli(debug: bool) -> None:
    """Learn an image encoder from unlabelled images, and deliver it with proof."""


for command in (
    *(recipe, data, doctor),
    *(pretrain, evaluate, finetune, embed, report),
    *(export, verify, build_engine, bench),
    *(study, ablate),
):
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line; a fault of the user or the machine is one sentence and an exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    show_logs()
    print_any_name()
    try:
        cli.main(arguments, prog_name="byolt", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        sys.exit(130)
    except Exception as error:
        fault = as_ours(error)
        if fault is None or "--debug" in arguments:
            raise
        if os.environ.get("RANK", "0") == "0":  # All of torchrun's processes meet it, one tells it.
            click.echo(str(fault), err=True)
        if "TORCHELASTIC_RUN_ID" in os.environ:  # An orderly end would wait for peers that may never come.
            sys.stderr.flush()
            os._exit(fault.exit_code)
        sys.exit(fault.exit_code)
    sys.exit(0)
