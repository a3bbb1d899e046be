"""The `latentdiff` command: declares the options, and imports each worker inside its command.

Only this package uses click.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback

import click

from latentdiff.cli import chain, config, diagnose, notebook
from latentdiff.cli.base import cli
from latentdiff.errors import (
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USER_ERROR,
    UserError,
)

# Imported in the order of the help.
__all__ = ["chain", "cli", "config", "diagnose", "main", "notebook"]

LONG_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"


def main() -> None:
    """Entry point: runs the command line and turns every outcome into an exit code."""
    # OpenMP threads that wait for each other spin 300,000 rounds before they sleep. Next to other
    # busy processes this makes training 2 to 20 times slower; 3,000 rounds cost nothing measurable
    # on an idle machine. libgomp reads this when torch loads it.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    signal.signal(signal.SIGTERM, _terminate)
    verbose = bool({"-v", "--verbose"} & set(sys.argv))
    try:
        _refuse_long_dashes(sys.argv[1:])
        sys.exit(cli.main(standalone_mode=False) or EXIT_OK)
    except UserError as error:
        if verbose:
            traceback.print_exc()
        click.echo(f"error: {error}", err=True)
        sys.exit(EXIT_USER_ERROR)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_USER_ERROR)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; the same command continues", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.exit(EXIT_FAILURE)
    except Exception:
        traceback.print_exc()
        click.echo(
            "\nThis is a bug in latentdiff. Please report the lines above together with the output "
            "of `latentdiff doctor`.",
            err=True,
        )
        sys.exit(EXIT_FAILURE)


def _terminate(*_: object) -> None:
    raise KeyboardInterrupt


def _refuse_long_dashes(words: list[str]) -> None:
    for word in words:
        if word[:1] and word[0] in LONG_DASHES:
            meant = "--" + word.lstrip(LONG_DASHES + "-")
            raise UserError(
                f"'{word}' starts with a long dash (U+{ord(word[0]):04X}) instead of --",
                why="text editors and web pages replace -- by it",
                do_this=f"type {meant}",
            )
