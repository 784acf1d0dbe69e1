"""The public feed: three lines in anybody's training script, ``Feed.connect``, ``feed.loader``, ``feed.report``."""

from __future__ import annotations

import atexit
import logging
import sys
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from typing import Any, Self

import torch
from numpy.typing import NDArray
from torch import Tensor

from boss import joining
from boss.clocks import Clocks
from boss.figures import epoch_result, figures_of, state_of
from boss.line import BossLine, LocalSettings
from boss.loading import Batches, EpochLoader, Loaders, on_cpu, require_fit
from boss.pairing import Closed, Counted, Pairing, Steady, require_losses, require_open
from boss.plan import BossPlan, RankBatch
from boss.ranks import RankGroup, group_of, ranks_here
from boss.reporter import HOPELESS_STEPS, Reporter, diverged
from boss.standing import Standing
from boss.weights import mean_loss, plain_mean
from protocol.client import ConnectSettings, RoleClient
from protocol.errors import FeedMisuse, PeerRefused, RankLost
from protocol.messages import EpochEnd, Hello
from protocol.session import SessionTimes
from protocol.settings import RunSettings
from protocol.token_batches import I32, lengths_id, usual_steps

log = logging.getLogger("autoassist.boss")

CUT_TIMEOUT_S = 10.0


