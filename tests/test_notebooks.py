"""The notebooks themselves: short cells, clean outputs, all equations, generated modules in sync; and they run."""
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

import nbformat
import papermill
import pytest

ROOT = Path(__file__).resolve().parents[1]
NBS = sorted((ROOT/'nbs').glob('**/[!_.]*.ipynb'))
def tagged(path): return any('parameters' in c['metadata'].get('tags', []) for c in json.loads(path.read_text(encoding='utf-8'))['cells'])
def exports(path): return '#| default_exp' in path.read_text(encoding='utf-8')
COMPANIONS = [p for p in NBS if tagged(p)]
LIBRARY = [p for p in NBS if exports(p) or p.parent.name == 'tutorials' and not tagged(p)]
PLAIN = [p for p in LIBRARY if '<details>' not in p.read_text(encoding='utf-8')]   # the others run in test_chapters.py, with their answers
LONGEST, LARGEST = 25, 400_000                   # lines of a cell, bytes of a notebook
UNCLEAN = re.compile(r'/home/|/Users/|/root/|/tmp/|/work/|/mnt/|/content/|site-packages|[A-Z]:\\\\|\b0x[0-9a-f]{6,}')
EXPORT = re.compile(r'^#\|\s*export', re.M)
MP = multiprocessing.get_context('forkserver')   # forks of a process that has imported everything and nothing else
MP.set_forkserver_preload(['trmml.runs', 'trmml.model', 'nbdev.test', 'matplotlib.pyplot'])

each = pytest.mark.parametrize('path', NBS, ids=lambda p: p.relative_to(ROOT/'nbs').with_suffix('').as_posix())


def cells(path, kind='code'): return [c for c in nbformat.read(path, 4).cells if c.cell_type == kind]
def lines(cell): return [l for l in cell.source.splitlines() if l.strip() and not l.startswith('#|')]
def outputs(path): return [(c, o) for c in cells(path) for o in c.outputs]


def shown(output):
    "The words of an output: what is not an encoded picture."
    data = {k: v for k, v in output.get('data', {}).items() if not k.startswith(('image/png', 'image/jpeg', 'application/pdf'))}
    return json.dumps([output.get('text', ''), data], ensure_ascii=False)


# ---- what can be seen without running anything

def test_there_are_notebooks():
    assert len(LIBRARY) >= 20 and set(LIBRARY) & set(COMPANIONS) == set()
    assert {'00_clip', '1_labels', '0_runs'} <= {p.stem for p in LIBRARY}


def test_there_are_companions():
    stems = {p.stem for p in COMPANIONS}
    assert {'table1', 'figure4', 'choices', 'readings', 'doodle_clip', 'benchmark', 'views'} <= stems


@each
def test_no_cell_is_long(path):
    long = {c.id: len(lines(c)) for c in cells(path) if len(lines(c)) > LONGEST}
    assert not long, f'{path.name}: cells of more than {LONGEST} lines: ' + ', '.join(
        f'{n} lines beginning {next(lines(c)[0] for c in cells(path) if c.id == i)!r}' for i, n in long.items())


@each
def test_file_is_small(path):
    assert path.stat().st_size < LARGEST, f'{path.name} has {path.stat().st_size:,} bytes'


@each
def test_outputs_are_clean(path):
    bad = [f'{o.output_type}: {shown(o)[:200]}' for _, o in outputs(path)
           if o.output_type == 'error' or o.get('name') == 'stderr' or UNCLEAN.search(shown(o))]
    assert not bad, f'{path.name}: ' + '; '.join(bad)


@each
def test_no_widgets(path):
    assert 'widgets' not in nbformat.read(path, 4).metadata
    assert not [o for _, o in outputs(path) if 'application/vnd.jupyter.widget-view+json' in o.get('data', {})]


@each
def test_parameters_cell_in_companions_alone(path):
    tagged = [c for c in cells(path) if 'parameters' in c.metadata.get('tags', [])]
    assert len(tagged) == (path in COMPANIONS)


@each
def test_title_and_subtitle(path):
    first = nbformat.read(path, 4).cells[0]
    assert first.cell_type == 'markdown' and re.match(r'# \S.*\n\n?> \S', first.source), f'{path.name} begins {first.source[:80]!r}'


@each
def test_exporting_notebooks_say_where_and_export_at_the_end(path):
    code = cells(path)
    if not any(EXPORT.search(c.source) for c in code): return
    assert sum(c.source.startswith('#| default_exp ') for c in code) == 1
    last = code[-1].source
    assert re.match(r'#\|\s*hide\b', last) and 'nbdev_export()' in last, f'{path.name} ends {last!r}'


def numbers(text):
    "Equations that a text names as '(Eq. 4)', '(Eq. 2-4)' or '(section 3.2, Eq. 1-4)'."
    spans = re.findall(r'Eq\.\s*(\d+)(?:\s*[-–]\s*(\d+))?', text)
    return {n for a, b in spans for n in range(int(a), int(b or a) + 1)}


