"""Figure of the leak: the fraction retrieved on pure noise by its effective rank, as published and with halves of the controls.

    python benchmarks/leak_figure.py            # docs/leak.svg, in about two minutes

The numbers are those of `benchmarks/floors.py --noise`: noise without effects of plate, position or compound, in the shape of four
CPJUMP1 plates. The last line of output is one JSON object.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import harness
import numpy as np
import torch
from floors import noise, on_noise
from rich.console import Console

from sdvae_ray.report.page.svg import Scale, svg_text, tick_text

OUTPUT = Path(__file__).parents[1] / "docs" / "leak.svg"
SERIES = {
    "full": "published: fit on all 256 controls, which are the negatives",
    "half_same": "fit on one half, scored against the same half",
    "half_other": "fit on one half, scored against the other",
}
COLOURS = {"full": "#c0392b", "half_same": "#d68910", "half_other": "#1f618d"}  # the lines also differ by their dashes
DASHES = {"full": "", "half_same": "7 4", "half_other": "2 3"}
NOMINAL = 0.05
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 720, 58, 700, 84, 344
STYLE = (
    "text{font:12px sans-serif;fill:#333}.title{font-size:15px;font-weight:bold}.tick{fill:#666}"
    ".grid{stroke:#e4e4e4}.nominal{stroke:#888;stroke-dasharray:1 3}polyline{fill:none;stroke-width:2}"
)


def effective_rank(x: np.ndarray) -> float:
    """(sum of eigenvalues)^2 / (sum of squared eigenvalues), of the covariance from which the (W, D) profiles were drawn."""
    centred = x - x.mean(axis=0)
    eigenvalues = np.linalg.svd(centred, compute_uv=False) ** 2
    squares = (eigenvalues**2).sum() - eigenvalues.sum() ** 2 / (
        len(x) - 1
    )  # minus the part that comes from the small number of wells
    return float(eigenvalues.sum() ** 2 / squares)


def figure(rows: Sequence[Mapping[str, float]], seeds: int) -> str:
    """The text of an SVG file with one line per quantity of SERIES. rows: `rank` and the fractions, ordered by rank."""
    last = 100 * int(np.ceil(max(row["rank"] for row in rows) / 100))
    across, down = Scale(0, last, LEFT, RIGHT), Scale(0, 1, BOTTOM, TOP)
    parts = [svg_text(LEFT, 22, "Fraction retrieved on pure noise, where nothing is to be found", "start", "title")]
    for tick in np.linspace(0, 1, 6).tolist():
        y = down(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(svg_text(LEFT - 8, y + 4, tick_text(tick), "end", "tick"))
    for tick in range(0, last + 1, 100):
        parts.append(svg_text(across(tick), BOTTOM + 18, str(tick), "middle", "tick"))
    y = down(NOMINAL)
    parts.append(f'<line class="nominal" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    parts.append(svg_text(RIGHT, y - 5, "nominal 5 %", "end", "tick"))
    for number, (name, words) in enumerate(SERIES.items()):
        line = f'stroke="{COLOURS[name]}" stroke-dasharray="{DASHES[name]}"'
        points = " ".join(f"{across(row['rank']):.1f},{down(row[name]):.1f}" for row in rows)
        parts.append(f'<polyline points="{points}" {line}/>')
        at = 40 + 15 * number
        parts.append(f'<line x1="{LEFT}" x2="{LEFT + 30}" y1="{at - 4}" y2="{at - 4}" stroke-width="2" {line}/>')
        parts.append(svg_text(LEFT + 38, at, words, "start", "lab"))
    axis = "effective rank of the noise (directions of equal variance)"
    parts.append(svg_text((LEFT + RIGHT) / 2, BOTTOM + 38, axis, "middle", "axis"))
    said = "; ".join(f"rank {row['rank']}: " + ", ".join(f"{name} {row[name]:.3f}" for name in SERIES) for row in rows)
    note = (
        f"4 plates x 64 controls, 306 compounds of 4 wells, 602 features, mean of {seeds} data sets; published recipe"
    )
    parts.append(svg_text((LEFT + RIGHT) / 2, BOTTOM + 58, note, "middle", "tick"))
    height = BOTTOM + 70
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img"><title>Fraction retrieved on noise by effective rank</title><desc>{escape(said)}</desc>'
        f'<style>{STYLE}</style><rect width="{WIDTH}" height="{height}" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def main(arguments: Sequence[str] | None = None, console: Console | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3, help="data sets of noise per rank")
    options = parser.parse_args(arguments)
    settings = {"repeats": options.repeats, "seeds": options.seeds}
    head = harness.head("leak_figure", torch.device("cpu"), settings)
    rows = on_noise(console or Console(width=200), options.repeats, options.seeds)["noise"]
    for row in rows:
        row["effective_rank"] = effective_rank(noise(row["rank"], seed=0)[0])
    options.output.write_text(figure(rows, options.seeds))
    harness.print_json({**head, "results": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
