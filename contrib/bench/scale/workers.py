"""The processes that simulate the machines: started, asked, cut off, ended."""

import asyncio
import sys
from collections.abc import Mapping, Sequence

import msgspec

from contrib.bench.scale.worker import LINE_LIMIT, Cut, Request, Task, Tell, Used


class Workers:
    """The worker processes by name. As a context manager it ends them all."""

    def __init__(self) -> None:
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._tasks: dict[str, Task] = {}

    async def __aenter__(self) -> "Workers":
        return self

    async def __aexit__(self, *_: object) -> None:
        for name in list(self._processes):
            await self.kill(name)

    async def start(self, tasks: Mapping[str, Task]) -> None:
        """Start these processes, and return when each has set all its machines going."""
        await asyncio.gather(*(self._start(name, task) for name, task in tasks.items()))

    async def _start(self, name: str, task: Task) -> None:
        pipe = asyncio.subprocess.PIPE
        self._tasks[name] = task
        self._processes[name] = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "contrib.bench.scale.worker", stdin=pipe, stdout=pipe, limit=LINE_LIMIT
        )
        await self._exchange(name, msgspec.json.encode(task))

    async def kill(self, name: str) -> None:
        """SIGKILL: all machines of the process are gone at once, and none of them has said so."""
        process = self._processes.pop(name)
        if process.returncode is None:
            process.kill()
        await process.wait()

    async def cut(self, machines: Sequence[int]) -> None:
        """These machines lose their power."""
        shares = {
            name: tuple(number for number in machines if task.first <= number < task.first + task.count)
            for name, task in self._tasks.items()
        }
        await asyncio.gather(*(self._ask(name, Cut(share)) for name, share in shares.items() if share))

    async def used(self) -> dict[str, Used]:
        """What each process that still runs has used, by its name."""
        names = list(self._processes)
        return dict(zip(names, await asyncio.gather(*(self._ask(name, Tell()) for name in names)), strict=True))

    async def _ask(self, name: str, request: Request) -> Used:
        return await self._exchange(name, msgspec.json.encode(request))

    async def _exchange(self, name: str, line: bytes) -> Used:
        process = self._processes[name]
        assert process.stdin
        assert process.stdout
        process.stdin.write(line + b"\n")
        answer = await process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process of {name} has ended")
        return msgspec.json.decode(answer, type=Used)
