"""May a reader run this statement? Decided on the engine's own parse of it, never on its text.

Theory. The engine rewrites a statement into its canonical text (one statement, comments gone) and parses that text
into a tree; this module walks the tree; and the canonical text is what runs. So no trick of spelling can make the
check and the execution see different statements.

The walk is the second of three walls. The first is the engine's own grants: a reader's session holds the role
`reader`, which was granted SELECT on the views and nothing else (no table, file, URL, remote server or dictionary).
The third is `readonly = 2`. The walk is there for what grants do not cover: INTO OUTFILE writes with the rights of
the process; the function `file` reads any file; `SET ROLE` would give the other role back; `system` shows the
statements of others; a function can be named without being called (`arrayMap(file, ...)`, `* APPLY file`).

What would be wrong: a list of what is forbidden. Whatever is not on a list of `reader_allowances` is refused.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from controlplane.audit import reader_allowances as allowed
from controlplane.audit.endpoint_errors import ErrorCode, QueryError
from controlplane.audit.endpoint_limits import EndpointLimits
from controlplane.audit.roles import DATABASE

#: A node of the tree: `type`, and fields that hold scalars, nodes or lists of nodes.
Node = Mapping[str, Any]

_MATCHES_SET: Final = ("in", "notin", "nullin", "notnullin")


@dataclass(frozen=True, slots=True)
class FunctionNames:
    """Which functions a reader may name, all in lower case (ClickHouse ignores the case of some)."""

    open: frozenset[str]
    closed: frozenset[str]
    aggregates: frozenset[str]
    combinators: tuple[str, ...]

    def admits(self, name: str) -> bool:
        """True for an open function, and for an aggregate with combinators (`sumIf`, `quantileStateOrNull`)."""
        lower = name.lower()
        if lower in self.closed or lower in self.open:
            return lower not in self.closed
        while lower not in self.aggregates:
            suffix = next((c for c in self.combinators if lower.endswith(c) and lower != c), None)
            if suffix is None:
                return False
            lower = lower.removesuffix(suffix)
        return True


def sort_functions(rows: Iterable[tuple[str, str, str, bool]], combinators: Iterable[str]) -> FunctionNames:
    """Sort `system.functions`, rows of (name, alias_to, category, is_aggregate), into open and closed names."""
    known = list(rows)
    category = {name: group for name, _, group, _ in known}
    opened = {name.lower() for name in allowed.FUNCTIONS_BESIDES}
    closed: set[str] = set()
    aggregates: set[str] = set()
    for name, alias_to, group, is_aggregate in known:
        target = alias_to or name
        own = category.get(target, "") if alias_to else group
        admitted = target in allowed.FUNCTIONS_BESIDES or (
            own in allowed.FUNCTION_CATEGORIES and target not in allowed.FUNCTIONS_EXCEPT
        )
        (opened if admitted else closed).add(name.lower())
        if admitted and is_aggregate:
            aggregates.add(name.lower())
    return FunctionNames(
        frozenset(opened - closed),
        frozenset(closed),
        frozenset(aggregates - closed),
        tuple(sorted((c.lower() for c in combinators), key=len, reverse=True)),
    )


@dataclass(frozen=True, slots=True)
class ReaderRules:
    """The rules for one endpoint: its views, its engine's functions, its bounds on settings."""

    views: frozenset[str]
    functions: FunctionNames
    limits: EndpointLimits

    def check_setting(self, name: str, value: object) -> QueryError | None:
        """May a reader set this? Error 164 for one that is not open, 452 for a value beyond its bound."""
        if name in allowed.SETTINGS:
            return None
        bound = self._bounds().get(name)
        if bound is None:
            return QueryError(ErrorCode.READONLY, f"Setting {name} may not be changed by a reader")
        try:
            number = float(str(value))
        except ValueError:
            number = -1.0
        if 0 < number <= bound:
            return None
        return QueryError(
            ErrorCode.SETTING_CONSTRAINT_VIOLATION, f"Setting {name} must be above 0 and at most {bound} for a reader"
        )

    def _bounds(self) -> Mapping[str, float]:
        return {
            "max_block_size": 65_536,
            "max_execution_time": self.limits.read_timeout_s,
            "max_memory_usage": self.limits.read_memory_bytes,
            "max_result_bytes": self.limits.streamed_result_max_bytes,
            "max_result_rows": 10_000_000_000,
            "max_threads": 2,
        }

    def check_format(self, name: str) -> QueryError | None:
        """May a reader ask for this output format?"""
        if name in allowed.FORMATS:
            return None
        return QueryError(ErrorCode.ACCESS_DENIED, f"Format {name!r} is not open to readers")

    def check_statement(self, canonical: str, tree: Node | None, params: Mapping[str, str]) -> QueryError | None:
        """May a reader run `canonical`, of which `tree` is the parse (None: the engine has no tree for it)?"""
        if tree is None:
            return self._check_word_for_word(canonical)
        if tree.get("type") not in allowed.STATEMENTS:
            return _denied("Readers may run SELECT, SHOW TABLES, SHOW COLUMNS and DESCRIBE TABLE only")
        try:
            return _Walk(self, params, _cte_names(tree)).check(tree)
        except (AttributeError, IndexError, KeyError, TypeError):
            # A node has not the shape that this version of the engine gives it. Refusing is the safe answer.
            return _denied("A part of the statement is not understood")

    def _check_word_for_word(self, canonical: str) -> QueryError | None:
        text, _, output_format = canonical.partition(" FORMAT ")
        for verb in allowed.VIEW_STATEMENTS:
            name = text.removeprefix(f"{verb} ")
            if name != text and name.removeprefix(f"{DATABASE}.") in self.views:
                return self.check_format(output_format) if output_format else None
        return _denied("Readers may run SELECT, SHOW TABLES, SHOW COLUMNS and DESCRIBE TABLE only")


