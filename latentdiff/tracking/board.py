"""TensorBoard events, and how to rewind them to a checkpoint.

Shapes: H height and W width of a picture, N audio samples.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentdiff.tracking.backend import Backend, Setting
from latentdiff.tracking.picture import encode_png

if TYPE_CHECKING:
    import numpy as np

EVENTS = "events.out.tfevents.*"
_HPARAMS = ".hparams"
"""Suffix of event files with hyperparameters. TensorBoard keeps the first that it sees of a run, so
the file is replaced as a whole."""
_LENGTH = struct.Struct("<Q")


class Board(Backend):
    """Writes an events file. Earlier events after `resume_step` (None: all) are removed."""

    def __init__(self, directory: Path, resume_step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._directory = directory
        rewind(directory, resume_step)
        # For a running TensorBoard, which may have read what was cut off.
        purge = None if resume_step is None else resume_step + 1
        self._writer = SummaryWriter(str(directory), purge_step=purge)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def audio(self, step: int, name: str, samples: np.ndarray, sample_rate: int) -> None:
        self._writer.add_audio(name, samples[None], step, sample_rate=sample_rate)

    def histogram(self, step: int, name: str, values: np.ndarray) -> None:
        self._writer.add_histogram(name, values, step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        # SummaryWriter.add_image needs an imaging library.
        from tensorboard.compat.proto.summary_pb2 import Summary

        height, width, _ = image.shape
        png = Summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=encode_png(image)
        )
        self._add(self._writer, Summary(value=[Summary.Value(tag=name, image=png)]), step)

    def hparams(self, settings: Mapping[str, Setting], results: Mapping[str, float]) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        _remove_hparams(self._directory)
        values = {f"result/{name}": value for name, value in results.items()}
        with SummaryWriter(str(self._directory), filename_suffix=_HPARAMS) as writer:
            for summary in hparams(dict(settings), values):
                self._add(writer, summary, 0)
            for name, value in values.items():
                writer.add_scalar(name, value, 0)

    def close(self) -> None:
        self._writer.close()

    @staticmethod
    def _add(writer: Any, summary: Any, step: int) -> None:
        writer.file_writer.add_summary(summary, step)


def rewind(directory: Path, step: int | None) -> None:
    """Truncate every event file in a folder after `step`; None: remove them.

    Otherwise two attempts at the same steps would show as two curves. A record that a kill left
    incomplete is removed too.
    """
    _remove_hparams(directory)
    for path in directory.glob(EVENTS):
        end = 0 if step is None else _end_of(path, step)
        if end == 0:
            path.unlink()
        elif end < path.stat().st_size:
            os.truncate(path, end)


def _remove_hparams(directory: Path) -> None:
    for path in directory.glob(EVENTS + _HPARAMS):
        path.unlink()


def _end_of(path: Path, step: int) -> int:
    """Bytes before the first event after `step`, or before the first incomplete one.

    An events file is a sequence of records: length of the data (uint64), its checksum (4 bytes),
    data, checksum.
    """
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event

    end = 0
    with open(path, "rb") as file:
        while len(head := file.read(_LENGTH.size + 4)) == _LENGTH.size + 4:
            (length,) = _LENGTH.unpack(head[: _LENGTH.size])
            body = file.read(length + 4)
            try:
                if len(body) < length + 4 or Event.FromString(body[:length]).step > step:
                    break
            except DecodeError:
                break
            end = file.tell()
    return end
