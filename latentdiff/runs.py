"""The run directory: stages, their `run.json`, and files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from latentdiff.errors import UserError

log = logging.getLogger(__name__)

Status = Literal["running", "done", "failed"]

RUN_FILE = "run.json"
CONFIG_FILE = "config.yaml"
LOCK_FILE = ".lock"
PARTIAL = ".partial"
"""Files with this suffix are half-written; nothing reads them and the next start removes them."""

_KEYS = {"stage", "status", "command", "config", "may_change", "inputs", "wall_seconds", "result"}
_VERSIONS = ("latentdiff", "torch", "torchaudio", "acids-rave", "lightning", "numpy", "soundfile")


@dataclass(frozen=True)
class Run:
    """`runs/techno`: one folder a stage, one shape for all of them."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / CONFIG_FILE

    @property
    def dataset(self) -> Path:
        return self.root / "dataset"

    @property
    def rave(self) -> Path:
        return self.root / "rave"

    @property
    def latents(self) -> Path:
        return self.root / "latents"

    @property
    def diffusion(self) -> Path:
        return self.root / "diffusion"

    @property
    def diagnosis(self) -> Path:
        """One folder a question."""
        return self.root / "diagnosis"

    @property
    def samples(self) -> Path:
        return self.root / "samples"

    @property
    def audio(self) -> Path:
        return self.root / "audio"


@dataclass(frozen=True)
class Input:
    """What a stage was made from: where it lay, and what it was (sha256)."""

    path: str
    fingerprint: str


class Stage:
    """An open stage folder. Use as a context manager; `run.json` tells how it ended.

    Entering creates the folder, takes its lock and writes status `running`; leaving writes `done`,
    or `failed` with the reason. Facts worth keeping go through `record`. `may_change`: keys of
    `config` that do not show in what the stage makes.

    Raises UserError where the folder is in use by another process, cannot be written, or holds
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
        self._log_handler: logging.Handler | None = None
        self._info: dict[str, Any] = {
            "stage": name,
            "status": "running",
            "process": {"pid": os.getpid(), "host": socket.gethostname()},
            "command": command_line(),
            "config": dict(config or {}),
            "may_change": list(may_change),
            "inputs": {key: asdict(value) for key, value in (inputs or {}).items()},
            "seed": seed,
            "versions": package_versions(),
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "wall_seconds": 0.0,
            "result": {},
        }

    def __enter__(self) -> Stage:
        refuse_foreign(self.directory)
        make_directory(self.directory)
        self._lock = _take_lock(self.directory)
        try:
            self._begin()
        except BaseException:
            self._lock.release()
            raise
        return self

    def _begin(self) -> None:
        before = read_run(self.directory, self.name)
        if self._overwrite:
            _empty(self.directory)
            before = None
        self._wall_before = before["wall_seconds"] if before else 0.0
        remove_partial(self.directory)
        self._write()
        handler = logging.FileHandler(self.directory / "log.txt", encoding="utf-8", delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logging.getLogger("latentdiff").addHandler(handler)
        self._log_handler = handler

    def record(self, **facts: Any) -> None:
        """Facts for `run.json` under `result`; written at once."""
        self._info["result"].update(facts)
        self._write()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._info["status"] = "failed" if error else "done"
        if error:
            self._info["error"] = "interrupted" if kind is KeyboardInterrupt else str(error)
        # A full disk may be why we are here: the reason must not be hidden by a second failure.
        with suppress(UserError) if error else nullcontext():
            self._write()
        if self._log_handler:
            logging.getLogger("latentdiff").removeHandler(self._log_handler)
            self._log_handler.close()
        self._lock.release()

    def _write(self) -> None:
        elapsed = time.monotonic() - self._started
        self._info["wall_seconds"] = round(self._wall_before + elapsed, 3)
        write_json(self.directory / RUN_FILE, self._info)


def read_run(directory: Path, stage: str | None = None) -> dict[str, Any] | None:
    """The `run.json` of a stage folder, or None where there is none.

    Raises UserError where it is damaged, or not of `stage` where that is given.
    """
    path = directory / RUN_FILE
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read", why=str(error)) from error
    missing = _KEYS - set(info) if isinstance(info, dict) else _KEYS
    if missing:
        raise UserError(
            f"{path} was not written by this latentdiff",
            why=f"it does not tell its {sorted(missing)[0]}",
            do_this=f"if nothing in {directory} is worth keeping, delete it.",
        )
    if stage is not None and info["stage"] != stage:
        raise UserError(
            f"{directory} is the folder of another stage: {info['stage']}",
            why=f"a {stage} was to be made there",
            do_this="choose another folder.",
        )
    return info


def require_done(directory: Path, stage: str, make_with: str) -> dict[str, Any]:
    """The `run.json` of a finished stage.

    Raises UserError that names the command which makes it where it is missing or unfinished.
    """
    info = read_run(directory)
    if info is None:
        raise UserError(
            f"no {stage} in {directory}", do_this=f"make it first: `latentdiff {make_with}`."
        )
    if info["status"] != "done":
        why = info.get("error") or "it was stopped before its end"
        raise UserError(
            f"the {stage} in {directory} is not finished ({info['status']})",
            why=why,
            do_this=f"`latentdiff {make_with}` continues it.",
        )
    return info


def refuse_foreign(directory: Path) -> None:
    """Raise UserError where a folder that we would write into holds somebody else's files."""
    if directory.is_file():
        raise UserError(
            f"{directory} is a file", why="a folder is to be made there", do_this="choose another."
        )
    ours = {RUN_FILE, LOCK_FILE}
    if directory.is_dir():
        names = {entry.name for entry in directory.iterdir()}
        if names - ours and RUN_FILE not in names:
            raise UserError(
                f"{directory} holds files that latentdiff did not write",
                why=f"for example {sorted(names - ours)[0]}, and no {RUN_FILE}",
                do_this="choose another --run or output folder, or move those files away.",
            )


