"""OpenAPI 3.1 of the API, from the route table and the structs that it names."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from controlplane.api.call import Route
from controlplane.api.idempotency import MAX_KEY_CHARS
from schemas.answers import ErrorAnswer
from schemas.api import Span, Usd
from schemas.ids import NAME_RULE

REF = "#/components/schemas/{name}"

_VARIABLE = re.compile(r"\{([a-z]+)\}")

PATH_VARIABLES: dict[str, str] = {
    "id": "the record's id; to revoke a key, one of its tokens (rfk_...) will do",
    "name": f"the record's name: {NAME_RULE}",
    "kind": "agent, team or org",
}


def describe_api(routes: Sequence[Route], version: str) -> bytes:
    """The document as JSON."""
    types = _types(routes)
    schemas, components = msgspec.json.schema_components(types, schema_hook=_custom_schema, ref_template=REF)
    by_type = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, by_type, components)
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "Ringfence control plane",
            "version": version,
            "description": "Vault keys, agents, budgets, and the audit. Money is in US dollars: in as a number or "
            "a decimal string, read exactly; out as decimal strings. Unknown parameters are refused.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": {name: schema for name, schema in components.items() if name not in _query_names(routes)},
            "securitySchemes": {
                "operator": {"type": "http", "scheme": "bearer", "description": "an operator token, rfo_..."}
            },
        },
    }
    return msgspec.json.encode(document)


def _types(routes: Sequence[Route]) -> list[Any]:
    """Every type that the routes name, once, in a fixed order."""
    named = [kind for route in routes for kind in (route.query, route.body, route.answer) if kind is not None]
    return list(dict.fromkeys([*named, ErrorAnswer]))


def _query_names(routes: Sequence[Route]) -> set[str]:
    """Queries are spelled out as parameters; their schemas need no component."""
    return {route.query.__name__ for route in routes}


def _custom_schema(kind: type) -> dict[str, Any]:
    """JSON schemas of the types that msgspec does not know."""
    if kind is Usd:
        return {
            "description": "US dollars, at most nine decimals",
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": 1_000_000_000},
                {"type": "string", "pattern": r"^(0|[1-9][0-9]{0,12})(\.[0-9]{1,18})?$"},
            ],
        }
    if kind is Span:
        return {
            "description": 'a duration: seconds, or text such as "10m", "1h", "30d"',
            "anyOf": [
                {"type": "integer", "minimum": 1},
                {"type": "string", "pattern": r"^([0-9]+|([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?)$"},
            ],
        }
    raise TypeError(f"no JSON schema for {kind.__name__}")


def _operation(route: Route, schemas: dict[Any, Any], components: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": operation_id(route),
        "summary": route.summary,
        "tags": [_tag(route)],
        "parameters": [*_path_parameters(route), *_query_parameters(route, components), *_headers(route)],
        "responses": _responses(route, schemas),
    }
    if route.roles:
        operation["security"] = [{"operator": []}]
        operation["description"] = f"Roles: {', '.join(route.roles)}."
    if route.body is not None:
        operation["requestBody"] = {
            "required": not route.body_optional,
            "content": {"application/json": {"schema": schemas[route.body]}},
        }
    return operation


def operation_id(route: Route) -> str:
    """The handler's name with its resource, such as `keys_issue`."""
    return f"{route.handler.__module__.rpartition('.')[2]}_{route.handler.__name__}"


def _tag(route: Route) -> str:
    parts = route.path.split("/")
    return parts[2] if parts[1] == "v1" else "process"


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": PATH_VARIABLES[name],
            "schema": {"type": "string"},
        }
        for name in _VARIABLE.findall(route.path)
    ]


def _query_parameters(route: Route, components: dict[str, Any]) -> list[dict[str, Any]]:
    schema = components[route.query.__name__]
    return [
        {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": field}
        for name, field in schema["properties"].items()
    ]


def _headers(route: Route) -> list[dict[str, Any]]:
    if not route.idempotent:
        return []
    return [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "description": "repeats get the first one's answer for ten minutes, kept in memory only",
            "schema": {"type": "string", "maxLength": MAX_KEY_CHARS},
        }
    ]


def _responses(route: Route, schemas: dict[Any, Any]) -> dict[str, Any]:
    success: dict[str, Any] = {"description": "done" if route.status == 204 else "the answer"}
    if route.answer is not None:
        success["content"] = {"application/json": {"schema": schemas[route.answer]}}
        if route.csv:
            success["content"]["text/csv"] = {"schema": {"type": "string"}}
    error = {
        "description": "an error, with what to do about it",
        "content": {"application/json": {"schema": schemas[ErrorAnswer]}},
    }
    return {str(route.status): success, "default": error}
