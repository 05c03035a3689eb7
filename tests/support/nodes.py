"""Two machines on one: network namespaces joined by a cable, each with processes, a host name and an sshd of its own.

What happens to a cluster can be done to them: a node loses its power, a cable is cut, a network is slow.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.support.refusal import LAUNCHER

NETWORK = "10.213.77"
MARK = "DS_BERT_TEST_NODES"  # in the environment of the ranks, with the folder of their nodes
BIN = Path(sys.executable).parent
# In a node: its own name, /run and /etc/hosts; the sshd is its first process, with which all others end.
_BOOT = """
set -e
hostname "$1"
mount -t tmpfs none /run
mkdir /run/sshd
mount --bind "$2/hosts" /etc/hosts
exec /usr/sbin/sshd -D -e -f "$2/sshd_config" 2>>"$2/sshd.log"
"""


def what_is_missing() -> str:
    """Say why nodes cannot be made here, "" where they can."""
    missing = [name for name in ("ip", "tc", "unshare", "pdsh", "ssh", "ssh-keygen") if shutil.which(name) is None]
    if missing or not Path("/usr/sbin/sshd").exists():
        return f"not installed: {', '.join([*missing, *([] if Path('/usr/sbin/sshd').exists() else ['sshd'])])}"
    if os.geteuid():
        return "only root makes network namespaces"
    name = f"try{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "delete", name], capture_output=True)
    return tried.stderr.strip()


class Nodes:
    """node0 and node1, reached by ssh under these names from `start`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.names = folder, ("node0", "node1")
        self._spaces = [f"dsbert{os.getpid()}{name}" for name in self.names]
        self._running: dict[str, subprocess.Popen] = {}
        self._write_files()

    def _write_files(self) -> None:
        (self.folder / "bin").mkdir(parents=True)
        for key in ("host", "user"):
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / key)
        addresses = [(name, f"{NETWORK}.{number}") for number, name in enumerate(self.names, start=1)]
        self.address = dict(addresses)
        hosts = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses)]
        (self.folder / "hosts").write_text("\n".join(hosts) + "\n")
        (self.folder / "sshd_config").write_text(
            f"HostKey {self.folder}/host\nAuthorizedKeysFile {self.folder}/user.pub\nPidFile none\n"
            "StrictModes no\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\n"
        )
        client = "".join(f"Host {name}\n  HostName {address}\n" for name, address in addresses) + (
            f"Host *\n  IdentityFile {self.folder}/user\n  UserKnownHostsFile /dev/null\n"
            "  StrictHostKeyChecking no\n  LogLevel ERROR\n"
            "  ConnectTimeout 5\n  ServerAliveInterval 3\n  ServerAliveCountMax 3\n"
        )
        (self.folder / "ssh_config").write_text(client)
        wrapper = self.folder / "bin" / "ssh"
        wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {self.folder}/ssh_config "$@"\n')
        wrapper.chmod(0o755)

    def connect(self) -> None:
        """Lay the cable and switch the nodes on."""
        for space in self._spaces:
            _run("ip", "netns", "add", space)
        ends = ["eth0", "netns", self._spaces[0], "type", "veth", "peer", "name", "eth0", "netns", self._spaces[1]]
        _run("ip", "link", "add", *ends)
        for name, space in zip(self.names, self._spaces, strict=True):
            _run("ip", "-n", space, "address", "add", f"{self.address[name]}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _run("ip", "-n", space, "link", "set", device, "up")
            self.switch_on(name)

    def switch_on(self, name: str) -> None:
        """Boot a node and wait for its sshd."""
        new = ["unshare", "--uts", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]
        boot = ["sh", "-c", _BOOT, "sh", name, str(self.folder)]
        self._running[name] = subprocess.Popen(["ip", "netns", "exec", self._space(name), *new, *boot])
        deadline = time.monotonic() + 20
        while self.start(["ssh", name, "true"]).wait():
            assert time.monotonic() < deadline, (self.folder / "sshd.log").read_text()
            time.sleep(0.1)

    def switch_off(self, name: str) -> None:
        """End all processes of a node at once."""
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def cut_cable(self) -> None:
        """From now on nothing arrives, and nobody is told."""
        self._set_link("down")

    def narrow_cable(self, rate: str) -> None:
        """Let no more than this through, such as "4mbit", in each direction."""
        for space in self._spaces:
            bucket = ["tbf", "rate", rate, "burst", "32kb", "latency", "400ms"]
            _run("tc", "-n", space, "qdisc", "replace", "dev", "eth0", "root", *bucket)

    def repair_cable(self) -> None:
        """Make the cable as good as new."""
        self._set_link("up")
        for space in self._spaces:
            subprocess.run(["tc", "-n", space, "qdisc", "delete", "dev", "eth0", "root"], capture_output=True)

    def _set_link(self, state: str) -> None:
        _run("ip", "-n", self._space("node1"), "link", "set", "eth0", state)

    def start(self, command: Sequence[object], **more: object) -> subprocess.Popen:
        """Start a command on the network, beside node0."""
        words = ["ip", "netns", "exec", self._space("node0"), *map(str, command)]
        environment = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
        environment["PATH"] = os.pathsep.join([str(self.folder / "bin"), str(BIN), environment["PATH"]])
        return subprocess.Popen(words, env=environment, text=True, **more)  # type: ignore[call-overload]

    def ranks(self) -> Mapping[int, psutil.Process]:
        """The processes that train, by rank."""
        found = {}
        for process in psutil.process_iter():
            try:
                environment, words = process.environ(), process.cmdline()
            except psutil.Error:
                continue
            is_ours = environment.get(MARK) == str(self.folder)
            if is_ours and any(word.endswith("pretrain.py") for word in words[1:4]) and "RANK" in environment:
                found[int(environment["RANK"])] = process
        return found

    def remove(self) -> None:
        """Switch everything off and leave nothing behind."""
        for name in list(self._running):
            self.switch_off(name)
        for space in self._spaces:
            subprocess.run(["ip", "netns", "delete", space], capture_output=True)

    def _space(self, name: str) -> str:
        return self._spaces[self.names.index(name)]


@contextmanager
def two_nodes(folder: Path) -> Iterator[Nodes]:
    """Nodes that are gone afterwards."""
    nodes = Nodes(folder)
    try:
        nodes.connect()
        yield nodes
    finally:
        nodes.remove()


def _run(*words: object) -> None:
    ended = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    assert ended.returncode == 0, f"{' '.join(map(str, words))}: {ended.stderr}"
