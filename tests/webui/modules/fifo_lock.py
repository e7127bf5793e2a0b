"""A lock that serves its waiters in the order in which they came."""

from __future__ import annotations

import threading
from collections import deque


class FIFOLock:
    """`threading.Lock` promises no order; generations asked for first are to be made first."""

    def __init__(self):
        self._guard = threading.Lock()
        self._held = False
        self._waiting: deque[threading.Event] = deque()

    def acquire(self, blocking: bool = True) -> bool:
        with self._guard:
            if not self._held:
                self._held = True
                return True
            if not blocking:
                return False
            my_turn = threading.Event()
            self._waiting.append(my_turn)
        my_turn.wait()
        return True

    def release(self) -> None:
        with self._guard:
            if not self._held:
                raise RuntimeError("the lock is not held")
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._held = False

    def __enter__(self) -> FIFOLock:
        self.acquire()
        return self

    def __exit__(self, *exc_info) -> None:
        self.release()
