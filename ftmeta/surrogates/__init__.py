"""What will a pipeline score and cost on a task? Learned from a meta-dataset; NumPy and SciPy only, no torch.

`metatrain` learns `Surrogates` and measures them leaving one task out; `Surrogates.save` and `Surrogates.load` keep
them in a folder of safetensors and JSON.
"""

from ftmeta.surrogates.features import Context
from ftmeta.surrogates.metatrain import metatrain, metatrain_to_folder
from ftmeta.surrogates.model import Surrogates
from ftmeta.surrogates.performance import Observation

__all__ = ["Context", "Observation", "Surrogates", "metatrain", "metatrain_to_folder"]
