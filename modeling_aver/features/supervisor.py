"""Runs a program that must not outlive the process that asked for it: started as a script by `child.run_child`.

Standard input is the lifeline. It is never written to, and it closes when the asking process closes it or dies,
`kill -9` included. Then the program and everything it started are ended, and its working folder is deleted.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress

GRACE = 5.0  # seconds between SIGTERM and SIGKILL
NOT_STARTED = 127  # exit code, as of a shell
PR_SET_PDEATHSIG = 1  # of Linux's prctl
IS_POSIX = os.name == "posix"


def main(folder, command):
    """Runs `command` in `folder` until it ends (its exit code is passed on) or the lifeline closes."""
    try:
        program = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            start_new_session=IS_POSIX,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
    except OSError as error:
        sys.stdout.write(f"{command[0]} cannot be started: {error.strerror}\n")
        return NOT_STARTED
    ending = threading.Event()
    threading.Thread(target=_pass_exit_code_on, args=(program, ending), daemon=True).start()
    sys.stdin.buffer.read()
    ending.set()
    _stop(program)
    shutil.rmtree(folder, ignore_errors=True)
    return 1


def _end_with_parent():
    """SIGTERM to the program if this supervisor itself is killed. Between fork and exec, before any thread."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _pass_exit_code_on(program, ending):
    code = program.wait()
    if not ending.is_set():
        _signal_group(program, signal.SIGTERM)  # what it started and left behind
        os._exit(128 - code if code < 0 else code)  # of a signal, as a shell reports it


def _stop(program):
    _signal_group(program, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        program.wait(GRACE)
    if IS_POSIX:
        _signal_group(program, signal.SIGKILL)
    program.kill()
    program.wait()


def _signal_group(program, number):
    with suppress(OSError):
        os.killpg(program.pid, number) if IS_POSIX else program.terminate()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
