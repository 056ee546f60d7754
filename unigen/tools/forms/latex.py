"""Writes tables as LaTeX in booktabs. The document needs the packages of HEAD, which also defines the command fit."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from unigen.tools.forms.tables import Table

PAGE_ROWS = 40  # a table with more rows spans several pages
PAGE = 150  # letters of the normal size beside each other on a page, two for the gap between columns
SIZES = {"footnotesize": 178, "scriptsize": 190, "tiny": 223}  # of wide tables; tiny is for numbers only
GAP, NARROW, WORD, LONGEST = 2, 18, 12, 600  # letters: a gap, a column of words that wraps, an uncut word, a cell
GAPS = 0.0107  # the gap of a column, twice HEAD's tabcolsep, as a share of the width of a page
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
\usepackage{booktabs,array,graphicx,longtable}
\newsavebox\tablebox
\newcommand\fit[1]{\sbox\tablebox{#1}\ifdim\wd\tablebox>\linewidth
  \resizebox{\linewidth}{!}{\usebox\tablebox}\else\usebox\tablebox\fi}
\newcolumntype{L}[1]{>{\raggedright\arraybackslash}p{#1\linewidth}}
\newcolumntype{R}[1]{>{\raggedleft\arraybackslash}p{#1\linewidth}}
\newcommand\cut{\discretionary{}{}{}}
\setlength\parindent{0pt}\setlength\LTleft{0pt}\setlength\tabcolsep{4pt}\sloppy
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


def breakable(text: str, longest: int = 24) -> str:
    """Return `text` for LaTeX. A word of more than `longest` letters may end a line after a mark, and a long run of
    letters, such as a hash, anywhere.
    """

    def cut(word: str) -> str:
        runs = re.findall(r"[A-Za-z0-9]+[^A-Za-z0-9]?|.", word)
        pieces = (re.findall(".{1,8}", run) if len(run) > NARROW - 2 else [run] for run in runs)
        return "\\cut{}".join(latex_text(piece) for each in pieces for piece in each)

    return "".join(cut(part) if len(part) > longest else latex_text(part) for part in re.split(r"(\s+)", text))


def listed(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    items = "\n".join(f"\\item {breakable(line)}" for line in lines)
    return f"{{\\footnotesize\n\\begin{{itemize}}\n{items}\n\\end{{itemize}}\n}}\n"


def table_latex(table: Table) -> str:
    """Return heading, table and notes.

    A table of many rows spans several pages. In one that is too wide for a page columns wrap; if they would be too
    narrow then, it is cut into several, each with the first column. Both have columns of fixed widths, since others are
    right only when LaTeX has run two or three times.
    """
    lines = [table.header, *([cell.text for cell in row] for row in table.rows + table.foot)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if sum(widths) + GAP * len(widths) <= PAGE and len(table.rows) <= PAGE_ROWS:
        grids = [f"\\fit{{{_grid(table, ''.join(side[0] for side in table.alignment))}}}"]
    else:
        grids = [wide(part) for part in parts(table)]
    return f"\\subsection*{{{breakable(table.title)}}}\n" + "\n\n".join(grids) + f"\n\n{listed(table.notes)}"


def _grid(table: Table, columns: str, long: bool = False) -> str:
    """Return the table alone. In a `long` one long words may be cut, and cells are of at most LONGEST letters."""

    def cell(text: str) -> str:
        return breakable(text if len(text) <= LONGEST else f"{text[:LONGEST]}…", WORD) if long else latex_text(text)

    styler = table.frame(cell, "\\textbf{{{}}}".format).style.hide(axis="index")
    grid = styler.to_latex(hrules=True, column_format=columns, environment="longtable" if long else None).strip()
    if table.foot:  # a rule above the bounds
        lines = grid.split("\n")
        lines.insert(len(lines) - (1 if long else 2) - len(table.foot), "\\midrule")
        grid = "\n".join(lines)
    return grid


# tables that are wider or longer than a page --------------------------------------------------------------------------


class Column(NamedTuple):
    """The letters that a column of a wide table needs and would like, and True if it has words, which wrap."""

    least: int
    wanted: int
    words: bool


def columns_of(table: Table) -> list[Column]:
    found = []
    for i, head in enumerate(table.header):
        cells = [row[i] for row in table.rows + table.foot]
        words = i == 0 or not any(cell.sort is not None for cell in cells)
        letters = [len(cell.text) + cell.bold * len(cell.text) // 6 for cell in cells]  # bold ones are wider
        of_head = min(len(head), NARROW) if table.words else min(max(map(len, head.split()), default=1), WORD)
        wanted = 1 + max(of_head, *letters)
        found.append(Column(min(wanted, NARROW) if words else wanted, wanted, words))
    return found


def parts(table: Table) -> list[Table]:
    """Return the table, or several with some of its columns each if they do not fit beside each other."""
    first, *others = columns_of(table)
    rooms = [room - first.least - GAP for size, room in SIZES.items() if size != "tiny" or not table.words]
    if _room(others) <= max(rooms):
        return [table]
    fitting = (n for n in range(2, len(others)) if all(_room(group) <= rooms[0] for group in _split(others, n)))
    number = next(fitting, len(others))
    return [_with(table, [0, *group]) for group in _split(range(1, len(others) + 1), number)]


def _room(columns: Sequence[Column]) -> int:
    return sum(each.least + GAP for each in columns)


def _split(found: Sequence, number: int) -> list[Sequence]:
    """Return `number` parts that are as long as each other, as far as that goes."""
    size = -(-len(found) // number)
    return [found[i : i + size] for i in range(0, len(found), size)]


def _with(table: Table, kept: Sequence[int]) -> Table:
    rows, foot = ([[row[i] for i in kept] for row in lines] for lines in (table.rows, table.foot))
    return table._replace(header=[table.header[i] for i in kept], rows=rows, foot=foot)


def wide(table: Table) -> str:
    """Return a table of at most the width of a page: numbers have the room that they need, words share what is left."""
    columns = columns_of(table)
    size = next((size for size, room in SIZES.items() if _room(columns) <= room), "tiny")
    room = SIZES[size] - GAP * len(columns)
    given = shared(columns, room)
    letter = (1 - GAPS * len(columns)) / max(room, sum(given))
    spec = "".join(f"{'L' if c.words else 'R'}{{{n * letter:.4f}}}" for c, n in zip(columns, given, strict=True))
    return f"{{\\{size}\n{_grid(table, spec, long=True)}\n}}"


def shared(columns: Sequence[Column], room: int) -> list[float]:
    """Return the letters of each column: what it wants if there is room, else columns of words get equally much."""
    given = {i: float(each.least) for i, each in enumerate(columns)}
    open_ = [i for i, each in enumerate(columns) if each.wanted > each.least]
    while open_ and (left := room - sum(given.values())) > 1:
        for i in open_:
            given[i] = min(columns[i].wanted, given[i] + left / len(open_))
        open_ = [i for i in open_ if given[i] < columns[i].wanted]
    return list(given.values())
