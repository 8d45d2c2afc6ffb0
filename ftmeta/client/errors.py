"""What can go wrong between a client and the service, as part of ftmeta's own error tree."""

from __future__ import annotations

from ftmeta.errors import FtmetaError, UserError


class RefusedError(UserError):
    """The service refused the request; the message says what was wrong with which field."""


class AccessError(UserError):
    """The service wants another token, or does not serve this machine."""


class UnavailableError(FtmetaError):
    """No answer could be had: the service is away, busy for too long, or failed."""