def make_directory(directory: Path) -> None:
    """Create a folder and its parents; UserError where that fails."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {directory}", why=str(error)) from error


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A path to write to; it becomes `path` in one step when the block ends without error.

    The half-written file ends in `.partial`, is flushed to disk before it takes its name, and is
    removed on any error. Raises UserError where the disk is full or not writable.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        yield partial
        with open(partial, "rb+") as handle:
            os.fsync(handle.fileno())
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise UserError(
            f"cannot write {path}",
            why=error.strerror or str(error),
            do_this="free some space or choose another folder; what was whole before still is.",
        ) from error
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write text whole or not at all."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one JSON object a line, whole or not at all."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file; UserError where it is missing or damaged."""
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}", why=str(error)) from error


def remove_partial(directory: Path) -> None:
    """Remove what an interrupted run left half-written."""
    for path in directory.rglob("*" + PARTIAL):
        path.unlink(missing_ok=True)


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def free_bytes(path: Path) -> int:
    """Bytes free on the disk where `path` is or will be."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def command_line() -> str:
    """The command as it was typed, quoted so that it can be pasted."""
    words = ["latentdiff" if "latentdiff" in sys.argv[0] else sys.argv[0], *sys.argv[1:]]
    return shlex.join(words)


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    versions = {"python": sys.version.split()[0]}
    for name in _VERSIONS:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _take_lock(directory: Path) -> Any:
    """Lock a stage folder for this process; the system frees the lock when the process dies."""
    import filelock

    lock = filelock.FileLock(directory / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UserError(
            f"{directory} is in use by another latentdiff{_holder(directory)}",
            why="two writers on one stage would mix their files",
            do_this="wait for it to end, or stop it, or use another --run.",
        ) from None
    except OSError as error:
        raise UserError(f"cannot write into {directory}", why=str(error)) from error
    return lock


def _holder(directory: Path) -> str:
    """Who is at work in a stage folder, as its run.json tells."""
    with suppress(UserError, KeyError, TypeError):
        process = (read_run(directory) or {})["process"]
        return f" (process {process['pid']} on {process['host']})"
    return ""


def _empty(directory: Path) -> None:
    """Remove the contents of a stage folder (known to be ours), all but its lock."""
    for entry in directory.iterdir():
        if entry.name == LOCK_FILE:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
