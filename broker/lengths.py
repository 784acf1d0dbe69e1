"""The lengths of the instances: they come from the Boss after its Hello, in pieces, and are kept on disk."""

from __future__ import annotations

import numpy as np

from broker.effects import KeepLengths
from broker.state import Member, State
from protocol.messages import Lengths
from protocol.token_batches import I32, lengths_id


def accept_lengths(state: State, member: Member, message: Lengths) -> str:
    """Keep the lengths that are new; a piece that came before changes nothing. Returns why the run must fail, or ""."""
    run, tokens = state.the_run, state.settings.max_tokens
    if tokens is None or member.row.rank or message.start > run.lengths_kept:
        state.count_for(member.row.name, "messages_refused")
        return ""
    new = message.values[run.lengths_kept - message.start :][: run.n - run.lengths_kept]
    if not len(new):
        return ""
    wrong = np.flatnonzero((new < 1) | (new > tokens))
    if len(wrong):
        where = int(wrong[0])
        return (
            f"instance {run.lengths_kept + where} is {new[where]} tokens long, which is not in 1 … max_tokens={tokens}"
        )
    if state.lengths_digest.count == run.lengths_kept:
        state.lengths_digest.add(new)
    start, run.lengths_kept = run.lengths_kept, run.lengths_kept + len(new)
    state.touch_run()
    state.effects.append(KeepLengths(start, new, run.n, is_last=run.lengths_kept == run.n))
    return ""


def take_lengths(state: State, lengths: I32) -> str:
    """All are there. Returns why the run must fail, or "".

    They were named as they came, for nobody hears of a broker that reads them all in one go; where it was started anew
    meanwhile, it has to.
    """
    run, digest = state.the_run, state.lengths_digest
    if (digest.name() if digest.count == run.n else lengths_id(lengths)) != run.lengths_id:
        return "the lengths that came are not those that the Boss's Hello named; start it again"
    state.lengths = lengths
    return ""
