"""Make the book: python .ci/book.py [folder of the result]

Writes the table of contents and the stubs of the reference into nbs/_book (ignored by git), brings MathJax there by npm if it is
not yet, and runs sphinx-build, for which a warning is an error. Notebooks are shown with their stored outputs, nothing is executed.
"""
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from navigate import FOLDERS, reading_order

root = Path(__file__).resolve().parents[1]
nbs, book = root/'nbs', root/'nbs'/'_book'
MATHJAX = '4.1.3'
PARTS = {   # folder of nbs -> heading; '.' is nbs itself
    'tutorials': 'Tutorials', 'paper': 'The paper', 'labels_and_metrics': 'Labels and metrics', 'clip': 'CLIP',
    'data': 'Data', 'doodles': 'Doodles', 'features': 'Features', 'train': 'Training', 'methods': 'Methods',
    'runs': 'Runs', 'viz': 'Drawing', 'report': 'Tables and figures', 'photos': 'Your own photos',
    'studies': 'Studies', '.': 'The tables of the paper'}


def chapters():
    "folder -> documents, both in the order in which the notebooks lead from one to the next."
    out = {f: [] for f in FOLDERS}
    for p in reading_order(root):
        if p != nbs/'index.ipynb': out[p.parent.relative_to(nbs).as_posix()].append('/' + p.relative_to(nbs).with_suffix('').as_posix())
    return out


def toctree(caption, documents): return '\n'.join(['```{toctree}', f':caption: {caption}', ':maxdepth: 1', '', *documents, '```', ''])


def modules():
    "Names of all modules, packages among them."
    for p in sorted((root/'trmml').rglob('*.py')):
        name = '.'.join(p.relative_to(root).with_suffix('').parts).removesuffix('.__init__')
        if p.name != '_modidx.py' and name != 'trmml': yield name


def stub(module):
    "A page of the reference; that of a package leads to its modules."
    inner = [m for m in modules() if m.startswith(f'{module}.')]
    options = '\n   :inherited-members: object' if module == 'trmml.photos.estimator' else ''   # made of layers
    page = f'# {module}\n\n```{{eval-rst}}\n.. automodule:: {module}{options}\n```\n'
    return page + ('\n' + toctree('Modules', inner) if inner else '')


def contents():
    "The root of the book."
    parts = [toctree(PARTS[folder], documents) for folder, documents in chapters().items() if documents]
    reference = toctree('Reference', [m for m in modules() if m.count('.') == 1])
    return '\n'.join(['# Contents', '', toctree('Start', ['/index']), *parts, reference])


def mathjax():
    "One file, packaged with the book, so that formulas need no network."
    there = book/'static'/'mathjax'/'tex-svg.js'
    if there.exists(): return
    there.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(['npm', 'pack', '--silent', f'mathjax@{MATHJAX}'], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        with tarfile.open(next(Path(folder).glob('*.tgz'))) as t: there.write_bytes(t.extractfile('package/tex-svg.js').read())


def main(out=root/'_docs'):
    mathjax()
    for old in book.glob('*.md'): old.unlink()
    (book/'contents.md').write_text(contents(), encoding='utf-8')
    for m in modules(): (book/f'{m}.md').write_text(stub(m), encoding='utf-8')
    sys.exit(subprocess.run([sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q',
                             '-d', str(book/'doctrees'), str(nbs), str(out)]).returncode)


if __name__ == '__main__': main(*sys.argv[1:])
