"""What small base models make of a request's task, for selectors whose surrogates look at that.

A request waits for it, so it is measured only where it takes seconds at worst: MAX_FLOPS bounds the work of scoring as
many examples as the source runs were scored on, if all of them filled the context. For other base models it stays
unknown, which the answer says. torch and the weights are loaded when they are first needed; a selector that does not
look at these features never loads them.
"""

from __future__ import annotations

import json
import logging
import threading
from typing import TYPE_CHECKING

from ftmeta.errors import ModelError
from ftmeta.schema import BaseModelInfo, Task
from ftmeta.selector import Selector

if TYPE_CHECKING:
    from ftmeta.models import LoadedModel

log = logging.getLogger("ftmeta.serving")
MAX_FLOPS = 1e12  # phi3-micro: 0.3e12, six seconds of one core; usual rows take a tenth of that


class ZeroShot:
    """Measures with one copy of each base model, one request at a time; made once, used by several threads."""

    def __init__(self, selector: Selector) -> None:
        self._wanted = selector.uses_zero_shot
        self._examples = selector.surrogates.budget.eval_examples
        self._lock = threading.Lock()
        self._models: dict[str, LoadedModel] = {}

    def features(self, task: Task, info: BaseModelInfo) -> tuple[dict[str, float], list[str]]:
        """The features of ZERO_SHOT_FEATURES, or none and a note that says why."""
        if not self._wanted:
            return {}, []
        flops = 2 * info.shape.parameters * info.shape.context_length * self._examples
        if flops > MAX_FLOPS:
            note = "`ftmeta recommend` measures it, and its meta-features can be sent in the place of the rows"
            return {}, [f"base model '{info.name}' is too large for this service to measure its zero-shot loss; {note}"]
        try:
            with self._lock:
                return self._measure(task, info), []
        except ModelError as error:  # the operator's to mend
            log.warning(json.dumps({"event": "no zero-shot loss", "base_model": info.name, "reason": str(error)}))
            return {}, [f"the zero-shot loss of base model '{info.name}' could not be measured here"]

    def _measure(self, task: Task, info: BaseModelInfo) -> dict[str, float]:
        from ftmeta.finetune.zero_shot import measured
        from ftmeta.models import load

        if info.name not in self._models:
            self._models[info.name] = load(info)
        return measured(task, self._models[info.name], examples=self._examples, threads=1)
