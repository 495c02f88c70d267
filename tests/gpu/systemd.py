"""The whole of gpuprov on a GPU host under systemd: run by tests/gpu/host.sh, inside the Debian that it boots.

Makes vendor-shaped repositories of Debian's engine and of NVIDIA's toolkit as built from its source, serves them,
and provisions this host over ssh as a person would. Then it looks at containers, at `systemctl daemon-reload`, at
an upgrade of the toolkit under a running container, at dockerrun and at doctor. Results: result.txt and
result.json in --out; the exit status is 0 when all was as expected.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.gpu.__main__ import Trial, machine, output

WEB, REGISTRY = 8000, 5000
SUITE = "trixie"
IMAGE = "gpuprov-trial"
JOB = "gpuprov-trial-job"
NEEDED = (
    "container sees the GPU",
    "CUDA starts in a container",
    "GPU computes right",
    "one GPU where one is asked for",
    "no GPU where none is asked for",
    "GPU with --gpus",
    "GPU stays after daemon-reload",
)
UNITS = ("nvidia-cdi-refresh.path", "nvidia-cdi-refresh.service")
OPTIONS = {"bridge": "none", "iptables": False, "ip6tables": False, "userland-proxy": False}
# nvidia-smi; "all" takes device nodes that a machine without displays has not.
UTILITY = ("-e", "NVIDIA_DRIVER_CAPABILITIES=compute,utility")
RUNTIME = ("--runtime=nvidia", *UTILITY)
WAYS = {
    "runtime": (*RUNTIME, "-e", "NVIDIA_VISIBLE_DEVICES=all"),
    "gpus": ("--gpus", "all"),
    "gpus and runtime": (*RUNTIME, "--gpus", "all"),
    "cdi": ("--device", "nvidia.com/gpu=all"),
}
# Options that libnvidia-container got later than the release at hand.
CLI_WRAPPER = """\
#!/bin/bash
words=()
for word; do
    case $word in --cuda-compat-mode=* | --no-create-imex-channels) ;; *) words+=("$word") ;; esac
done
exec /usr/libexec/nvidia-container-cli "${words[@]}"
"""


# ---- Repositories ------------------------------------------------------------------------------


def repositories(bring: Path, www: Path) -> list[str]:
    """Make the repositories of Docker and NVIDIA under www; return the toolkit's versions, older first."""
    os.environ["GPUPROV_LAB_CACHE"] = str(bring / "cache")
    from tests.lab import images, repositories

    # The lab keeps Debian's packages under a key of its own lists.
    setattr(repositories, "debs", lambda _suite: bring / "cache")  # noqa: B010
    work = www / ".work"
    work.mkdir(parents=True)
    release = next(one for one in repositories.RELEASES if one.codename == SUITE)
    pinned = repositories.Release(
        release.codename, release.os, release.suite,
        *((one[1],) for one in (release.engine, release.containerd, release.buildx, release.compose)),
    )  # fmt: skip
    repositories._docker(pinned, www, work)
    flat = www / "nvidia/libnvidia-container/stable/deb/amd64"
    versions = sorted(path.name for path in (bring / "toolkit").iterdir())
    for version in versions:
        for package in toolkit(bring, version, repositories):
            repositories._pack(package, flat, work)
    repositories._flat(flat)
    for place in (www / "docker/linux/debian/gpg", www / "nvidia/libnvidia-container/gpgkey"):
        images.public_key(place, armored=True)
    shutil.rmtree(work)
    return versions


