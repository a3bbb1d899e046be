"""Settings of `preprocess`: which recordings to use, and how to make a dataset of them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from latentdiff.config import Section


class DataConfig(Section):
    """Selection of recordings, and how they are cut into a dataset."""

    audio: list[str] = []
    """Folders (searched recursively) and files; `--audio` on the command line replaces them."""
    sample_rate: int = Field(44100, ge=1000, le=384_000)
    """Hz; all audio is resampled to it, and the codec is trained at it."""
    channels: int = Field(1, ge=1, le=8)
    """1 averages all channels. A larger number takes files with that many channels, and mono files
    with their channel repeated; all other files are skipped and listed."""
    silence_db: float | None = Field(None, lt=0, ge=-200)
    """dBFS. Chunks whose loudest tenth of a second has a lower RMS are dropped; try -60. Null keeps
    everything."""
    validation: float = Field(0.1, gt=0, lt=1)
    """Share of the recordings held out for validation."""
    validation_audio: list[str] = []
    """Folders and files held out for validation instead of a share of the others; `--validation` on
    the command line replaces them."""
    hold_out: Literal["files", "ends"] = "files"
    """files: hold out whole files, at least one; of a single file, its end. ends: hold out the end
    of every file. With a handful of very different recordings a held-out file mostly measures how
    different it is, so ends say more; but scores look better than on pieces the model never saw."""
    beats: str | None = None
    """CSV file of the beats, where you know better than a tracker: columns `key`, `time` in seconds
    and, if known, `beat` 1 to 4 in the bar. null, and recordings that it lacks: found by `encode`.
    """
    chunk: int | None = Field(None, ge=1024, le=1 << 24)
    """Samples per database record, at sample_rate; the last one of a file is padded with zeros.
    Must not be shorter than rave.n_signal. Null: twice rave.n_signal, as in RAVE."""
    workers: int | None = Field(None, ge=1, le=256)
    """Number of files read in parallel; null: one per CPU core."""
