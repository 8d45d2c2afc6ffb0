"""What is made of what: the options of `ftmeta tasks synthesize` and the content of a job's YAML file."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Synthesis(BaseModel):
    model_config = ConfigDict(extra="forbid")
    documents: str
    model: str
    llm_url: str | None = None  # None: `model` is a base model's name or folder and runs on the cluster
    prompt: str | None = None  # a template's name or file; None: by the kind of model
    pairs: int = Field(default=4, ge=1, le=50)  # asked for of each passage
    passages: int = Field(default=2000, ge=1)  # at most so many, spread evenly over all that there are
    token_budget: int | None = Field(default=None, ge=1)  # prompt and completion tokens of the whole folder
    concurrency: int = Field(default=16, ge=1, le=4096)  # requests at a time
    timeout_s: float = Field(default=60.0, gt=0)
    retries: int = Field(default=4, ge=0)
    reply_tokens: int | None = Field(default=None, ge=1)  # None: 150 a pair
    temperature: float = Field(default=0.0, ge=0, le=2)
    language: str | None = None  # ISO 639-1; None: what most passages are in
    device: str = "cpu"  # of a local model
    cpus_per_model: float | None = Field(default=1, gt=0)  # None: all of a node
    gpus_per_model: float | None = Field(default=None, ge=0)  # None: one for device cuda
    local_models: int | None = Field(default=None, ge=1)  # copies of it; None: one, and nobody waits for new nodes
