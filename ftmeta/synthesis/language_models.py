"""Language models that write question-answer pairs: behind an OpenAI-compatible endpoint, or in this process.

Both have one coroutine, `ask(messages, temperature)`, which returns a Reply or a Failure; many may be awaited at once.
What no repetition can mend (a wrong key, an unknown model, a wrong address) is a ConfigError; everything else is a
Failure of that one request.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ftmeta.errors import ConfigError, MissingDependencyError
from ftmeta.synthesis.prompts import Messages
from ftmeta.synthesis.settings import Synthesis

if TYPE_CHECKING:
    import openai

KEY_VARIABLES = ("FTMETA_LLM_KEY", "OPENAI_API_KEY")


def key_from_environment() -> str | None:
    """The endpoint's key; the first of KEY_VARIABLES that is set."""
    return next((os.environ[name] for name in KEY_VARIABLES if os.environ.get(name)), None)


@dataclass(frozen=True)
class Reply:
    text: str
    prompt_tokens: int
    completion_tokens: int
    refused: bool = False  # the endpoint says that a filter stopped it
    cut: bool = False  # it reached the limit of tokens


@dataclass(frozen=True)
class Failure:
    """No reply, although the client tried several times. `unreachable`: the endpoint is down, slow or overloaded, which
    says nothing about the passage."""

    reason: str
    unreachable: bool


class LanguageModel(Protocol):
    async def ask(self, messages: Messages, temperature: float) -> Reply | Failure: ...


@dataclass(frozen=True)
class Limits:
    reply_tokens: int
    timeout_s: float = 60.0  # for one attempt
    retries: int = 4  # of time-outs, 408, 409, 429 and 5xx, with growing waits, or as Retry-After says


def require_model(settings: Synthesis) -> None:
    """Raises UserError, before a long reading of documents, for what cannot be a model: no address, an unknown name."""
    if settings.llm_url is None:
        from ftmeta.models import resolve

        resolve(settings.model)
    elif not settings.llm_url.startswith(("http://", "https://")):
        raise ConfigError(f"the endpoint '{settings.llm_url}' is no address; give it as http://host:8000/v1")


class EndpointModel:
    """A model behind `url`, as https://host/v1: vLLM, SGLang, llama.cpp, Ollama, or a provider."""

    def __init__(self, url: str, model: str, key: str | None, limits: Limits) -> None:
        try:
            import openai
        except ImportError:
            raise MissingDependencyError(
                "an endpoint needs the package openai: pip install 'ftmeta[synthesis]'"
            ) from None
        self._url, self._model, self._limits = url, model, limits
        self._client: openai.AsyncOpenAI = openai.AsyncOpenAI(
            base_url=url,
            api_key=key or "none",  # a server of one's own asks for none, but the client does
            timeout=limits.timeout_s,
            max_retries=limits.retries,
        )

    async def close(self) -> None:
        """Ends the connections."""
        await self._client.close()

    async def ask(self, messages: Messages, temperature: float) -> Reply | Failure:
        import openai

        limits = self._limits
        try:
            # The client's time-out starts anew with every byte, so an endpoint that drips needs a limit on the whole.
            async with asyncio.timeout((limits.retries + 1) * (limits.timeout_s + 10)):
                said = await self._client.chat.completions.create(
                    model=self._model,
                    messages=messages,  # type: ignore[arg-type]
                    temperature=temperature,
                    max_tokens=limits.reply_tokens,
                )
            choice = said.choices[0]
            text = choice.message.content or ""
            refused = choice.finish_reason == "content_filter" or bool(choice.message.refusal)
            if said.usage is not None:
                used = (said.usage.prompt_tokens, said.usage.completion_tokens)
            else:
                used = (guess_tokens("".join(message["content"] for message in messages)), guess_tokens(text))
            return Reply(text, *used, refused=refused, cut=choice.finish_reason == "length")
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise ConfigError(
                f"the endpoint {self._url} refuses the key ({_said(error)}); set {KEY_VARIABLES[0]} to the right one"
            ) from None
        except openai.NotFoundError as error:
            raise ConfigError(
                f"the endpoint {self._url} does not know the model '{self._model}', or is no OpenAI-compatible address "
                f"({_said(error)}); most addresses end with /v1"
            ) from None
        except (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError, TimeoutError) as error:
            return Failure(_said(error), unreachable=True)
        except (openai.APIError, ValueError, TypeError, IndexError, AttributeError) as error:
            # Refused for this passage (as too long), or a body that is not what the protocol says, half of it perhaps.
            return Failure(_said(error), unreachable=False)


