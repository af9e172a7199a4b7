"""Make README.md from nbs/index.ipynb and results/README.md from nbs/report/11_results.ipynb: python .ci/readme.py

A page is a notebook's markdown cells and the text outputs of its code cells; links are rewritten for the page's place.
"""
import os
import re
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
PAGES = {'README.md': 'nbs/index.ipynb', 'results/README.md': 'nbs/report/11_results.ipynb'}
LINE = re.compile(r'\n\n(?:\[previous: [^\n]*)?\[index\]\([^)]*\)(?: \| \[next[^\n]*)?$')   # previous | index | next


def outputs(cell):
    "Markdown or plain text that a code cell printed."
    for out in cell.get('outputs', []):
        data = out.get('data', {})
        text = data.get('text/markdown') or (out.get('text') if out.output_type == 'stream' else '') or ''
        if text: yield ''.join(text).strip()


def body(nb):
    "Texts of all cells, in order; code itself is left out, and the line that leads to other notebooks."
    for cell in nb.cells:
        if cell.cell_type == 'markdown': yield LINE.sub('', cell.source.strip())
        elif '#| hide' not in cell.source: yield from outputs(cell)


def page(root, path, notebook):
    "The text of one page."
    nb = nbformat.read(root/notebook, 4)
    there, here = Path(notebook).parent, Path(path).parent
    def moved(m):
        if re.match(r'[a-z]+:|#', m[1]): return m[0]
        return '](' + os.path.relpath(there/m[1], here).replace(os.sep, '/') + m[2]
    return re.sub(r'\]\(([^)\s#]+)((?:#[^)\s]*)?\))', moved, '\n\n'.join(body(nb))) + '\n'


def pages(root=ROOT): return {root/path: page(root, path, notebook) for path, notebook in PAGES.items()}


if __name__ == '__main__':
    for path, text in pages().items(): path.write_text(text, encoding='utf-8')
