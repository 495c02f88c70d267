"""Run one slice on a worker machine, and leave nothing there. gpuprov.workers starts this over ssh.

Standard input is ansible-runner's stream, and then a line every second, which is ``stop`` after the first Ctrl-C. The
slice ends at once where standard input ends or stays silent. Two processes watch over each other: one that is left
alone kills what runs, and deletes the directory with the secrets.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import io
import os
import select
import shutil
import signal
import sys
import tempfile
import termios
import threading
import time
import traceback
from pathlib import Path

from gpuprov.runner import kill_descendants, temporary_directory

SILENCE = 120  # seconds without a line from the controller
_END = b'{"eof": true}\n'  # of the stream
_PDEATHSIG, _CHILD_SUBREAPER = 1, 36  # prctl(2)


def main() -> None:
    """Run the slice in a child, and clean up after it."""
    _prctl(_CHILD_SUBREAPER, 1)
    guard = os.getpid()
    with temporary_directory() as directory:
        if not os.fork():
            try:
                _work(directory, guard)
            except BaseException:
                traceback.print_exc()
            os._exit(0)
        os.wait()
        while kill_descendants():
            time.sleep(0.02)


def playbook() -> None:
    """Be ansible-playbook, without ansible-runner's terminal, on which ssh would ask and wait."""
    _prctl(_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(OSError):
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        fcntl.ioctl(os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC), termios.TIOCNOTTY)
        signal.signal(signal.SIGHUP, before)
    from ansible.cli.playbook import main

    main()


def _prctl(*words: int) -> None:
    ctypes.CDLL(None).prctl(*words)


def _work(directory: Path, guard: int) -> None:
    _prctl(_CHILD_SUBREAPER, 1)
    tempfile.tempdir = str(directory)
    programs = Path(__file__).parents[2] / "bin"
    os.environ |= {"PATH": f"{programs}:{os.environ['PATH']}", "TMPDIR": str(directory)}
    os.environ["GPUPROV_STOP"] = str(directory / "stop")

    def read() -> bytes:
        """Return a part of standard input; end this process where that ends or is silent."""
        heard = time.monotonic()
        while not select.select([0], [], [], 1)[0]:
            if os.getppid() != guard or time.monotonic() - heard > SILENCE:
                end()
        return os.read(0, 1 << 20) or end()

    def end() -> bytes:
        while kill_descendants():
            time.sleep(0.02)
        shutil.rmtree(directory, ignore_errors=True)  # the other process deletes it too
        os._exit(1)

    def follow() -> None:
        while True:
            if b"stop" in read():
                (directory / "stop").touch()

    stream = b""
    while _END not in stream[-500:]:
        stream += read()
    threading.Thread(target=follow, daemon=True).start()
    from ansible_runner import interface

    data = str(directory / "data")
    interface.run(streamer="worker", _input=io.BytesIO(stream), _output=sys.stdout.buffer, private_data_dir=data)


if __name__ == "__main__":
    main()
