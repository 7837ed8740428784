"""Blocks of nats-server's configuration that only some deployments have: a cluster, and TLS. Pure.

A cluster is three servers that keep the same streams (three replicas each, a majority of two acknowledges). Its
routes carry every account's traffic, so whoever may open one can read and forge everything: they have credentials
of their own, and with TLS a certificate on *both* sides.
"""

from collections.abc import Sequence
from dataclasses import dataclass

ROUTE_USER = "route"
"""Signs servers in at each other. No slot may be called so."""

DOMAIN = "ringfence"
"""JetStream's name in a cluster, so that a leaf node with a JetStream of its own is never taken for ours."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths in PEM format, as the server sees them. All three are read again at SIGHUP."""

    cert_file: str
    key_file: str
    ca_file: str = ""
    """Who signs the certificates of those who connect. Routes always check it; clients only with `verify`."""
    verify: bool = False
    """Whether a client must show a certificate of that authority (in addition to its password)."""


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """This server's place in a cluster. `routes` and `password` are written as they are: a variable, mostly.

    The configuration language replaces a variable only where it is the whole value; the routes hold the password
    within their URLs, so the whole list is one variable.
    """

    host: str
    port: int
    routes: str
    password: str
    tls: TlsFiles | None = None


def tls_block(files: TlsFiles | None, *, indent: str = "", mutual: bool = False) -> str:
    """The block that makes a listener speak TLS, and nothing else; empty without files.

    `mutual`: the other side needs a certificate whatever `verify` says.
    """
    if files is None:
        return ""
    verify = files.verify or mutual
    if verify and not files.ca_file:
        raise ValueError("to check certificates of others, nats-server needs a ca_file")
    lines = [f"cert_file: {quote(files.cert_file)}", f"key_file: {quote(files.key_file)}"]
    if files.ca_file:
        lines.append(f"ca_file: {quote(files.ca_file)}")
    if verify:
        lines.append("verify: true")
    # A slow disk or a busy machine must not fail the handshake; the default is 2 s, 0.5 s in older servers.
    lines += ["timeout: 5", 'min_version: "1.2"']
    return "\n".join((f"{indent}tls {{", *(f"{indent}    {line}" for line in lines), f"{indent}}}", ""))


def cluster_block(cluster: ClusterPlan | None) -> str:
    """The block that joins the servers; empty without a plan."""
    if cluster is None:
        return ""
    tls = tls_block(cluster.tls, indent="    ", mutual=True)
    return f"""\
cluster {{
    name: ringfence
    host: {quote(cluster.host)}
    port: {cluster.port}
    # Clients know all servers from their own settings; addresses of one network may mean nothing in another.
    no_advertise: true
    authorization {{ user: {ROUTE_USER}, password: {cluster.password}, timeout: 5 }}
    routes: {cluster.routes}
{tls}}}
"""


def route_urls(password: str, addresses: Sequence[str]) -> str:
    """The value of the routes' variable: every server's `host:port`. A server knows itself, and leaves itself out."""
    return f"[{', '.join(quote(f'nats://{ROUTE_USER}:{password}@{address}') for address in addresses)}]"


def quote(text: str) -> str:
    """Write a string of the configuration. Raises ValueError for what a quoted string cannot hold."""
    if any(character in text for character in '"\\\r\n'):
        raise ValueError("a quote, a backslash or a line break cannot be written into nats.conf")
    return f'"{text}"'