def toolkit(bring: Path, version: str, repositories: Any) -> list[Any]:
    """The toolkit's four packages: content and scripts of NVIDIA's source, relationships of the lab's table."""
    source = bring / "toolkit" / version
    full = f"{version}-1"

    def tree(name: str, files: dict[str, Path]) -> Path:
        place = bring / "trees" / full / name
        for path, origin in files.items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(origin, place / path)
        return place

    def script(name: str) -> str:
        return (source / "packaging/debian" / name).read_text().replace("#DEBHELPER#\n", "")

    programs = ("nvidia-container-runtime", "nvidia-ctk", "nvidia-cdi-hook")
    units = {f"etc/systemd/system/{name}": source / "deployments/systemd" / name for name in UNITS}
    environment = "etc/nvidia-container-toolkit/nvidia-cdi-refresh.env"
    base = {f"usr/bin/{name}": source / "bin" / name for name in programs} | units
    base[environment] = source / "deployments/systemd/nvidia-cdi-refresh.env"
    hook = {"usr/bin/nvidia-container-runtime-hook": source / "bin/nvidia-container-runtime-hook"}
    library, cli = {}, {}
    for path in (bring / "library").iterdir():
        if path.name == "nvidia-container-cli":
            cli["usr/libexec/nvidia-container-cli"] = path
        else:
            library[f"usr/lib/x86_64-linux-gnu/{path.name}"] = path
    return [
        repositories._vendors(
            "nvidia-container-toolkit", full, tree=tree("toolkit", hook),
            scripts={"postinst": script("nvidia-container-toolkit.postinst")},
        ),
        repositories._vendors(
            "nvidia-container-toolkit-base", full, "libc6", tree=tree("base", base),
            conffiles=tuple(f"/{path}" for path in (*units, environment)),
            scripts={"postinst": script("nvidia-container-toolkit-base.postinst")},
        ),
        repositories._vendors(
            "libnvidia-container-tools", full, tree=tree("tools", cli),
            files={"usr/bin/nvidia-container-cli": (CLI_WRAPPER, 0o755)} if cli else repositories.CLI,
        ),
        repositories._vendors(
            "libnvidia-container1", full, "libc6, libseccomp2", tree=tree("library", library),
            files=repositories.LIBRARY,
            scripts={"postinst": "#!/bin/sh\nset -e\nldconfig\n"},
        ),
    ]  # fmt: skip


@contextlib.contextmanager
def served(bring: Path, www: Path) -> Iterator[None]:
    """The repositories over HTTP, and the lab's registry with its hello-world."""
    config = www.parent / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '127.0.0.1:{REGISTRY}'}}\n"
        f"storage: {{filesystem: {{rootdirectory: {bring}/registry/data}}}}\n"
    )
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    web = ["python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(www), str(WEB)]
    program = bring / "registry/program/usr/bin/docker-registry"
    processes = [subprocess.Popen(words, **quiet) for words in (web, [program, "serve", config])]  # type: ignore[call-overload]
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
            process.wait()


# ---- What is tried -----------------------------------------------------------------------------


class Host:
    """This host, as gpuprov's inventory names it."""

    def __init__(self, trial: Trial, workspace: Path, versions: list[str]) -> None:
        from tests.lab import repositories

        self.trial, self.workspace, self.versions = trial, workspace, versions
        self.inventory = workspace / "hosts.ini"
        variables = {
            "ansible_user": "root",
            "ansible_ssh_common_args": "'-o StrictHostKeyChecking=accept-new'",
            "docker_ce_repo_url": f"http://127.0.0.1:{WEB}/docker/linux",
            "docker_ce_repo_key_fingerprint": repositories.fingerprint(),
            "nvidia_docker_repo_url": f"http://127.0.0.1:{WEB}/nvidia",
            "nvidia_docker_repo_key_fingerprint": repositories.fingerprint(),
            "docker_daemon_registry_mirrors": json.dumps([f"http://127.0.0.1:{REGISTRY}"]),
            "docker_daemon_options": json.dumps(OPTIONS),
            "docker_group_users": json.dumps(["alice"]),
        }
        lines = ["gpu01 ansible_host=127.0.0.1 ansible_port=2222", "[all:vars]"]
        lines += [f"{name}={value}" for name, value in variables.items()]
        self.inventory.write_text("\n".join(lines) + "\n")
        (workspace / "ansible-playbook").write_text(
            f"#!{sys.executable}\nfrom ansible.cli.playbook import main\n\nmain()\n"
        )
        (workspace / "ansible-playbook").chmod(0o755)

    def gpuprov(self, name: str, command: str, *words: str) -> dict[str, Any]:
        """Run gpuprov; return its document, and keep it under the trial's name."""
        environment = {**os.environ, "PATH": f"{self.workspace}:{os.environ['PATH']}", "XDG_STATE_HOME": "/tmp/state"}
        begun = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "gpuprov", command, str(self.inventory), "--json", *words],
            env=environment, text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=400, check=False,
        )  # fmt: skip
        self.trial.seconds.setdefault(name, []).append(round(time.monotonic() - begun, 1))
        try:
            document: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            document = {"status": done.returncode, "hosts": {}, "said": (done.stdout + done.stderr)[-3000:]}
        self.trial.documents[name] = document
        return document

    def provision(self, name: str, *words: str) -> bool:
        """Provision; expect that it succeeds, and that nothing is pending after it."""
        document = self.gpuprov(name, "provision", *words)
        done = document["status"] == 0
        host = document["hosts"].get("gpu01") or {}
        said = "" if done else str(host.get("error") or document.get("said") or wrong_checks(document) or host)[:1500]
        self.trial.expect(name, done, said or f"{self.trial.seconds[name][-1]} s")
        if done:
            again = self.gpuprov(f"{name}: plan after it", "plan", *words)
            self.trial.expect(f"{name}: nothing pending after it", again["status"] == 0, brief(again))
        return done

    def verify(self, name: str, *words: str) -> None:
        """Verify; expect every check to pass, those of a GPU among them."""
        document = self.gpuprov(name, "verify", *words)
        checks = {check["name"]: check for check in checks_of(document)}
        bad = wrong_checks(document) or ", ".join(one for one in NEEDED if one not in checks)
        said = "; ".join(f"{one}: {checks[one]['detail']}" for one in NEEDED if one in checks)
        self.trial.expect(name, document["status"] == 0 and not bad, bad or said)


