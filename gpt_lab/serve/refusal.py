"""What the server refuses, in the API's own form."""

from __future__ import annotations

from typing import Any

from gpt_lab.errors import cut, one_line

KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class Refusal(Exception):
    """An answer other than 200.

    Args:
        status: of HTTP. message: one line with the way out. param: the field that is wrong. code: for programs.
        retry_after: seconds after which the same request may do.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = one_line(message)
        self.param = None if param is None else cut(one_line(param))  # a field's name is the client's
        self.code = code
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """The API's error object."""
        kind = KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """What goes with it."""
        found = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return found | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})
