"""Language models that write question-answer pairs: behind an OpenAI-compatible endpoint, or in this process.

Both have one coroutine, `ask(messages, temperature)`, which returns a Reply or a Failure; many may be awaited at once.
What no repetition can mend (a wrong key, an unknown model, a wrong address) is a ConfigError; everything else is a
Failure of that one request. No message holds the key, even where an endpoint repeats it.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import urlsplit

from ftmeta.errors import ConfigError, MissingDependencyError
from ftmeta.synthesis.prompts import Messages
from ftmeta.synthesis.settings import Synthesis

if TYPE_CHECKING:
    import openai

KEY_VARIABLES = ("FTMETA_LLM_KEY", "OPENAI_API_KEY")


def key_from_environment() -> str | None:
    """The endpoint's key: the first of KEY_VARIABLES that is set, without white space around it, as files of secrets
    have. Raises ConfigError for characters that a request cannot carry."""
    for name in KEY_VARIABLES:
        key = os.environ.get(name, "").strip()
        if key:
            if not (key.isascii() and key.isprintable()):
                raise ConfigError(f"${name} holds characters that no key has; set it to the key and nothing else")
            return key
    return None


@dataclass(frozen=True)
class Reply:
    text: str
    prompt_tokens: int
    completion_tokens: int
    refused: bool = False  # the endpoint says that a filter stopped it
    cut: bool = False  # it reached the limit of tokens


@dataclass(frozen=True)
class Failure:
    """No reply, although the client tried several times. Because of the `passage`: refused, or answered with nonsense;
    because of the `endpoint`: down or slow, perhaps on this passage only; because of the `load`: too many requests,
    which says nothing about the passage."""

    reason: str
    because_of: Literal["passage", "endpoint", "load"]


class LanguageModel(Protocol):
    async def ask(self, messages: Messages, temperature: float) -> Reply | Failure: ...


@dataclass(frozen=True)
class Limits:
    reply_tokens: int
    timeout_s: float = 60.0  # for one attempt
    retries: int = 4  # of time-outs, 408, 409, 429 and 5xx, with growing waits, or as Retry-After says
    whole_s: float | None = None  # for all attempts; None: ten seconds more for each


def require_model(settings: Synthesis) -> None:
    """Raises UserError, before a long reading of documents, for what cannot be a model: no address, an unknown name."""
    if settings.llm_url is None:
        from ftmeta.models import resolve

        resolve(settings.model)
        return
    try:
        address = urlsplit(settings.llm_url)
        right = address.scheme in ("http", "https") and bool(address.hostname) and (address.port or 1) > 0
    except ValueError:  # a port or an IPv6 address that is none
        right = False
    if not right or not settings.llm_url.isprintable() or " " in settings.llm_url:
        raise ConfigError(f"the endpoint '{settings.llm_url}' is no address; give it as http://host:8000/v1")
    if address.username is not None:
        raise ConfigError(
            f"the endpoint's address holds a user or password, which reports would show; give the key in "
            f"${KEY_VARIABLES[0]} and the address as http://host:8000/v1"
        )


class EndpointModel:
    """A model behind `url`, as https://host/v1: vLLM, SGLang, llama.cpp, Ollama, or a provider."""

    def __init__(self, url: str, model: str, key: str | None, limits: Limits) -> None:
        try:
            import openai
        except ImportError:
            raise MissingDependencyError(
                "an endpoint needs the package openai: pip install 'ftmeta[synthesis]'"
            ) from None
        self._url, self._model, self._key, self._limits = url, model, key, limits
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
        whole_s = limits.whole_s or (limits.retries + 1) * (limits.timeout_s + 10)
        try:
            # The client's time-out starts anew with every byte, so an endpoint that drips needs a limit on the whole.
            async with asyncio.timeout(whole_s):
                said = await self._client.chat.completions.create(
                    model=self._model,
                    messages=messages,  # type: ignore[arg-type]
                    temperature=temperature,
                    max_tokens=limits.reply_tokens,
                )
            return _reply(said, messages)
        except openai.RateLimitError as error:
            return Failure(self._said(error), "load")
        except openai.APIStatusError as error:
            if error.status_code in _OF_THE_PASSAGE:
                return Failure(self._said(error), "passage")
            if error.status_code >= 500 or error.status_code == 408:
                return Failure(self._said(error), "endpoint")
            raise ConfigError(self._refusal(error)) from None
        except TimeoutError:
            return Failure(f"no whole reply within {whole_s:g} s", "endpoint")
        except openai.APIConnectionError as error:  # its time-outs among them
            return Failure(self._said(error), "endpoint")
        except (openai.APIError, ValueError) as error:  # a body that is not what the protocol says, half of it perhaps
            return Failure(self._said(error), "passage")

    def _refusal(self, error: openai.APIStatusError) -> str:
        said = self._said(error)
        match error.status_code:
            case 401 | 403:
                what = "refuses the key" if self._key else "asks for a key"
                return f"the endpoint {self._url} {what} ({said}); set {KEY_VARIABLES[0]} to the right one"
            case 404 | 405:
                return (
                    f"the endpoint {self._url} does not know the model '{self._model}', or is no OpenAI-compatible "
                    f"address ({said}); most addresses end with /v1"
                )
        return f"the endpoint {self._url} refuses every request ({said}); mend what it names, then run this again"

    def _said(self, error: BaseException) -> str:
        return _said(error, secret=self._key)


