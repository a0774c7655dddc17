"""What malloc keeps of arrays that are gone, and how it is given back.

glibc puts arrays of up to 32 MiB between blocks that stay, and gives such holes back to the system
only when asked (malloc_trim(3)). Utterances differ in length, so holes are seldom filled exactly
and a process that is never asked creeps: Whisper tiny.en over random cuts, alone, 324 MiB after 15
s and 354 after 77; asked every 15 s it stayed at 344, and asking took 5 to 9 ms.

But malloc_trim leaves what is free at the end of every heap but the first one, and threads have
heaps of their own. Over the same cuts by one to three threads, right behind a trim: 369 to 436 MiB
with a heap a thread, rising and falling with whose array was the longest; 337.2 to 337.9 MiB with
one heap for all, at the same CPU time a session (784 ms against 779). So the parent starts its
children with one heap (MALLOC_ARENA_MAX in gateway/child_process.py).
"""

from __future__ import annotations

import ctypes


def return_free_memory() -> None:
    """Give whole free pages back, but not those at the end of a thread's own heap. Where libc is
    not glibc: nothing.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
    if trim is not None:
        trim(0)