@dataclass(frozen=True, slots=True)
class _Walk:
    """One statement's walk: its parameters, and the names that its WITH clauses give to subqueries."""

    rules: ReaderRules
    params: Mapping[str, str]
    ctes: frozenset[str]

    def check(self, tree: Node) -> QueryError | None:
        # An explicit stack: the depth of a statement must not become the depth of the interpreter's stack.
        stack = [tree]
        while stack:
            node = stack.pop()
            refused = self._check_fields(node) or self._check_node(node)
            if refused:
                return refused
            children = list(_children(node))
            if any("type" not in child for child in children):
                return _denied("A part of the statement is not understood")
            stack.extend(children)
        return None

    def _check_fields(self, node: Node) -> QueryError | None:
        kind = node["type"]
        fields = allowed.NODE_FIELDS.get(kind)
        if fields is None:
            return _denied(f"{kind} is not open to readers")
        unknown = node.keys() - fields - {"type"}
        if unknown or any(node.get(flag) for flag in node if flag.startswith(("is_outfile", "is_into"))):
            return _denied(f"{kind} with {', '.join(sorted(unknown)) or 'INTO OUTFILE'} is not open to readers")
        return None

    def _check_node(self, node: Node) -> QueryError | None:
        match node["type"]:
            case "TableIdentifier":
                return self._check_table(self._parts(node))
            case "Identifier":
                return self._check_identifier(self._parts(node))
            case "Function":
                return self._check_function(node)
            case "ColumnsApplyTransformer" if "func_name" in node:
                return self._check_function_name(node["func_name"])
            case "TableExpression" if "table_function" in node:
                return self._check_table_function(node["table_function"])
            case "SelectWithUnionQuery" | "ShowTablesQuery" | "ShowColumnsQuery" if "format_ast" in node:
                return self.rules.check_format(node["format_ast"]["name"])
            case "SetQuery":
                checks = (self.rules.check_setting(c["name"], c["value"]["value"]) for c in node["changes"])
                return next((refused for refused in checks if refused), None)
        return None

    def _check_table(self, parts: tuple[str, ...] | None) -> QueryError | None:
        """A name in FROM. Without a database it is a WITH name or one of our views: the session is in our database."""
        match parts:
            case (name,) if name in self.ctes or name in self.rules.views:
                return None
            case (database, name) if database == DATABASE and name in self.rules.views:
                return None
            case ("system", name) if name in allowed.SYSTEM_TABLES:
                return None
        shown = ".".join(parts) if parts else "a parameter that is not a plain name"
        views = ", ".join(sorted(self.rules.views))
        return _denied(f"{shown} is not open to readers, who may select from these views of {DATABASE}: {views}")

    def _check_identifier(self, parts: tuple[str, ...] | None) -> QueryError | None:
        """A column, usually; but `x IN system.processes` names a table and `arrayMap(file, ...)` a function."""
        match parts:
            case None:
                return _denied("A parameter of type Identifier must be a plain name")
            case (name,) if name.lower() in self.rules.functions.closed:
                return _denied(f"{name} is the name of a function that is not open to readers")
            case (database, name, *_) if database == DATABASE or database.lower() in allowed.CLOSED_DATABASES:
                return self._check_table((database, name))
        return None

    def _check_function(self, node: Node) -> QueryError | None:
        refused = self._check_function_name(node["name"])
        arguments = node.get("arguments", {}).get("children", [])
        if refused or not _matches_set(node["name"]) or len(arguments) < 2:
            return refused
        right = arguments[1]
        parts = self._parts(right) if right.get("type") == "Identifier" else ()
        # With a database it is a table. Without one it is an alias or a table of ours, where the grants decide.
        return self._check_table(parts) if parts is None or len(parts) > 1 else None

    def _check_function_name(self, name: str) -> QueryError | None:
        if self.rules.functions.admits(name):
            return None
        return _denied(f"Function {name} is not open to readers")

    def _check_table_function(self, node: Node) -> QueryError | None:
        if node.get("type") == "Function" and node["name"].lower() in allowed.TABLE_FUNCTIONS:
            return self._check_fields(node)
        return _denied(f"Table function {node.get('name')} is not open to readers")

    def _parts(self, node: Node) -> tuple[str, ...] | None:
        """The name's parts, parameters filled in; None if a parameter is not a plain name."""
        holes = iter(node.get("children", ()))
        parts = []
        for part in node.get("name_parts") or [node["name"]]:
            hole = None if part else next(holes, None)
            value = part if hole is None else self.params.get(hole.get("name", ""), "")
            if not value or (hole is not None and not (value.isascii() and value.isidentifier())):
                return None
            parts.append(value)
        return tuple(parts)


