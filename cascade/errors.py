"""Everything that can go wrong, as one tree.

CascadeError
├── UserError                     the caller can mend it; CLI exit code 2
│   ├── PolicyError               the policy file: all problems at once, each with file:line:column
│   ├── TemplateError             a prompt template: file:line
│   ├── InputError                an input row, or a variable the template wants
│   └── ConfigurationError        the provider refused the request as such (400, 401, 403, 404, 422), no key: never escalated
├── ProviderError                 a tier's failure: retried or escalated as the policy says
│   ├── Unreachable               no connection
│   ├── TimedOut                  the call's total deadline
│   ├── RateLimited               429, or no slot within the deadline; `retry_after` seconds
│   ├── Overloaded                408, 409, 5xx, 529
│   ├── BadReply                  200, but not an answer
│   ├── ContextTooLong            the prompt does not fit this model: a larger one may do
│   ├── OutOfCredit               insufficient_quota
│   ├── CircuitOpen               this provider and model failed too often; not asked
│   └── NotProcessed              a batch ended before it came to this call: expired or cancelled
├── BudgetExceeded                the next call could cost more than is left
├── MissingRecording              a cassette has no such call: stops the run, never looks like an outage
└── NotAccepted                   raised by `Outcome.raise_for_status()`
"""

from __future__ import annotations

from decimal import Decimal
from typing import ClassVar

from cascade.types import Retry


class CascadeError(Exception):
    """The root of all errors of cascade."""


class UserError(CascadeError):
    """Something the caller can mend; the message says where and how."""


class PolicyError(UserError):
    """A policy that cannot be used. `problems` are complete lines `file:line:column: path: what`."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems

    def __reduce__(self) -> tuple[type[PolicyError], tuple[list[str]]]:
        return type(self), (self.problems,)


class TemplateError(UserError):
    """A template that cannot be read or rendered; the message starts with file:line."""


class InputError(UserError):
    """An input that does not fit the policy."""


class ConfigurationError(UserError):
    """The provider refused the request as such, or there is no key for it. `cost` is nothing; a dearer tier would not help."""


class ProviderError(CascadeError):
    """A model gave no answer. `kind` is the name written in trails; `transient`: the same call may work in a moment."""

    kind: ClassVar[str] = "provider_error"
    transient: ClassVar[bool] = False
    retry_after: float | None = None
    """Seconds the provider asked us to wait, if it did."""
    billed: bool = False
    """True when the provider may have charged for the call."""
    cost_usd: Decimal | None = None
    """Dollars the provider charged for the failed call, where its reply still told; None when unknown."""
    retries: tuple[Retry, ...] = ()
    """The attempts before this one, filled in by the retry layer."""


class Unreachable(ProviderError):
    kind = "unreachable"
    transient = True


class TimedOut(ProviderError):
    kind = "timeout"
    billed = True


class RateLimited(ProviderError):
    kind = "rate_limited"
    transient = True


class Overloaded(ProviderError):
    kind = "overloaded"
    transient = True


class BadReply(ProviderError):
    kind = "bad_reply"
    billed = True


class ContextTooLong(ProviderError):
    kind = "context_too_long"


class OutOfCredit(ProviderError):
    kind = "out_of_credit"


class CircuitOpen(ProviderError):
    kind = "circuit_open"


class NotProcessed(ProviderError):
    kind = "not_processed"
    transient = True


class BudgetExceeded(CascadeError):
    """The call's worst case is more than the budget has left; nothing was asked. `scope` is "request" or "run"."""

    def __init__(self, message: str, scope: str = "request") -> None:
        super().__init__(message)
        self.scope = scope


class Unpaid(CascadeError):
    """Whoever pays for a request cannot, see `budget.Account`; nothing was asked."""


class MissingRecording(CascadeError):
    """The open cassette holds no such call. The message names the nearest recording and what differs."""


class NotAccepted(CascadeError):
    """A request that did not end accepted; `outcome` tells the story."""

    def __init__(self, message: str, outcome: object) -> None:
        super().__init__(message)
        self.outcome = outcome

    def __reduce__(self) -> tuple[type[NotAccepted], tuple[str, object]]:
        return type(self), (str(self), self.outcome)
