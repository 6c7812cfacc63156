"""Processes that may die: one clip that kills its decoder costs that clip and no other."""

import multiprocessing
import os
import sys
import threading
from collections import deque
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

AHEAD = 2  # jobs handed out per process: enough to keep it busy, few to look at again when one dies


def in_processes(job, items, workers, died):
    """
    `job(item)` of all items over processes, in the order in which they end.

    Args:
        job (callable): Sent to the processes.
        items (`list`): Sent one by one.
        workers (`int`): Number of processes.
        died (callable): `died(item)` stands for the result of an item whose process ended without one, alone as well.

    Yields:
        The results.
    """
    waiting = deque(items)
    while waiting:
        for suspect in (yield from _until_one_dies(job, waiting, workers)):
            if (yield from _until_one_dies(job, deque([suspect]), 1)):
                yield died(suspect)


def _until_one_dies(job, waiting, workers):
    """Yields results; returns the items that were at work when a process died, none if all came through."""
    flying = {}
    with ProcessPoolExecutor(min(workers, len(waiting)), _context(), initializer=_begin) as pool:
        try:
            while waiting or flying:
                while waiting and len(flying) < AHEAD * workers:
                    future = pool.submit(job, waiting[0])
                    flying[future] = waiting.popleft()
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    yield future.result()
                    del flying[future]
        except BrokenProcessPool:
            return list(flying.values())
        except BaseException:  # also Ctrl-C and a reader that stops early: nobody wants the rest
            _kill(pool)
            raise
    return []


def _kill(pool):
    """Ends the processes of a pool, so that its shutdown need not wait for their jobs; Python 3.14 has the same."""
    for process in list((pool._processes or {}).values()):
        process.terminate()


def _context():
    """Processes that start clean: libraries with threads, as torch and MediaPipe, do not survive a plain fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__package__ + ".extraction"])  # imports once, not once a process
    return context


def _begin():
    """In each process: native libraries keep their chatter to themselves, and nobody outlives the run."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)
    os.close(silence)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)
