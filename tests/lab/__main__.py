"""``python -m tests.lab``: bring labs up and down."""

from __future__ import annotations

import argparse
import sys

from tests.lab import fleet, images, lab


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="build the images and repositories, if they are not cached")
    up = commands.add_parser("up", help="bring a lab up and print its inventory's path")
    up.add_argument("name")
    up.add_argument("--hosts", default="debian12,debian13", help="e.g. debian11:2,debian12,xenial")
    up.add_argument("--pristine", action="store_true", help="start afresh the hosts that are up")
    down = commands.add_parser("down", help="take a lab away, or all of them")
    down.add_argument("name", nargs="?")
    down.add_argument("--all", action="store_true")
    reset = commands.add_parser("reset", help="start hosts afresh, all of them if none is named")
    reset.add_argument("name")
    reset.add_argument("host", nargs="*")
    shell = commands.add_parser("ssh", help="log in to a host, or run a command there")
    shell.add_argument("name")
    shell.add_argument("host", help="HOST or USER@HOST")
    shell.add_argument("words", nargs=argparse.REMAINDER)
    many = commands.add_parser("fleet", help="bring a lab up and print the path of an inventory of many names over it")
    many.add_argument("name")
    many.add_argument("--names", type=int, default=200, help="how many names")
    many.add_argument("--hosts", default="debian12:4", help="the hosts that they are spread over")
    for kind in fleet.KINDS:
        many.add_argument(f"--{kind}", type=int, default=0, metavar="N", help=f"names that are {kind} (README.md)")
    commands.add_parser("status", help="what is up")
    return parser


def _ssh(name: str, target: str, words: list[str]) -> int:
    user, _at, host = target.rpartition("@")
    return lab.Lab(name).host(host).ssh(words, user or "root")


def main() -> int:
    """Run one command; return its exit status."""
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.command == "down" and bool(arguments.name) == arguments.all:
        parser.error("name a lab, or --all")
    try:
        if arguments.command == "build":
            images.build()
        elif arguments.command == "up":
            one = lab.Lab(arguments.name)
            one.up(arguments.hosts, pristine=arguments.pristine)
            print(one.inventory)
        elif arguments.command == "fleet":
            one = lab.Lab(arguments.name)
            kinds = {kind: getattr(arguments, kind) for kind in fleet.KINDS}
            print(fleet.make(one, fleet.names(one.up(arguments.hosts), arguments.names, kinds)))
        elif arguments.command == "down":
            for name in lab.names() if arguments.all else [arguments.name]:
                lab.Lab(name).down()
        elif arguments.command == "reset":
            images.build()
            lab.Lab(arguments.name).reset(*arguments.host)
        elif arguments.command == "ssh":
            return _ssh(arguments.name, arguments.host, arguments.words)
        else:
            print(lab.status(), end="")
    except (OSError, RuntimeError, ValueError) as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
