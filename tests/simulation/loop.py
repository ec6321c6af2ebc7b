"""Virtual time: one world, in it processes with an event loop each, and calls that travel between them.

Nothing here waits. Time jumps to whatever comes next, so that an hour takes as long as what happens in it. A process is
an asyncio event loop: to kill it is to run it no more, to pause it is to run it later, and what is on its way to the
world when that happens arrives all the same. Whatever could depend on addresses or hash seeds is numbered instead.
"""

import asyncio
import heapq
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

NS = 1_000_000_000
STEPS_MAX = 2_000_000
"""Callbacks of one world, at most: a loop that never lets time pass is a failure."""


class KilledError(BaseException):
    """Raised by whatever a dead process touches outside of itself."""


class StuckError(AssertionError):
    """A process runs and runs, and time does not pass."""


class _Future(asyncio.Future):  # type: ignore[type-arg]
    """A future whose place in a set follows from its number, not from its address."""

    number = 0

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return self is other


class _Task(asyncio.Task):  # type: ignore[type-arg]
    """A task alike."""

    number = 0

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return self is other


class World:
    """The time, and what happens outside of the processes.

    Attributes:
        now_ns: since the beginning.
        steps: callbacks run so far.
    """

    def __init__(self) -> None:
        self.now_ns = 0
        self.steps = 0
        self.processes: list[Process] = []
        self._heap: list[tuple[int, int, Callable[[], object]]] = []
        self._number = 0

    def at(self, time_ns: int, action: Callable[[], object]) -> None:
        """Do something at a moment, not before now; at one moment in the order of asking."""
        self._number += 1
        heapq.heappush(self._heap, (max(time_ns, self.now_ns), self._number, action))

    def after(self, delay_ns: int, action: Callable[[], object]) -> None:
        """Do something later."""
        self.at(self.now_ns + delay_ns, action)

    def run(self, until_ns: int) -> None:
        """Let time pass up to a moment."""
        while True:
            process = min((one for one in self.processes if one.runs), key=lambda one: one.next_ns, default=None)
            outside = self._heap[0][0] if self._heap else until_ns + 1
            inside = process.next_ns if process is not None else until_ns + 1
            if min(outside, inside) > until_ns:
                self.now_ns = until_ns
                return
            if outside <= inside:
                self.now_ns = max(self.now_ns, outside)
                heapq.heappop(self._heap)[2]()
            elif process is not None:
                self.now_ns = max(self.now_ns, inside)
                process.step()
            self.steps += 1
            if self.steps > STEPS_MAX:
                raise StuckError(f"{STEPS_MAX} steps at {self.now_ns / NS:.6f} s")


class Process(asyncio.AbstractEventLoop):
    """A process as an event loop in a world.

    Attributes:
        dead: it was killed, or has ended: whatever it still does reaches nobody.
        paused: it does not run now.
        complaints: what its tasks left behind while it lived: exceptions that nobody has seen.
        kill_after: callbacks that it still runs; None: as many as it likes.
    """

    def __init__(self, world: World, number: int) -> None:
        self.world, self.number = world, number
        self.dead = self.paused = False
        self.complaints: list[str] = []
        self.kill_after: int | None = None
        self.on_death: Callable[[], None] = lambda: None
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[int, int, asyncio.TimerHandle]] = []
        self._count = 0
        self._tasks: dict[int, _Task] = {}
        world.processes.append(self)

    # -- in the world ----------------------------------------------------------------------------------------------

    @property
    def runs(self) -> bool:
        """Whether it has something to do, now or later."""
        return not (self.dead or self.paused) and bool(self._ready or self._timers)

    @property
    def next_ns(self) -> int:
        """When."""
        return self.world.now_ns if self._ready else max(self.world.now_ns, self._timers[0][0])

    def step(self) -> None:
        """Run one callback."""
        if self.kill_after is not None:
            self.kill_after -= 1
            if self.kill_after <= 0:
                self.kill()
                return
        self._take_timers()
        if self._ready:
            self._run_one()

    def _take_timers(self) -> None:
        while self._timers and self._timers[0][0] <= self.world.now_ns:
            handle = heapq.heappop(self._timers)[2]
            if not handle.cancelled():
                self._ready.append(handle)

    def _run_one(self) -> None:
        handle = self._ready.popleft()
        if handle.cancelled():
            return
        events._set_running_loop(self)
        try:
            handle._run()
        finally:
            events._set_running_loop(None)

    def kill(self) -> None:
        """End it here and now, as kill -9 does: nothing that it still does has an effect."""
        if not self.dead:
            self.dead = True
            self._bury()

    def die(self) -> None:
        """End it out of one of its own callbacks.

        Raises:
            KilledError: always.
        """
        if not self.dead:
            self.dead = True
            self.world.after(0, self._bury)
        raise KilledError

    def _bury(self) -> None:
        """Do this simulation's housekeeping: coroutines end as dead ones, and hold no files any more."""
        for task in list(self._tasks.values()):
            task.cancel()
        for _ in range(10_000):
            self._timers = [one for one in self._timers if one[0] <= self.world.now_ns]
            self._take_timers()
            if not self._ready:
                break
            self._run_one()
        self._ready.clear()
        self._timers.clear()
        self._tasks.clear()
        self.world.processes.remove(self)
        self.on_death()

    def require_alive(self) -> None:
        """Raise where it is dead: called by everything that leads outside."""
        if self.dead:
            raise KilledError

    def call(self, there_ns: int, action: Callable[[], Any], back_ns: int | None) -> "asyncio.Future[Any]":
        """Have something done outside: it happens after ``there_ns``, and its answer needs ``back_ns`` more.

        Args:
            there_ns: on its way; it arrives whatever becomes of this process.
            action: what is done; its exception is the answer's.
            back_ns: of the answer; None: it never comes.
        """
        self.require_alive()
        answer = self.create_future()

        def arrive() -> None:
            error: BaseException | None = None
            result: Any = None
            try:
                result = action()
            except Exception as raised:  # noqa: BLE001 - it is the caller's
                error = raised
            if back_ns is not None:
                self.world.after(back_ns, lambda: deliver(result, error))

        def deliver(result: Any, error: BaseException | None) -> None:
            if self.dead or answer.done():
                return
            if error is None:
                answer.set_result(result)
            else:
                answer.set_exception(error)

        self.world.after(there_ns, arrive)
        return answer

    # -- as an event loop ------------------------------------------------------------------------------------------

    def time(self) -> float:
        return self.world.now_ns / NS

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        return self._timer(self.world.now_ns + max(0, round(delay * NS)), callback, args, context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        return self._timer(round(when * NS), callback, args, context)

    def _timer(self, when_ns: int, callback: Any, args: Any, context: Any) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when_ns / NS, callback, args, self, context)
        self._count += 1
        heapq.heappush(self._timers, (when_ns, self._count, handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        return

    def create_future(self) -> "asyncio.Future[Any]":
        future = _Future(loop=self)
        self._count += 1
        future.number = self._count
        return future

    def create_task(self, coro: Coroutine[Any, Any, Any], *, name: Any = None, context: Any = None) -> _Task:
        if self.dead:
            coro.close()
            raise KilledError
        task = _Task(coro, loop=self, name=name, context=context)
        self._count += 1
        task.number = self._count
        self._tasks[task.number] = task
        task.add_done_callback(lambda done: self._tasks.pop(done.number, None))
        return task

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.dead:
            self.complaints.append(f"{context.get('message')}: {context.get('exception')!r}")
