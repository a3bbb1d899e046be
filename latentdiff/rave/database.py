"""The database that RAVE trains on: LMDB, one udls `AudioExample` of int16 per record.

The format is that of acids-rave 2.3.1, so `rave train` reads it too: keys are eight digits counted
from 0, the buffer is called `waveform`, and `metadata.yaml` beside `data.mdb` holds sr, channels,
n_seconds and lazy.

Shapes: N samples per record.
"""

from __future__ import annotations

import os
import weakref
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import numpy as np
import yaml
from numpy.typing import NDArray

from latentdiff.errors import UserError
from latentdiff.rave import compat
from latentdiff.rave.manifest import MANIFEST_FILE, read_manifest
from latentdiff.runs import PARTIAL, atomic, make_directory, write_text

DATA_FILE = "data.mdb"
METADATA_FILE = "metadata.yaml"
FULL_SCALE = 32767
"""int16 value of 1.0; RAVE divides by it."""

_BUFFER = "waveform"
_FIRST_MAP_BYTES = 1 << 26
"""Size of a new database's memory map; doubled whenever it is full."""
_BATCH_BYTES = 1 << 24
"""Audio written per transaction: few commits, little memory."""
_FOREIGN_VALIDATION = 20
"""Without a manifest, one record in this many is held out."""


class DatabaseWriter:
    """Writes a database, which takes its final name when the last record is on disk.

    Use as a context manager. The same records give the same bytes. Raises UserError where the disk
    is full or not writable.
    """

    def __init__(self, directory: Path, sample_rate: int, channels: int) -> None:
        self.count = 0
        """Records so far."""
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
            # The map grows with the records: mapping 100 GB at once fails where address space is
            # limited. No fsync per batch: one at the end suffices, before the file takes its name.
            self._env = lmdb.open(
                str(self._partial), subdir=False, lock=False, map_size=_FIRST_MAP_BYTES, sync=False
            )
        except lmdb.Error as error:
            raise self._cannot_write(error) from error
        return self

    def append(self, audio: NDArray[np.int16]) -> int:
        """Add samples [channels, N] and return the record's number."""
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
            raise self._cannot_write(error) from error
        self._env.close()
        # No reader accepts data without metadata. So old metadata goes before the new data comes,
        # and new metadata is written last: a kill in between leaves no mixture that looks whole.
        (self._directory / METADATA_FILE).unlink(missing_ok=True)
        with atomic(self._directory / DATA_FILE):
            pass  # LMDB has written the partial file; `atomic` flushes and renames it
        metadata = {
            "channels": self._channels,
            "lazy": False,
            "n_seconds": self._samples / self._sample_rate,
            "sr": self._sample_rate,
        }
        write_text(self._directory / METADATA_FILE, yaml.safe_dump(metadata))

    def _flush(self) -> None:
        """Commit the pending records, growing the map if it is full."""
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
                raise self._cannot_write(error) from error

    def _cannot_write(self, error: Exception) -> UserError:
        return UserError(
            f"cannot write the database in {self._directory}",
            why=str(error),
            do_this="free some space or choose another folder.",
        )


class RaveDatabase:
    """Reads a database that `preprocess` or `rave preprocess` wrote.

    It is opened on first use in each process, so it can be pickled and used after a fork. Raises
    UserError where the folder holds no finished database.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        metadata = _read_metadata(self.directory)
        self.sample_rate = metadata.sample_rate
        """Hz."""
        self.channels = metadata.channels
        self.seconds = metadata.seconds
        """Length of all records together."""
        self._environment: _Environment | None = None
        self._keys: list[bytes] | None = None

    def __len__(self) -> int:
        return len(self._all_keys())

    def read(self, index: int) -> NDArray[np.int16]:
        """Record `index` as [channels, N]; `FULL_SCALE` is 1.0."""
        compat.prepare()
        from udls.generated import AudioExample

        with self._open().begin() as transaction:
            value = transaction.get(self._all_keys()[index])
        data = AudioExample.FromString(value).buffers[_BUFFER].data
        # Not the buffer's own shape: `rave preprocess` writes it in bytes instead of samples.
        return np.frombuffer(data, dtype=np.int16).reshape(self.channels, -1)

    def samples(self) -> int:
        """N, the same for all records; 0 where there are none."""
        return self.read(0).shape[1] if len(self) else 0

    def split(self) -> tuple[list[int], list[int]]:
        """Record numbers (training, validation) from the manifest.

        Of a database without a manifest, by `rave preprocess`, the last twentieth is held out.
        """
        if not (self.directory / MANIFEST_FILE).exists():
            held_out = max(1, len(self) // _FOREIGN_VALIDATION)
            first = max(len(self) - held_out, 0)
            return list(range(first)), list(range(first, len(self)))
        files = read_manifest(self.directory)
        train = [number for file in files for number in file.training_records]
        validation = [number for file in files for number in file.validation_records]
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
    """An open LMDB environment, one per process and path: LMDB must not open a path twice.

    All readers of a path share it, and it closes when the last of them is gone.
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
        # Weak references: the registry alone must not keep a database open.
        database = cls._opened.get(path)
        if database is None:
            database = cls._opened[path] = cls(path)
        return database

    def begin(self) -> Any:
        """A read-only transaction."""
        if self._process != os.getpid():
            # After a fork the parent's environment must not be used; the child opens its own.
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


@dataclass(frozen=True)
class _Metadata:
    """metadata.yaml; where `rave preprocess` leaves something out, RAVE's own default."""

    sample_rate: int
    channels: int
    seconds: float


def _read_metadata(directory: Path) -> _Metadata:
    """metadata.yaml of a finished database. Raises UserError where it is none."""
    make = "make it with `latentdiff preprocess --run RUN --audio DIR`."
    if not (directory / DATA_FILE).exists():
        raise UserError(f"no dataset in {directory}", f"there is no {DATA_FILE}", make)
    try:
        values = yaml.safe_load((directory / METADATA_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        why = f"{METADATA_FILE} is written last, so preprocessing was interrupted ({error})"
        raise UserError(f"the dataset in {directory} is not finished", why, make) from error
    if not isinstance(values, dict):
        why = f"{METADATA_FILE} holds no settings"
        raise UserError(f"the dataset in {directory} cannot be used", why, make)
    if values.get("lazy"):
        why = "it is a lazy one: it holds the paths of files, not their sound"
        raise UserError(f"the dataset in {directory} cannot be used", why, make)
    return _Metadata(
        sample_rate=int(values.get("sr", 44100)),
        channels=int(values.get("channels") or 1),
        seconds=float(values.get("n_seconds") or 0.0),
    )


def _key(number: int) -> bytes:
    return f"{number:08d}".encode()
