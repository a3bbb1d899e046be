"""The database that RAVE trains on: LMDB, one udls `AudioExample` of int16 a record.

As `rave train` of acids-rave 2.3.1 reads it: keys are eight digits counted from 0, the buffer is
called `waveform`, and `metadata.yaml` beside `data.mdb` holds sr, channels, n_seconds and lazy.

Shapes: N samples per record.
"""

from __future__ import annotations

import os
import weakref
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import numpy as np
import yaml

from latentdiff.errors import UserError
from latentdiff.rave import compat
from latentdiff.runs import PARTIAL, atomic, make_directory, read_jsonl, write_text

DATA_FILE = "data.mdb"
METADATA_FILE = "metadata.yaml"
MANIFEST_FILE = "manifest.jsonl"
FULL_SCALE = 32767
"""int16 value of 1.0; RAVE divides by it."""

_BUFFER = "waveform"
_FIRST_MAP_BYTES = 1 << 26
_BATCH_BYTES = 1 << 24
_FOREIGN_VALIDATION = 20
"""One in so many records is held out of a database that names no validation files."""


class DatabaseWriter:
    """Writes a database; it appears under its name when the last record is on disk.

    Use as a context manager. The same records give the same bytes. Raises UserError where the disk
    is full or refuses.
    """

    def __init__(self, directory: Path, sample_rate: int, channels: int) -> None:
        self.count = 0
        self._directory = directory
        self._sample_rate = sample_rate
        self._channels = channels
        self._samples = 0
        self._batch: list[tuple[bytes, bytes]] = []
        self._batch_bytes = 0
        self._partial = directory / (DATA_FILE + PARTIAL)

    def __enter__(self) -> DatabaseWriter:
        compat.prepare()
        import lmdb

        make_directory(self._directory)
        self._partial.unlink(missing_ok=True)
        try:
            # The map grows with the records: 100 GB at once fail where address space is limited.
            # No fsync per batch: one at the end, before the file takes its name.
            self._env = lmdb.open(
                str(self._partial), subdir=False, lock=False, map_size=_FIRST_MAP_BYTES, sync=False
            )
        except lmdb.Error as error:
            raise self._refused(error) from error
        return self

    def append(self, audio: np.ndarray) -> int:
        """Add int16 samples [channels, N] and return the record's number."""
        from udls.generated import AudioExample

        assert audio.dtype == np.int16 and audio.shape[0] == self._channels, audio.shape
        buffer = AudioExample.AudioBuffer(
            shape=audio.shape,
            sampling_rate=self._sample_rate,
            data=audio.tobytes(),
            precision=AudioExample.Precision.INT16,
        )
        example = AudioExample(buffers={_BUFFER: buffer})
        number = self.count
        self._batch.append((_key(number), example.SerializeToString(deterministic=True)))
        self.count += 1
        self._samples += audio.shape[1]
        self._batch_bytes += audio.nbytes
        if self._batch_bytes >= _BATCH_BYTES:
            self._flush()
        return number

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            self._env.close()
            with suppress(OSError):
                self._partial.unlink(missing_ok=True)

    def _finish(self) -> None:
        import lmdb

        self._flush()
        try:
            self._env.sync(True)
        except lmdb.Error as error:
            raise self._refused(error) from error
        self._env.close()
        # Data without metadata is a database that nothing reads, so metadata goes first and last.
        (self._directory / METADATA_FILE).unlink(missing_ok=True)
        with atomic(self._directory / DATA_FILE):
            pass  # what `atomic` is to flush and rename has been written to its partial file
        metadata = {
            "channels": self._channels,
            "lazy": False,
            "n_seconds": self._samples / self._sample_rate,
            "sr": self._sample_rate,
        }
        write_text(self._directory / METADATA_FILE, yaml.safe_dump(metadata))

    def _flush(self) -> None:
        """Commit the waiting records, in a larger map if this one is full."""
        import lmdb

        while self._batch:
            try:
                with self._env.begin(write=True) as transaction:
                    for key, value in self._batch:
                        transaction.put(key, value, append=True)
                self._batch, self._batch_bytes = [], 0
            except lmdb.MapFullError:
                self._env.set_mapsize(2 * self._env.info()["map_size"])
            except lmdb.Error as error:
                raise self._refused(error) from error

    def _refused(self, error: Exception) -> UserError:
        return UserError(
            f"cannot write the database in {self._directory}",
            why=str(error),
            do_this="free some space or choose another folder.",
        )


