"""The processes that train one model together; with one process, everything is the identity.

Shapes: B windows of a batch, N anything.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from latentdiff.errors import EXIT_FAILURE, UserError

if TYPE_CHECKING:
    from lightning.fabric import Fabric

T = TypeVar("T")


class ProcessGroup:
    """What processes exchange, and which one leads: the leader alone writes files and logs.

    Exchanges go through a gloo group on the CPU, so that small ones, such as a request to stop, do
    not wait for a GPU.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.rank, self.size = fabric.global_rank, fabric.world_size
        self.leads = self.rank == 0
        self._parent = os.getppid()
        self._group: Any = None
        if self.size > 1:
            self._group = torch.distributed.new_group(backend="gloo")
            atexit.unregister(_leave)
            atexit.register(_leave)

    def share(self, count: int) -> slice:
        """This process's part of `count` items; parts differ in size by one at most."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def sum(self, values: Tensor) -> Tensor:
        """[N] summed over all processes, equal in each of them; on the CPU."""
        values = values.detach().cpu()
        if self.size > 1:
            values = values.clone()
            torch.distributed.all_reduce(values, group=self._group)
        return values

    def whole(self, part: Tensor, count: int) -> Tensor:
        """[count], put together from every process's `share` of it."""
        if self.size == 1:
            return part
        values = torch.zeros(count, dtype=part.dtype)
        values[self.share(count)] = part.detach().cpu()
        return self.sum(values)

    def agree(self, stop: bool, elapsed: float) -> tuple[bool, float]:
        """Whether any process wants to stop, and the longest elapsed time of any."""
        if self.size == 1:
            return stop, elapsed
        values = torch.tensor([float(stop), elapsed], dtype=torch.float64)
        torch.distributed.all_reduce(values, op=torch.distributed.ReduceOp.MAX, group=self._group)
        return bool(values[0]), float(values[1])

    def gather(self, value: T) -> list[T]:
        """Every process's value, by rank; anything that can be pickled."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value, group=self._group)
        return values

    def lead(self, action: Callable[[], T]) -> T | None:
        """Run `action` in the leader while the others wait; returns None in those.

        If it fails, its error is raised in the leader, and other ranks exit silently.
        """
        if self.size == 1:
            return action()
        result, failed = None, True
        try:
            result = action() if self.leads else None
            failed = False
        finally:
            # In `finally`, so that the others learn of a failure and do not wait forever.
            anywhere = float(self.sum(torch.tensor([float(failed)])))
        if anywhere:
            raise SystemExit(1)
        return result

    def everywhere(self, work: Callable[[], T]) -> list[T]:
        """Results of `work` in all processes, by rank.

        If any of them fails, the leader raises the first error and the others exit silently with
        code 1, once all have ended.
        """
        outcome: T | UserError
        try:
            outcome = work()
        except UserError as error:
            outcome = error
        outcomes = self.gather(outcome)
        errors = [outcome for outcome in outcomes if isinstance(outcome, UserError)]
        if errors and self.leads:
            raise errors[0]
        if errors:
            raise SystemExit(EXIT_FAILURE)
        return [outcome for outcome in outcomes if not isinstance(outcome, UserError)]

    def stop_if_orphaned(self) -> None:
        """Raise KeyboardInterrupt in a process that outlived the one that started it: the next run
        would meet it writing into its folder."""
        if not self.leads and os.getppid() != self._parent:
            raise KeyboardInterrupt


def _leave() -> None:
    """Leave all groups. Without it, gloo's threads outlive the interpreter now and then, and the
    process ends by SIGABRT, whatever its exit code was to be."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
