"""Audio files: find them, read them as blocks of samples, splice, write and name them."""

from latentdiff.audio.decode import AudioError, AudioInfo, blocks, probe, read
from latentdiff.audio.find import EXTENSIONS, FoundAudio, find, find_split, printable
from latentdiff.audio.mono import MonoAudio
from latentdiff.audio.names import distinct_stems, file_stems, readable_stem
from latentdiff.audio.settings import DataConfig
from latentdiff.audio.splice import splice
from latentdiff.audio.write import AudioFormat, WriteReport, write

__all__ = [
    "EXTENSIONS",
    "AudioError",
    "AudioFormat",
    "AudioInfo",
    "DataConfig",
    "FoundAudio",
    "MonoAudio",
    "WriteReport",
    "blocks",
    "distinct_stems",
    "file_stems",
    "find",
    "find_split",
    "printable",
    "probe",
    "read",
    "readable_stem",
    "splice",
    "write",
]
