"""The queue, and the process that draws: places, cancelling, an end in the middle, a stop that does not come."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pushforward.core.errors import InputError
from pushforward.serve import limits
from pushforward.serve.desk import Desk, FullError
from pushforward.serve.settings import Settings

LONG = Settings(subject="spirals", num=4000, calls=200, solver="rk4", curve=False)
SHORT = Settings(subject="pair", num=10, calls=2, curve=False)


class Listener:
    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []
        self.frames: list[bytes] = []

    def text(self, value: dict[str, Any]) -> None:
        json.dumps(value)
        self.said.append(value)

    def frame(self, content: bytes) -> None:
        self.frames.append(content)

    @property
    def types(self) -> list[str]:
        return [each["type"] for each in self.said]


@asynccontextmanager
async def opened(*folders):
    desk = Desk(folders)
    await desk.open()
    try:
        await asyncio.wait_for(desk.ready.wait(), 120)
        yield desk
    finally:
        await desk.close()
        assert desk.process_id is None


async def ended(task) -> str:
    await asyncio.wait_for(task.ended.wait(), 120)
    return task.last["type"]


def test_each_is_told_its_place_and_moves_up():
    async def main():
        async with opened() as desk:
            who = [Listener() for _ in range(3)]
            first = desk.take(LONG, who[0])
            second, third = desk.take(SHORT, who[1]), desk.take(SHORT, who[2])
            assert who[2].said[-1] == {"job": 0, "type": "waiting", "place": 2, "of": 2}
            desk.cancel(second)
            assert who[1].types[-1] == "cancelled"
            assert who[2].said[-1] == {"job": 0, "type": "waiting", "place": 1, "of": 1}
            desk.cancel(first)
            assert await ended(first) == "cancelled"
            assert await ended(third) == "done"
            assert who[2].frames
            assert desk.length == 0

    asyncio.run(main())


def test_a_full_queue_takes_no_more(monkeypatch):
    monkeypatch.setattr(limits, "QUEUE", 2)

    async def main():
        async with opened() as desk:
            tasks = [desk.take(LONG, Listener()) for _ in range(3)]  # one is being done
            with pytest.raises(FullError, match="2 drawings wait"):
                desk.take(SHORT, Listener())
            for task in tasks:
                desk.cancel(task)
            await asyncio.gather(*map(ended, tasks))
            assert await ended(desk.take(SHORT, Listener())) == "done"

    asyncio.run(main())


def test_when_the_process_is_killed_the_job_is_told_and_the_next_is_done():
    async def main():
        async with opened() as desk:
            task, waiting = desk.take(LONG, Listener()), desk.take(SHORT, Listener())
            await asyncio.sleep(0.5)
            before = desk.process_id
            os.kill(before, signal.SIGKILL)
            assert await ended(task) == "error"
            assert "started again" in task.last["error"]
            assert await ended(waiting) == "done"
            assert desk.process_id != before

    asyncio.run(main())


def test_a_process_that_does_not_stop_is_ended(monkeypatch):
    monkeypatch.setattr(limits, "STOP", 0.5)

    async def main():
        async with opened() as desk:
            task = desk.take(LONG, Listener())
            await asyncio.sleep(0.3)
            before = desk.process_id
            os.kill(before, signal.SIGSTOP)  # it hears nothing from here on
            desk.cancel(task)
            assert await ended(task) == "cancelled"
            await asyncio.wait_for(desk.ready.wait(), 120)
            assert await ended(desk.take(SHORT, Listener())) == "done"
            assert desk.process_id != before

    asyncio.run(main())


def test_a_run_that_cannot_be_loaded_is_the_end_and_says_why(tmp_path):
    (tmp_path / "model.json").write_text("{}")

    async def main():
        desk, gone = Desk([tmp_path]), asyncio.Event()
        desk.on_failure = gone.set
        await desk.open()
        await asyncio.wait_for(gone.wait(), 120)
        assert str(tmp_path) in desk.failed
        await desk.close()

    asyncio.run(main())


def test_nothing_is_taken_before_all_is_loaded_and_nothing_that_there_is_not():
    async def main():
        desk = Desk([])
        with pytest.raises(FullError, match="still being loaded"):
            desk.take(SHORT, Listener())
        async with opened() as ready:
            with pytest.raises(InputError, match="there is no 'run:x'"):
                ready.take(Settings(subject="run:x"), Listener())

    asyncio.run(main())
