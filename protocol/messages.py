"""Every message of the protocol, on one page.

Each says who sends it to whom, and how it is delivered:

* **session**: opens or refuses a conversation; outside the numbering.
* **reliable**: numbered, kept by the sender until the peer has committed it, sent again after a reconnect.
* **latest**: unnumbered; a newer one makes the older one worthless, so a lost one does not matter.

Evolution: fields are only ever appended, with a default; a reader ignores fields that it does not know; a tag is never
used again for something else; what cannot be said so raises ``PROTOCOL_VERSION``, and versions N and N-1 interoperate.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec

from protocol.arrays import F32, I64, empty_f32, empty_i64
from protocol.message_base import Count, Delivery, Figures, Message, Name, Number
from protocol.settings import RunSettings

PROTOCOL_VERSION = 1
OLDEST_SPOKEN_VERSION = 1

NO_RESTORE = -2
"""``Hello.restore_step`` of a role that does not resume."""

MOST_SHOWN = 32
"""Instances in a group of ``PreviewReply``."""
MOST_PIXELS = 64
"""Side of an instance's picture."""
MOST_TEXT = 400
"""Characters of an instance's text."""

MOST_SET_ASIDE = 1000
"""IDs in ``Goodbye.set_aside``; the figure of the same name counts all of them."""


class Hello(Message, frozen=True, tag="hello"):
    """Boss or Assistant → broker. Opens a conversation, or takes it up again after a reconnect."""

    delivery: ClassVar[Delivery] = Delivery.SESSION
    role: Literal["boss", "assistant"]
    name: Name  # unique in the run: "boss-0", "assistant-3"
    incarnation: Name  # new for every process start
    dataset_id: Name  # "" with n=0 for an Assistant that takes whatever data set the run has
    n: Number  # instances
    stream: Name = ""  # the broker's stream that this role last heard; "" for none
    settings: RunSettings | None = None  # a Boss's; an Assistant takes what Welcome says
    rank: Number = 0
    package_version: Name = ""
    protocol: int = PROTOCOL_VERSION
    slots: Number = 0  # windows that an Assistant takes at once
    position: Number = 0  # loss-log records that an Assistant has already applied
    history: Name = ""  # whose records those are, as ``history_id`` names it; "" for whichever it is
    restore_step: Number = NO_RESTORE  # a resuming Boss: take back all after this step; -1 for all
    run_id: Name = ""  # the run that this role belongs to; "" for whichever the broker has
    workload: Name = ""  # a Boss's: what it trains, for people to read
    previews: bool = False  # an Assistant's: whether it answers Preview
    lengths: Name = (
        ""  # a Boss's: which lengths its instances have, as ``lengths_id`` names them; "" without max_tokens
    )


def history_id(run_id: str, generation: int) -> str:
    """Names a loss log: after the run is taken back to a checkpoint, its log is another one."""
    return f"{run_id}/{generation}"


class Welcome(Message, frozen=True, tag="welcome"):
    """Broker → role. Answers Hello; the envelope's ack says what of the role's stream is committed."""

    delivery: ClassVar[Delivery] = Delivery.SESSION
    run_id: Name
    stream: Name  # names the broker's stream to this role; another name means: count from zero again
    settings: RunSettings
    position: Count = 0  # loss-log records that exist
    index: Count = 0  # number of this Assistant, for deterministic mode
    protocol: int = PROTOCOL_VERSION
    generation: Count = 0  # how often the run was taken back to a checkpoint
    dataset_id: Name = ""
    n: Count = 0
    lengths: Count = 0  # of how many instances, from the first, the broker has the length


class Reject(Message, frozen=True, tag="reject"):
    """Broker → role. "resume" asks for a new Hello, "wait", "taken" and "elsewhere" for patience; others are final."""

    delivery: ClassVar[Delivery] = Delivery.SESSION
    code: Literal[
        "resume",
        "wait",
        "version",
        "dataset",
        "settings",
        "duplicate",
        "malformed",
        "restore",
        "fenced",
        "taken",
        "elsewhere",
        "key",
    ]
    reason: str
    remedy: str = ""


class Credit(Message, frozen=True, tag="credit"):
    """Boss → broker: batches up to step ``limit`` may come. Assistant → broker: loss records below it may come."""

    delivery: ClassVar[Delivery] = Delivery.LATEST
    limit: Number
    yielded: Number = 0  # Boss: highest step that the script has pulled
    learned_through: Number = -1  # Assistant: ℓ, step


