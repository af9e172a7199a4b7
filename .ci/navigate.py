"""Write "previous | index | next" at the end of the first cell of every notebook, in reading order: python .ci/navigate.py

The order is that of the folders below, and of the numbers in the names of files.
"""
import json
import os
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ['tutorials', 'labels_and_metrics', 'clip', 'formats', 'data', 'doodles', 'features', 'train', 'paper', 'methods',
           'runs', 'viz', 'report', 'photos', '.', 'studies']
LINE = re.compile(r'\n\n\*?(?:\[previous|\[index)[^\n]*\| ?(?:\[next[^\n]*|\[index\]\([^)]*\))\*?$')


def by_number(path): return [int(p) if p.isdigit() else p for p in re.split(r'(\d+)', path.name)]


def reading_order(root=ROOT):
    "Paths of all notebooks, the index first."
    nbs = root/'nbs'
    found = [p for f in FOLDERS for p in sorted((nbs/f).glob('[!_.]*.ipynb'), key=by_number)]
    everything = {p for p in nbs.rglob('*.ipynb') if not any(part.startswith(('_', '.')) for part in p.relative_to(nbs).parts)}
    if stray := everything - {*found}: raise ValueError(f'{sorted(stray)[0]}: its folder is not in FOLDERS of .ci/navigate.py')
    index = nbs/'index.ipynb'
    return [index] + [p for p in found if p != index]


def title(path):
    "The words of a notebook's first heading, without code marks."
    first = ''.join(json.loads(path.read_text(encoding='utf-8'))['cells'][0]['source'])
    return re.match(r'# (.*)', first)[1].replace('`', '').strip()


def line(path, before, after, root=ROOT):
    "The line for one notebook."
    to = lambda other: os.path.relpath(other, path.parent).replace(os.sep, '/')
    parts = ([f'[previous: {title(before)}]({to(before)})'] if before else []) + [f'[index]({to(root/"nbs"/"index.ipynb")})']
    return ' | '.join(parts + ([f'[next: {title(after)}]({to(after)})'] if after else []))


def main(root=ROOT):
    order = reading_order(root)
    for i, path in enumerate(order[1:], 1):
        nb = json.loads(path.read_text(encoding='utf-8'))
        cell = nb['cells'][0]
        text = LINE.sub('', ''.join(cell['source']).rstrip())
        new = text + '\n\n' + line(path, order[i - 1] if i > 1 else None, order[i + 1] if i + 1 < len(order) else None, root)
        if new != ''.join(cell['source']):
            cell['source'] = new.splitlines(True)
            path.write_text(json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + '\n', encoding='utf-8')


if __name__ == '__main__': main()
