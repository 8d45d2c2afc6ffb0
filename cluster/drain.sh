#!/bin/sh
# Takes the Ray node of this container out of its cluster before the container ends (a preStop hook). The main process of
# a pod is a shell that hears no SIGTERM, so it is sent to `ray start --block`, which tells the cluster that the node is
# leaving: runs write their checkpoints, replicas finish their requests. Returns when Ray has ended, or after WAIT_S.
# Only for containers: it ends every Ray node that it sees. PROC is another /proc, for the test.
set -u
proc=${PROC:-/proc}
left_s=${WAIT_S:-90}

nodes() {
  for folder in "$proc"/[0-9]*; do
    # Its own words only: a shell that was told to start Ray has them in one argument, `ray start` has them in two.
    tr '\0' '\n' <"$folder/cmdline" 2>/dev/null | awk '
      $0 ~ /(^|\/)ray$/ { ray = NR }
      ray && NR == ray + 1 && $0 == "start" { found = 1 }
      END { exit !found }' && echo "${folder##*/}"
  done
}

for pid in $(nodes); do
  kill -TERM "$pid" 2>/dev/null
done
while [ "$left_s" -gt 0 ] && [ -n "$(nodes)" ]; do
  sleep 1
  left_s=$((left_s - 1))
done
