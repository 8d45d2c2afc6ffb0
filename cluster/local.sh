#!/bin/sh
# A Ray cluster and an MLflow server on this machine: cluster/local.sh up | stop | status | env
# PYTHON names the interpreter that has ftmeta installed; jobs run with the same one.
cd "$(dirname "$0")/.." || exit 1
exec "${PYTHON:-.venv/bin/python}" -m ftmeta.orchestrate.local "$@"