def test_numbers_of_equations():
    assert numbers('(Eq. 2-4), (Eq. 9) (section 3, Eq. 11)') == {2, 3, 4, 9, 11} and numbers('(Eqn 3), eq. 4') == set()


@pytest.mark.parametrize('n', range(1, 16))
def test_equation_stands_above_its_code(n):
    found = []
    for path in NBS:
        told = [c.source for c in cells(path, 'markdown') if f'(Eq. {n})' in c.source and '$' in c.source]
        coded = [c.source for c in cells(path) if EXPORT.search(c.source) and n in numbers(c.source)]
        if told and coded: found.append(path.name)
    assert found, f'no notebook has (Eq. {n}) in its text beside a formula, and exported code that names it'


# ---- generated modules

@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    "The package as nbdev makes it from the notebooks, somewhere else."
    root = tmp_path_factory.mktemp('export')
    for name in ('settings.ini', 'pyproject.toml', 'setup.py'):
        if (ROOT/name).exists(): shutil.copy(ROOT/name, root)
    for path in NBS:
        to = root/path.relative_to(ROOT)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)
    (root/'trmml').mkdir()
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'}
    done = subprocess.run([sys.executable, '-c', 'from nbdev.doclinks import nbdev_export; nbdev_export()'],
                          cwd=root, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and 'YAML' not in done.stderr, done.stderr   # a list in the first cell passes for front matter
    return root/'trmml'


def modules(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob('*.py')}


def test_modules_are_in_sync(exported):
    there, made = modules(ROOT/'trmml'), modules(exported)
    assert len(made) >= 20
    assert sorted(there) == sorted(made), f'only in the package: {set(there) - set(made)}, only exported: {set(made) - set(there)}'
    differ = [k for k in made if made[k] != there[k]]
    assert not differ, f'{", ".join(differ)}: run nbdev_export'


def test_version():
    settings = dict(re.findall(r'^(\w+) *= *(.*)$', (ROOT/'settings.ini').read_text(), re.M))
    import trmml
    assert trmml.__version__ == settings['version']


# ---- they run

def is_slow(path):
    "Whether the notebook as a whole is flagged: its cell that says where to export carries the flag."
    return any(re.search(r'^#\|\s*slow\b', c.source, re.M) and 'default_exp' in c.source for c in cells(path))


def run_notebook(path, answer):
    "Run a notebook's cells, without those that are flagged slow; in a process of its own."
    os.environ.update(IN_TEST='1', MPLBACKEND='agg', TQDM_DISABLE='1')
    os.chdir(ROOT)
    import numpy, torch
    from nbdev.test import test_nb
    torch.manual_seed(0); numpy.random.seed(0)   # what a notebook draws without a seed of its own is the same every time
    with open(answer, 'w') as f:
        os.dup2(f.fileno(), 2)
        try: done = test_nb(Path(path), skip_flags=['slow'], basepath=ROOT)[0]
        except BaseException: traceback.print_exc(); done = False
    os._exit(0 if done else 1)


@pytest.mark.parametrize('path', PLAIN, ids=lambda p: p.relative_to(ROOT/'nbs').with_suffix('').as_posix())
def test_library_notebook_runs(path, tmp_path):
    if is_slow(path): pytest.skip('flagged slow')
    p = MP.Process(target=run_notebook, args=(path, tmp_path/'stderr'))
    p.start(); p.join(300)
    if p.is_alive():
        p.kill(); p.join()
        pytest.fail(f'{path.name} took more than five minutes')
    assert p.exitcode == 0, f'{path.name}: ' + (tmp_path/'stderr').read_text()[-3000:]


def kept():
    "State of everything that real runs leave and git keeps."
    files = [p for part in ('paper', 'tables', 'figures') for p in (ROOT/'results'/part).rglob('*') if p.is_file()]
    git = subprocess.run(['git', 'status', '--porcelain', '--', 'results', 'data', 'nbs'], cwd=ROOT, capture_output=True, text=True).stdout
    return {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in files} | {'git status': git}


@pytest.mark.parametrize('path', COMPANIONS, ids=lambda p: p.relative_to(ROOT/'nbs').with_suffix('').as_posix())
def test_companion_notebook_runs_small(path, tmp_path, monkeypatch):
    for name, value in dict(MPLBACKEND='agg', TQDM_DISABLE='1').items(): monkeypatch.setenv(name, value)
    there = papermill.inspect_notebook(path)
    assert 'smoke' in there, f'{path.name} has no parameter smoke'
    # workers of their own would each import torch first; Table 1 has them as users do
    alone = dict(n_jobs=1) if 'n_jobs' in there and path.stem != 'table1' else {}
    before = kept()
    papermill.execute_notebook(path, tmp_path/path.name, parameters=dict(smoke=True, **alone), cwd=ROOT, progress_bar=False,
                               kernel_name='python3', execution_timeout=300)
    done = nbformat.read(tmp_path/path.name, 4)
    assert not [o for c in done.cells if c.cell_type == 'code' for o in c.outputs if o.output_type == 'error' or o.get('name') == 'stderr'], 'red output'
    assert kept() == before, 'a smoke run wrote over real results'
