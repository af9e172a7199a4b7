"""What a newcomer meets: README, the links between notebooks, the way from the index to each of them."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT/'.ci'))
import navigate   # noqa: E402
import readme     # noqa: E402

NBS = navigate.reading_order()
README = (ROOT/'README.md').read_text(encoding='utf-8')
SECTIONS = ['Two commands', 'Three ways in', 'The map', 'Results on doodles', 'Add a method', 'Develop', 'Citation']


def markdown(path): return [''.join(c['source']) for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'markdown']
def code(path): return [c for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']


def text(path):
    "What a reader sees of a notebook or a page, outputs that are Markdown included; code blocks left out."
    if path.suffix == '.md': shown = [path.read_text(encoding='utf-8')]
    else: shown = markdown(path) + [''.join(o['data']['text/markdown']) for c in code(path) for o in c['outputs'] if 'text/markdown' in o.get('data', {})]
    return re.sub(r'```.*?```', '', '\n'.join(shown), flags=re.S)


def links(path):
    "Relative targets of a page's links, as paths."
    found = re.findall(r'\]\(([^)\s#]+)[^)]*\)', text(path))
    return [(t, Path(os.path.normpath(path.parent/t))) for t in found if not re.match(r'[a-z]+:', t)]


# ---- README

def test_readme_is_short():
    assert len(README.splitlines()) <= 130 and len(README.encode()) <= 9_000, (len(README.splitlines()), len(README.encode()))


def test_readme_is_made_from_the_index():
    for path, content in readme.pages(ROOT).items(): assert path.read_text(encoding='utf-8') == content, f'{path.name}: python .ci/readme.py'


def test_readme_has_its_sections_in_order():
    at = [README.index(f'## {s}\n') for s in SECTIONS]
    assert at == sorted(at) and README.count('\n## ') == len(SECTIONS)


def test_the_two_commands_come_first():
    lines = README.splitlines()
    first = next(i for i, l in enumerate(lines) if l.startswith('```'))
    assert first < 20
    assert lines[first + 1].startswith('pip install -e ".[notebooks]" && papermill nbs/table1.ipynb results/table1.ipynb')
    assert lines[first + 2].startswith('pip install -e ".[dev]" && pytest')


@pytest.mark.parametrize('words', ['jupyter lab nbs/index.ipynb', 'papermill nbs/table1.ipynb', 'from trmml import TRMML', 'trmml/runs/recipes.toml',
                                   '@inproceedings', 'CONTRIBUTING', 'LICENSE', '**Status and limits**'])
def test_readme_names(words): assert words in README


def test_readme_names_every_tutorial():
    for p in (ROOT/'nbs'/'tutorials').glob('[!_.]*.ipynb'): assert f'nbs/tutorials/{p.name}' in README


def test_readme_picture_is_small():
    path = ROOT/re.search(r'!\[[^\]]+\]\(([^)]+)\)', README)[1]
    assert path.stat().st_size <= 100_000 and Image.open(path).height <= 260


def test_every_section_of_the_paper_is_in_the_map():
    map_ = README[README.index('## The map'):README.index('## Results')]
    for n in range(1, 16): assert any(int(a) <= n <= int(b or a) for a, b in re.findall(r'Eq\. (\d+)(?:-(\d+))?', map_)), f'Eq. {n}'
    for n in range(1, 7): assert f'nbs/table{n}.ipynb' in map_
    for path in NBS:
        if '_fast_' in path.name: continue   # the chapter links it
        if path.parent.name == 'paper' and re.search(r'Eq\. \d', markdown(path)[0]): assert path.relative_to(ROOT).as_posix() in map_, path.name


def test_add_a_method_runs(tmp_path):
    "The lines of README, as they are."
    part = README[README.index('## Add a method'):]
    lines = re.search(r'```python\n(.*?)```', part, re.S)[1]
    assert len(lines.splitlines()) <= 14
    (tmp_path/'method.py').write_text(lines)
    done = subprocess.run([sys.executable, 'method.py'], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert done.returncode == 0, done.stderr


# ---- links

@pytest.mark.parametrize('path', [*NBS, ROOT/'README.md', ROOT/'results'/'README.md', ROOT/'CONTRIBUTING.md'], ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path):
    dead = [t for t, p in links(path) if not p.exists()]
    assert not dead, f'{path.relative_to(ROOT)}: {", ".join(dead)}'


def links_without_line(path):
    "Links of a notebook but those of the line in its first cell: \"next\" alone is no way to find a notebook."
    cells = markdown(path)
    line = cells[0].rstrip().splitlines()[-1]
    if '[index](' not in line: return links(path)
    skip = re.findall(r'\]\(([^)\s#]+)', line)
    found = links(path)
    for t in skip: found.remove(next(l for l in found if l[0] == t))
    return found


def test_every_notebook_is_two_clicks_from_the_index():
    linked = {p: {t for _, t in links_without_line(p)} for p in NBS}
    def step(pages): return {t for p in pages for t in linked[p] if t in linked}
    one = step({ROOT/'nbs'/'index.ipynb'})
    lost = {*NBS} - one - step(one) - {ROOT/'nbs'/'index.ipynb'}
    assert not lost, 'more than two clicks from the index: ' + ', '.join(sorted(p.relative_to(ROOT).as_posix() for p in lost))


def test_every_notebook_links_to_the_one_before_the_index_and_the_next():
    for i, path in enumerate(NBS[1:], 1):
        line = navigate.line(path, NBS[i - 1] if i > 1 else None, NBS[i + 1] if i + 1 < len(NBS) else None)
        assert markdown(path)[0].endswith(line), f'{path.relative_to(ROOT)}: python .ci/navigate.py'


def test_only_known_folders_hold_notebooks():
    assert {p.parent.relative_to(ROOT/'nbs').as_posix() for p in NBS} == {*navigate.FOLDERS}


# ---- the list of readings

def test_readings_in_the_sections_are_in_the_list():
    listed = {n for a, b in re.findall(r'Eq\. (\d+)(?:-(\d+))?', '\n'.join(markdown(ROOT/'nbs'/'paper'/'7_readings.ipynb'))) for n in range(int(a), int(b or a) + 1)}
    told = {int(n) for p in NBS if p.parent.name == 'paper' for t in markdown(p) for n in re.findall(r'Our reading \(Eq\. (\d+)', t)}
    assert told and told <= listed, told - listed
