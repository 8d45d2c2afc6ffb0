"""The folder mlflow/ holds configuration only, so `import mlflow` is the package: from the root and under pytest.

tests/cluster/test_jobs.py proves the same inside a Ray job, whose working directory is a copy of the repository.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_folder_holds_no_python() -> None:
    assert (ROOT / "mlflow").is_dir()
    assert not list((ROOT / "mlflow").rglob("*.py"))


def test_import_mlflow_under_pytest_is_the_package() -> None:
    import mlflow

    assert mlflow.__version__ == importlib.metadata.version("mlflow")
    assert Path(mlflow.__file__).parent != ROOT / "mlflow"


def test_import_mlflow_from_the_repository_root_is_the_package() -> None:
    command = [sys.executable, "-c", "import mlflow; assert mlflow.MlflowClient"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
