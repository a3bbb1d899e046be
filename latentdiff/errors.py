"""Errors that are shown to the user, and the exit codes of every command."""

from __future__ import annotations

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USER_ERROR = 2
EXIT_SKIPPED = 3
EXIT_INTERRUPTED = 130

EXIT_CODES = {
    EXIT_OK: "finished; everything asked for was done",
    EXIT_FAILURE: "a check failed (doctor, diagnose sampler), another process of the same command "
    "failed, or a bug in latentdiff (with a traceback)",
    EXIT_USER_ERROR: "an error you can fix; the message explains how",
    EXIT_SKIPPED: "finished, but something was skipped; each skipped file is listed with its "
    "reason",
    EXIT_INTERRUPTED: "interrupted by Ctrl-C or SIGTERM; the same command continues",
}
"""Exit code -> what it means; `latentdiff --help` prints this."""


class UserError(Exception):
    """Something the user can act on: what happened, why, and what to do about it.

    The command line prints it without a traceback and exits with EXIT_USER_ERROR.
    """

    def __init__(self, what: str, why: str = "", do_this: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.do_this = do_this

    def __str__(self) -> str:
        lines = [self.what]
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.do_this:
            lines.append(f"  do:  {self.do_this}")
        return "\n".join(lines)


class ConfigError(UserError):
    """All problems of a configuration at once, one line each."""

    def __init__(self, problems: list[str], source: str) -> None:
        count = f"{len(problems)} problem" + ("s" if len(problems) > 1 else "")
        super().__init__(
            f"{source}: {count}\n" + "\n".join(f"  - {problem}" for problem in problems),
            do_this="`latentdiff config schema --table` lists every key with its type and meaning.",
        )
        self.problems = problems
