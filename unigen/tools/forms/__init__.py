"""What tools print: tables as Markdown, LaTeX and on the terminal, figures as files and SVG, images as data."""
