"""Settings of `preprocess`: which recordings, and how they become a database."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from latentdiff.config import Section


class DataConfig(Section):
    """Which recordings are used, and how they are cut into a dataset."""

    audio: list[str] = []
    """Folders (searched to any depth) and files; `--audio` on the command line takes its place."""
    sample_rate: int = Field(44100, ge=1000, le=384_000)
    """Hz; everything is resampled to it, and the codec will work at it."""
    channels: int = Field(1, ge=1, le=8)
    """1 takes the mean of all channels. Another number takes files of so many channels, and mono
    files with their channel repeated; all other files are skipped and listed."""
    silence_db: float | None = Field(None, lt=0, ge=-200)
    """dBFS. A chunk whose loudest tenth of a second has an RMS below it is dropped; -60 is a good
    start. Null keeps everything."""
    validation: float = Field(0.1, gt=0, lt=1)
    """Share of the recordings held out for validation."""
    hold_out: Literal["files", "ends"] = "files"
    """files: whole files, at least one; of a lone file its end. ends: the end of every file. With
    a handful of unlike recordings a held-out file tells how unlike it is, its end what was learned
    of the others; but a model that knows the rest of a piece looks better than on a new one."""
    chunk: int | None = Field(None, ge=1024, le=1 << 24)
    """Samples per database record, at sample_rate; a file's last one is filled up with zeros.
    rave.n_signal may not be longer. Null takes twice rave.n_signal, as RAVE does."""
    workers: int | None = Field(None, ge=1, le=256)
    """Files read at the same time; null takes one per processor core."""
