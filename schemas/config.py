"""Reads `ringfence.yaml`: text and environment in, `Settings` or a list of problems out. No I/O of its own.

Every problem names the file, the line, what was wrong and what to write instead; all of them are reported at
once, so that a file is mended in one go.
"""

from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
import yaml

from schemas.config_tree import Node, Problem, read_tree
from schemas.durations import DurationError, parse_duration_s
from schemas.ids import NAME_RULE, is_name
from schemas.money import MoneyError, parse_rate
from schemas.settings import Auth, Defaults, FxRates, PriceSettings, Settings, Timing, Upstream
from schemas.tls import TlsClient
from schemas.vendors import RESERVED_NAMES, VENDORS

S = TypeVar("S", bound=msgspec.Struct)

MAX_CONFIG_BYTES = 1 << 20
"""A configuration of a thousand upstreams stays far below a megabyte."""


class ConfigError(ValueError):
    """The configuration cannot be used; `problems` lists everything found, in order of line."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


def settings_from_env(env: Mapping[str, str]) -> Settings:
    """No configuration file: each vendor whose usual environment variable is set, at its real base URL."""
    upstreams = {
        name: Upstream(adapter=vendor.adapter, base_url=vendor.base_url, credential=env[vendor.env])
        for name, vendor in VENDORS.items()
        if env.get(vendor.env)
    }
    return Settings(upstreams=upstreams)


def load_settings(text: str, filename: str, env: Mapping[str, str]) -> Settings:
    """Decode a configuration file's text. Raises ConfigError with every problem found."""
    if len(text.encode("utf-8", "replace")) > MAX_CONFIG_BYTES:
        raise ConfigError([Problem(filename, 1, "the file is larger than a megabyte", "split or shorten it")])
    try:
        document = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark is not None else 1
        what = getattr(error, "problem", None) or "not YAML"
        raise ConfigError([Problem(filename, line, f"not valid YAML: {what}", "mend the syntax")]) from None
    problems: list[Problem] = []
    root = read_tree(document, filename, env, problems)
    settings = _Reader(filename, problems).settings(root)
    if problems:
        raise ConfigError(sorted(problems, key=lambda problem: problem.line))
    return settings


