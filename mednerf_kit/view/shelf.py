"""What took long to make is kept for the next question; one thing is computed at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar

T = TypeVar("T")


class Shelf:
    """The last ``room`` things that were made, by key.

    ``lock`` is held while something is made; whoever computes with it holds it too, so that two
    questions do not share the processor.

    >>> shelf = Shelf(1)
    >>> [shelf.get(key, lambda: key.upper()) for key in "aba"]
    ['A', 'B', 'A']
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self.lock = threading.RLock()
        self._things: OrderedDict[Hashable, object] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The thing of this key, made where it is not there."""
        with self.lock:
            if key not in self._things:
                self._things[key] = make()
                while len(self._things) > self.room:
                    self._things.popitem(last=False)
            self._things.move_to_end(key)
            return self._things[key]  # type: ignore[return-value]
