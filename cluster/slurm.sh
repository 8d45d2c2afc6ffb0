#!/usr/bin/env bash
# A Ray cluster on the nodes of a Slurm job, for one command, which is its driver:
#
#   sbatch --nodes=2 --gpus-per-node=4 --cpus-per-task=32 --time=4:00:00 cluster/slurm.sh \
#       python -m jobs.finetune --config jobs/configs/finetune-phi3-mini-2x4x24.yaml --out "$PWD/phi3-mini"
#
# Submit it in the repository's folder, on a file system that all nodes share. The command's exit code is the job's. When
# the time is nearly up, or on scancel, the command gets SIGTERM: a sweep keeps what is finished, a run writes its
# checkpoint, and the same sbatch again goes on. VENV is the virtual environment (.venv), GRACE_S what a command may take
# to end (120).
#SBATCH --job-name=ftmeta
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@180
#SBATCH --output=ftmeta-%j.log
set -euo pipefail

if [ $# -eq 0 ]; then
  echo "no command: give the one to run after the script; the top of $0 has an example" >&2
  exit 2
fi
: "${SLURM_JOB_ID:?this is for sbatch; on one machine use make up}"
PATH="${VENV:-$PWD/.venv}/bin:$PATH"
export PATH

# The token is new for each job, and only its owner reads it.
state=${FTMETA_STATE:-$PWD/.ftmeta}
umask 077
mkdir -p "$state"
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="$state/slurm-$SLURM_JOB_ID.token"
od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$RAY_AUTH_TOKEN_PATH"
export RAY_USAGE_STATS_ENABLED=0 TOKENIZERS_PARALLELISM=false
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=${RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S:-30}
temp="/tmp/ftmeta-$SLURM_JOB_ID" # short, because Ray puts sockets there, and on each node's own disk

# The first node is the head; this script runs there. Ports of this job's own, in case another Ray is on the machine, and
# above 19999, below which Ray's workers take theirs.
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
read -r address _ < <(getent ahostsv4 "$head")
port=$((20000 + SLURM_JOB_ID % 1000 * 10))
export RAY_ADDRESS="$address:$port"
agent=(--dashboard-agent-listen-port=$((port + 3)) --disable-usage-stats)
cpus=${SLURM_CPUS_PER_TASK:-$(nproc)}

steps=()
driver=""
# shellcheck disable=SC2329  # called by trap
finish() {
  trap '' TERM INT
  if [ "${#steps[@]}" -gt 0 ]; then
    kill -TERM "${steps[@]}" 2>/dev/null || true # srun passes it on: nodes drain and end
    wait "${steps[@]}" 2>/dev/null || true
  fi
  rm -f "$RAY_AUTH_TOKEN_PATH"
}
# shellcheck disable=SC2329
stop_driver() {
  trap '' TERM INT
  [ -n "$driver" ] || exit 143
  echo "asked to end: the command has ${GRACE_S:-120} s to put its work aside" >&2
  kill -TERM "$driver" 2>/dev/null || true
}
trap finish EXIT
trap stop_driver TERM INT

srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
  ray start --head --block --node-ip-address="$address" --port="$port" --num-cpus="$cpus" \
  --dashboard-host=127.0.0.1 --dashboard-port=$((port + 1)) --ray-client-server-port=$((port + 2)) \
  --temp-dir="$temp" "${agent[@]}" &
steps+=($!)
for _ in $(seq 60); do
  ray health-check --address "$RAY_ADDRESS" >/dev/null 2>&1 && ready=yes && break
  kill -0 "${steps[0]}" 2>/dev/null || break
  sleep 2
done
if [ -z "${ready:-}" ]; then
  echo "the head node did not start on $head ($RAY_ADDRESS); its own words are above" >&2
  exit 1
fi
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
  others=$((SLURM_JOB_NUM_NODES - 1))
  srun --overlap --nodes="$others" --ntasks="$others" --ntasks-per-node=1 --exclude="$head" \
    ray start --block --address="$RAY_ADDRESS" --num-cpus="$cpus" "${agent[@]}" &
  steps+=($!)
fi

echo "dashboard: 127.0.0.1:$((port + 1)) on $head" >&2
# A sweep counts its slots when it begins, so all nodes are waited for.
python - "$SLURM_JOB_NUM_NODES" <<'PYTHON'
import sys, time, ray
ray.init(log_to_driver=False, logging_level="error")
wanted, deadline = int(sys.argv[1]), time.monotonic() + 300
while len(there := [node for node in ray.nodes() if node["Alive"]]) < wanted:
    if time.monotonic() > deadline:
        sys.exit(f"{len(there)} of {wanted} nodes joined within 300 s; see the words of the others above")
    time.sleep(1)
print(f"{wanted} nodes: {ray.cluster_resources().get('CPU', 0):g} CPU, {ray.cluster_resources().get('GPU', 0):g} GPU",
      file=sys.stderr)
PYTHON

"$@" &
driver=$!
code=0
wait "$driver" || code=$?
if kill -0 "$driver" 2>/dev/null; then # the wait was ended by a signal, not by the command
  left_s=${GRACE_S:-120}
  while [ "$left_s" -gt 0 ] && kill -0 "$driver" 2>/dev/null; do
    sleep 1
    left_s=$((left_s - 1))
  done
  kill -KILL "$driver" 2>/dev/null || true
  code=0
  wait "$driver" || code=$?
fi
exit "$code"
