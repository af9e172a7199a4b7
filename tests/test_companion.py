"""Parameters that arrive as text, folders wherever one stands, pictures chosen by rule, and the tag that papermill needs."""
import json
import os
import re
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
import torch

from trmml.files import project_root
from trmml.report.figure4 import in_words, pick_pictures, region_numbers
from trmml.report.parameters import as_bool, as_device, as_list, as_number, dataset_label, declared, locate, read, results_folder
from trmml.viz import top_guesses

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize('value, want', [
    ([1, 2], [1, 2]), ((1,), [1]), ('[1, 2]', [1, 2]), ('[.1, 0.5]', [.1, .5]), ('["a", "b"]', ['a', 'b']), ('[a, b]', ['a', 'b']),
    ("['a']", ['a']), ('- a\n- b', ['a', 'b'])])
def test_as_list(value, want): assert as_list(value) == want


@pytest.mark.parametrize('value', ['', '[]', [], 'trmml', '.1', .1, None, True, '{a: 1}', {'a': 1}, '[1, 2', '"[1]"'])
def test_as_list_names_the_parameter(value):
    with pytest.raises(ValueError, match='ratios=.*expected a list'): as_list(value, 'ratios')


def test_as_list_checks_entries_and_copies():
    given = [1, 2]
    as_list(given).append(3)
    assert given == [1, 2]
    for bad in ('[1, .5]', '[1, a]', '[true]', [None], [[1]]):
        with pytest.raises(ValueError, match='seeds=.*not expected'): as_list(bad, 'seeds', int)
    assert as_list('[1, .5]', 'ratios', (int, float)) == [1, .5]


@pytest.mark.parametrize('value, want', [(True, True), (False, False), ('true', True), ('False', False), (' FALSE ', False)])
def test_as_bool(value, want): assert as_bool(value) is want


@pytest.mark.parametrize('value', [None, 0, 1, '', 'yes', 'nope', [], 1.])
def test_as_bool_refuses_what_python_would_take(value):
    with pytest.raises(ValueError, match='smoke=.*true or false'): as_bool(value, 'smoke')


@pytest.mark.parametrize('value', ['1.5', 1.5, 'one', None, True, 0, 11, float('nan'), float('inf'), [1], '1e3'])
def test_as_number_refuses(value):
    with pytest.raises(ValueError, match='epochs=.*a whole number from 1 to 10'): as_number(value, 'epochs', low=1, high=10)


def test_as_number():
    assert as_number('3') == 3 and as_number(3.) == 3 and isinstance(as_number(3.), int)
    assert as_number('.5', kind=float) == .5 and isinstance(as_number(1, kind=float), float)
    assert as_number(None, optional=True) is None and as_number('None', optional=True) is None
    with pytest.raises(ValueError, match='or None'): as_number('', 'epochs', optional=True)
    with pytest.raises(ValueError): as_number(float('nan'), kind=float)


@pytest.mark.parametrize('value', ['gpu', 'CPU', '', None, 0, True, 'cuda:', 'cuda:-1', 'cuda:1.5', 'cuda: 0', 'cuda\ncpu', ['cpu']])
def test_as_device_refuses(value):
    with pytest.raises(ValueError, match="device=.*: expected 'cpu', 'cuda' or 'cuda:N'"): as_device(value)


@pytest.mark.parametrize('there, value, words', [(0, 'cuda', "'cuda': torch sees no CUDA devices here; use 'cpu'$"), (0, 'cuda:0', 'sees no CUDA'),
    (1, 'cuda:1', "torch sees 1 CUDA device here; use 'cpu' or up to 'cuda:0'"), (2, 'cuda:2', "2 CUDA devices here; use 'cpu' or up to 'cuda:1'"), (2, 'cuda:10', '2 CUDA')])
def test_as_device_that_is_not_there(monkeypatch, there, value, words):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: there > 0); monkeypatch.setattr(torch.cuda, 'device_count', lambda: there)
    with pytest.raises(ValueError, match=words): as_device(value)


def test_as_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True); monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    for value in 'cpu', 'cuda', 'cuda:0', 'cuda:1': assert as_device(value) == as_device(f' {value} ') == value