def brief(document: dict[str, Any]) -> str:
    host = document["hosts"].get("gpu01") or {}
    return json.dumps(host.get("plan") or host.get("error") or "no change")[:700]


def checks_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    verify = (document["hosts"].get("gpu01") or {}).get("verify") or {}
    return list(verify.get("checks") or [])


def wrong_checks(document: dict[str, Any]) -> str:
    return "; ".join(f"{one['name']}: {one['detail']}" for one in checks_of(document) if not one["ok"])[:1500]


def docker_run(*words: str) -> str:
    return output("docker", "run", "--rm", "--network", "none", *words, IMAGE, "nvidia-smi", "-L")


def gpus_in(text: str) -> int:
    return text.count("UUID: GPU-")


def try_containers(trial: Trial, mode: str, count: int, cdi: bool) -> None:
    """Containers with each GPU alone, with all and with none, by every way of asking that the mode has."""
    asked: list[tuple[str, int, tuple[str, ...]]] = []
    choices = [("all", count), *((str(number), 1) for number in range(count)), ("none", 0)]
    if count > 1:
        choices.append((",".join(str(number) for number in range(count)), count))
    for choice, expected in choices:
        asked.append((f"--runtime=nvidia, {choice}", expected, (*RUNTIME, "-e", f"NVIDIA_VISIBLE_DEVICES={choice}")))
    asked.append(("--gpus all", count, ("--gpus", "all")))
    asked += [(f"--gpus device={number}", 1, ("--gpus", f"device={number}")) for number in range(count)]
    if cdi:
        asked += [
            (f"--device nvidia.com/gpu={choice}", expected, ("--device", f"nvidia.com/gpu={choice}"))
            for choice, expected in choices if "," not in choice and choice != "none"
        ]  # fmt: skip
    asked.append(("without a GPU", 0, ()))
    for name, expected, words in asked:
        said = docker_run(*words)
        found = gpus_in(said)
        trial.expect(f"{mode}: {name}", found == expected, f"{found} GPUs" if found == expected else said[-400:])


@contextlib.contextmanager
def job(*words: str) -> Iterator[None]:
    """A container that goes on running, with a GPU."""
    output("docker", "rm", "-f", JOB)
    output("docker", "run", "-d", "--name", JOB, "--network", "none", *words, IMAGE, "sleep", "infinity")
    try:
        yield
    finally:
        output("docker", "rm", "-f", JOB)


def in_job() -> str:
    return output("docker", "exec", JOB, "nvidia-smi", "-L")


def reload() -> None:
    """Reload systemd, and start a unit: only then does systemd 257 set the devices of running scopes anew."""
    output("systemctl", "daemon-reload")
    output("systemd-run", "--quiet", "--wait", "true")


def try_reload(trial: Trial, mode: str, way: str, count: int, stays: bool) -> None:
    """`systemctl daemon-reload` under a running container; stays says what is known of this mode."""
    with job(*WAYS[way]):
        before = in_job()
        reload()
        after = in_job()
    good = gpus_in(before) == count and (gpus_in(after) == count) == stays
    said = f"{gpus_in(before)} GPUs before, {gpus_in(after)} after"
    trial.expect(f"daemon-reload, {mode}, {way}: the container {'keeps' if stays else 'loses'} its GPUs", good,
                 said if good else f"{said}: {before[-300:]} / {after[-300:]}")  # fmt: skip


