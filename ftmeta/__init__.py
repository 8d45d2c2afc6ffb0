"""ftmeta: which finetuning pipeline to run on a dataset, what it will score and what it will cost.

Importing this package is instant: torch, ray, mlflow and transformers are imported where they are used.
"""

__version__ = "0.1.0"