class Feed(Standing):
    """Batches of instance IDs from the broker, and the way back for their losses.

    Iterating yields lists of IDs until the epoch ends, so a Feed is a ``batch_sampler``. Use it from one thread.
    """

    def __init__(
        self,
        settings: RunSettings,
        connect: ConnectSettings,
        hello: Hello,
        *,
        local: LocalSettings,
        times: SessionTimes | None = None,
        group: RankGroup | None = None,
        lengths: I32 | None = None,
    ) -> None:
        self.settings = settings
        self.rank = hello.rank
        self._connect = connect
        self._hello = hello
        self._local_after_s = local.local_after_s if local.on_broker_loss == "local" else None
        self._times = times
        self._group = group
        self._lengths = lengths
        self._closed = False
        self._error_before = id(getattr(sys, "last_value", None))  # that of a notebook's earlier cell; not kept alive
        self._is_stopping = False  # by whoever uses this feed; that the run ends so is no warning to him
        self._loaders = Loaders()
        self.gradients_dropped = 0
        """Steps that a training loop has left out since their gradient was not finite; it sets this, for the report."""
        self._begin(hello)
        atexit.register(self._close_at_exit)  # a script that ends without it must not lose its last reports

    def _begin(self, hello: Hello) -> None:
        """Stand at the beginning, with a line of its own to the broker."""
        self.clocks = Clocks()
        self._n = hello.n
        self._plan = BossPlan(hello.rank, self.settings, hello.n, self._lengths)
        self._reporter = Reporter(hello.rank)
        client = RoleClient(hello, self._connect, times=self._times)
        self._line = BossLine(client, self._plan, self._reporter, local_after_s=self._local_after_s, group=self._group)
        self._instances = 0
        self._pairing: Pairing = Steady()

    @classmethod
    def connect(
        cls,
        broker: str = "tcp://127.0.0.1:5555",
        *,
        dataset: Sized | None = None,
        n: int | None = None,
        dataset_id: str = "dataset",
        connect_timeout_s: float = 60.0,
        settings: RunSettings | None = None,
        state: dict[str, Any] | None = None,
        local: LocalSettings | None = None,
        times: SessionTimes | None = None,
        reconnect_timeout_s: float = 600.0,
        workload: str = "",
        keys: str | None = None,
        lengths: NDArray[Any] | None = None,
        **run_settings: Any,
    ) -> Self:
        """Join a run as Boss, or start it; blocks until the broker answers.

        Under torch.distributed every rank calls it, at the same point; ``batch_size`` is a rank's. ``run_settings`` are
        fields of ``RunSettings``, where ``settings`` are not given. ``state`` is a ``state_dict`` of an earlier feed of
        the run, or ``{}`` for its beginning: the broker takes back what came after it. ``workload`` is what the report
        calls the run; ``keys`` this Boss's key file, where the broker has ``--keys``. ``lengths``, shape (n,), are the
        tokens of each instance, for ``max_tokens``.

        Raises SettingError for a bad setting or state, PeerRefused where the broker's run differs, BrokerUnreachable
        after ``connect_timeout_s``, FeedMisuse for ranks without torch.distributed, RoleFailed where another could not
        join. In a run that has trained the first batch raises PeerRefused, unless ``load_state_dict`` comes first.
        """
        joining.require_state(state)
        n = joining.size_of(dataset) if n is None else n
        run, tokens = joining.fitted(joining.chosen_settings(settings, run_settings, ranks_here()), lengths, n)
        timeouts = {"connect_timeout_s": connect_timeout_s, "reconnect_timeout_s": reconnect_timeout_s}
        way = ConnectSettings(broker=broker, keys=keys, **timeouts)
        group = group_of(run)
        joining.require_same_state(group, state)
        said = {"dataset_id": dataset_id, "workload": workload, "lengths": lengths_id(tokens)}
        hello = joining.boss_hello(run, state, rank=group.rank if group is not None else 0, n=n, **said)
        feed: Self | None = None
        try:
            with joining.in_turn(group):
                feed = cls(run, way, hello, local=local or LocalSettings(), times=times, group=group, lengths=tokens)
                feed._join(state)
        except BaseException as error:
            if feed is not None:
                feed.close("stopped" if isinstance(error, KeyboardInterrupt) else "failed")
            raise
        feed._line.share()
        return feed

    def _join(self, state: dict[str, Any] | None) -> None:
        if state:
            self._plan.go_on_from(state)
            self._instances = state["instances"]
            self.gradients_dropped = state.get("gradients_dropped", 0)  # a state of an earlier version has none
            self.clocks.load_state_dict(state["clocks"])
        try:
            self._line.wait_for_welcome()
        except PeerRefused as error:
            if error.code not in ("restore", "duplicate") or state is not None:
                raise
            log.debug("load_state_dict goes on with this run, and nothing else does: %s", error)

    # Batches

    def __iter__(self) -> Iterator[list[int]]:
        """IDs of each step until the epoch ends; what an early ``break`` left unreported comes first.

        Raises FeedMisuse where reports are missing.
        """
        self._pairing = self._pairing.followed_by(Steady())
        return self._ids()

    def _ids(self) -> Iterator[list[int]]:
        if self._closed and self.ended:
            return
        self._line.put_back()
        pull, pulled = self._line.pull, self._plan.pulled
        while True:
            self._pairing.before_pull(len(pulled))
            item, waited_s = pull()
            if waited_s:
                self.clocks.waited(waited_s)
            if not isinstance(item, RankBatch):
                break
            if self.clocks.started_at is None:
                self.clocks.got_batch()
            yield item.id_list
        if isinstance(item, EpochEnd):
            self._pairing.epoch_ends(len(pulled))
        elif item.reason != "finished":
            level = logging.INFO if self._is_stopping and item.reason == "stopped" else logging.WARNING
            log.log(level, "the run is %s%s", item.reason, f": {item.detail}" if item.detail else "")

    def __len__(self) -> int:
        """Steps of an unfiltered epoch: an upper bound; by tokens about as many."""
        return usual_steps(self._n, self.settings, self._lengths)

    def loader(self, dataset: Any, *, lookahead: int = 0, **loader_arguments: Any) -> EpochLoader:
        """Batches of ``dataset`` through a DataLoader, each waiting for its ``report``; one iteration is one epoch.

        ``lookahead`` is how many batches whoever takes them asks for before the first is reported: 0 in a plain loop,
        1 in Lightning, which looks for the last one.

        Raises FeedMisuse for arguments that the feed decides, and where a batch was not reported before the next.
        """
        require_fit(dataset, self._n, loader_arguments)
        return EpochLoader(lambda: self._counted(dataset, loader_arguments, Counted(lookahead)))

    def _counted(self, dataset: Any, loader_arguments: dict[str, Any], pairing: Counted) -> Iterator[Any]:
        place = (self.settings.seed, self.rank, self.steps)
        self._pairing = self._pairing.followed_by(pairing)
        loader = self._loaders.over(dataset, Batches(self._ids, len(self)), loader_arguments, place)
        with on_cpu():  # as its generator is
            batches = iter(loader)
        for batch in batches:
            pairing.delivered()
            yield batch
            pairing.asked_for()
        pairing.all_delivered()

    # Losses

    def report(self, losses: Tensor, counts: Tensor | None = None) -> Tensor:
        """Report per-instance losses, shape ``(batch,)``; returns the mean of the finite ones, with gradient,
        weighed by 1/π where the run's settings want that.

        ``counts``, of the same shape, are the tokens of which each loss is the mean: what is returned is then the mean
        over all tokens of the step, all ranks' together. All ranks give them, or none does.

        Returns at once: values are copied and sent by another thread. Losses that are NaN or infinite are counted,
        named in a warning, left out of the mean, and never learned from by an Assistant. Where the network's *outputs*
        are not finite either, no mean can keep NaN out of the gradient: look at it before ``optimizer.step()``, as
        ``boss.gradients.drop_poisoned_gradients`` does. Padding is left out of the mean too.

        Raises FeedMisuse for a loss that is reduced or of another length, TrainingDiverged after ``HOPELESS_STEPS``
        steps without a finite loss.
        """
        pulled = self._plan.pulled
        size = len(pulled[0].ids) if pulled else None
        if counts is not None or type(losses) is not Tensor or losses.shape != (size,):
            require_losses(losses, counts, size)
        if self._reporter.steps_without_a_finite_loss >= HOPELESS_STEPS:
            raise diverged(self.steps)
        self._pairing.reported()
        batch = self._plan.reported()
        self._reporter.put(batch, losses)
        self.clocks.reported()
        self._instances += batch.instances
        mean = plain_mean(losses) if batch.is_plain and counts is None else None
        if mean is None:
            mean = mean_loss(losses, batch, self.settings, counts)
        self._line.reported()  # last: the I/O thread wants the interpreter too
        return mean

    def skip(self) -> None:
        """The batch at hand gets no losses: it counts as trained, nothing is learned from it."""
        self._pairing.reported()
        batch = self._plan.reported()
        self._reporter.put(batch, torch.full((len(batch.ids),), float("nan")), is_skipped=True)
        self.clocks.reported()
        self._instances += batch.instances
        self._line.reported()

    # The run

    def until_done(self) -> None:
        """Wait until a device has done the steps that were reported, up to the last one's losses: launched ahead, they
        are training, whatever is to come after them. On a CPU they are done."""
        if self._line.until_done():
            self.clocks.reported()

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """``with feed.evaluation(): …`` keeps the time out of the training clocks."""
        self.until_done()
        with self.clocks.evaluation():
            yield

    def record_metric(self, name: str, value: float) -> None:
        """Tell the broker what the evaluation after an epoch gave; it goes into the report. Rank 0's counts."""
        require_open(is_closed=self._closed)
        if self.rank:
            return
        place = {"epoch": self.epoch, "step": self._plan.last_pulled, "instances": self._instances}
        self._line.say(epoch_result(name, value, **place, clocks=self.clocks))

    def state_dict(self) -> dict[str, Any]:
        """Where this feed stands: plain numbers, to be kept with the model. Take it at a ``cut``."""
        run_id = self._line.welcome.run_id if self._line.welcome is not None else ""
        counts = {"instances": self._instances, "dropped": self.gradients_dropped}
        return state_of(self.clocks, self._plan, **counts, run_id=run_id)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where ``state`` was taken, before the first batch; on all ranks. The broker takes back all that
        came after it, and a run that somebody else is training is waited for.

        Raises FeedMisuse once a batch was pulled, and what ``connect`` raises.
        """
        require_open(is_closed=self._closed)
        if self._plan.pulled or self._plan.last_pulled >= 0:
            raise FeedMisuse("load_state_dict: batches were pulled already; call it right after Feed.connect")
        joining.require_state(state, may_be_none=False)
        joining.require_same_state(self._group, state)
        self._line.leave()
        self._begin(joining.again(self._hello, state))
        with joining.in_turn(self._group):
            self._join(state)
        self._line.share()

    def cut(self, timeout_s: float = CUT_TIMEOUT_S) -> bool:
        """Make the step that was reported last one to which the run can be taken back. All ranks call it at one step.

        Sends all reports, then waits for the broker's snapshot; False where it does not come: do not rely on this step.
        """
        require_open(is_closed=self._closed)
        self.until_done()
        with self.clocks.checkpoint():
            return self._line.cut(self._plan.last_reported, timeout_s)

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value (whatever msgpack takes), by rank; all ranks call it at the same step."""
        return self._line.gather(value)

    def stop(self) -> None:
        """End the iteration after the batch at hand, several ranks' after what all know of. A signal may call it."""
        self._is_stopping = True
        self._line.stop()

    def figures(self) -> dict[str, float]:
        """The Boss's own figures for the report."""
        counts = {"instances": self._instances, "dropped": self.gradients_dropped}
        return figures_of(self.clocks, self._plan, self._reporter, **counts)

    def close(self, reason: str = "") -> bool:
        """Send what is left and say Goodbye; whether the broker has acknowledged all. Called twice it does nothing."""
        if not self._closed:
            self._closed, self._pairing = True, Closed()
            atexit.unregister(self._close_at_exit)
            ended: Any = reason or self.ended or "stopped"
            try:
                if ended != "failed":
                    self.until_done()
            finally:  # also where one no longer wants to wait for the device
                self._line.close(ended, self.figures)
                self._loaders.close()
        return self._line.all_acknowledged

    def _close_at_exit(self) -> None:
        """The interpreter ends; after an error that nobody has caught it still knows which."""
        error = getattr(sys, "last_value", None)
        self.close(self._end_after(error if id(error) != self._error_before else None))

    def _end_after(self, error: BaseException | None) -> str:
        self._line.hurries |= isinstance(error, KeyboardInterrupt | SystemExit)
        return joining.end_after(error, self.ended, self.settings.world_size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error_type: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        has_lost = isinstance(error, RuntimeError) and self._line.has_lost_a_rank()  # torch's own words are less plain
        self.close(self._end_after(error))
        if has_lost:
            raise RankLost(f"another rank is gone: {str(error).splitlines()[0]}") from error