def _children(node: Node) -> Iterator[Node]:
    """The nodes below this one that are expressions or queries of their own."""
    kind = node["type"]
    for field, value in node.items():
        if kind in {"Literal", "SetQuery"} or field == "format_ast":
            continue
        if kind == "ShowTablesQuery" and field == "from":
            continue
        if kind == "TableExpression" and field == "table_function":
            yield from (value[part] for part in ("arguments", "parameters") if part in value)
        elif isinstance(value, Mapping):
            yield value
        elif isinstance(value, list):
            # A list in a list is a shape not seen so far; as a node without a type it is refused.
            yield from (child if isinstance(child, Mapping) else {} for child in value if not isinstance(child, str))


def _cte_names(tree: Node) -> frozenset[str]:
    names, stack = set(), [tree]
    while stack:
        node = stack.pop()
        if node.get("type") == "WithElement":
            names.add(node.get("name", ""))
        stack.extend(value for value in node.values() if isinstance(value, Mapping))
        lists = (value for value in node.values() if isinstance(value, list))
        stack.extend(child for items in lists for child in items if isinstance(child, Mapping))
    return frozenset(names)


def _matches_set(function: str) -> bool:
    return function.lower().removeprefix("global").removesuffix("ignoreset") in _MATCHES_SET


def _denied(message: str) -> QueryError:
    return QueryError(ErrorCode.ACCESS_DENIED, message)