class TransformersModel:
    """A local model by name or path, as `ftmeta.models.resolve` finds it, loaded once. What is asked while it works
    waits and is answered together."""

    def __init__(self, name: str, device: str, limits: Limits, rows: int = 8) -> None:
        from ftmeta.models import load, resolve

        self._loaded, self._limits, self._rows = load(resolve(name), device), limits, rows
        self._waiting: list[tuple[Messages, float, asyncio.Future[Reply | Failure]]] = []
        self._working: asyncio.Task[None] | None = None

    async def ask(self, messages: Messages, temperature: float) -> Reply | Failure:
        answered: asyncio.Future[Reply | Failure] = asyncio.get_running_loop().create_future()
        self._waiting.append((messages, temperature, answered))
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        return await answered

    async def _work(self) -> None:
        try:
            while self._waiting:
                temperature = self._waiting[0][1]
                batch = [one for one in self._waiting if one[1] == temperature][: self._rows]
                self._waiting = [one for one in self._waiting if one not in batch]
                try:
                    replies = await asyncio.to_thread(
                        self._generate, [messages for messages, _, _ in batch], temperature
                    )
                except Exception as error:  # whatever it is, those who wait must hear of it
                    replies = [Failure(_said(error), unreachable=False)] * len(batch)
                for (_, _, answered), reply in zip(batch, replies, strict=True):
                    answered.set_result(reply)
        finally:
            self._working = None

    def _generate(self, conversations: list[Messages], temperature: float) -> list[Reply | Failure]:
        import torch
        import transformers

        tokenizer, model = self._loaded.tokenizer, self._loaded.model
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        prompts = [
            tokenizer.apply_chat_template(one, add_generation_prompt=True, tokenize=False) for one in conversations
        ]
        batch = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False).to(self._loaded.device)
        length, room = batch["input_ids"].shape[1], model.config.max_position_embeddings - self._limits.reply_tokens
        if length > room:
            reason = (
                f"{length} prompt tokens, and the model's context has room for {max(room, 0)}: use shorter passages"
            )
            return [Failure(reason, unreachable=False)] * len(conversations)
        sampling: dict[str, Any] = {"do_sample": temperature > 0}
        if temperature > 0:
            sampling["temperature"] = temperature
        ends = sorted({tokenizer.eos_token_id, *_ids(model.generation_config.eos_token_id)})
        config = transformers.GenerationConfig(
            max_new_tokens=self._limits.reply_tokens, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, **sampling
        )
        with torch.inference_mode():
            made = model.generate(**batch, generation_config=config)[:, length:]
        replies: list[Reply | Failure] = []
        for prompt_mask, ids in zip(batch["attention_mask"], made.tolist(), strict=True):
            written = next((i for i, token in enumerate(ids) if token in ends), len(ids))
            text = tokenizer.decode(ids[:written], skip_special_tokens=True)
            used = min(written + 1, len(ids))
            replies.append(Reply(text, int(prompt_mask.sum()), used, cut=written == len(ids)))
        return replies


def guess_tokens(text: str) -> int:
    """About four characters of English to a token; one of Chinese, whose characters take three bytes."""
    return len(text.encode("utf-8")) // 4 + 1


def _ids(found: int | list[int] | None) -> list[int]:
    return found if isinstance(found, list) else [] if found is None else [found]


def _said(error: BaseException) -> str:
    cause = f" ({error.__cause__})" if error.__cause__ else ""
    return " ".join(f"{type(error).__name__}: {error}{cause}".split())[:300]