class Window(Message, frozen=True, tag="window"):
    """Broker → Assistant. Candidate IDs to score, under a lease."""

    window: Count  # number in the run
    attempt: Count  # counts the leases of this window
    epoch: Count
    progress: float  # fraction of the run's budget, 0 … 1
    ids: I64
    learn_through: Number = -2  # deterministic mode: apply exactly the reports of steps ≤ this first; -2: no such order


class Selection(Message, frozen=True, tag="selection"):
    """Assistant → broker. The answer to a window."""

    window: Count
    attempt: Count
    kept_ids: I64  # in the window's order
    keep_probabilities: F32  # π of the kept, 0 < π ≤ 1
    learned_through: Number  # ℓ, step; -1 where nothing was learned yet
    version: Count = 0  # updates of the learned model so far
    lift: float = 0.0  # the Assistant's own estimate of what its selection is worth
    lift_error: float = 0.0


class Segment(msgspec.Struct, frozen=True, array_like=True):
    """Where a run of consecutive IDs of a batch comes from."""

    count: Count
    epoch: Count
    window: Count
    assistant: Name = ""  # "" for unfiltered
    version: Count = 0
    learned_through: Number | None = None  # None for unfiltered


class Batch(Message, frozen=True, tag="batch"):
    """Broker → Boss rank 0. The IDs of one step for all ranks; rank r takes ``rank_counts[r]`` of them, in order."""

    step: Count
    epoch: Count  # the epoch that is being offered; a remainder's segment may name the one before
    progress: float  # fraction of the run's budget when this step is done, 0 … 1
    ids: I64
    keep_probabilities: F32
    rank_counts: list[Count]
    segments: list[Segment]
    padding: Count = 0  # trailing IDs that repeat others of this step, at weight 0
    off_plan_before: Count = 0  # off-plan steps that were reported before this one was cut
    kind: Literal["plan", "off_plan", "returned"] = "plan"  # in the batch log; what is sent is always of the plan


class EpochEnd(Message, frozen=True, tag="epoch_end"):
    """Broker → Boss. No later step belongs to this epoch; ``last`` ends the run."""

    epoch: Count
    after_step: Number  # the epoch's last step
    last: bool = False
    returns: Count = 0  # steps given back that the broker knew of; an end that does not know of all is said again


class Lengths(Message, frozen=True, tag="lengths"):
    """Boss rank 0 → broker, after its Hello, where the run has ``max_tokens``. No batch is cut before all have come."""

    start: Count  # instance of the first one
    values: I64  # tokens of instances ``start …``, padding not


class LossReport(Message, frozen=True, tag="loss_report"):
    """Boss → broker. Acknowledges steps ``step … through``; values are there for a single step only."""

    step: Count
    through: Count
    rank: Count
    losses: F32  # natural units of the loss, in the order of the rank's IDs; empty where values were dropped
    report_us: float = 0.0  # what reporting cost the training thread


class OffPlanReport(Message, frozen=True, tag="off_plan_report"):
    """Boss → broker. Off-plan steps ``number … through`` were trained while no batch came; values for a single one."""

    number: Count  # counts the Boss's off-plan steps from 0
    through: Count
    ids: I64  # this rank's part of ``protocol.off_plan.draw_off_plan``, π = 1; empty where values were dropped
    losses: F32


class Return(Message, frozen=True, tag="return"):
    """Boss → broker. These steps are given back untrained: off-plan steps have made their selections too stale."""

    steps: list[Count]


class LossRecord(Message, frozen=True, tag="loss_record"):
    """Broker → Assistant. One record of the loss log; records come in (step, rank) order without a hole."""

    position: Count  # number of the record in the log
    step: Count
    rank: Count
    learned_through: Number  # ℓ once this record is applied
    epoch: Count
    ids: I64 = msgspec.field(default_factory=empty_i64)  # empty where values were dropped
    losses: F32 = msgspec.field(default_factory=empty_f32)
    keep_probabilities: F32 = msgspec.field(default_factory=empty_f32)


class RecordsDropped(Message, frozen=True, tag="records_dropped"):
    """Broker → Assistant. Records below ``through_position`` will not come: it lagged too far, or they are damaged."""

    through_position: Count
    learned_through: Number


