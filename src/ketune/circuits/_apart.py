"""Work that must not see the state that torch keeps for a thread."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def apart(make: Callable[[], T]) -> T:
    """Calls `make` on a thread of its own, which no mode, no default device and no transform of torch.func reaches.

    For tensors that outlive the call in which they are first needed.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(make).result()