_OF_THE_PASSAGE = {400, 409, 413, 422}  # as a prompt that is too long


def _reply(said: Any, messages: Messages) -> Reply | Failure:
    """The client gives what the endpoint sent the type of a completion, whatever it is."""
    try:
        choice = said.choices[0]
        text, refusal = choice.message.content or "", choice.message.refusal
    except (AttributeError, TypeError, IndexError, KeyError):
        text = None
    if not isinstance(text, str):
        shown = said.to_json(indent=None, warnings=False) if hasattr(said, "to_json") else repr(said)
        return Failure(f"the answer is no chat completion: {_line(shown, 200)}", "passage")
    prompt_tokens = _count(said.usage, "prompt_tokens")
    if prompt_tokens is None:
        prompt_tokens = guess_tokens("".join(message["content"] for message in messages))
    completion_tokens = _count(said.usage, "completion_tokens")
    if completion_tokens is None:
        completion_tokens = guess_tokens(text)
    refused = choice.finish_reason == "content_filter" or bool(refusal)
    return Reply(text, prompt_tokens, completion_tokens, refused=refused, cut=choice.finish_reason == "length")


def _count(usage: object, name: str) -> int | None:
    found = getattr(usage, name, None)
    return found if isinstance(found, int) and found >= 0 else None


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
                    replies = [Failure(_said(error), "passage")] * len(batch)
                for (_, _, answered), reply in zip(batch, replies, strict=True):
                    answered.set_result(reply)
        finally:
            self._working = None

    def _generate(self, conversations: list[Messages], temperature: float) -> list[Reply | Failure]:
        tokenizer, reply_tokens = self._loaded.tokenizer, self._limits.reply_tokens
        prompts = [
            tokenizer.apply_chat_template(one, add_generation_prompt=True, tokenize=False) for one in conversations
        ]
        lengths = [len(ids) for ids in tokenizer(prompts, add_special_tokens=False)["input_ids"]]
        room = max(0, self._loaded.model.config.max_position_embeddings - reply_tokens)
        fitting = [prompt for prompt, length in zip(prompts, lengths, strict=True) if length <= room]
        written = iter(self._write(fitting, temperature) if fitting else [])
        return [
            next(written)
            if length <= room
            else Failure(
                f"{length} prompt tokens, and the model's context has room for {room} before a reply of "
                f"{reply_tokens}: choose a model with a longer context, or fewer --pairs",
                "passage",
            )
            for length in lengths
        ]

    def _write(self, prompts: list[str], temperature: float) -> list[Reply]:
        import torch
        import transformers

        tokenizer, model = self._loaded.tokenizer, self._loaded.model
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        batch = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False).to(self._loaded.device)
        length = batch["input_ids"].shape[1]
        sampling: dict[str, Any] = {"do_sample": temperature > 0}
        if temperature > 0:
            sampling["temperature"] = temperature
        ends = sorted({tokenizer.eos_token_id, *_ids(model.generation_config.eos_token_id)})
        config = transformers.GenerationConfig(
            max_new_tokens=self._limits.reply_tokens, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, **sampling
        )
        with torch.inference_mode():
            made = model.generate(**batch, generation_config=config)[:, length:]
        replies = []
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


def _said(error: BaseException, secret: str | None = None) -> str:
    cause = f" ({error.__cause__})" if error.__cause__ else ""
    said = f"{type(error).__name__}: {error}{cause}"
    return _line(said.replace(secret, "[key]") if secret else said, 300)


def _line(text: str, most: int) -> str:
    return " ".join(text.split())[:most]