def try_upgrade(trial: Trial, host: Host, name: str, words: tuple[str, ...], count: int) -> None:
    """The newer toolkit is installed under a running GPU container, which must keep its GPUs."""
    with job(*WAYS["runtime"]):
        before = gpus_in(in_job())
        plan = host.gpuprov(f"{name}: plan", "plan", *words)
        trial.expect(f"{name}: the plan", plan["status"] == 2, brief(plan))
        document = host.gpuprov(name, "provision", *words)
        reload()
        after = in_job()
        installed = output("dpkg-query", "-W", "-f", "${Version}", "nvidia-container-toolkit-base")
    error = str((document["hosts"].get("gpu01") or {}).get("error") or wrong_checks(document))[:600]
    trial.expect(
        f"{name}: the running container keeps its GPUs", before == count and gpus_in(after) == count,
        f"toolkit {installed}; {before} GPUs before, {gpus_in(after)} after {error} "
        f"{'' if gpus_in(after) else after[-200:]}",
    )  # fmt: skip


def try_dockerrun(trial: Trial, count: int) -> None:
    """dockerrun, as the account in group docker: each GPU, all and none; its limits."""

    def dockerrun(gpu: str, *words: str) -> str:
        options = ("runuser", "-u", "alice", "--", "env", f"GPU={gpu}", "dockerrun", "--network", "none")
        return output(*options, IMAGE, *words, cwd="/home/alice")

    for gpu, expected in [(str(one), 1) for one in range(count)] + [("all", count), ("none", 0)]:
        said = dockerrun(gpu, "nvidia-smi", "-L")
        found = gpus_in(said)
        trial.expect(f"dockerrun, GPU={gpu}", found == expected, f"{found} GPUs" if found == expected else said[-400:])
    said = dockerrun("all", "sh", "-c", "ulimit -l; ulimit -s; ulimit -n")
    # A machine without CAP_SYS_RESOURCE (number 24) raises no limits, and dockerrun asks for none there.
    status = Path("/proc/1/status").read_text()
    raises = bool(int(status.split("CapBnd:")[1].split()[0], 16) >> 24 & 1)
    good = said.split() == ["unlimited", "unlimited", "1048576"] if raises else "rror" not in said
    trial.expect(f"dockerrun: limits {'with' if raises else 'without'} CAP_SYS_RESOURCE", good, said.replace("\n", " "))


def engine_has_cdi_for_gpus(trial: Trial) -> bool:
    """Return whether the engine provides GPUs for --gpus by CDI, not by NVIDIA's hook."""
    version = trial.machine["dockerd"].split()[2].split("+")[0]
    return tuple(int(number) for number in version.split(".")[:2]) >= (29, 2)


