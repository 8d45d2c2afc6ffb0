"""The checks behind `ftmeta doctor`: of this machine (machine.py) and, with --cluster, of a Ray cluster (cluster.py).

Each check says what was found, what was wanted and how to get it. Nothing is changed, started or downloaded.
"""

from ftmeta.doctor.check import Check
from ftmeta.doctor.cluster import check_cluster
from ftmeta.doctor.machine import run_checks

__all__ = ["Check", "check_cluster", "run_checks"]
