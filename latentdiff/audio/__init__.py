"""Audio files: find them, read them as blocks of samples, write them."""

from latentdiff.audio.decode import AudioError, AudioInfo, blocks, probe, read
from latentdiff.audio.find import EXTENSIONS, FoundAudio, file_stem, find, printable
from latentdiff.audio.settings import DataConfig
from latentdiff.audio.write import AudioFormat, WriteReport, write

__all__ = [
    "EXTENSIONS",
    "AudioError",
    "AudioFormat",
    "AudioInfo",
    "DataConfig",
    "FoundAudio",
    "WriteReport",
    "blocks",
    "file_stem",
    "find",
    "printable",
    "probe",
    "read",
    "write",
]
