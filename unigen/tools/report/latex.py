"""Writes the report as one LaTeX document that compiles beside its figures: the answers, and the tables in booktabs."""

from unigen.evaluation.answers import sentences
from unigen.tools.forms.figures import FOLDER
from unigen.tools.forms.latex import HEAD, breakable, listed, table_latex
from unigen.tools.report.figures import Drawn
from unigen.tools.report.report import Report


def to_latex(report: Report, drawn: Drawn = Drawn()) -> str:
    """Return the whole document; its figures are files in FOLDER beside it."""
    parts = [HEAD, f"\\section*{{Ablation report: {breakable(report.title)}}}", breakable(report.summary), ""]
    for answer, figure in zip(report.answers, drawn.forests or [None] * len(report.answers), strict=True):
        parts += [f"\\subsection*{{{breakable(answer.title)}}}", listed(sentences(answer))]
        parts += [included(figure.name)] if figure else []
    parts += map(table_latex, report.tables)
    parts += ["\\subsection*{Curves}"] * bool(drawn.curves) + [included(each.name, 0.49) for each in drawn.curves]
    return "\n".join(parts) + "\n\\end{document}\n"


def included(name: str, width: float = 0.9) -> str:
    size = f"width={width}\\linewidth,height=0.9\\textheight,keepaspectratio"
    return f"\\includegraphics[{size}]{{{FOLDER}/{name}.pdf}}\n"
