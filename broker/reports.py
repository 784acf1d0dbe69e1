"""What has come of the reports of a step: in memory, and the rows of those that wait for others before them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate

from broker.rows import ReportsRow
from protocol.arrays import F32
from protocol.messages import Batch


@dataclass(slots=True)
class Reports:
    """Of one step. A report that is logged at once has no row; ``log_rank`` says that it has come."""

    batch: Batch
    ranks: set[int] = field(default_factory=set)
    """Those that have reported."""
    losses: dict[int, F32] = field(default_factory=dict)
    """By rank, until they are in the log."""
    rows: list[ReportsRow] = field(default_factory=list)
    is_open: bool = False
    """Whether the last row may take one more, since it is not committed."""
    _starts: list[int] = field(default_factory=list)

    def place(self, rank: int) -> slice:
        """Where the rank's instances stand in the batch, padding left out."""
        if not self._starts:
            self._starts = list(accumulate(self.batch.rank_counts, initial=0))
        real = len(self.batch.ids) - self.batch.padding
        start, stop = self._starts[rank : rank + 2]
        return slice(start, max(start, min(stop, real)))

    def take(self, ranks: Iterable[int], losses: F32) -> None:
        """These ranks have reported."""
        for rank in ranks:
            self.ranks.add(rank)
            self.losses[rank] = losses

    def row_of(self, rank: int) -> ReportsRow:
        """The row that has the rank's losses from now on: one for all that come between two commits."""
        if not self.is_open:
            self.rows.append(ReportsRow(step=self.batch.step, part=len(self.rows)))
            self.is_open = True
        self.rows[-1].losses[rank] = self.losses[rank]
        return self.rows[-1]

    def restore(self, row: ReportsRow) -> None:
        """Take what a row says; rows of a step in any order."""
        self.rows.append(row)
        self.rows.sort(key=lambda r: r.part)
        self.ranks |= row.losses.keys()
        self.losses |= row.losses

    def are_logged(self, log_rank: int) -> None:
        """The log has all ranks below this one."""
        self.ranks |= set(range(log_rank))
        self.losses = {rank: losses for rank, losses in self.losses.items() if rank >= log_rank}
