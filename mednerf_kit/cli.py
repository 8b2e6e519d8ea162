"""The command line: the table of commands, and what a person sees when one of them fails.

Commands live in ``commands/`` and are imported when they are asked for, so that ``mednerf-kit
--help`` answers at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence

import click

from . import DISCLAIMER, __version__
from .commands.base import LazyGroup
from .core.errors import UserError, is_out_of_memory

# Threads of a parallel region spin before they sleep; beside any other busy process that makes two
# threads many times slower than one. A short spin costs nothing measurable on a quiet machine. Read
# once, when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

COMMANDS = {
    "train": (
        "train:train",
        "Train a prior on phantoms or DRRs, or fit one field to a posed scene.",
    ),
    "project": (
        "project:project",
        "Turn one X-ray (or a few) into a volume, its orbit and a report.",
    ),
    "evaluate": (
        "evaluate:evaluate",
        "Score a prior on patients (one view in, the others compared), or a scene on its views.",
    ),
    "score": (
        "score:score",
        "Compare a prior's random patients with real ones: FID, KID, SWD, copies.",
    ),
    "render": (
        "render:render",
        "Write orbits, videos, volumes and surfaces of a prior or a scene.",
    ),
    "pose": ("pose:pose", "Find where a photograph of a fitted scene was taken from (iNeRF)."),
    "sample": (
        "render:sample",
        "Draw random patients from a prior: a grid of seeds, or an interpolation.",
    ),
    "tomography": (
        "tomography:tomography",
        "Reconstruct one patient from few views: FDK, SART, fields and priors in one table.",
    ),
    "drr": ("data:drr", "Project a CT or a phantom into X-rays."),
    "data": ("data:data", "Make cohorts of phantoms; get and check scenes, render depth."),
    "view": (
        "view:view",
        "Open the workbench in a browser: samples on rays, results, runs, a new projection.",
    ),
    "ablate": (
        "ablate:ablate",
        "Compare variants of a recipe: a table, a figure and paired tests.",
    ),
    "list": ("about:list_", "Show the recipes and every registered variant."),
    "doctor": ("about:doctor", "Show what this machine has: versions, device, speed, data."),
}


@click.group(
    cls=LazyGroup,
    table=COMMANDS,
    epilog=DISCLAIMER,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "show_default": True,
        "max_content_width": 110,
    },
)
@click.version_option(__version__, prog_name="mednerf-kit")
def cli() -> None:
    """From one X-ray to a 3-D attenuation volume and every view on the orbit, with honest
    uncertainty.
    """


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    0: done, 1: failure, 2: input that cannot be used, 130: interrupted.

    >>> main(["--version"])
    mednerf-kit, version 0.1.0
    0
    """
    try:
        with sigterm_as_interrupt():
            cli.main(args, prog_name="mednerf-kit", standalone_mode=False)
            sys.stdout.flush()
    except UserError as error:
        if debugging() and error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        return complain(str(error), error.exit_code)
    except click.ClickException as error:
        return complain(error.format_message() + where_to_look(error), error.exit_code)
    except click.Abort as error:
        if isinstance(error.__cause__, EOFError):  # click takes it for the end of a dialogue
            return unexpected(error.__cause__)
        return complain("interrupted.", 130)
    except KeyboardInterrupt:
        return complain("interrupted.", 130)
    except MemoryError as error:
        return out_of_memory(error)
    except BrokenPipeError:
        # The reader has gone; python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == __package__:
            return unexpected(error)
        return complain(
            f"got no python package '{error.name}'; wanted it for this command: pip install it.", 1
        )
    except Exception as error:
        return unexpected(error)
    return 0


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM is an interruption as Ctrl-C is: what was begun is taken back or saved."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def debugging() -> bool:
    """Whether a person asked for tracebacks."""
    return bool(os.environ.get("MEDNERF_KIT_DEBUG"))


def complain(message: str, exit_code: int) -> int:
    """Say ``message`` as one line on stderr."""
    click.echo("Error: " + " ".join(message.split()), err=True)
    return exit_code


def out_of_memory(error: Exception) -> int:
    """The sentence for a command that this machine has too little memory for."""
    if debugging():
        traceback.print_exception(error)
    why = (str(error).strip().splitlines() or ["no more is free"])[0]
    return complain(
        f"got too little memory ({why}); wanted room for this: choose smaller sizes, batches or "
        "volumes, or close other programs.",
        1,
    )


def unexpected(error: Exception) -> int:
    """One sentence for an error nobody foresaw; the traceback when MEDNERF_KIT_DEBUG is set."""
    if debugging():
        traceback.print_exception(error)
        return 1
    if is_out_of_memory(error):
        return out_of_memory(error)
    text = (str(error).strip().splitlines() or ["without a message"])[0]
    return complain(
        f"unexpected {type(error).__name__}: {text} (set MEDNERF_KIT_DEBUG=1 for the traceback).", 1
    )


def where_to_look(error: click.ClickException) -> str:
    """The help command to read after a usage error."""
    context = getattr(error, "ctx", None)
    return f" Read `{context.command_path} --help`." if context else ""
