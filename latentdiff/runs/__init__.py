"""The run directory: stages, their `run.json`, and files that appear whole or not at all."""

from latentdiff.runs.files import (
    PARTIAL,
    atomic,
    free_bytes,
    make_directory,
    read_jsonl,
    remove_partial,
    sha256_file,
    write_json,
    write_jsonl,
    write_text,
)
from latentdiff.runs.info import (
    RUN_FILE,
    Input,
    Process,
    RunInfo,
    Status,
    package_versions,
    read_run,
    require_done,
)
from latentdiff.runs.progress import ProgressFiles
from latentdiff.runs.stage import (
    CONFIG_FILE,
    LOCK_FILE,
    Run,
    Stage,
    StageExtension,
    is_locked,
    refuse_foreign,
)

__all__ = [
    "CONFIG_FILE",
    "LOCK_FILE",
    "PARTIAL",
    "RUN_FILE",
    "Input",
    "Process",
    "ProgressFiles",
    "Run",
    "RunInfo",
    "Stage",
    "StageExtension",
    "Status",
    "atomic",
    "free_bytes",
    "is_locked",
    "make_directory",
    "package_versions",
    "read_jsonl",
    "read_run",
    "refuse_foreign",
    "remove_partial",
    "require_done",
    "sha256_file",
    "write_json",
    "write_jsonl",
    "write_text",
]
