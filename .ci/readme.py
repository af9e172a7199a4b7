"""Make README.md from nbs/index.ipynb: its markdown cells and the text outputs of its code cells, links pointing into nbs/."""
import re
from pathlib import Path

import nbformat

root = Path(__file__).resolve().parents[1]


def outputs(cell):
    "Markdown or plain text that a code cell printed."
    for out in cell.get('outputs', []):
        data = out.get('data', {})
        text = data.get('text/markdown') or out.get('text') or ''
        if text: yield ''.join(text).strip()


def body(nb):
    "Texts of all cells, in order; code itself is left out."
    for cell in nb.cells:
        if cell.cell_type == 'markdown': yield cell.source.strip()
        elif '#| hide' not in cell.source: yield from outputs(cell)


nb = nbformat.read(root/'nbs'/'index.ipynb', 4)
text = '\n\n'.join(body(nb))
text = re.sub(r'\]\((?!https?:|#|\.\./)([^)]+\.ipynb)\)', r'](nbs/\1)', text).replace('](../', '](')
(root/'README.md').write_text(text + '\n', encoding='utf-8')
