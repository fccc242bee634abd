"""What a client did wrong, or what it cannot have, as OpenAI's API says it."""

from __future__ import annotations


class Fault(Exception):
    """An answer that is an error: HTTP status, message, the parameter it is about, and a code."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code

    def body(self) -> dict[str, object]:
        """The JSON body."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}
