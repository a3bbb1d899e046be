"""Convert failures during training into errors with advice."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from latentdiff.errors import UserError
from latentdiff.training import verdict
from latentdiff.training.data import Windows
from latentdiff.training.meter import NonFiniteStep
from latentdiff.training.process_group import ProcessGroup
from latentdiff.training.settings import TrainingConfig

# Messages of torch's allocator on the CPU, which has no error class of its own.
_CPU_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
# Messages of torch.distributed when another process is gone.
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "timed out")


def refuse_not_finite(
    steps: list[NonFiniteStep | None], windows: Windows, group: ProcessGroup
) -> None:
    """Raise UserError if any process has `found` a NaN or infinite loss or gradient.

    The error names files and noise levels of the first such step. It is raised in the leader; other
    processes exit silently.
    """
    everyone = [c for c in steps if c is not None]
    if not everyone:
        return
    if not group.leads:
        raise SystemExit(1)
    step = min(c.step for c in everyone)
    first = [c for c in everyone if c.step == step]
    # One process's bad loss makes the gradient of all of them bad, so the loss is the cause.
    worst = [c for c in first if c.what == "loss"] or first
    files = sorted({windows.keys[i] for c in worst for i in c.files})
    levels = [level for c in worst for level in c.logsnr]
    of = sum(c.windows for c in first)
    raise UserError(
        f"the {worst[0].what} became NaN or infinite at step {step}, in {len(levels)} of {of} "
        "windows",
        why=f"log-SNR {min(levels):.1f} to {max(levels):.1f}, files: {verdict.some(files)}",
        do_this="lower training.learning_rate or training.gradient_clip, or use "
        "training.precision=32; the same command continues from the last checkpoint, which is "
        "good.",
    )


@contextmanager
def explained(settings: TrainingConfig, device: torch.device) -> Iterator[None]:
    """Turn out-of-memory, a full disk and a lost process into UserErrors."""
    try:
        yield
    except (torch.cuda.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(settings, device, error) from error
    except OSError as error:
        if error.errno not in _DISK:
            raise
        raise UserError(
            f"cannot write {error.filename or 'the metrics of this training'}",
            why=error.strerror or str(error),
            do_this="free some space; the same command continues from the last checkpoint.",
        ) from error
    except RuntimeError as error:
        text = str(error)
        if any(words in text for words in _CPU_MEMORY):
            raise _out_of_memory(settings, device, error) from error
        if any(words in text for words in _LOST):
            raise UserError(
                "another process of this training has ended",
                why=text.splitlines()[0][:200],
                do_this="read its error message; the same command continues from the last "
                "checkpoint.",
            ) from error
        raise


def _out_of_memory(
    settings: TrainingConfig, device: torch.device, error: BaseException
) -> UserError:
    parts = 2 * settings.accumulate
    ways = []
    if parts <= settings.batch:
        ways.append(f"training.accumulate={parts} (the same result, in smaller parts)")
    if settings.batch > 1:
        ways.append(f"training.batch={settings.batch // 2}")
    if settings.precision == "32" and device.type == "cuda":
        ways.append("training.precision=bf16-mixed")
    ways.append("with --overwrite a shorter training.window or a smaller network")
    return UserError(
        f"out of memory: {settings.batch} windows of {settings.window} frames per step, in "
        f"{settings.accumulate} part(s), do not fit on {device.type}",
        why=(str(error).splitlines() or [type(error).__name__])[0][:200],
        do_this=f"try {', or '.join(ways)}; the same command continues from the last checkpoint.",
    )
