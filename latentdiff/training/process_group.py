"""The processes that train one model together, by Fabric's strategy; for one, all is the identity.

Shapes: B windows of a batch, N anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lightning.fabric import Fabric

T = TypeVar("T")


class ProcessGroup:
    """What the processes agree on, and which of them leads: it alone writes and speaks.

    Small things such as a request to stop go through a group on the CPU, so that asking does not
    wait for a GPU.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.rank, self.size = fabric.global_rank, fabric.world_size
        self.leads = self.rank == 0
        self._group: Any = None
        if self.size > 1:
            self._group = torch.distributed.new_group(backend="gloo")

    def share(self, count: int) -> slice:
        """This process's part of `count` things; the parts differ by one at most."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def sum(self, values: Tensor) -> Tensor:
        """[N] added up over all processes, the same for each of them; on the CPU."""
        values = values.detach().cpu()
        if self.size > 1:
            values = values.clone()
            torch.distributed.all_reduce(values, group=self._group)
        return values

    def whole(self, part: Tensor, count: int) -> Tensor:
        """[count], of which each process has its `share`."""
        if self.size == 1:
            return part
        values = torch.zeros(count, dtype=part.dtype)
        values[self.share(count)] = part.detach().cpu()
        return self.sum(values)

    def agree(self, stop: bool, elapsed: float) -> tuple[bool, float]:
        """Whether any process wants to stop, and the longest time that one measured."""
        if self.size == 1:
            return stop, elapsed
        values = torch.tensor([float(stop), elapsed], dtype=torch.float64)
        torch.distributed.all_reduce(values, op=torch.distributed.ReduceOp.MAX, group=self._group)
        return bool(values[0]), float(values[1])

    def gather(self, value: T) -> list[T]:
        """What each process has, by rank; anything that can be pickled."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value, group=self._group)
        return values

    def lead(self, action: Callable[[], T]) -> T | None:
        """Let the leader act while the others wait; None for them.

        Where it fails, its error is raised in the leader, and the others end without a word.
        """
        if self.size == 1:
            return action()
        result, failed = None, True
        try:
            result = action() if self.leads else None
            failed = False
        finally:
            anywhere = float(self.sum(torch.tensor([float(failed)])))
        if anywhere:
            raise SystemExit(1)
        return result
