"""Pieces of HTML: tables, sections, pictures. Everything that comes from data is escaped here or by the caller with `esc`."""

import base64
from collections.abc import Iterable, Sequence
from html import escape as esc

NUMBER, WHY = "n", "why"


def cell(text: str, kind: str = "") -> str:
    return f"<td{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}>{esc(text)}</td>"


def head(text: str, kind: str = "", small: str = "") -> str:
    unit = f"<small>{esc(small)}</small>" if small else ""
    return f'<th scope="col"{f" class={chr(34)}{kind}{chr(34)}" if kind else ""}>{esc(text)}{unit}</th>'


def row_head(html: str) -> str:
    """The first cell of a row; already HTML, since it may hold a swatch."""
    return f'<th scope="row">{html}</th>'


def table(caption: str, heads: Iterable[str], rows: Iterable[str], kind: str = "") -> str:
    """`heads`: cells of the head; `rows`: whole <tr>s."""
    said = f"<caption>{esc(caption)}</caption>" if caption else ""
    css = f' class="{kind}"' if kind else ""
    return (
        f'<div class="scroll"><table{css}>{said}<thead><tr>{"".join(heads)}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def row(cells: Iterable[str], kind: str = "") -> str:
    return f"<tr{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}>{''.join(cells)}</tr>"


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Name and text, both escaped here."""
    rows = "".join(f'<tr><th scope="row">{esc(name)}</th><td>{esc(text)}</td></tr>' for name, text in pairs)
    return f'<table class="facts"><tbody>{rows}</tbody></table>'


def section(anchor: str, title: str, *parts: str) -> str:
    return f'<section id="{anchor}"><h2>{esc(title)}</h2>{"".join(parts)}</section>'


def paragraph(text: str, kind: str = "") -> str:
    return f"<p{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}>{esc(text)}</p>"


def note(text: str) -> str:
    """Small print."""
    return paragraph(text, "muted")


def bullets(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{esc(line)}</li>' for line in lines)}</ul>" if lines else ""


def swatch(series: int) -> str:
    """The colour of a side: a ring for the originals, a dot for a reconstruction."""
    return '<i class="swatch ring"></i>' if series == 0 else f'<i class="swatch s{series}"></i>'


def picture(png: bytes, size: int, alt: str) -> str:
    data = base64.b64encode(png).decode()
    return f'<img width="{size}" height="{size}" alt="{esc(alt)}" src="data:image/png;base64,{data}">'
