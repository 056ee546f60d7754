"""Writes tables as LaTeX in booktabs. The document needs the packages of HEAD, which also defines the command fit."""

from collections.abc import Sequence

from unigen.tools.forms.tables import Table

PAGE_ROWS = 40  # a table with more rows spans several pages, and is not shrunk to the width of a page
SPECIAL = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    '"': "\\textquotedbl{}",
    "-": "{-}",  # so that two hyphens do not become a dash
    "[": "{[}",  # so that it is not read as an option of the \\ before it
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
    """Return `text` in ASCII, escaped for LaTeX; a character that LaTeX lacks becomes its Unicode number."""

    def one(character: str) -> str:
        if character in SPECIAL:
            return SPECIAL[character]
        if character in MATHS:
            return f"${MATHS[character]}$"
        return character if " " <= character <= "~" else f"\\texttt{{U+{ord(character):04X}}}"

    return "".join(map(one, text))


def listed(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    items = "\n".join(f"\\item {latex_text(line)}" for line in lines)
    return f"{{\\footnotesize\n\\begin{{itemize}}\n{items}\n\\end{{itemize}}\n}}\n"


def table_latex(table: Table) -> str:
    """Return heading, table and notes. A table of many rows spans several pages and is not shrunk."""
    long = len(table.rows) > PAGE_ROWS
    styler = table.frame(latex_text, "\\textbf{{{}}}".format).style.hide(axis="index")
    columns = "".join(side[0] for side in table.alignment)
    grid = styler.to_latex(hrules=True, column_format=columns, environment="longtable" if long else None).strip()
    if table.foot:  # a rule above the bounds
        lines = grid.split("\n")
        lines.insert(len(lines) - (1 if long else 2) - len(table.foot), "\\midrule")
        grid = "\n".join(lines)
    grid = f"{{\\footnotesize\n{grid}\n}}" if long else f"\\fit{{{grid}}}"
    return f"\\subsection*{{{latex_text(table.title)}}}\n{grid}\n\n{listed(table.notes)}"
