"""The one error family a user may see, and the exit codes of the program."""

from __future__ import annotations

EXIT_OK = 0
EXIT_BROKEN = 1
"""`doctor` found something broken; or a bug of ours (with a traceback)."""
EXIT_USER_ERROR = 2
EXIT_LOSSES = 3
"""Done, but something asked for was skipped; every loss has been listed with its reason."""
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """Something the user can act on: what happened, why, and what to do.

    The command line prints it without a traceback and exits with code 2.
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
    """Every problem of a configuration at once, one line each."""

    def __init__(self, problems: list[str], source: str) -> None:
        count = f"{len(problems)} problem" + ("s" if len(problems) > 1 else "")
        super().__init__(
            f"{source}: {count}\n" + "\n".join(f"  - {problem}" for problem in problems),
            do_this="`latentdiff config schema --table` lists every key with its type and meaning.",
        )
        self.problems = problems
