"""The folders of a run, and what it takes to write into one of them."""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from latentdiff.errors import UserError
from latentdiff.runs.files import make_directory, remove_partial, write_json
from latentdiff.runs.info import (
    RUN_FILE,
    Input,
    Process,
    RunInfo,
    package_versions,
    read_run,
    require_done,
)

if TYPE_CHECKING:
    from filelock import BaseFileLock

CONFIG_FILE = "config.yaml"
LOCK_FILE = ".lock"
PLACEHOLDERS = (".gitkeep", ".DS_Store")
"""Files of a folder that counts as empty."""
ELSEWHERE_FILE = "elsewhere.json"
"""File of a run that records the dataset, RAVE model and latents outside of it."""


@dataclass(frozen=True)
class Run:
    """A run directory such as `runs/techno`, with one folder per stage."""

    root: Path
    dataset_elsewhere: Path | None = None
    """Dataset outside the run, given with --dataset; only to be remembered."""
    rave_elsewhere: Path | None = None
    """RAVE outside the run, given with --rave; None: the run's own."""
    latents_elsewhere: Path | None = None
    """Folder outside the run that `encode --latents` writes; None: the run's own."""

    @property
    def config(self) -> Path:
        """The resolved settings, `config.yaml`."""
        return self.root / CONFIG_FILE

    @property
    def dataset(self) -> Path:
        """Folder of the RAVE database."""
        return self.root / "dataset"

    @property
    def rave(self) -> Path:
        """Folder or file of the codec: that given with --rave, else the run's own."""
        return self.rave_elsewhere or self.root / "rave"

    @property
    def latents(self) -> Path:
        """Folder of the encoded latents: that given to `encode`, else the run's own."""
        return self.latents_elsewhere or self.root / "latents"

    @property
    def diffusion(self) -> Path:
        """Folder of the diffusion model."""
        return self.root / "diffusion"

    @property
    def diagnosis(self) -> Path:
        """One folder per question."""
        return self.root / "diagnosis"

    @property
    def samples(self) -> Path:
        """One folder of latents per name."""
        return self.root / "samples"

    @property
    def audio(self) -> Path:
        """One folder of decoded audio per name."""
        return self.root / "audio"

    def read_elsewhere(self) -> dict[str, Path]:
        """`dataset`, `rave` and `latents` as earlier commands were given them; only those that
        were.

        Raises UserError if the file is damaged.
        """
        path = self.root / ELSEWHERE_FILE
        try:
            places = json.loads(path.read_text(encoding="utf-8"))
            return {name: Path(place) for name, place in places.items()}
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path} cannot be read",
                why=str(error),
                do_this="delete it, and give --dataset, --rave and --latents again where needed.",
            ) from error

    def write_elsewhere(self) -> None:
        """Remember the places outside the run for later commands."""
        given = {
            "dataset": self.dataset_elsewhere,
            "rave": self.rave_elsewhere,
            "latents": self.latents_elsewhere,
        }
        new = {name: path.resolve() for name, path in given.items() if path is not None}
        if new:
            places = {name: str(path) for name, path in (self.read_elsewhere() | new).items()}
            write_json(self.root / ELSEWHERE_FILE, places)


