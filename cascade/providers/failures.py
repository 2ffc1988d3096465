"""Translates what the SDKs raise into our errors. The one place that knows which failure means what; imports no SDK.

Both SDKs are made by the same generator: their status errors carry `status_code`, `response`, `body`; the rest is told by class.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from types import SimpleNamespace
from typing import Any

from cascade.errors import (
    BadReply,
    CascadeError,
    ConfigurationError,
    ContextTooLong,
    MissingRecording,
    OutOfCredit,
    Overloaded,
    ProviderError,
    RateLimited,
    TimedOut,
    Unreachable,
)

MAX_MESSAGE = 300
"""Characters of a provider's message that we pass on."""

_SECRET = re.compile(r"(?:sk|pk|rk|gsk|xai|key|AIza|ya29|AKIA|ASIA)[-_.]?[A-Za-z0-9_\-*.]{12,}|(?i:bearer|basic)\s+\S+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]+")
_CONTEXT = re.compile(
    r"prompt is too long|maximum context length|context[ _]length|context window|exceeds the (?:available )?context|too many tokens",
    re.I,
)
_CREDIT_CODES = {"insufficient_quota", "billing_hard_limit_reached", "billing_error", "insufficient_balance"}
_MOST_RETRY_AFTER = 86400.0 * 7


def clean(text: object) -> str:
    """A foreign text fit for an error message: one line, no control characters, no secrets, at most `MAX_MESSAGE` characters."""
    line = _CONTROL.sub(" ", str(text)[: MAX_MESSAGE * 20])
    line = _SECRET.sub("[secret]", line).strip()
    return line if len(line) <= MAX_MESSAGE else line[: MAX_MESSAGE - 1] + "…"


def translated(error: BaseException, where: str) -> BaseException:
    """Our error for what an SDK raised while asking `where` (`provider/model`); raise it `from error`."""
    for cause in _causes(error):
        if isinstance(cause, CascadeError):  # raised in our transport, wrapped by the SDK
            return cause
        if type(cause).__name__ == "CannotOverwriteExistingCassetteException":
            return MissingRecording(f"{where}: {_missing(cause)}")
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        return _of_status(status, error, where)
    return _of_connection(error, where)


def _missing(cause: Any) -> str:
    """What is missing: a cassette of ours can say what is nearest, and vcrpy's own message is the second best."""
    explain = getattr(cause.cassette, "explain", None)
    return _CONTROL.sub(" ", explain(cause.failed_request) if explain else f"the cassette holds no such call: {cause}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def of_reply(status: int, body: Any, where: str) -> BaseException:
    """Our error for an error reply that came as a value: a result of a batch."""
    return _of_status(status, SimpleNamespace(body=body), where)


def _of_connection(error: BaseException, where: str) -> BaseException:
    for cause in _causes(error):
        if isinstance(cause, ImportError):  # the clouds' credentials come with extras of the SDKs
            return ConfigurationError(
                f"{where}: {clean(cause)}: install the SDK's extra for this cloud: anthropic[bedrock] or anthropic[vertex]"
            )
    names = [type(cause).__name__ for cause in _causes(error)]
    text = f"{where}: {clean(next((str(cause) for cause in list(_causes(error))[1:] if str(cause)), str(error)))}"
    if any(name in ("UnsupportedProtocol", "InvalidURL", "LocalProtocolError") for name in names):
        return ConfigurationError(f"{text} (is base_url right?)")
    if any(name in ("ConnectError", "ConnectTimeout", "PoolTimeout") for name in names):
        return Unreachable(text)
    if any(name in ("ReadTimeout", "WriteTimeout", "APITimeoutError") for name in names):
        return TimedOut(text)
    if any(name in ("ReadError", "RemoteProtocolError", "WriteError", "APIConnectionError") for name in names):
        lost = Unreachable(f"{where}: the connection broke before the answer was there")
        lost.billed = True
        return lost
    return ConfigurationError(text)


def _of_status(status: int, error: Any, where: str) -> BaseException:
    codes, message = _said(getattr(error, "body", None))
    said = clean(message or getattr(error, "message", "") or "no message")
    text = f"{where}: {status}: {said}"
    if codes & _CREDIT_CODES or status == 402:
        return OutOfCredit(text)
    if status == 429:
        return _with_delay(RateLimited(text), error)
    if status in (408, 409) or status >= 500:
        return _with_delay(Overloaded(text), error)
    if "context_length_exceeded" in codes or (status in (400, 413) and _CONTEXT.search(message)):
        return ContextTooLong(text)
    if 300 <= status < 400:
        return ConfigurationError(f"{where}: base_url answered with a redirect ({status}); redirects are not followed")
    return ConfigurationError(text)


def _with_delay(failure: ProviderError, error: Any) -> ProviderError:
    headers = getattr(getattr(error, "response", None), "headers", {})
    failure.retry_after = retry_after(headers.get("retry-after"), headers.get("retry-after-ms"))
    return failure


def retry_after(header: str | None, milliseconds: str | None = None) -> float | None:
    """Seconds to wait, from `Retry-After` (seconds or an HTTP date) or `retry-after-ms`; None when neither is sensible."""
    seconds = _number(milliseconds, 1000) if milliseconds else None
    if seconds is None and header:
        seconds = _number(header, 1)
        if seconds is None:
            try:
                seconds = parsedate_to_datetime(header).timestamp() - time.time()
            except (ValueError, TypeError, OverflowError):  # not a date either
                return None
            seconds = max(seconds, 0.0)
    return seconds if seconds is not None and 0 <= seconds <= _MOST_RETRY_AFTER else None


def _number(text: str, unit: int) -> float | None:
    try:
        return float(text) / unit
    except ValueError:
        return None


def _said(body: Any) -> tuple[set[str], str]:
    """The codes (error.code, error.type) and the message of an error reply, whose shape differs between servers."""
    if not isinstance(body, dict):
        return set(), body if isinstance(body, str) and not body.lstrip().startswith("<") else ""
    inner = body.get("error")
    parts = [part for part in (inner, body) if isinstance(part, dict)]
    codes = {part[name] for part in parts for name in ("code", "type") if isinstance(part.get(name), str)}
    messages = [part["message"] for part in parts if isinstance(part.get("message"), str)]
    if isinstance(inner, str):
        messages.append(inner)
    if isinstance(body.get("detail"), str):
        messages.append(body["detail"])
    return codes, messages[0] if messages else ""


def bad_reply(where: str, what: str) -> BadReply:
    """A reply that is no answer."""
    return BadReply(f"{where}: {clean(what)}")
