"""A host, the runs against it, and what must hold of it whatever happens."""

from __future__ import annotations

import contextlib
import email.utils
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests import waiting
from tests.integration.conftest import Answer, run
from tests.integration.processes import Process, command_line, descendants, kill, left_of, started
from tests.lab import repositories
from tests.lab.images import SUITES, signing_home
from tests.lab.lab import HTTP_PORT, Host, Lab, podman

CONFIG = "/etc/docker/daemon.json"
PROXY_PORT = 9000


@dataclass(frozen=True)
class State:
    """The state that a fault must not break: dockerd's process, the containers' processes, daemon.json."""

    dockerd: str
    containers: str
    config: str


@dataclass
class Scene:
    """One host of a lab, and a directory to run gpuprov from."""

    lab: Lab
    host: Host
    directory: Path

    @property
    def release(self) -> repositories.Release:
        """Return the release of the lab's Docker repository that serves the host."""
        suite = SUITES[self.host.distro]
        return next(one for one in repositories.RELEASES if one.suite == suite and one.codename != "xenial")

    def words(self, words: tuple[str, ...]) -> list[str]:
        """Words with the lab's own values."""
        return [self.fill(word) for word in words]

    def fill(self, text: str) -> str:
        """A text with the lab's own values, and with the versions beside the pin that there are for the host."""
        values = {
            "SERVER": self.lab.server,
            "MIRROR": self.lab.mirror,
            "PROXY": f"http://127.0.0.1:{PROXY_PORT}",
            "REPOSITORY": f"http://{self.lab.server}:{HTTP_PORT}",
            "VENDOR": self.release.os,
            "CODENAME": self.release.codename,
            "OLD_ENGINE": self.release.engine[0],
            "NEW_ENGINE": self.release.engine[2],
            "OLD_COMPOSE": self.release.compose[0],
        }
        return re.sub("|".join(values), lambda match: values[match[0]], text)

    def command(self, verb: str, *words: str) -> list[str]:
        """The command line of a run against this host alone."""
        return ["gpuprov", verb, str(self.lab.inventory), "--limit", self.host.name, *words]

    def gpuprov(self, verb: str, *words: str) -> Answer:
        """Run gpuprov against this host."""
        return run(self.command(verb, *words), self.directory)

    def state(self) -> State:
        """Return the present state."""
        answer = self.host.run(
            "systemctl show -p MainPID --value docker; echo ---; "
            "docker ps -q 2>/dev/null | xargs -r docker inspect -f '{{.Name}} {{.State.Pid}} {{.State.StartedAt}}'; "
            f"echo ---; cat {CONFIG} 2>/dev/null",
            check=False,
        )
        dockerd, containers, config = answer.stdout.split("---\n", 2)
        return State(dockerd.strip(), containers, config)

    def running(self, *words: str) -> contextlib.AbstractContextManager[tuple[Process, Callable[[], Answer]]]:
        """Start provision against this host; yields the process and a function that waits for its Answer."""
        return started(self.command("provision", *words), self.directory)

    def until(self, condition: str, process: Process | None = None) -> None:
        """Wait until a shell condition holds on the host, or the process that causes it has ended."""
        # Looked for on the host, as some of these hold for an instant only.
        look = f"for i in $(seq 1000); do if {condition}; then exit 0; fi; sleep 0.01; done; exit 1"

        def holds() -> bool:
            over = process is not None and process.poll() is not None
            if self.host.run(look, check=False).returncode == 0:
                return True
            assert not over, f"the run ended, and it was never so that {condition}"
            return False

        waiting.until(holds, condition)

    def proxy(self, wrong: str) -> None:
        """Have the host's proxy do this wrong (proxy.py)."""
        text = (Path(__file__).parent / "proxy.py").read_text(encoding="utf-8")
        self.host.run("cat > /tmp/proxy.py", input=text)
        serve = f"python3 /tmp/proxy.py {PROXY_PORT} {self.fill('REPOSITORY')} {wrong}"
        self.host.run(
            # Lists of a fault before this one would be taken for right.
            "apt-get clean; rm -f /var/lib/apt/lists/127.0.0.1*; "
            "systemctl stop fault-proxy 2>/dev/null; systemctl reset-failed fault-proxy 2>/dev/null; "
            f"systemd-run -q --collect --unit fault-proxy {serve}"
        )
        self.until(f"ss -Hltn | grep -q ':{PROXY_PORT} '")

    def redirect_to_http(self) -> None:
        """Have the host's proxy speak HTTPS, trusted by the host, and send everybody to HTTP."""
        self.host.run(
            "cd /tmp && openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost "
            "-addext subjectAltName=DNS:localhost -keyout proxy.pem -out proxy.crt 2>/dev/null && "
            "cat proxy.crt >> proxy.pem && cp proxy.crt /usr/local/share/ca-certificates/ && update-ca-certificates"
        )
        self.proxy("to_http")

    def dated(self, days: float, valid_days: float, own_key: bool = True) -> None:
        """Put a Release of the lab's Docker repository, dated days from now, onto the host, signed."""
        plain = repositories.directory() / f"docker/linux/{self.release.os}/dists/{self.release.codename}/Release"
        text = re.sub(r"(?m)^(Date|Valid-Until):.*\n", "", plain.read_text(encoding="utf-8"))
        now = time.time()
        dates = {"Date": now + days * 86400, "Valid-Until": now + valid_days * 86400}
        head = "".join(f"{name}: {email.utils.formatdate(at, usegmt=True)}\n" for name, at in dates.items())
        with tempfile.TemporaryDirectory() as directory:
            home = signing_home() if own_key else Path(directory)
            gpg = ["gpg", "--homedir", str(home), "--batch", "--yes"]
            if not own_key:
                other = ["--passphrase", "", "--quick-generate-key", "somebody else", "rsa2048", "sign", "never"]
                subprocess.run([*gpg, *other], check=True, capture_output=True)
            head = head.replace("UTC", "GMT")
            signed = subprocess.run(
                [*gpg, "--clearsign"], input=head + text, text=True, capture_output=True, check=True
            )
        self.host.run("cat > /tmp/InRelease; chmod 644 /tmp/InRelease", input=signed.stdout)
        self.proxy("other_release")

    def reboot(self) -> None:
        """Switch the host off and on again, without a shutdown."""
        podman("restart", "-t", "0", self.host.container)
        self.host.run("systemctl is-system-running --wait", check=False)


