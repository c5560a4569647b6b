"""The short table for papers and pages of other people: Markdown and LaTeX, the best of each scene in bold, a star where views were trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nsr.report.tables import Row, best_cells, cell, mark, short_columns

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}
_PLACE = ("scene", "method", "surface")


def to_markdown(rows: Sequence[Row]) -> str:
    """A pipe table; numbers right-aligned, "–" where not measured."""
    head, body = _cells(rows, bold="**{}**", none="–", escape=_markdown)
    lines = [head, ["---"] * len(_PLACE) + ["---:"] * (len(head) - len(_PLACE)), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def to_latex(rows: Sequence[Row]) -> str:
    """A `tabular` with the rules of the booktabs package, a thin rule between scenes."""
    head, body = _cells(rows, bold=r"\textbf{{{}}}", none="--", escape=_latex)
    lines = [r"\begin{tabular}{" + "l" * len(_PLACE) + "r" * (len(head) - len(_PLACE)) + "}", r"\toprule"]
    lines += [" & ".join(head) + r" \\", r"\midrule"]
    for index, line in enumerate(body):
        if index and line[0] != body[index - 1][0]:
            lines.append(r"\addlinespace")
        lines.append(" & ".join(line) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _cells(rows: Sequence[Row], *, bold: str, none: str, escape: Callable[[str], str]) -> tuple[list[str], list[list[str]]]:
    """Head and body, every cell escaped."""
    columns = short_columns(rows)
    best = best_cells(rows, columns)
    head = [*_PLACE, *(escape(f"{c.title}, {c.unit}" if c.unit else c.title) for c in columns)]
    body = []
    for index, row in enumerate(rows):
        place = [f"{row['dataset']}/{row['scene']}", row["method"], row["surface"]]
        numbers = [escape(cell(row, c) + mark(row, c)) if c.key in row else none for c in columns]
        body.append(
            [escape(" ".join(str(part).split())) for part in place]
            + [bold.format(text) if (index, c.key) in best else text for text, c in zip(numbers, columns, strict=True)]
        )
    return head, body


def _markdown(text: str) -> str:
    for character in "\\|*_`<[":
        text = text.replace(character, f"\\{character}")
    return text


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
