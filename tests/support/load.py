"""An agent that works at a steady rate, run inside its pod: one JSON line an action, until SIGTERM.

Each action begins when it is due, whether or not the ones before it are answered, as a caller's would. A line has when
it began, how long its answer took, the decision, and what went wrong: nothing, or a word for it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys

from exequatur.client import AsyncClient, CallError, Outcome

RATE = float(sys.argv[1])
"""Actions a second."""


async def act(client: AsyncClient, number: int) -> None:
    loop = asyncio.get_running_loop()
    began, decision, settled, fault = loop.time(), None, 0.0, ""
    try:
        decision = await client.authorize("bank/look", {"account": str(number)})
        took = loop.time() - began
        if decision.allowed:
            await client.settle(decision.decision_id, Outcome.EXECUTED)
            settled = loop.time() - began
        else:
            fault = "denied: " + "; ".join(reason.text for reason in decision.reasons)
    except CallError as error:
        took, fault = loop.time() - began, f"{error.code}: {error}"
    line = {"began": began, "took": took, "settled": settled, "fault": fault}
    print(json.dumps({**line, "id": decision.decision_id if decision else ""}), flush=True)


async def main() -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    acting: set[asyncio.Task[None]] = set()
    async with AsyncClient(os.environ["EXEQUATUR_TARGET"], timeout_s=30) as client:
        due, number = loop.time(), 0
        while not stop.is_set():
            number += 1
            task = asyncio.create_task(act(client, number))
            acting.add(task)
            task.add_done_callback(acting.discard)
            due += 1 / RATE
            try:
                await asyncio.wait_for(stop.wait(), max(due - loop.time(), 0.001))
            except TimeoutError:
                continue
        if acting:
            await asyncio.wait(acting)
    print(json.dumps({"ended": number}), flush=True)


asyncio.run(main())