class RaveDatabase:
    """Reads a database that `preprocess` or `rave preprocess` wrote.

    Opened on first use in each process, so it can be pickled and used after a fork. Raises
    UserError where the folder holds no finished database.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        metadata = _read_metadata(self.directory)
        self.sample_rate = int(metadata.get("sr", 44100))
        """Hz."""
        self.channels = int(metadata.get("channels") or 1)
        self.seconds = float(metadata.get("n_seconds") or 0.0)
        self._environment: _Environment | None = None
        self._keys: list[bytes] | None = None

    def __len__(self) -> int:
        return len(self._all_keys())

    def read(self, index: int) -> np.ndarray:
        """Record `index` as int16 [channels, N]; `FULL_SCALE` is 1.0."""
        compat.prepare()
        from udls.generated import AudioExample

        with self._open().begin() as transaction:
            value = transaction.get(self._all_keys()[index])
        data = AudioExample.FromString(value).buffers[_BUFFER].data
        # Not by the buffer's own shape: rave preprocess writes bytes into it where samples belong.
        return np.frombuffer(data, dtype=np.int16).reshape(self.channels, -1)

    def samples(self) -> int:
        """N, samples per record (of the first; all are of one length). 0 where there is none."""
        return self.read(0).shape[1] if len(self) else 0

    def split(self) -> tuple[list[int], list[int]]:
        """Record numbers (training, validation), as the manifest has them.

        A database without a manifest, by `rave preprocess`, holds out its last twentieth.
        """
        if not (self.directory / MANIFEST_FILE).exists():
            held_out = max(1, len(self) // _FOREIGN_VALIDATION)
            first = max(len(self) - held_out, 0)
            return list(range(first)), list(range(first, len(self)))
        train: list[int] = []
        validation: list[int] = []
        for row in read_jsonl(self.directory / MANIFEST_FILE):
            if "skipped" in row:
                continue
            end = row["first_chunk"] + row["chunks"]
            middle = end - row["validation_chunks"]
            train += range(row["first_chunk"], middle)
            validation += range(middle, end)
        return train, validation

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_environment": None}

    def _open(self) -> _Environment:
        if self._environment is None:
            self._environment = _Environment.of(self.directory)
        return self._environment

    def _all_keys(self) -> list[bytes]:
        if self._keys is None:
            with self._open().begin() as transaction:
                self._keys = list(transaction.cursor().iternext(values=False))
        return self._keys


class _Environment:
    """One open LMDB a process and path, for LMDB refuses to open a path twice.

    It is closed when the last reader lets go of it.
    """

    _opened: ClassVar[weakref.WeakValueDictionary[str, _Environment]] = (
        weakref.WeakValueDictionary()
    )

    def __init__(self, path: str) -> None:
        self._path = path
        self._connect()

    @classmethod
    def of(cls, directory: Path) -> _Environment:
        path = os.path.realpath(directory)
        found = cls._opened.get(path)
        if found is None:
            found = cls._opened[path] = cls(path)
        return found

    def begin(self) -> Any:
        """A transaction to read in."""
        if self._process != os.getpid():
            # After a fork: what was opened by the parent is the parent's to use.
            self._env.close()
            self._connect()
        return self._env.begin(buffers=False)

    def _connect(self) -> None:
        import lmdb

        try:
            self._env = lmdb.open(self._path, readonly=True, lock=False, readahead=False)
        except lmdb.Error as error:
            raise UserError(
                f"cannot open the database in {self._path}",
                why=str(error),
                do_this="make it again: `latentdiff preprocess --overwrite`.",
            ) from error
        self._process = os.getpid()

    def __del__(self) -> None:
        if hasattr(self, "_env"):
            self._env.close()


def _read_metadata(directory: Path) -> dict[str, Any]:
    """`metadata.yaml` of a finished database; UserError says what is wrong with another."""
    make = "make it with `latentdiff preprocess --run RUN --audio DIR`."
    if not (directory / DATA_FILE).exists():
        raise UserError(f"no dataset in {directory}", f"there is no {DATA_FILE}", make)
    try:
        metadata = yaml.safe_load((directory / METADATA_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        why = f"{METADATA_FILE} is written last, so its making was interrupted ({error})"
        raise UserError(f"the dataset in {directory} is not finished", why, make) from error
    if not isinstance(metadata, dict) or metadata.get("lazy"):
        why = "it is a lazy one: it holds the paths of files, not their sound"
        raise UserError(f"the dataset in {directory} cannot be used", why, make)
    return metadata


def _key(number: int) -> bytes:
    return f"{number:08d}".encode()