def first_cells(path):
    "Imports, parameters and the cell that checks them, of a companion notebook."
    code = [c for c in nbformat.read(path, 4).cells if c.cell_type == 'code']
    at = next((k for k, c in enumerate(code) if 'parameters' in c.metadata.get('tags', [])), None)
    return None if at is None else ['\n'.join(c.source for c in code[:at]), code[at].source, code[at + 1].source]


WRONG = dict(device=('gpu', 'cuda:99'), n_jobs=(0, 1.5, 'all'), image_size=(0, 'big', 448.5))
CHECKED = [(path, k) for path in sorted((ROOT/'nbs').glob('**/*.ipynb')) if (cells := first_cells(path)) for k in WRONG if re.search(rf'^{k}: \w+ =', cells[1], re.M)]


def test_all_tables_are_checked(): assert {f'table{n}' for n in range(1, 7)} | {'figure4'} <= {p.stem for p, k in CHECKED if k == 'device'} and len(CHECKED) >= 25


@pytest.mark.parametrize('path, name', CHECKED, ids=[f'{p.stem} {k}' for p, k in CHECKED])
def test_companions_check_size_jobs_and_device(path, name, monkeypatch):
    "The first thing that a companion does with a wrong value is to name it."
    imports, parameters, check = first_cells(path)
    monkeypatch.chdir(ROOT); monkeypatch.setenv('MPLBACKEND', 'agg')
    for value in WRONG[name]:
        space = {}; exec(imports + '\n' + parameters, space); space[name] = value
        with pytest.raises(ValueError, match=re.escape(f'{name}={value!r}: ')): exec(check, space)


COMPANIONS = [(path, first_cells(path)) for path in sorted((ROOT/'nbs').glob('**/*.ipynb')) if first_cells(path)]
each_companion = pytest.mark.parametrize('path, cells', [pytest.param(*c, id=c[0].stem) for c in COMPANIONS])
OURS = [c for c in COMPANIONS if c[0].parent.name != 'tutorials']


@each_companion
def test_parameters_have_a_type_and_a_comment_on_their_own_line(path, cells):
    known = papermill.inspect_notebook(str(path))
    assert list(known) == list(declared({'In': [cells[1]]})), 'a parameter without a type'
    assert [k for k, p in known.items() if not p['help']] == [] and not re.search(r'^ *#', cells[1], re.M)
    assert all(len(line) <= 100 for line in cells[1].splitlines())


@each_companion
def test_one_short_cell_reads_the_parameters(path, cells):
    lines = [line for line in cells[2].splitlines() if line.strip() and not line.startswith(('import ', 'from '))]
    assert re.match(r'(changed = )?parameters\.read\(globals\(\)', lines[0]) and len(lines) <= 10


@pytest.mark.parametrize('path, cells', OURS, ids=[p.stem for p, _ in OURS])
def test_a_name_that_is_no_parameter_is_refused(path, cells, monkeypatch):
    "papermill writes `-p smok True` into a cell of its own, and would start the full run."
    monkeypatch.chdir(ROOT); monkeypatch.setenv('MPLBACKEND', 'agg')
    space = {'In': ['', cells[0], cells[1], '# Parameters\nsmok = True\n']}
    exec(cells[0] + '\n' + cells[1] + '\nsmok = True', space)
    with pytest.raises(ValueError, match='smok: this notebook has no such parameter; it has .*smoke'): exec(cells[2], space)


