"""Embeddings: unit vectors that depend on the text alone."""

import base64
import hashlib
import math
from array import array
from typing import Annotated, Literal

import msgspec

from controlplane.demo.openai_sim.models import EMBEDDING, EmbeddingModel
from controlplane.demo.openai_sim.refuse import Refused, unknown_model, unparseable
from controlplane.demo.openai_sim.text import count_tokens
from controlplane.demo.wire import Usage

_MAX_INPUTS = 2_048  # https://platform.openai.com/docs/api-reference/embeddings
_VALUE = [(byte - 127.5) / 127.5 for byte in range(256)]
_SQUARE = [value * value for value in _VALUE]

Input = str | list[str] | list[int] | list[list[int]]


class EmbeddingRequest(msgspec.Struct, frozen=True):
    model: str
    input: str | list[str | int | list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=3_072)] | None = None


def answer(body: bytes) -> tuple[bytes, Usage] | Refused:
    """The response body and its usage, or why there is none."""
    try:
        request = msgspec.json.decode(body, type=EmbeddingRequest)
    except msgspec.ValidationError as error:
        return Refused(400, f"Invalid request: {error}")
    except msgspec.DecodeError as error:
        return unparseable(str(error))
    model = EMBEDDING.get(request.model)
    if model is None:
        return unknown_model(request.model)
    inputs = _inputs(request)
    if isinstance(inputs, Refused):
        return inputs
    sizes = [count_tokens(item) if isinstance(item, str) else len(item) for item in inputs]
    problem = _check(model, request, inputs, sizes)
    if problem:
        return problem
    as_text = request.encoding_format == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(vector) if as_text else vector.tolist()}
        for index, vector in enumerate(_vector(item, request.dimensions or model.dimensions) for item in inputs)
    ]
    total = sum(sizes)
    shown = {
        "object": "list",
        "data": data,
        "model": model.name,
        "usage": {"prompt_tokens": total, "total_tokens": total},
    }
    return msgspec.json.encode(shown), Usage(model=model.name, prompt_tokens=total)


def _inputs(request: EmbeddingRequest) -> list[str | list[int]] | Refused:
    """One text, several texts, one list of tokens, or several such lists; nothing mixed."""
    given = request.input
    if isinstance(given, str):
        return [given]
    tokens = [item for item in given if isinstance(item, int)]
    if tokens and len(tokens) == len(given):
        return [tokens]
    texts: list[str | list[int]] = [item for item in given if isinstance(item, str)]
    lists: list[str | list[int]] = [item for item in given if isinstance(item, list)]
    if len(texts) == len(given) or len(lists) == len(given):
        return texts or lists
    return Refused(400, "'input' must be a text, a list of texts, or lists of token ids.", param="input")


def _check(
    model: EmbeddingModel, request: EmbeddingRequest, inputs: list[str | list[int]], sizes: list[int]
) -> Refused | None:
    if not 1 <= len(inputs) <= _MAX_INPUTS or 0 in sizes:
        return Refused(400, f"'input' must have 1 to {_MAX_INPUTS} entries, none empty.", param="input")
    if max(sizes) > model.context_tokens:
        message = f"This model's maximum context length is {model.context_tokens} tokens, one input has {max(sizes)}."
        return Refused(400, message, code="context_length_exceeded", param="input")
    if (request.dimensions or 1) > model.dimensions:
        return Refused(400, f"This model has at most {model.dimensions} dimensions.", param="dimensions")
    return None


def _vector(item: str | list[int], dimensions: int) -> "array[float]":
    source = item if isinstance(item, str) else ",".join(map(str, item))
    noise = hashlib.shake_256(source.encode(errors="replace")).digest(dimensions)
    length = math.sqrt(sum(map(_SQUARE.__getitem__, noise)))
    return array("f", [_VALUE[byte] / length for byte in noise])


def _encoded(vector: "array[float]") -> str:
    """Little-endian 32-bit floats; every platform this runs on has that order."""
    return base64.b64encode(vector.tobytes()).decode()
