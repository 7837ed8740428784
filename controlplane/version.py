"""The version of the distribution, read from its metadata."""

from importlib.metadata import PackageNotFoundError, version


def _installed() -> str:
    try:
        return version("ringfence")
    except PackageNotFoundError:
        return "0+unknown"  # a source tree on the path, not installed


VERSION = _installed()
