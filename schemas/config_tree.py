"""A YAML document as plain values that remember their lines, with `${ENV}` put in and duplicates refused."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
import yaml

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_MAX_DEPTH = 16
"""The format nests five deep; a bound keeps hostile files from exhausting the stack."""


_MAX_NODES = 50_000
"""Aliases of aliases make a small file unfold without end."""


class Problem(msgspec.Struct, frozen=True):
    """One thing wrong with a configuration file. Holds no values that may be secret."""

    file: str
    line: int
    what: str
    remedy: str

    def __str__(self) -> str:
        """`file:line: what. remedy.`"""
        return f"{self.file}:{self.line}: {self.what}. To mend it: {self.remedy}."


class Node(msgspec.Struct):
    """A scalar, a list of nodes, or a mapping of name -> node, and its line (from 1)."""

    value: Any
    line: int

    def plain(self) -> Any:
        """The value without lines."""
        if isinstance(self.value, dict):
            return {name: node.plain() for name, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


def read_tree(document: yaml.Node | None, filename: str, env: Mapping[str, str], problems: list[Problem]) -> Node:
    """The composed document as a tree. Problems are appended; a broken part becomes None."""
    return _Tree(filename, env, problems).node(document, 0)


class _Tree:
    def __init__(self, filename: str, env: Mapping[str, str], problems: list[Problem]) -> None:
        self._filename = filename
        self._env = env
        self._problems = problems
        self._nodes = 0

    def node(self, source: yaml.Node | None, depth: int) -> Node:
        if source is None:
            return Node(None, 1)
        line = source.start_mark.line + 1
        self._nodes += 1
        if depth > _MAX_DEPTH or self._nodes > _MAX_NODES:
            if self._nodes <= _MAX_NODES + 1:
                self._problem(line, "nested too deeply, or too large", "keep to the documented fields")
            return Node(None, line)
        if isinstance(source, yaml.MappingNode):
            return Node(self._mapping(source, depth), line)
        if isinstance(source, yaml.SequenceNode):
            return Node([self.node(item, depth + 1) for item in source.value], line)
        return Node(self._scalar(source, line), line)

    def _mapping(self, source: yaml.MappingNode, depth: int) -> dict[str, Node]:
        found: dict[str, Node] = {}
        for key, value in source.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self._problem(line, "a name is not plain text", "write fields as 'name: value'")
            elif key.value in found:
                self._problem(line, f"{key.value!r} is given twice", "keep one of them")
            else:
                found[key.value] = self.node(value, depth + 1)
        return found

    def _scalar(self, source: yaml.Node, line: int) -> Any:
        try:
            # A loader of its own turns the scalar into bool, int or text as YAML resolves it.
            value = yaml.SafeLoader("").construct_object(source)
        except (yaml.YAMLError, ValueError):
            self._problem(line, "a value cannot be read", "quote it")
            return None
        return self._with_env(value, line) if isinstance(value, str) else value

    def _with_env(self, text: str, line: int) -> str:
        def put_in(match: re.Match[str]) -> str:
            name = match.group(1)
            if name not in self._env:
                self._problem(line, f"the environment variable {name} is not set", f"set {name}, or write the value")
                return ""
            return self._env[name]

        return _REFERENCE.sub(put_in, text)

    def _problem(self, line: int, what: str, remedy: str) -> None:
        self._problems.append(Problem(self._filename, line, what, remedy))