class EpochResult(Message, frozen=True, tag="epoch_result"):
    """Boss → broker. What the evaluation after an epoch gave, and the Boss's own clocks."""

    epoch: Count
    step: Number
    metric_name: Name
    metric_value: float
    boss_instances: Count
    train_s: float
    exposed_wait_s: float
    wall_s: float  # evaluation excluded


class Checkpoint(Message, frozen=True, tag="checkpoint"):
    """Boss rank 0 → broker. All reports of steps ≤ ``step`` were sent and none of a later one: keep the run so."""

    step: Number


class CheckpointTaken(Message, frozen=True, tag="checkpoint_taken"):
    """Broker → Boss rank 0. The run as of ``step`` is in the store; the Boss's own file may count from now on."""

    step: Number


class Heartbeat(Message, frozen=True, tag="heartbeat"):
    """Both ways. ``seq`` is the last reliable message sent, so that a lost tail is noticed."""

    delivery: ClassVar[Delivery] = Delivery.LATEST
    seq: Count
    cpu_percent: float = 0.0
    rss_bytes: Count = 0


class Stop(Message, frozen=True, tag="stop"):
    """Broker → role. The run is over, or is being stopped; finish and say Goodbye."""

    reason: Literal["finished", "stopped", "failed"]
    detail: str = ""


class Goodbye(Message, frozen=True, tag="goodbye"):
    """Role → broker. Last words; the role's figures for the report."""

    reason: Literal["finished", "stopped", "failed"]
    figures: Figures = msgspec.field(default_factory=dict)
    set_aside: I64 = msgspec.field(default_factory=empty_i64)  # IDs that an Assistant's noise guard leaves out


class Preview(Message, frozen=True, tag="preview"):
    """Page → broker, at its port for that → Assistant. A person wants to see instances."""

    delivery: ClassVar[Delivery] = Delivery.LATEST
    number: Count  # comes back in the answer
    instances: Annotated[int, msgspec.Meta(ge=0, le=MOST_SHOWN)] = 12  # of each group


class Shown(msgspec.Struct, frozen=True, array_like=True):
    """An instance as a person sees it; the only place where one travels."""

    id: Count
    trained: Count  # loss reports of it that the Assistant has heard
    keep_probability: float  # π if it were scored now
    losses: F32  # the last of them, oldest first
    label: Number = -1  # -1 for none
    text: Annotated[str, msgspec.Meta(max_length=MOST_TEXT)] = ""
    pixels: Annotated[bytes, msgspec.Meta(max_length=3 * MOST_PIXELS**2)] = b""  # row by row, a byte for each channel
    height: Count = 0
    width: Count = 0


class PreviewReply(Message, frozen=True, tag="preview_reply"):
    """Assistant → broker → page. What it knows of the instances, and some of them."""

    delivery: ClassVar[Delivery] = Delivery.LATEST
    number: Count
    assistant: Name
    groups: dict[Name, list[Shown]] = msgspec.field(default_factory=dict)  # kept, shrunk, suspected: the most first
    known: Count = 0  # instances of which a loss was heard; in a large data set, of every so manieth
    set_aside: Count = 0  # by the noise guard
    loss_edges: F32 = msgspec.field(default_factory=empty_f32)  # of the last losses' histogram; one more than counts
    loss_counts: I64 = msgspec.field(default_factory=empty_i64)
    keep_counts: I64 = msgspec.field(default_factory=empty_i64)  # histogram of π, equal bins from 0 to 1


AnyMessage = (
    Hello
    | Welcome
    | Reject
    | Credit
    | Window
    | Selection
    | Batch
    | EpochEnd
    | Lengths
    | LossReport
    | OffPlanReport
    | Return
    | LossRecord
    | RecordsDropped
    | EpochResult
    | Checkpoint
    | CheckpointTaken
    | Heartbeat
    | Stop
    | Goodbye
    | Preview
    | PreviewReply
)


class Envelope(msgspec.Struct, frozen=True, array_like=True):
    """What travels: a message with its place in the sender's stream.

    ``seq`` is 0 for unnumbered messages. ``span`` > 1 says that this message stands for the numbers ``seq-span+1 …
    seq`` (merged acknowledgements). ``ack`` is the highest number of the peer's stream that the sender has committed.
    """

    seq: Count
    span: Count
    ack: Count
    message: AnyMessage