class _Reader:
    """Turns the tree into structs and collects problems on the way."""

    def __init__(self, filename: str, problems: list[Problem]) -> None:
        self._filename = filename
        self._problems = problems

    def settings(self, root: Node) -> Settings:
        parts = self._mapping(root, "the file", ("upstreams", "defaults", "prices", "fx", "timing"))
        upstreams = {
            name: self._upstream(name, node)
            for name, node in self._mapping_any(parts.get("upstreams"), "upstreams").items()
        }
        self._check_hosts(parts.get("upstreams"), upstreams)
        return Settings(
            upstreams=upstreams,
            defaults=self._defaults(parts.get("defaults")),
            prices=self._struct(PriceSettings, parts.get("prices"), "prices"),
            fx=self._fx(parts.get("fx")),
            timing=self._timing(parts.get("timing")),
        )

    def _upstream(self, name: str, node: Node) -> Upstream:
        if not is_name(name) or name in RESERVED_NAMES:
            self._problem(
                node,
                f"upstream {name!r} cannot have that name",
                f"use {NAME_RULE}, and none of {sorted(RESERVED_NAMES)}",
            )
        upstream = self._struct(Upstream, node, f"upstreams.{name}", defaults={"adapter": name})
        vendor = next((v for v in VENDORS.values() if v.adapter == upstream.adapter), None)
        if vendor is None:
            known = ", ".join(sorted({v.adapter for v in VENDORS.values()}))
            self._problem(node, f"upstreams.{name}: no adapter {upstream.adapter!r}", f"use one of: {known}")
            return upstream
        base_url = (upstream.base_url or vendor.base_url).rstrip("/")
        if vendor.version_suffix and base_url.endswith(vendor.version_suffix):
            base_url = base_url.removesuffix(vendor.version_suffix)
        self._check_url(node, name, base_url)
        self._check_tls(node, name, base_url, upstream.tls)
        if not upstream.credential:
            self._problem(node, f"upstreams.{name} has no credential", f'add credential: "${{{vendor.env}}}"')
        elif not upstream.credential.isascii() or not upstream.credential.isprintable() or " " in upstream.credential:
            self._problem(
                node,
                f"upstreams.{name}.credential has characters that no header can carry",
                "check the variable for line ends and spaces",
            )
        return msgspec.structs.replace(upstream, base_url=base_url)

    def _check_url(self, node: Node, name: str, url: str) -> None:
        try:
            parts = urlsplit(url)
            good = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:
            good = False
            parts = urlsplit("")
        if not good or parts.query or parts.fragment or parts.username or parts.password:
            self._problem(
                node,
                f"upstreams.{name}.base_url is not an origin with an optional prefix",
                "write https://host or http://host:port/prefix",
            )

    def _check_tls(self, node: Node, name: str, url: str, tls: TlsClient | None) -> None:
        if tls is None:
            return
        if not url.startswith("https://"):
            self._problem(node, f"upstreams.{name} has tls, and its base_url is not https", "write https://")
        if bool(tls.cert_file) != bool(tls.key_file):
            self._problem(node, f"upstreams.{name}.tls: a certificate needs its key", "write cert_file and key_file")
        if tls.server_name:
            self._problem(
                node,
                f"upstreams.{name}.tls.server_name is for other connections",
                "name the host in base_url as its certificate does",
            )

    def _check_hosts(self, node: Node | None, upstreams: dict[str, Upstream]) -> None:
        seen: dict[str, str] = {}
        for name, upstream in upstreams.items():
            host = upstream.host.lower()
            if host and host in seen and node is not None:
                self._problem(
                    node, f"upstreams {seen[host]} and {name} have the same host {host!r}", "give each its own"
                )
            seen[host] = name

    def _defaults(self, node: Node | None) -> Defaults:
        parts = self._mapping(node, "defaults", ("expires_in", "max_expires_in"))
        values: dict[str, int] = {}
        for key, value in parts.items():
            try:
                values[f"{key}_s"] = parse_duration_s(value.value)
            except DurationError as error:
                self._problem(value, f"defaults.{key}: {error}", 'write seconds or for example "1h"')
        defaults = Defaults(**values)
        if defaults.expires_in_s > defaults.max_expires_in_s and node is not None:
            self._problem(node, "defaults.expires_in is above defaults.max_expires_in", "raise one or lower the other")
        return defaults

    def _fx(self, node: Node | None) -> FxRates:
        fx = self._struct(FxRates, node, "fx")
        for what, text in (*((f"rates.{code}", rate) for code, rate in fx.rates.items()), ("margin", fx.margin)):
            try:
                zero = parse_rate(text) == 0
            except MoneyError as error:
                self._problem(node, f"fx.{what}: {error}", 'write a decimal string such as "1.09"')
                continue
            if zero and what != "margin":
                self._problem(
                    node,
                    f"fx.{what} is zero, which would make money free",
                    "write US dollars for one unit of the currency",
                )
        return fx

    def _timing(self, node: Node | None) -> Timing:
        timing = self._struct(Timing, node, "timing")
        if any(value <= 0 for value in msgspec.structs.astuple(timing)):
            self._problem(node, "timing: every time is above zero", "write milliseconds")
        if timing.heartbeat_ms * 2 > timing.proof_ttl_ms or timing.proof_ttl_ms >= timing.node_timeout_ms:
            self._problem(
                node,
                "timing: needs 2 * heartbeat_ms <= proof_ttl_ms < node_timeout_ms",
                "keep the defaults, or scale all together",
            )
        return timing

    def _struct(self, kind: type[S], node: Node | None, where: str, defaults: dict[str, Any] | None = None) -> S:
        """One struct, field by field, so that each problem has its own line."""
        fields = {field.name: field for field in msgspec.structs.fields(kind)}
        parts = self._mapping(node, where, tuple(fields))
        values: dict[str, Any] = dict(defaults or {})
        for name, part in parts.items():
            try:
                values[name] = msgspec.convert(part.plain(), fields[name].type, strict=True)
            except msgspec.ValidationError as error:
                self._problem(part, f"{where}.{name}: {error}", "see docs/CONFIG.md for the field's form")
        return kind(**values)

    def _mapping(self, node: Node | None, where: str, known: tuple[str, ...]) -> dict[str, Node]:
        found = self._mapping_any(node, where)
        for name in [name for name in found if name not in known]:
            self._problem(found.pop(name), f"{where} has no field {name!r}", f"its fields are: {', '.join(known)}")
        return found

    def _mapping_any(self, node: Node | None, where: str) -> dict[str, Node]:
        if node is None or node.value is None:
            return {}
        if not isinstance(node.value, dict):
            self._problem(node, f"{where} is not a mapping", "write fields as 'name: value'")
            return {}
        return dict(node.value)

    def _problem(self, node: Node | None, what: str, remedy: str) -> None:
        self._problems.append(Problem(self._filename, node.line if node is not None else 1, what, remedy))


__all__ = ["Auth", "ConfigError", "Problem", "load_settings", "settings_from_env"]
