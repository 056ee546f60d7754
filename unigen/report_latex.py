"""The report as one LaTeX document that compiles by itself: its tables in booktabs, without the pictures."""

import re
from collections.abc import Sequence

from unigen.report import Report
from unigen.report_tables import Cell, Table

PAGE_ROWS = 40  # a table of more rows goes over several pages, and is not shrunk to the width of one
SPECIAL = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    '"': "\\textquotedbl{}",
    "-": "{-}",  # so that two of them are no dash
    "[": "{[}",  # so that none is an option of the \\ before it
    "]": "{]}",
    "`": "{`}",
    "'": "{'}",
    "*": "{*}",
    "–": "--",
    "—": "---",
    "…": "\\ldots{}",
    "“": "``",
    "”": "''",
    "’": "'",
}
MATHS = {
    "↑": "\\uparrow",
    "↓": "\\downarrow",
    "≈": "\\approx",
    "±": "\\pm",
    "−": "-",
    "·": "\\cdot",
    "×": "\\times",
    "√": "\\surd",
    "Σ": "\\Sigma",
    "Δ": "\\Delta",
    "α": "\\alpha",
    "σ": "\\sigma",
    "≥": "\\ge",
    "≤": "\\le",
    "²": "^2",
    "³": "^3",
    "→": "\\rightarrow",
    "∞": "\\infty",
    "°": "^\\circ",
    "µ": "\\mu",
    "μ": "\\mu",
}
HEAD = r"""\documentclass[10pt]{article}
\usepackage[a4paper,landscape,margin=15mm]{geometry}
\usepackage[T1]{fontenc}
\usepackage{booktabs,graphicx,longtable}
\newsavebox\tablebox
\newcommand\fit[1]{\sbox\tablebox{#1}\ifdim\wd\tablebox>\linewidth
  \resizebox{\linewidth}{!}{\usebox\tablebox}\else\usebox\tablebox\fi}
\setlength\parindent{0pt}\setlength\LTleft{0pt}
\begin{document}
"""


def latex_text(text: str) -> str:
    """`text` in ASCII with everything escaped that LaTeX would interpret; a letter it lacks is named by its number."""

    def one(character: str) -> str:
        if character in SPECIAL:
            return SPECIAL[character]
        if character in MATHS:
            return f"${MATHS[character]}$"
        return character if " " <= character <= "~" else f"\\texttt{{U+{ord(character):04X}}}"

    return "".join(map(one, text))


def to_latex(report: Report) -> str:
    """The whole document."""
    parts = [HEAD, f"\\section*{{Ablation report: {latex_text(report.title)}}}\n"]
    parts += [table_latex(table) for table in report.tables]
    return "\n".join(parts) + "\n\\end{document}\n"


def table_latex(table: Table) -> str:
    """Heading, table and notes."""
    columns = "l" * len(table.header) if table.words else "l" + "r" * (len(table.header) - 1)
    body = [row_latex(row) for row in table.rows]
    foot = ["\\midrule", *map(row_latex, table.foot)] if table.foot else []
    head = ["\\toprule", " & ".join(map(latex_text, table.header)) + " \\\\", "\\midrule"]
    if len(body) > PAGE_ROWS:
        inside = [*head, "\\endhead", *body, *foot, "\\bottomrule"]
        grid = f"{{\\footnotesize\n\\begin{{longtable}}{{{columns}}}\n{joined(inside)}\n\\end{{longtable}}\n}}"
    else:
        inside = [*head, *body, *foot, "\\bottomrule"]
        grid = f"\\fit{{\\begin{{tabular}}{{{columns}}}\n{joined(inside)}\n\\end{{tabular}}}}"
    notes = [f"\\item {latex_text(note)}" for note in table.notes]
    listed = f"\n{{\\footnotesize\n\\begin{{itemize}}\n{joined(notes)}\n\\end{{itemize}}\n}}" if notes else ""
    return f"\\subsection*{{{latex_text(table.title)}}}\n{grid}\n{listed}\n"


def row_latex(row: Sequence[Cell]) -> str:
    cells = (latex_text(cell.text) for cell in row)
    marked = (f"\\textbf{{{text}}}" if cell.bold else text for text, cell in zip(cells, row, strict=True))
    return " & ".join(marked) + " \\\\"


def joined(lines: Sequence[str]) -> str:
    return re.sub(r"\n+", "\n", "\n".join(lines))
