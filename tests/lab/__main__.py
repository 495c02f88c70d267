"""``python -m tests.lab``: bring labs up and down."""

from __future__ import annotations

import argparse
import sys

from tests.lab import images, lab


def main() -> int:
    """Run one command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="build the images and repositories, if they are not cached")
    up = commands.add_parser("up", help="bring a lab up; harmless if it is up")
    up.add_argument("name")
    up.add_argument("--hosts", default="debian12,debian13", help="e.g. debian11:2,debian12,xenial")
    up.add_argument("--pristine", action="store_true", help="start hosts afresh that are there already")
    down = commands.add_parser("down", help="take a lab away, or all of them")
    down.add_argument("name", nargs="?")
    down.add_argument("--all", action="store_true")
    reset = commands.add_parser("reset", help="start hosts afresh")
    reset.add_argument("name")
    reset.add_argument("host", nargs="*")
    shell = commands.add_parser("ssh", help="log in to a host, or run a command there")
    shell.add_argument("name")
    shell.add_argument("host")
    shell.add_argument("words", nargs=argparse.REMAINDER)
    commands.add_parser("status", help="what is up")
    arguments = parser.parse_args()

    if arguments.command == "build":
        images.build()
    elif arguments.command == "up":
        print(lab.Lab(arguments.name).up(arguments.hosts, pristine=arguments.pristine).inventory)
    elif arguments.command == "down":
        if not arguments.all and not arguments.name:
            parser.error("name a lab, or --all")
        for name in lab.names() if arguments.all else [arguments.name]:
            lab.Lab(name).down()
    elif arguments.command == "reset":
        one = lab.Lab(arguments.name)
        one.reset(arguments.host or [host.name for host in one.hosts()])
    elif arguments.command == "ssh":
        return lab.Lab(arguments.name).host(arguments.host).ssh(arguments.words)
    elif arguments.command == "status":
        print(lab.status(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
