"""The command line: every command under one name, and what a fault looks like.

The commands parse, call one function and print; heavy imports come inside the command that needs them.
"""

import os
import sys
import time
from typing import NoReturn

import click

from byolt import __version__
from byolt.commands.comparing import ablate, study
from byolt.commands.delivering import bench, build_engine, export, verify
from byolt.commands.inspecting import data, doctor, recipe
from byolt.commands.learning import embed, evaluate, finetune, pretrain, report
from byolt.console.status import show_logs
from byolt.console.streams import flush_streams, keep_streams
from byolt.environment import typed
from byolt.launch import signed, speaks, under_torchrun
from byolt.library_errors import LostProcess, as_ours, quiet_libraries

_AFTER_LOSS_S = 3.0  # torchrun reports the first process that ends, which is to be the one that met the fault.


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
    if arguments is None:
        arguments = sys.argv[1:]
        if "--debug" not in arguments:
            quiet_libraries()
    typed(arguments)
    keep_streams()
    show_logs()
    try:
        exit_code = _exit_code(arguments)
    finally:
        typed([])
    lost = flush_streams()
    if lost is not None:
        click.echo(lost.words, err=True)
        exit_code = exit_code or lost.exit_code
    sys.exit(exit_code)


def _exit_code(arguments: list[str]) -> int:
    try:
        cli.main(arguments, prog_name="byolt", standalone_mode=False)
    except click.ClickException as error:
        if speaks():
            error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        if speaks():
            click.echo("stopped", err=True)
        return 130
    except Exception as error:
        fault = as_ours(error)
        if fault is None or "--debug" in arguments:
            raise
        lost = isinstance(fault, LostProcess)
        if speaks(at_once=lost):
            click.echo(signed(str(fault)), err=True)
        if under_torchrun():  # An orderly end would wait for peers that may never come.
            flush_streams()
            time.sleep(_AFTER_LOSS_S * lost)
            os._exit(fault.exit_code)
        return fault.exit_code
    return 0
