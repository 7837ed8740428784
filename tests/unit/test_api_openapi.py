"""/openapi.json and docs/API.md follow from the route table, and are sound."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from controlplane.api.audit import ROUTES as AUDIT_ROUTES
from controlplane.api.docs import render_page
from controlplane.api.openapi import describe_api, operation_id
from controlplane.api.ports import GROUPS
from controlplane.api.routes import ROUTES
from schemas.api import CapFields, KeyIssue, KeyPatch
from schemas.caps import CAP_FIELDS
from schemas.queries import Group

PAGE = Path(__file__).parents[2] / "docs" / "API.md"


@pytest.fixture(scope="module")
def document() -> Any:
    return json.loads(describe_api(ROUTES, "1.2.3"))


def walk(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from walk(value)


def test_docs_page_is_current() -> None:
    assert PAGE.read_text() == render_page(), "run: python -m controlplane.api.docs > docs/API.md"


def test_every_reference_leads_somewhere_and_every_component_is_used(document: Any) -> None:
    references = {node["$ref"] for node in walk(document) if "$ref" in node}
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert references == known


def test_every_route_is_an_operation_and_ids_are_unique(document: Any) -> None:
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    assert len(operations) == len(ROUTES)
    assert len({operation["operationId"] for operation in operations}) == len(ROUTES)
    assert {operation["operationId"] for operation in operations} == {operation_id(route) for route in ROUTES}


def test_path_variables_are_declared_and_templates_do_not_clash(document: Any) -> None:
    for path, item in document["paths"].items():
        for operation in item.values():
            declared = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert declared == set(re.findall(r"\{(\w+)\}", path))
            assert all(p["required"] for p in operation["parameters"] if p["in"] == "path")
    shapes = [re.sub(r"\{\w+\}", "{}", path) for path in document["paths"]]
    assert len(set(shapes)) == len(shapes)


def test_operations_say_what_they_need(document: Any) -> None:
    for route in ROUTES:
        operation = document["paths"][route.path][route.method.lower()]
        assert ("security" in operation) == bool(route.roles)
        assert ("requestBody" in operation) == (route.body is not None)
        assert str(route.status) in operation["responses"]
        assert "default" in operation["responses"]
        assert operation["responses"][str(route.status)]["description"]
        names = [(p["in"], p["name"]) for p in operation["parameters"]]
        assert len(set(names)) == len(names)


def test_money_and_durations_have_their_schemas(document: Any) -> None:
    schemas = document["components"]["schemas"]
    cap = json.dumps(schemas["KeyIssue"]["properties"]["daily_usd_cap"])
    assert "US dollars" in cap
    assert '"string"' in cap
    assert '"number"' in cap
    assert "duration" in json.dumps(schemas["KeyIssue"]["properties"]["expires_in"])
    assert schemas["KeyIssue"]["additionalProperties"] is False


def test_caps_have_the_same_names_everywhere() -> None:
    own = set(CAP_FIELDS)
    assert set(CapFields.__struct_fields__) == own - {"max_uses"}
    assert own <= set(KeyIssue.__struct_fields__)
    assert own <= set(KeyPatch.__struct_fields__)


def test_groups_are_the_audits() -> None:
    assert get_args(Group) == GROUPS


def test_csv_is_offered_where_the_query_has_a_format() -> None:
    for route in (*AUDIT_ROUTES, *ROUTES):
        assert route.csv == ("format" in route.query.__struct_fields__)


def test_queries_never_take_the_text_null_for_absent() -> None:
    """In a query string everything is text; a parameter that may be None would read "null" as left out."""
    for route in ROUTES:
        for field in msgspec.structs.fields(route.query):
            assert type(None) not in get_args(field.type), (route.path, field.name)