Act = Callable[[Scene, list[str]], Answer]


def killed(when: str) -> Act:
    """The controller is killed when a condition holds on the host."""

    def act(scene: Scene, words: list[str]) -> Answer:
        with scene.running(*words) as (process, ended):
            scene.until(when, process)
            kill(process)
            return ended()

    return act


def meanwhile(when: str, then: Callable[[Scene], object]) -> Act:
    """Something happens to the host when a condition holds on it."""

    def act(scene: Scene, words: list[str]) -> Answer:
        with scene.running(*words) as (process, ended):
            scene.until(when, process)
            then(scene)
            return ended()

    return act


def signalled(number: int, times: int, when: str) -> Act:
    """gpuprov gets a signal, once or twice, when a condition holds on the host."""

    def act(scene: Scene, words: list[str]) -> Answer:
        with scene.running(*words) as (process, ended):
            scene.until(when, process)
            before = descendants(process.pid)
            for _time in range(times):
                os.kill(process.pid, number)
                time.sleep(0.3)
            answer = ended()
            left = left_of([pid for pid in before if "ansible-playbook" in command_line(pid)])
            return Answer(answer.status, answer.stdout + "".join(f"stray process {pid}\n" for pid in left), "")

    return act


LOCKED = "test -s /run/gpuprov.lock"


def beside_another(scene: Scene, words: list[str]) -> Answer:
    """A second run while the first one works on the host. The first one's own end is part of the answer."""
    with scene.running(*words) as (process, ended):
        scene.until(LOCKED, process)
        second = scene.gpuprov("provision", *words)
        first = ended()
    return Answer(second.status, second.stdout + f"first run: status {first.status}\n", second.stderr)


def waiting_for_another(scene: Scene, words: list[str]) -> Answer:
    """A second run that waits for the first one."""
    return beside_another(scene, ["--wait", *words])
