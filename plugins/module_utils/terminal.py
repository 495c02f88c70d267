# SPDX-License-Identifier: MIT
"""Run a command with a controlling terminal of its own. Python 2.7 syntax.

python terminal.py COMMAND...

doas reads a password from /dev/tty only. Input, output and errors of the command stay what they are here, so that
streams of any bytes go through. What the command writes to its terminal comes out on stderr; where that is a prompt,
one line of stdin is the answer.
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import fcntl
import os
import sys
import termios
import threading


def read_line():
    """Return a line of standard input, and leave alone what follows it."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            break
        line += byte
    return line


def relay(master):
    """Show what the command writes to its terminal, and answer its first prompt."""
    answered = False
    while True:
        said = os.read(master, 1024)
        os.write(2, said)
        if not answered and not said.endswith(b"\n"):
            answered = True
            os.write(master, read_line())


def main(command):
    # Keep the terminal open here: reading from its other side fails where no process has it open.
    master, slave = os.openpty()
    pid = os.fork()
    if not pid:
        os.close(master)
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        os.close(slave)
        try:
            os.execvp(command[0], command)
        finally:
            os._exit(127)
    thread = threading.Thread(target=relay, args=(master,))
    thread.daemon = True
    thread.start()
    status = os.waitpid(pid, 0)[1]
    os._exit(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))


if __name__ == "__main__":
    main(sys.argv[1:])
