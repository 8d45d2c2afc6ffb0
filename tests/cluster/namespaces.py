"""Two machines' networks on one machine: `network = Network(); network.nodes[0].inside("ip", "address")`.

In: nothing but the right to make network namespaces (root, as a rule). Out: two namespaces with an address each, joined
by a bridge in a third. `close` removes them once no other process is in them, and so does the end of this process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from functools import cache

import psutil


class Namespace:
    """A network namespace without a name. It ends with `close`, with this process, and with the last process in it."""

    def __init__(self) -> None:
        command = ["unshare", "--net", "sh", "-c", "ip link set lo up && echo ready && exec cat"]
        # It waits on a pipe that this process holds, so it cannot outlive it.
        self._holder = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        assert self._holder.stdout is not None
        assert self._holder.stderr is not None
        if self._holder.stdout.readline() != b"ready\n":
            complaint = self._holder.stderr.read().decode(errors="replace").strip()
            self.close()
            raise OSError(f"no network namespace: {complaint}")
        self.pid = self._holder.pid
        self.inode = os.stat(f"/proc/{self.pid}/ns/net").st_ino

    def inside(self, *command: str) -> list[str]:
        """The command that runs a command in here; it becomes that command, so its pid and its signals are the same."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *command]

    def run(self, *command: str) -> None:
        done = subprocess.run(self.inside(*command), capture_output=True, text=True)
        if done.returncode != 0:
            raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")

    def processes(self) -> list[psutil.Process]:
        """Whatever runs in here, whoever its parent is, but for what holds the namespace."""
        found = []
        for pid in psutil.pids():
            with contextlib.suppress(OSError, psutil.Error):
                if pid != self.pid and os.stat(f"/proc/{pid}/ns/net").st_ino == self.inode:
                    found.append(psutil.Process(pid))
        return found

    def close(self) -> None:
        self._holder.kill()
        self._holder.communicate()


class Network:
    """Two namespaces with addresses of their own, each on a port of one bridge, as two machines on one switch."""

    def __init__(self) -> None:
        self._all: list[Namespace] = []
        try:
            self._switch, *self.nodes = (self._opened() for _ in range(3))
            self._switch.run("ip", "link", "add", "bridge", "type", "bridge")
            self._switch.run("ip", "link", "set", "bridge", "up")
            for index, node in enumerate(self.nodes):
                port = ("ip", "link", "add", f"port{index}", "type", "veth", "peer", "name", "eth0")
                self._switch.run(*port, "netns", str(node.pid))
                self._switch.run("ip", "link", "set", f"port{index}", "master", "bridge", "up")
                node.run("ip", "address", "add", f"{self.address(index)}/24", "dev", "eth0")
                node.run("ip", "link", "set", "eth0", "up")
        except BaseException:
            self.close()
            raise

    def _opened(self) -> Namespace:
        self._all.append(Namespace())
        return self._all[-1]

    @staticmethod
    def address(index: int) -> str:
        return f"10.111.0.{index + 1}"

    def plug(self, index: int, state: str) -> None:
        """Takes the cable of a node out of the switch ("down") or puts it back ("up"); its own addresses stay."""
        self._switch.run("ip", "link", "set", f"port{index}", state)

    def close(self) -> None:
        for namespace in self._all:
            namespace.close()


@cache
def why_not_isolated() -> str | None:
    """What is missing for network namespaces here; None when nothing is."""
    missing = [program for program in ("ip", "unshare", "nsenter") if shutil.which(program) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian packages iproute2 and util-linux)"
    try:
        Network().close()
    except OSError as error:
        return str(error)
    return None