def own_image() -> None:
    """An image of this host's own userland, with nothing of the driver: the runtime brings that."""
    words = ["tar", "-C", "/", "-c", "--exclude=libnvidia*", "--exclude=libcuda*", "--exclude=nvidia-*",
             "bin", "lib", "lib64", "sbin", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc"]  # fmt: skip
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as tar:
        subprocess.run(["docker", "import", "-", IMAGE], stdin=tar.stdout, stdout=subprocess.DEVNULL, check=True)


def try_all(trial: Trial, host: Host, bring: Path) -> None:
    """Everything, in the order of a host's life."""
    old, new = host.versions[0], host.versions[-1]
    older = ("-e", f"nvidia_docker_version={old}-1")
    cdi = ("-e", '{"nvidia_docker_cdi": true}')
    count = gpus_in(output("nvidia-smi", "-L"))
    plan = host.gpuprov("plan of the fresh host", "plan", *older)
    trial.expect("plan of the fresh host", plan["status"] == 2, brief(plan))
    if not host.provision("provision", *older):
        return
    trial.machine |= {name: machine()[name] for name in ("dockerd", "containerd", "runc", "toolkit")}
    own_image()
    host.verify("verify", *older)
    try_containers(trial, "auto", count, cdi=False)
    by_cdi = engine_has_cdi_for_gpus(trial)
    for way, stays in (("runtime", True), ("gpus", by_cdi), ("gpus and runtime", True)):
        try_reload(trial, "auto", way, count, stays)
    said = next(one["detail"] for one in checks_of(trial.documents["verify"]) if "daemon-reload" in one["name"])
    trial.expect("verify says what --gpus alone loses", ("with --gpus alone it goes" in said) is not by_cdi, said)
    try_upgrade(trial, host, f"upgrade of the toolkit to {new}, auto", (), count)
    host.provision("provision with CDI", *cdi)
    host.verify("verify with CDI", *cdi)
    try_containers(trial, "CDI", count, cdi=True)
    try_reload(trial, "CDI", "cdi", count, stays=True)
    try_reload(trial, "CDI", "gpus", count, by_cdi)
    try_default_runtime(trial, host, count)
    try_dockerrun(trial, count)
    document = host.gpuprov("doctor", "doctor", *cdi)
    findings = (document["hosts"].get("gpu01") or {}).get("findings")
    errors = [one for one in findings or [] if one["severity"] == "error"]
    said = "; ".join(f"{one['severity']} {one['name']}" for one in findings or []) or str(
        document.get("said", "nothing")
    )
    trial.expect("doctor", findings is not None and not errors, said)
    trial.machine["failed units"] = output("systemctl", "--failed", "--no-legend") or "none"
    try_legacy(trial, host, count, older)


def try_default_runtime(trial: Trial, host: Host, count: int) -> None:
    """The mode cdi, in which the hook refuses --gpus unless it is told otherwise; and the cure for --gpus alone."""
    # In this order: a reload does not take a default-runtime away again.
    for runtime in (None, "nvidia"):
        name = f"mode cdi, default-runtime {runtime}"
        values = {"nvidia_docker_mode": "cdi", "docker_daemon_options": {**OPTIONS, "default-runtime": runtime}}
        words = ("-e", json.dumps(values))
        host.provision(f"provision, {name}", *words)
        host.verify(f"verify, {name}", *words)
        try_reload(trial, name, "gpus", count, stays=bool(runtime) or engine_has_cdi_for_gpus(trial))


def try_legacy(trial: Trial, host: Host, count: int, older: tuple[str, ...]) -> None:
    """The legacy mode: a daemon-reload by hand takes the GPUs, and gpuprov's own upgrade must not."""
    legacy = ("-e", "nvidia_docker_mode=legacy")
    document = host.gpuprov("provision with mode legacy", "provision", *legacy, *older)
    wrong = [check["name"] for check in checks_of(document) if not check["ok"]]
    # Who asks for this mode is told what it costs, by a check that fails.
    trial.expect("provision with mode legacy: all but one check pass", wrong == ["GPU stays after daemon-reload"],
                 f"exit status {document['status']}; {wrong_checks(document)}")  # fmt: skip
    try_containers(trial, "legacy", count, cdi=False)
    try_reload(trial, "legacy", "runtime", count, stays=False)
    try_upgrade(trial, host, "upgrade of the toolkit, mode legacy asked for", legacy, count)
    host.gpuprov("back to the older toolkit, mode legacy", "provision", *legacy, *older)
    try_upgrade(trial, host, "upgrade of the toolkit, mode legacy found", (), count)


def main() -> int:
    """Try, and write result.txt and result.json."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.gpu.systemd", description=__doc__.splitlines()[0])
    parser.add_argument("--bring", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    workspace = Path("/opt/trial")
    shutil.rmtree(workspace, ignore_errors=True)
    workspace.mkdir()
    arguments.out.mkdir(parents=True, exist_ok=True)
    subprocess.run(["useradd", "-m", "alice"], check=False)
    # What is not installed yet has no version to tell.
    trial = Trial({})
    try:
        trial.machine = {name: value for name, value in machine().items() if "No such file" not in value}
        trial.machine["systemd"] = output("systemctl", "--version").splitlines()[0]
        trial.machine["state"] = output("systemctl", "is-system-running")
        tools = [str(path) for path in arguments.bring.glob("*.deb")]
        subprocess.run(["dpkg", "-i", *tools], check=True, stdout=subprocess.DEVNULL)
        versions = repositories(arguments.bring, workspace / "www")
        with served(arguments.bring, workspace / "www"):
            try_all(trial, Host(trial, workspace, versions), arguments.bring)
    except Exception as error:  # what was tried until then must be written down, too
        import traceback

        trial.expect("the trial ran to its end", False, f"{error!r} {traceback.format_exc()[-1500:]}")
    document = {
        "machine": trial.machine,
        "results": trial.results,
        "seconds": trial.seconds,
        "documents": trial.documents,
    }
    (arguments.out / "result.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    lines = [f"{name}: {value}" for name, value in trial.machine.items()]
    lines += [f"{'ok    ' if one['ok'] else 'FAILED'} {one['name']}: {one['detail']}" for one in trial.results]
    lines += [f"seconds {name}: {' '.join(map(str, values))}" for name, values in trial.seconds.items()]
    (arguments.out / "result.txt").write_text("\n".join(lines) + "\n")
    return 0 if all(one["ok"] for one in trial.results) else 1


if __name__ == "__main__":
    sys.exit(main())
