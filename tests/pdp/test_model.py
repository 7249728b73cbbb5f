"""The last minute of a session is what a list of all times would say, in at most 60 entries."""

from __future__ import annotations

import datetime as dt

from hypothesis import given
from hypothesis import strategies as st

from pdp.model import WINDOW_S, LastMinute
from policies import NOW

MOMENT = st.tuples(st.floats(0, 200, allow_nan=False), st.booleans())
STEP = st.tuples(st.one_of(st.floats(0, 0.5), st.floats(0, 70), st.just(1.0)), st.booleans())


def at(seconds: float) -> dt.datetime:
    return NOW + dt.timedelta(seconds=seconds)


def second(time: dt.datetime) -> int:
    return int(time.timestamp() // 1)


@given(st.lists(STEP, max_size=150))
def test_it_is_exact_to_the_second_and_bounded(steps):
    kept, times, now = LastMinute(), [], NOW
    for wait, write in steps:
        now += dt.timedelta(seconds=wait)
        recent = [is_write for time, is_write in times if second(now) - second(time) < WINDOW_S]
        assert kept.totals(now) == (recent.count(False), recent.count(True))
        kept = kept.counted(now, int(not write), int(write))
        times.append((now, write))
        assert len(kept.seconds) <= WINDOW_S
        assert list(kept.seconds) == sorted(kept.seconds)


@given(st.lists(MOMENT, max_size=60), st.floats(0, 300, allow_nan=False))
def test_a_clock_that_goes_back_frees_nobody(moments, ask):
    kept = LastMinute()
    for seconds, write in moments:
        kept = kept.counted(at(seconds), int(not write), int(write))
        assert len(kept.seconds) <= WINDOW_S
    latest = max((seconds for seconds, _ in moments), default=0.0)
    reads, writes = kept.totals(at(min(ask, latest)))
    since = [write for seconds, write in moments if second(at(latest)) - second(at(seconds)) < WINDOW_S]
    assert (reads, writes) >= (since.count(False), 0)
    assert writes >= since.count(True)


def test_the_busiest_minute_has_sixty_entries():
    kept = LastMinute()
    for tenth in range(1200):
        kept = kept.counted(at(tenth / 10), 1, 0)
    assert len(kept.seconds) == WINDOW_S
    assert kept.totals(at(119.9)) == (600, 0)
    assert kept.totals(at(120)) == (590, 0)
    assert kept.totals(at(179.9)) == (0, 0)
    assert kept.totals(at(178.9)) == (10, 0)
