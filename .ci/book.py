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
    'formats': 'Label formats', 'data': 'Data', 'doodles': 'Doodles', 'features': 'Features', 'train': 'Training', 'methods': 'Methods',
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


def unpacked(package, *wanted):
    "(name, bytes) of the files of an npm package whose names match one of `wanted`."
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(['npm', 'pack', '--silent', f'{package}@{MATHJAX}'], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        with tarfile.open(next(Path(folder).glob('*.tgz'))) as t:
            for member in t:
                name = member.name.removeprefix('package/')
                if any(Path(name).match(w) for w in wanted) and len(Path(name).parts) <= 3: yield name, t.extractfile(member).read()


def mathjax():
    "MathJax, packaged with the book with the parts of its font that it loads when a formula needs them (an ell, say): no network."
    there = book/'static'/'mathjax'
    font = there/'mathjax-newcm-font'   # where mathjax4_config of nbs/conf.py looks
    if not (there/'tex-svg.js').exists():
        there.mkdir(parents=True, exist_ok=True)
        for name, data in unpacked('mathjax', 'tex-svg.js'): (there/name).write_bytes(data)
    if not font.exists():
        (font/'svg'/'dynamic').mkdir(parents=True)
        for name, data in unpacked('@mathjax/mathjax-newcm-font', 'svg/dynamic/*.js'): (font/name).write_bytes(data)


def main(out=root/'_docs'):
    mathjax()
    for old in book.glob('*.md'): old.unlink()
    (book/'contents.md').write_text(contents(), encoding='utf-8')
    for m in modules(): (book/f'{m}.md').write_text(stub(m), encoding='utf-8')
    sys.exit(subprocess.run([sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q',
                             '-d', str(book/'doctrees'), str(nbs), str(out)]).returncode)


if __name__ == '__main__': main(*sys.argv[1:])
