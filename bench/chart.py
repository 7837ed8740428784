"""Horizontal bars as SVG, with nothing but text and rectangles."""

from collections.abc import Mapping
from xml.sax.saxutils import escape

WIDTH, LABEL, BAR, GAP, TOP = 720, 150, 22, 10, 44
_TEXT = 'font-family="sans-serif" font-size="13" fill="#222"'


def bars(title: str, values: Mapping[str, float]) -> str:
    """One bar for each value, in the given order; the longest fills the width."""
    most = max(values.values())
    height = TOP + len(values) * (BAR + GAP) + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" role="img">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{GAP}" y="26" {_TEXT} font-weight="bold">{escape(title)}</text>',
    ]
    for n, (name, value) in enumerate(values.items()):
        y = TOP + n * (BAR + GAP)
        length = max(1.0, (WIDTH - LABEL - 80) * value / most)
        colour = "#c2410c" if name.startswith("ringfence") else "#64748b"
        parts += [
            f'<text x="{LABEL - GAP}" y="{y + 16}" {_TEXT} text-anchor="end">{escape(name)}</text>',
            f'<rect x="{LABEL}" y="{y}" width="{length:.1f}" height="{BAR}" fill="{colour}"/>',
            f'<text x="{LABEL + length + 6:.1f}" y="{y + 16}" {_TEXT}>{value:,.1f}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"
