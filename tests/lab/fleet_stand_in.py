"""Stand in for a network that delays and for servers that are not ssh. It runs on a lab host, as a unit of systemd.

Its arguments are PORT=KIND[:SECONDS]: slow delays everything that passes to and from sshd, late waits before it passes
anything, and wrong answers as a web server does. It says READY=1 to systemd once all ports listen.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable


async def _pass_on(reader: StreamReader, writer: StreamWriter, delay: float) -> None:
    """Write what is read after a delay in seconds; one piece does not wait for the delay of another."""
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def write() -> None:
        while True:
            due, piece = await pieces.get()
            await asyncio.sleep(due - loop.time())
            if not piece:
                break
            writer.write(piece)
        writer.close()

    writing = asyncio.create_task(write())
    piece = b" "
    while piece:
        try:
            piece = await reader.read(1 << 16)
        except OSError:
            piece = b""
        pieces.put_nowait((loop.time() + delay, piece))
    await writing


def _serve(kind: str, seconds: float) -> Callable[[StreamReader, StreamWriter], Awaitable[None]]:
    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        if kind == "wrong":
            await reader.readline()
            writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            writer.close()
            return
        await asyncio.sleep(seconds if kind == "late" else 0)
        delay = seconds if kind == "slow" else 0
        from_sshd, to_sshd = await asyncio.open_connection("127.0.0.1", 22)
        both = _pass_on(reader, to_sshd, delay), _pass_on(from_sshd, writer, delay)
        await asyncio.gather(*both, return_exceptions=True)

    return serve


async def main(words: list[str]) -> None:
    """Listen at the ports that the words name, and serve until killed."""
    for word in words:
        port, _, rest = word.partition("=")
        kind, _, seconds = rest.partition(":")
        await asyncio.start_server(_serve(kind, float(seconds or 0)), "0.0.0.0", int(port), backlog=1000)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