class Stage:
    """An open stage folder, used as a context manager; its `run.json` records how it ended.

    Entering creates the folder, takes its lock and writes the status `running`. Leaving writes
    `done`, or `failed` with the reason. `record` adds facts worth keeping. `may_change` names keys
    of `config` that do not affect what the stage makes.

    Raises UserError if the folder is in use by another process, cannot be written, or holds
    something that latentdiff did not make.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        *,
        config: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Input] | None = None,
        seed: int | None = None,
        overwrite: bool = False,
        may_change: Iterable[str] = (),
    ) -> None:
        self.directory = directory
        self.name = name
        self._overwrite = overwrite
        self._started = time.monotonic()
        self._wall_before = 0.0
        self._log_handler: logging.Handler | None = None
        self._info = RunInfo(
            stage=name,
            status="running",
            process=Process(os.getpid(), socket.gethostname()),
            command=command_line(),
            config=dict(config or {}),
            may_change=tuple(may_change),
            inputs=dict(inputs or {}),
            seed=seed,
            versions=package_versions(),
            started=datetime.now(timezone.utc),
            wall_seconds=0.0,
            result={},
        )

    def __enter__(self) -> Stage:
        refuse_foreign(self.directory)
        make_directory(self.directory)
        self._lock = _take_lock(self.directory)
        try:
            self._begin()
        except BaseException:
            self._release()
            raise
        return self

    def _begin(self) -> None:
        before = read_run(self.directory, self.name)
        if self._overwrite:
            _empty(self.directory)
        elif before:
            self._wall_before = before.wall_seconds
        remove_partial(self.directory)
        self._write()
        handler = logging.FileHandler(self.directory / "log.txt", encoding="utf-8", delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logging.getLogger("latentdiff").addHandler(handler)
        self._log_handler = handler

    def record(self, **facts: Any) -> None:
        """Add facts to `result` in `run.json`; written at once."""
        self._info = replace(self._info, result={**self._info.result, **facts})
        self._write()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._info = replace(self._info, status="done")
                self._write()
            else:
                reason = "interrupted" if kind is KeyboardInterrupt else str(error)
                self._info = replace(self._info, status="failed", error=reason)
                # A full disk may be why we are here: a second failure must not hide the reason.
                with suppress(UserError):
                    self._write()
        finally:
            self._release()

    def _release(self) -> None:
        """Close the log file and release the lock, even after an error."""
        try:
            if self._log_handler:
                logging.getLogger("latentdiff").removeHandler(self._log_handler)
                self._log_handler.close()
        finally:
            self._lock.release()

    def _write(self) -> None:
        elapsed = time.monotonic() - self._started
        self._info = replace(self._info, wall_seconds=round(self._wall_before + elapsed, 3))
        write_json(self.directory / RUN_FILE, self._info.to_json())


class StageExtension(Stage):
    """An open stage that is done and gets something more, made from further `inputs`.

    Its `run.json` is written once, when everything has been added: until then, and whatever
    happens, the stage stays done as it was.
    """

    def _begin(self) -> None:
        before = require_done(self.directory, self.name, self.name)
        super()._begin()
        inputs = {**before.inputs, **self._info.inputs}
        self._info = replace(before, inputs=inputs, status="running")

    def _write(self) -> None:
        if self._info.is_done:
            super()._write()


def refuse_foreign(directory: Path) -> None:
    """Raise UserError if a folder that we would write into holds somebody else's files."""
    if directory.is_file():
        raise UserError(
            f"{directory} is a file", why="it has to be a folder", do_this="choose another path."
        )
    ours = {RUN_FILE, LOCK_FILE, *PLACEHOLDERS}
    if directory.is_dir():
        names = {entry.name for entry in directory.iterdir()}
        if names - ours and RUN_FILE not in names:
            raise UserError(
                f"{directory} holds files that latentdiff did not write",
                why=f"for example {sorted(names - ours)[0]}, and no {RUN_FILE}",
                do_this="choose another --run or output folder, or move those files away.",
            )


def command_line() -> str:
    """The command as it was typed, quoted so that it can be pasted."""
    words = ["latentdiff" if "latentdiff" in sys.argv[0] else sys.argv[0], *sys.argv[1:]]
    return shlex.join(words)


def is_locked(directory: Path) -> bool:
    """Whether a running process is writing this stage.

    Looks by taking a shared lock for an instant, which `_take_lock` knows from a writer's.
    """
    import fcntl

    try:
        handle = os.open(directory / LOCK_FILE, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def _take_lock(directory: Path) -> BaseFileLock:
    """Lock a stage folder for this process; the system frees the lock when the process dies."""
    import filelock

    lock = filelock.FileLock(directory / LOCK_FILE)
    while True:
        try:
            lock.acquire(timeout=0)
            return lock
        except filelock.Timeout:
            if is_locked(directory):
                raise UserError(
                    f"{directory} is in use by another latentdiff{_holder(directory)}",
                    why="two writers on one stage would mix their files",
                    do_this="wait until it ends, stop it, or use another --run.",
                ) from None
            # Somebody only looked (`is_locked`): that takes an instant, and is no reason to refuse.
            time.sleep(0.01)
        except OSError as error:
            raise UserError(f"cannot write into {directory}", why=str(error)) from error


def _holder(directory: Path) -> str:
    """Which process is writing a stage, according to its run.json."""
    with suppress(UserError):
        info = read_run(directory)
        if info and info.process:
            return f" (process {info.process.pid} on {info.process.host})"
    return ""


def _empty(directory: Path) -> None:
    """Remove the contents of a stage folder (known to be ours) except its lock."""
    for entry in directory.iterdir():
        if entry.name == LOCK_FILE:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
