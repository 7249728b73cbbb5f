"""A replica's conveyor as a process of its own: it asks much at once, and says each answer that it was given.

    python replica.py FOLDER DATABASE NAME CALLS

A line an answer: the decision's id, its effect, and the idempotency key it was asked with, if any.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from conveying import desk
from judging import action
from pdp.control.sessions import ControlError, Report

SESSIONS = 3
KEYS = 40
"""How many idempotency keys all replicas share."""


async def main(folder: Path, database: Path, name: str, calls: int) -> None:
    async with desk(folder, database=database, name=name) as parts:
        print(flush=True)
        sys.stdin.readline()
        turns = asyncio.Semaphore(20)

        async def call(number: int) -> None:
            async with turns:
                key = f"k{number % (3 * KEYS)}" if number % (3 * KEYS) < KEYS else ""
                tool = "git/log" if number % 5 == 0 else "git/push"
                asked = action("git/push" if key else tool, instance=f"i{number % SESSIONS}", idempotency_key=key)
                (answer,) = await parts.ask(asked)
                made = answer.decision
                print(made.id, made.effect.name, key or "-", flush=True)
                if not key and number % 3 == 0 and made.reserved_microusd:
                    try:
                        await parts.settle(made.id, Report.NOT_EXECUTED if number % 2 else Report.EXECUTED, 90)
                    except ControlError:
                        return  # nothing came of it: it is charged when it expires

        await asyncio.gather(*(call(number) for number in range(calls)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
