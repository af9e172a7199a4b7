"""Methods that were published after the paper: one list gives a method its rows, and the tables of the paper stay as they are."""
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from trmml import runs
from trmml.methods import METHODS, TITLES
from trmml.report import PRINTED, printed, since, tables

ROOT = Path(__file__).resolve().parents[1]
LATER = pytest.mark.parametrize('later', [('dualcoop-plus',), ('dualcoop-plus', 'dualcoop-mean')], ids=len)


@pytest.fixture
def listed(monkeypatch, later):
    "As if these were the later methods."
    for place in tables, since: monkeypatch.setattr(place, 'SINCE', later)
    return later


@LATER
def test_a_name_in_the_list_is_a_row(listed):
    rows = since.rows_with()
    assert rows[-1] == 'trmml' and tuple(rows[len(since.BESIDE):-1]) == listed and rows[:len(since.BESIDE)] == [*since.BESIDE]
    assert all(since.names()[m] == TITLES[m] for m in listed) and {k: since.names()[k] for k in PRINTED} == PRINTED
    assert all(TITLES[m] in since.section('table1', folder='nowhere') for m in listed)


@LATER
def test_the_study_plans_five_seeds_of_every_row_in_both_tables(listed, tmp_path, monkeypatch, capsys):
    "Its cells up to the plan; nothing is computed."
    monkeypatch.chdir(ROOT); monkeypatch.setenv('MPLBACKEND', 'agg')
    cells = [c for c in nbformat.read(ROOT/'nbs'/'studies'/'since.ipynb', 4).cells if c.cell_type == 'code']
    own = next(c.source for c in cells if 'parameters' in c.metadata.get('tags', []))
    space = dict(In=['', own, f'# Parameters\nplan = True\nout = {str(tmp_path)!r}'])
    exec('from trmml.report import since\n' + own, space)
    space |= dict(plan=True, out=str(tmp_path))
    with pytest.raises(SystemExit):
        for c in cells[cells.index(next(c for c in cells if 'parameters.read' in c.source)):]: exec(c.source, space)
    for m in since.rows_with():
        grid = space['both'][m]
        if m == 'zeroshot-dense': continue                                                                   # reads no labels and draws nothing
        assert {(r.protocol, r.known, r.seed) for r in grid if r.protocol == 'partial'} == {('partial', k, s) for k in (.1, .3, .5, .7, .9) for s in range(5)}
        assert {(r.protocol, r.seed) for r in grid if r.protocol != 'partial'} == {(p, s) for p in ('largeloss', 'splc') for s in range(5)}
        assert all(runs.resolved(r)[k] == v for r in grid for k, v in runs.chosen(m, 'doodle-clip').items())
    said = capsys.readouterr().out; assert 'Nothing was computed.' in said and all(TITLES[m] in said for m in listed) and not list(tmp_path.iterdir())


def test_published_numbers_of_later_methods_have_a_source():
    later = pd.read_csv(ROOT/'results'/'paper'/'since.csv')
    assert {*later.method} <= {TITLES[m] for m in since.SINCE} and later.source.str.len().gt(20).all()
    assert not {*later.method} & {*printed('table1').index}, 'a row of the paper belongs into its own file'
    there = since.published(since.rows_with(), 'table1', 'voc2007')
    assert list(there.index) == ['DualCoOp', 'DualCoOp (reproduced)', 'TRM-ML', 'DualCoOp++'] and there.loc['DualCoOp++', '10'] == 92.0
    assert 'logs of its first author' in since.sources(since.rows_with()) and since.sources(['trmml']) == '' and since.sources(since.rows_with(), 'vg200') == ''


def test_every_later_method_is_registered_and_its_settings_are_the_best_trial():
    t = pd.read_csv(ROOT/'results'/'tables'/'choices-since.csv')
    for m in since.SINCE:
        assert m in METHODS
        own, tried = t[t.method == m], runs.entry(m).get('trials', {})
        if not tried: continue
        best, chosen = own.loc[own['mean'].idxmax()].trial, runs.recipe(m)
        assert len(own) == 12 and best == ', '.join(f'{k} {chosen[k]:g}' for k in tried), m


def test_rows_of_the_paper_are_those_of_before():
    "Tables 1 and 2 ask for no later method by themselves."
    for name in 'table1', 'table2':
        source = next(c.source for c in nbformat.read(ROOT/'nbs'/f'{name}.ipynb', 4).cells if c.cell_type == 'code' and 'rows = list(' in c.source)
        stored = pd.read_csv(ROOT/'results'/'tables'/f'{name}-doodles.csv')
        assert 'SINCE' not in source and not {*stored.method} & {*since.SINCE}


def test_sections_are_shown_once_both_files_are_there(tmp_path):
    (tmp_path/'since-table1-doodles.md').write_text('| a |\n')
    assert since.COMMAND in since.section('table1', folder=tmp_path)
    (tmp_path/'since-table1-doodles-reading.md').write_text('said\n')
    assert since.section('table1', folder=tmp_path) == '| a |\n\nsaid' and since.COMMAND in since.section('table2', folder=tmp_path)
    assert 'methods: [NAME, trmml]' in since.section('table1', 'voc2007', tmp_path) and since.COMMAND not in since.section('table1', 'voc2007', tmp_path)
    pd.DataFrame(dict(method=['dualcoop-plus', 'trmml', 'dualcoop'], avg_mean=[70., 72.26, None], avg_seeds=[5, 5, 0])).to_csv(tmp_path/'since-table2-doodles.csv', index=False)
    assert since.stored(folder=tmp_path) == 'Table 2: DualCoOp++ 70.0, TRM-ML 72.3 mAP (n = 5 seeds)'
