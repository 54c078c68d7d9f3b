"""The group of commands, and what every command does about errors."""

import contextlib
import importlib
import io
import os
import signal
import sys
from pathlib import Path
from types import FrameType

import click

from surgeon import __version__
from surgeon.cli import voice
from surgeon.cli.streams import guarded
from surgeon.errors import LostProcessError, SurgeonError
from surgeon.lost import named_loss
from surgeon.memory import named_shortage
from surgeon.printable import printable_lines

COMMANDS = {
    "apply": "Reorganize or revive channels of a checkpoint, fine-tune it, and write the result.",
    "finetune": "Fine-tune a checkpoint without any operation: the control of every comparison.",
    "compare": "Compare methods with the same fine-tuning without them, over several seeds.",
    "report": "Make one HTML page of the records of runs, with charts and every edit.",
    "inspect": "Show which tensor axes carry the same channels, and what is frozen and why.",
    "verify": "Prove the channel groups of a network by permuting them.",
    "diff": "Show in which tensors and channels two checkpoints differ, and whether one is the other reordered.",
    "convert": "Write a checkpoint's network as ONNX or as a program of torch.export, and prove it the same.",
    "evaluate": "Measure a checkpoint's top-1, top-5 and loss.",
    "methods": "List the methods, or show one method's options.",
}

FAILED, INTERRUPTED, TERMINATED = 1, 130, 143


class LazyGroup(click.Group):
    """A group that imports a command when it is called, so that `--help` starts at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"surgeon.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="surgeon")
def cli() -> None:
    """Bring dead, duplicated and weak channels of pretrained vision networks back to life."""


def main() -> None:
    """Run the command line and exit: 0 done, 1 refused or failed, 2 usage, 130 interrupted.

    Of several processes the main one prints the results, and the first that fails says why.
    """
    signal.signal(signal.SIGTERM, _terminate)
    with contextlib.ExitStack() as stack:
        stack.enter_context(guarded())
        if not voice.is_main():
            nowhere = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        sys.exit(_run())


def _run() -> int:
    """Run the command line, say what went wrong, and return the exit code."""
    try:
        with named_loss(), named_shortage():
            code = cli(standalone_mode=False)
        sys.stdout.flush()
        voice.part()
    except LostProcessError as error:
        _complain(f"Error: {error.problem}\n{error.remedy}", alone=True)
        return FAILED
    except SurgeonError as error:
        _complain(f"Error: {error.problem}\n{error.remedy}")
        return FAILED
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return error.exit_code
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        _complain(shown.getvalue().rstrip("\n"))
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _complain("\nInterrupted. The input is untouched, and every output is whole or as it was.")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; nothing is wrong, and nothing is left to say.
        sys.stderr.close()
        return FAILED
    except SystemExit as stop:
        if stop.code == TERMINATED:
            _complain("\nTerminated. The input is untouched, and every output is whole or as it was.")
        raise
    except Exception:
        if voice.fails_first():
            raise
        return FAILED
    return code if isinstance(code, int) else 0


def _complain(text: str, *, alone: bool = False) -> None:
    if hasattr(signal, "SIGCHLD"):
        # torch raises an error wherever the program is when a process that reads images dies, and this is its end.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if voice.fails_first(alone=alone):
        click.echo(printable_lines(text), err=True)


def _terminate(number: int, frame: FrameType | None) -> None:
    """End like an exception, so that temporary files are removed on the way out."""
    sys.exit(TERMINATED)
