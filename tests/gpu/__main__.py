"""One command on a GPU host: probe, plan, doctor and verify against the real thing, and what came of it in files.

    python3 -m tests.gpu --out DIR                 as root, on a host that has dockerd and the toolkit
    python3 -m tests.gpu --out DIR --bring DIR     on a throwaway host without them, which has to be root's alone

What is brought: bin/ (dockerd, containerd, containerd-shim-runc-v2, runc, docker, NVIDIA's nvidia-ctk,
nvidia-cdi-hook, nvidia-container-runtime, nvidia-container-runtime-hook, and a static program for
hello-world, gpuprov-hello); ssh/ (sshd, ssh, ssh-keygen, and lib/ with their libraries); wheels/ (what gpuprov
needs, for the Python that runs this). It is copied into /usr, /etc/docker/daemon.json is written, dockerd and
sshd are started by hand: no systemd is needed, and no network. docs/gpu.md has the results of a run.

Needs nothing but Python's own library, so that it can bring the rest along.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.text import replaced

CHECKOUT = Path(__file__).resolve().parents[2]
SITE = Path("/tmp/gpuprov-trial-site")
DAEMON_JSON = Path("/etc/docker/daemon.json")
TOOLKIT_CONFIG = Path("/etc/nvidia-container-runtime/config.toml")
SPEC = Path("/var/run/cdi/nvidia.yaml")
# Without a network and a firewall: containers run with --network none.
CONFIG = {
    "bridge": "none",
    "features": {"cdi": True},
    "iptables": False,
    "runtimes": {"nvidia": {"path": "nvidia-container-runtime"}},
    "userland-proxy": False,
}
# What verification proves of a GPU: the rest of its checks is about packages that a brought host has not.
GPU_CHECKS = (
    "GPU stays after daemon-reload",
    "container runs",
    "container sees the GPU",
    "CUDA starts in a container",
    "GPU computes right",
    "one GPU where one is asked for",
    "no GPU where none is asked for",
    "GPU by CDI",
)
CDI = ("-e", "nvidia_docker_cdi=true")
# Seconds that GPU verification may add (issue 6).
MOST_SECONDS = 5.0
ROUNDS = 3


@dataclass
class Trial:
    """The checks and their results."""

    machine: dict[str, str]
    results: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    documents: dict[str, Any] = field(default_factory=dict)

    def expect(self, name: str, ok: bool, detail: str) -> None:
        """Write a result down, and say it."""
        self.results.append({"name": name, "ok": ok, "detail": detail})
        print(f"{'ok    ' if ok else 'FAILED'} {name}: {detail}", flush=True)


def output(*words: str, **options: Any) -> str:
    """Return the output of a command, stdout and stderr, whatever its exit status."""
    try:
        done = subprocess.run(
            words, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            timeout=120, check=False, **options,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stdout.strip()


# ---- What is brought ---------------------------------------------------------------------------


def bring(directory: Path) -> None:
    """Put what was brought where a host has it, and gpuprov's own needs where this Python finds them."""
    for program in sorted((directory / "bin").iterdir()):
        shutil.copy(program, Path("/usr/bin") / program.name)
    # Unpacked by hand: a host's Python need not have pip.
    for wheel in sorted((directory / "wheels").glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(SITE)
    playbook = SITE / "bin/ansible-playbook"
    playbook.parent.mkdir(parents=True, exist_ok=True)
    playbook.write_text(f"#!{sys.executable}\nfrom ansible.cli.playbook import main\n\nmain()\n")
    playbook.chmod(0o755)
    DAEMON_JSON.parent.mkdir(exist_ok=True)
    DAEMON_JSON.write_text(json.dumps(CONFIG, indent=4, sort_keys=True) + "\n")
    subprocess.run(
        ["nvidia-ctk", "--quiet", "config", f"--config-file={TOOLKIT_CONFIG}", "--in-place"], check=True
    )  # fmt: skip


@contextlib.contextmanager
def dockerd(log: Path) -> Iterator[None]:
    """dockerd, started by hand, with hello-world in its store."""
    with log.open("w") as handle:
        process = subprocess.Popen(["dockerd"], stdout=handle, stderr=handle, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while "Server Version" not in output("docker", "info"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"dockerd did not start: {log.read_text()[-2000:]}")
            time.sleep(0.2)
        archive = ["tar", "-C", "/usr/bin", "-c", "gpuprov-hello"]
        with subprocess.Popen(archive, stdout=subprocess.PIPE) as tar:
            subprocess.run(
                ["docker", "import", "--change", 'CMD ["/gpuprov-hello"]', "-", "hello-world:latest"],
                stdin=tar.stdout, stdout=subprocess.DEVNULL, check=True,
            )  # fmt: skip
        yield
    finally:
        process.terminate()
        process.wait(60)


@contextlib.contextmanager
def sshd(directory: Path, workspace: Path) -> Iterator[str]:
    """An sshd that lets this account in with a key of its own; yields the inventory's variables for it."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(directory / "lib")}
    client = Path("/usr/bin/ssh")
    if not client.exists():
        client.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={directory}/lib exec {directory}/ssh "$@"\n')
        client.chmod(0o755)
    if "sshd:" not in Path("/etc/passwd").read_text():
        with Path("/etc/passwd").open("a") as accounts:
            accounts.write("sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n")
    Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host", "login"):
        subprocess.run(
            [str(directory / "ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(workspace / name)],
            env=environment, check=True,
        )  # fmt: skip
    shutil.copy(workspace / "login.pub", workspace / "authorized_keys")
    port = "2222"
    host_key = (workspace / "host.pub").read_text().split()[:2]
    (workspace / "known_hosts").write_text(f"[127.0.0.1]:{port} {' '.join(host_key)}\n")
    settings = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": str(workspace / "host"),
        "AuthorizedKeysFile": str(workspace / "authorized_keys"),
        "PermitRootLogin": "prohibit-password",
        "StrictModes": "no",
        "UsePAM": "no",
        "PidFile": "none",
    }
    words = [str(directory / "sshd"), "-D", "-e", "-f", "/dev/null"]
    for name, value in settings.items():
        words += ["-o", f"{name}={value}"]
    with (workspace / "sshd.log").open("w") as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
    try:
        time.sleep(1)
        options = f"-o UserKnownHostsFile={workspace}/known_hosts -o IdentitiesOnly=yes"
        yield (
            f"ansible_host=127.0.0.1 ansible_port={port} ansible_user=root "
            f"ansible_ssh_private_key_file={workspace}/login ansible_ssh_common_args='{options}'"
        )
    finally:
        process.terminate()


# ---- What is tried -----------------------------------------------------------------------------


def machine() -> dict[str, str]:
    """Return a description of this host, from its own programs."""
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line
    )  # fmt: skip
    driver = Path("/proc/driver/nvidia/version")
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "system": release.get("PRETTY_NAME", "").strip('"'),
        "kernel": platform.release(),
        "init": Path("/proc/1/comm").read_text().strip(),
        "python": platform.python_version(),
        "gpus": output("nvidia-smi", "-L"),
        "driver": driver.read_text().splitlines()[0] if driver.exists() else "none",
        "libcuda": output("sh", "-c", "ldconfig -p | grep 'libcuda.so.1 '"),
        "dockerd": output("dockerd", "--version"),
        "containerd": output("containerd", "--version"),
        "runc": output("runc", "--version").splitlines()[0],
        "toolkit": output("nvidia-ctk", "--version").splitlines()[0],
    }


def gpuprov(trial: Trial, name: str, command: str, inventory: Path, *words: str) -> dict[str, Any]:
    """Run gpuprov as a person does, without this process's help to find the driver; return its document."""
    path = os.pathsep.join(
        (
            f"{SITE}/bin",
            str(Path(sys.executable).parent),
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
    )
    environment = {
        "PATH": path,
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "PYTHONPATH": f"{SITE}{os.pathsep}{CHECKOUT}",
        "XDG_STATE_HOME": str(inventory.parent / "state"),
    }
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "gpuprov", command, str(inventory), "--json", *words],
        env=environment, cwd=inventory.parent, text=True, capture_output=True, stdin=subprocess.DEVNULL,
        timeout=300, check=False,
    )  # fmt: skip
    trial.seconds.setdefault(name, []).append(round(time.monotonic() - begun, 2))
    try:
        document: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        document = {"status": done.returncode, "hosts": {}, "said": done.stderr[-3000:]}
    trial.documents[name] = document
    return document


def try_probe(trial: Trial, kind: str, inventory: Path) -> None:
    """The plan's probe against what nvidia-smi and the kernel say here."""
    document = gpuprov(trial, f"plan {kind}", "plan", inventory, *CDI)
    host = document["hosts"].get("gpu01") or {}
    gpu = (host.get("facts") or {}).get("gpu") or {}
    found = [(one["model"], one["uuid"]) for one in gpu.get("gpus") or []]
    said = trial.machine["gpus"]
    good = bool(found) and len(found) == said.count("GPU-") and all(f"{m} (UUID: {u})" in said for m, u in found)
    trial.expect(f"{kind}: plan knows model and UUID", good, str(found) if found else str(document.get("said", host)))
    version = str(gpu.get("driver_version"))
    trial.expect(f"{kind}: plan knows the driver", f" {version} " in f"{trial.machine['driver']} ", version)
    libraries = [one for one in gpu.get("libraries") or [] if one["version"] == version]
    trial.expect(
        f"{kind}: plan finds the driver's libraries",
        {one["name"] for one in libraries} == {"libcuda", "libnvidia-ml"},
        " ".join(one["path"] for one in libraries),
    )


def try_doctor(trial: Trial, kind: str, inventory: Path) -> None:
    """Check doctor's findings; a healthy GPU has no finding of severity error."""
    document = gpuprov(trial, f"doctor {kind}", "doctor", inventory)
    host = document["hosts"].get("gpu01") or {}
    if host.get("findings") is None:
        trial.expect(f"{kind}: doctor", False, str(document.get("said") or host.get("error")))
        return
    findings = host["findings"]
    errors = [one for one in findings if one["severity"] == "error" and "gpu" in str(one["name"]).lower()]
    said = "; ".join(f"{one['severity']} {one['name']}" for one in findings) or "nothing"
    trial.expect(f"{kind}: doctor", document["status"] in (0, 2) and not errors, said)


def try_verify(trial: Trial, kind: str, inventory: Path) -> None:
    """Every GPU check, and what it costs beside a verification without the GPU."""
    for _round in range(ROUNDS):
        gpuprov(trial, f"verify without GPU {kind}", "verify", inventory, "-e", "gpu_host_verify_containers=image")
        document = gpuprov(trial, f"verify {kind}", "verify", inventory, *CDI)
        checks = {check["name"]: check for check in checks_of(document)}
        bad = [name for name in GPU_CHECKS if not (checks.get(name) or {}).get("ok")]
        said = "; ".join(f"{name}: {(checks.get(name) or {}).get('detail', 'not tried')}" for name in bad or GPU_CHECKS)
        trial.expect(f"{kind}: verify", not bad, said or str(document.get("said")))
    more = statistics.median(trial.seconds[f"verify {kind}"]) - statistics.median(
        trial.seconds[f"verify without GPU {kind}"]
    )
    trial.expect(f"{kind}: seconds that the GPU adds", more <= MOST_SECONDS, f"{more:.1f}, median of {ROUNDS}")


def checks_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    verify = (document["hosts"].get("gpu01") or {}).get("verify") or {}
    return list(verify.get("checks") or [])


def try_setup(trial: Trial, workspace: Path) -> None:
    """The module that generates the CDI specification: missing, then there, then of another driver."""
    words = ("stack=toolkit", f"version={trial.machine['toolkit'].split()[-1]}", "cdi=true")
    for name, staged, changed in (
        ("missing", lambda: SPEC.unlink(missing_ok=True), True),
        ("right", lambda: None, False),
        ("stale", lambda: SPEC.write_text(replaced(SPEC.read_text(), driver_of(trial), "1.2.3")), True),
    ):
        staged()
        said = output(
            sys.executable, "-m", "ansible", "adhoc", "localhost", "-c", "local",
            "-m", "gpuprov.gpuprov.nvidia_toolkit_config", "-a", " ".join(words),
            env={**os.environ, "PYTHONPATH": str(SITE), "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
                 "ANSIBLE_COLLECTIONS_PATH": str(CHECKOUT / "playbooks/collections")},
            cwd=str(workspace),
        )  # fmt: skip
        right = SPEC.exists() and driver_of(trial) in SPEC.read_text()
        word = "CHANGED" if changed else "SUCCESS"
        trial.expect(f"CDI specification, {name}", right and word in said, said.replace("\n", " ")[-400:])


def driver_of(trial: Trial) -> str:
    return next(word for word in trial.machine["driver"].split() if word[0].isdigit() and "." in word)


def try_broken(trial: Trial, inventory: Path) -> None:
    """A toolkit whose mode needs a library that was not brought: verify has to fail, and say why."""
    text = TOOLKIT_CONFIG.read_text()
    try:
        TOOLKIT_CONFIG.write_text(replaced(text, 'mode = "auto"', 'mode = "legacy"'))
        document = gpuprov(trial, "verify broken", "verify", inventory)
    finally:
        TOOLKIT_CONFIG.write_text(text)
    wrong = {check["name"]: check["detail"] for check in checks_of(document) if not check["ok"]}
    detail = wrong.get("container sees the GPU", "")
    trial.expect("a broken toolkit fails the verification", bool(detail), detail[:300] or str(wrong))


def try_all(trial: Trial, workspace: Path, brought: Path | None) -> None:
    """Try everything over both connections."""
    with contextlib.ExitStack() as stack:
        if brought:
            stack.enter_context(dockerd(workspace / "dockerd.log"))
            try_setup(trial, workspace)
        kinds = {"local": "ansible_connection=local"}
        if brought:
            kinds["ssh"] = stack.enter_context(sshd(brought / "ssh", workspace))
        for kind, variables in kinds.items():
            inventory = workspace / f"{kind}.ini"
            inventory.write_text(f"gpu01 {variables}\n")
            try_probe(trial, kind, inventory)
            try_doctor(trial, kind, inventory)
            try_verify(trial, kind, inventory)
        if brought:
            try_broken(trial, workspace / "local.ini")


def raw_probe(out: Path) -> None:
    """Record the output of the probe's script, as data for a test."""
    script = CHECKOUT / "roles/gpu_host_probe/files/probe.sh"
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    text = output("sh", str(script), "0123456789abcdef", "user:root", env={"PATH": path})
    (out / "probe.txt").write_text(text + "\n")


def main() -> int:
    """Try, and write result.json, result.txt and probe.txt."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="where the results go")
    parser.add_argument("--bring", type=Path, help="programs for a throwaway host")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("it takes root")
    arguments.out.mkdir(parents=True, exist_ok=True)
    workspace = Path("/tmp/gpuprov-trial")
    shutil.rmtree(workspace, ignore_errors=True)
    workspace.mkdir(mode=0o700)
    brought = arguments.bring.resolve() if arguments.bring else None
    if brought:
        bring(brought)
    trial = Trial(machine())
    try:
        try_all(trial, workspace, brought)
        raw_probe(arguments.out)
    except Exception as error:  # the checks until then are recorded too
        trial.expect("the trial ran to its end", False, repr(error))
    (arguments.out / "result.json").write_text(json.dumps(asdict(trial), indent=1, sort_keys=True) + "\n")
    lines = [f"{name}: {value}" for name, value in trial.machine.items()]
    lines += [f"{'ok    ' if one['ok'] else 'FAILED'} {one['name']}: {one['detail']}" for one in trial.results]
    lines += [f"seconds {name}: {' '.join(map(str, values))}" for name, values in trial.seconds.items()]
    (arguments.out / "result.txt").write_text("\n".join(lines) + "\n")
    return 0 if all(one["ok"] for one in trial.results) else 1


if __name__ == "__main__":
    sys.exit(main())
