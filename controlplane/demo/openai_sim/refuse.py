"""Refusals in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`."""

import msgspec


class Refused(msgspec.Struct, frozen=True):
    status: int
    message: str
    code: str | None = None
    param: str | None = None
    type: str = "invalid_request_error"

    def body(self) -> bytes:
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})


def unknown_model(name: str) -> Refused:
    message = f"The model `{name[:200]}` does not exist or you do not have access to it."
    return Refused(404, message, code="model_not_found")


def unparseable(detail: str) -> Refused:
    return Refused(400, f"We could not parse the JSON body of your request: {detail}")