def test_papermill_is_refused_a_wrong_name(tmp_path):
    notebook = nbformat.v4.new_notebook(metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python')))
    tagged = nbformat.v4.new_code_cell("smoke: bool = False   # seconds\nseeds: list[int] = [0]   # of masks", metadata=dict(tags=['parameters']))
    notebook.cells = [tagged, nbformat.v4.new_code_cell('from trmml.report import parameters\nparameters.read(globals())\nprint(seeds)')]
    nbformat.write(notebook, tmp_path/'a.ipynb')
    with pytest.raises(papermill.PapermillExecutionError, match='smok: this notebook has no such parameter; it has smoke, seeds'):
        papermill.execute_notebook(tmp_path/'a.ipynb', tmp_path/'b.ipynb', dict(smok=True), progress_bar=False, cwd=ROOT)
    done = papermill.execute_notebook(tmp_path/'a.ipynb', tmp_path/'b.ipynb', dict(seeds='[3, 4]'), progress_bar=False, cwd=ROOT)
    assert done.cells[-1].outputs[0].text == '[3, 4]\n'


@pytest.mark.parametrize('here', ['.', 'nbs', 'tests'])
def test_root_and_results_wherever_one_stands(here, monkeypatch):
    monkeypatch.chdir(ROOT/here)
    assert project_root() == ROOT
    assert results_folder() == ROOT/'results' and results_folder('results', True) == ROOT/'results'/'_smoke'
    assert locate('nbs') == str(ROOT/'nbs') and locate('settings.ini') == str(ROOT/'settings.ini')


def test_outside_of_any_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert project_root() == Path.cwd() and results_folder('mine') == Path.cwd()/'mine'
    assert results_folder(tmp_path/'there') == tmp_path/'there'
    assert results_folder(str(tmp_path/'there'), smoke=True) == tmp_path/'there'/'_smoke'
    assert results_folder('~/mine') == Path.home()/'mine'
    assert not list(tmp_path.iterdir())                          # nothing is made before something is written
    for empty in ('', '  '):
        with pytest.raises(ValueError, match='expected a folder'): results_folder(empty)


def test_the_working_directory_comes_before_the_root(tmp_path, monkeypatch):
    (tmp_path/'settings.ini').touch()
    for d in ('photos', 'sub/photos', 'sub/doodles'): (tmp_path/d).mkdir(parents=True)
    monkeypatch.chdir(tmp_path/'sub')
    assert locate('photos') == str(tmp_path/'sub'/'photos') and locate('../photos') == str(tmp_path/'photos')
    assert locate('doodles', ['doodles']) == 'doodles'           # a name stays a name
    assert locate('sub/photos') == str(tmp_path/'sub'/'photos')  # found from the root
    assert [locate(v) for v in (None, '', 'no/such')] == [None, '', 'no/such']


@pytest.mark.parametrize('value, want', [
    ('doodles', 'doodles'), ('voc', 'voc2007'), ('coco', 'coco2014'), ('../shared/data/coco128', 'coco128'), ('/a/b/coco128/', 'coco128'),
    (Path('/a/My Photos'), 'My-Photos'), ('/a/_smoke', 'smoke'), ('/a/b..', 'b'), ('/a/übung 1', 'übung-1')])
def test_dataset_label(value, want): assert dataset_label(value) == want


@pytest.mark.parametrize('value', ['', ' ', '/', '/a/...', '/a/?'])
def test_dataset_label_needs_a_name(value):
    with pytest.raises(ValueError, match='holds no name'): dataset_label(value)


def test_a_label_is_one_safe_part_of_a_path():
    for value in ('a/../..', '..', '.', '/x/$(rm)', '/x/a\nb', '/x/a;b'):
        label = dataset_label(value)
        assert label and not set(label) & set('/\\ \n;$()') and not label.startswith('.')


def labels(*positives, classes=6): return np.array([[1]*p + [-1]*(classes - p) for p in positives], np.int8)


def test_pictures_are_drawn_from_those_with_enough_positives():
    Y = labels(*[1]*50, *[3, 4, 5, 6, 3])
    for seed in range(5): assert sorted(pick_pictures(Y, 5, seed)) == [50, 51, 52, 53, 54]
    assert pick_pictures(Y, 5, 0).tolist() == pick_pictures(Y, 5, 0).tolist()
    assert len({tuple(pick_pictures(Y, 5, s)) for s in range(5)}) > 1
    assert pick_pictures(Y, 3, 1).tolist() == pick_pictures(Y, 5, 1)[:3].tolist()       # more pictures: the same ones first
    assert (Y == labels(*[1]*50, *[3, 4, 5, 6, 3])).all()


def test_more_positives_are_no_better_than_enough():
    Y = labels(*[3]*30, *[6]*30)
    assert {int(r) < 30 for r in pick_pictures(Y, 20)} == {True, False}


def test_pictures_fall_back_to_fewer_positives():
    Y = labels(0, 1, 2, 3, 1)
    rows = pick_pictures(Y, 5)
    assert rows[:2].tolist() == [3, 2] and set(rows[2:4]) == {1, 4} and rows[4] == 0
    assert pick_pictures(Y, 1, least=9)[0] == 3
    assert sorted(pick_pictures(np.zeros((4, 3), np.int8), 4)) == [0, 1, 2, 3]          # nothing known: any will do
    assert sorted(pick_pictures(torch.ones(4, 3), 2, least=2)) == sorted(pick_pictures(np.ones((4, 3)), 2, least=2))


@pytest.mark.parametrize('n', [0, -1, 6])
def test_as_many_pictures_as_there_are(n):
    with pytest.raises(ValueError, match=f'{n} images of 5'): pick_pictures(labels(1, 2, 3, 4, 5), n)


class Fixed:
    classes = ['a', 'b', 'c', 'd']
    def scores(self, x): return torch.tensor([.1, .9, .4, .4], requires_grad=True).expand(len(x), 4)
    def regions(self, x): return torch.arange(4.).reshape(1, 4, 1, 1).expand(len(x), 4, 2, 3)


def test_guesses_keep_class_map_and_truth_together():
    for g in top_guesses(Fixed(), torch.zeros(2, 3, 32, 32), np.array([[1, -1, 0, 1]]*2))[1]:
        c = 'abcd'.index(g.name)
        assert (g.map == c).all() and g.map.shape == (2, 3) and g.label == [1, -1, 0, 1][c]
        assert g.score == pytest.approx([.1, .9, .4, .4][c])


def test_numbers_without_boxes():
    guesses = top_guesses(Fixed(), torch.zeros(2, 3, 32, 32), np.array([[1, -1, 0, 1]]*2), k=3)
    t = region_numbers({'A': guesses})
    assert t.loc['A'].to_dict() == dict(shown=6, right=2)           # unknown is not right
    assert 'A 2 of 6' in in_words(t, 2) and 'No boxes' in in_words(t, 2)


FIGURE = ROOT/'nbs'/'figure4.ipynb'


def test_figure4_has_one_cell_of_parameters():
    cells = [c for c in json.loads(FIGURE.read_text())['cells'] if c['cell_type'] == 'code']
    tagged = [c for c in cells if 'parameters' in c['metadata'].get('tags', [])]
    assert len(cells) > 3 and len(tagged) == 1
    known = papermill.inspect_notebook(str(FIGURE))
    assert {'dataset', 'known', 'seed', 'pictures', 'methods', 'epochs', 'backbone', 'weights', 'data_root', 'device', 'out', 'smoke'} <= set(known)
    assert all(p['help'] for p in known.values())                   # papermill --help-notebook has a word on each
    assert not any('export' in ''.join(c['source']).split('\n')[0] for c in cells)


def test_figure4_refuses_bad_parameters(tmp_path):
    "The check stands before anything is loaded or written."
    cells = json.loads(FIGURE.read_text())['cells']
    code = [''.join(c['source']) for c in cells if c['cell_type'] == 'code']
    start = next(i for i, c in enumerate(cells) if 'parameters' in c['metadata'].get('tags', []))
    parameters, check = (''.join(c['source']) for c in [c for c in cells[start:] if c['cell_type'] == 'code'][:2])
    imports = code[0]
    for name, bad in dict(known=50, seed=-1, pictures=0, methods='trmml', epochs=0, smoke='maybe', out='', dataset='').items():
        space = {}
        exec(imports + '\n' + parameters, space)
        space[name] = bad
        with pytest.raises(ValueError, match=name): exec(check, space)
    space = {}
    exec(imports + '\n' + parameters, space); space.update(out=str(tmp_path), known='.3', methods='[trmml]', epochs='2'); exec(check, space)
    assert (space['known'], space['methods'], space['epochs'], space['label'], space['out']) == (.3, ['trmml'], 2, 'doodles', tmp_path)
    assert not os.listdir(tmp_path)
