"""Showing never destroys: what a notebook finds less of lies beside the stored table. Commands for empty cells, plans, sentences."""
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import papermill.cli
import pytest
import yaml

from trmml import cli, methods, report, runs
from trmml.report import estimates, parameters, places
from trmml.runs import Run

ROOT = Path(__file__).resolve().parents[1]
TABLES = ['table1', 'table2', 'table3', 'table4', 'table6']


def code(name): return [c for c in nbformat.read(ROOT/'nbs'/f'{name}.ipynb', 4).cells if c.cell_type == 'code']


# ---- the stored tables stay

@pytest.fixture(scope='module')
def few(tmp_path_factory):
    "A few drawings in a folder that is called doodles, so that everything takes it for the whole set."
    root = tmp_path_factory.mktemp('few')
    return Path(parameters.small('doodles', root, 24, 12)).rename(root/'doodles')


@pytest.fixture
def clone(tmp_path, monkeypatch):
    "A fresh clone: the stored tables and figures under git, and no run."
    for name in ('tables', 'figures', 'paper'): shutil.copytree(ROOT/'results'/name, tmp_path/'results'/name)
    for name in ('settings.ini', '.gitignore'): shutil.copy(ROOT/name, tmp_path)
    for name, value in dict(MPLBACKEND='agg', TQDM_DISABLE='1', TRMML_FEATURES=str(tmp_path/'results'/'runs'/'features'),
                            PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])).items(): monkeypatch.setenv(name, value)
    me = ['-c', 'user.name=me', '-c', 'user.email=me@example.org']
    for args in (['init', '-q'], ['add', '-A'], [*me, 'commit', '-qm', 'all']): subprocess.run(['git', *args], cwd=tmp_path, check=True)
    return tmp_path


def changed(clone): return subprocess.run(['git', 'status', '--porcelain'], cwd=clone, capture_output=True, text=True, check=True).stdout


def show(name, clone, **given):
    done = papermill.execute_notebook(ROOT/'nbs'/f'{name}.ipynb', clone/'results'/f'{name}.ipynb', given, cwd=clone, progress_bar=False, kernel_name='python3')
    return '\n'.join(''.join(o.get('text', '')) for c in done.cells for o in c.get('outputs', ()))


def test_all_tables_that_train_are_shown(): assert TABLES == [n for n in (f'table{k}' for k in range(1, 7)) if re.search(r'^train: bool', '\n'.join(c.source for c in code(n)), re.M)]


@pytest.mark.parametrize('name', TABLES)
def test_a_fresh_clone_stays_clean_when_a_table_is_shown(name, clone, few):
    said = show(name, clone, dataset=str(few), train=False)
    assert changed(clone) == ''
    there = sorted(p.name for p in (clone/'results'/'_partial').rglob('*') if p.is_file())
    assert {f'{name}-doodles.{end}' for end in ('csv', 'md', 'tex', 'png')} | {f'{name}-doodles-reading.md'} <= set(there)
    assert 'rows of earlier runs: none' in said or name not in ('table1', 'table2')
    assert said.count('rests on more results than are there now') == 1 and f'results/tables/{name}-doodles.csv rests' in said and 'is in results/_partial' in said


def test_a_fresh_clone_shows_all_rows_of_a_stored_table(clone):
    "From the runs behind it, named as such; another data set of the same name gets none of them (test above: all rows are not run)."
    said = show('table1', clone, train=False)
    assert changed(clone) == '' and '0 runs are there; rows of earlier runs: curriculum-frozen, ' in said and 'not run: none' in said
    csv = 'table1-doodles-runs.csv'
    here, there = (pd.read_csv(clone/'results'/p/csv) for p in ('tables', '_partial/tables'))
    pd.testing.assert_frame_equal(here.sort_values(list(here)[:3]).reset_index(drop=True), there[list(here)].sort_values(list(here)[:3]).reset_index(drop=True), check_dtype=False)


def test_a_clone_stays_clean_when_the_first_command_is_interrupted(clone, few):
    call = [sys.executable, '-m', 'papermill', str(ROOT/'nbs'/'table1.ipynb'), 'results/table1.ipynb', '-p', 'dataset', str(few), '-p', 'n_jobs', '1', '--no-progress-bar', '-k', 'python3']
    p = subprocess.Popen(call, cwd=clone, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    until = time.time() + 200
    while not list((clone/'results'/'runs').glob('*.json')) and p.poll() is None and time.time() < until: time.sleep(.05)
    os.killpg(p.pid, signal.SIGKILL); p.wait()
    n = len(list((clone/'results'/'runs').glob('*.json')))
    assert 0 < n < 30 and changed(clone) == ''
    said = show('table1', clone, dataset=str(few), train=False)
    assert changed(clone) == '' and 'is in results/_partial' in said and int(re.search(r'^(\d+) runs are there', said, re.M)[1]) >= n


def table(**seeds):
    "A made-up table: a row for each name, so many seeds in both columns."
    rows = [dict(method=m, known=k, seed=s, mAP=50.) for m, n in seeds.items() for k in (10., 50.) for s in range(n)]
    return report.means(pd.DataFrame(rows, columns=['method', 'known', 'seed', 'mAP']), list(seeds), [10., 50.])


@pytest.mark.parametrize('now, over', [(dict(a=3, b=2), True), (dict(a=3, b=3), True), (dict(b=2, a=3, c=1), True), (dict(a=3, b=1), False), (dict(a=9, b=1), False),
                                       (dict(a=3), False), (dict(a=0, b=0), False)], ids=str)
def test_a_table_is_written_over_one_that_holds_no_more(tmp_path, capsys, now, over):
    t = table(a=3, b=2)
    report.write(report.beside(t), t, tmp_path/'tables'/'t')
    assert report.place(tmp_path, 't', table(**now)) == (tmp_path if over else tmp_path/'_partial')
    assert capsys.readouterr().out.count('\n') == (0 if over else 1)


def test_fewer_columns_or_fewer_single_measurements_are_less(tmp_path):
    t = table(a=3)
    report.write(report.beside(t), t, tmp_path/'tables'/'t')
    assert report.place(tmp_path, 't', t.drop(columns=10., level=0)).name == '_partial'
    single = pd.DataFrame(dict(loss=['asl', 'asl', 'bce'], mAP=[1., 2., 3.]))
    single.to_csv(tmp_path/'tables'/'s.csv', index=False)
    assert report.place(tmp_path, 's', single) == tmp_path and report.place(tmp_path, 's', single[1:]).name == '_partial'
    assert report.place(tmp_path/'_partial', 's', single).name == '_partial'           # what is partial stays so


def test_a_partial_table_is_compared_with_the_stored_one(tmp_path):
    t = table(a=3)
    report.write(report.beside(t), t, tmp_path/'tables'/'t')
    assert report.write(report.beside(t), t, tmp_path/'_partial'/'tables'/'t').startswith('Mean over ratios')


EVERY = [p for p in sorted((ROOT/'nbs').glob('**/*.ipynb')) if p.parent.name in ('nbs', 'studies')]
ALWAYS_WHOLE = 'table5', 'opening_figure', 'as_published', 'formats', 'odd_photos'   # no parameter makes less of them
WRITES = re.compile(r"(?:report\.write|write_whole|viz\.save|write_costs|write_recipes)\(")


@pytest.mark.parametrize('path', EVERY, ids=lambda p: p.stem)
def test_after_its_place_is_asked_a_companion_writes_nowhere_else(path):
    source = '\n'.join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == 'code')
    if 'report.place(' not in source:
        assert not WRITES.search(source) or path.stem in ALWAYS_WHOLE, f'{path.stem} writes without report.place'
        return
    before, after = source.split('report.place(', 1)
    wrong = [line for line in after.splitlines() if WRITES.search(line) and re.search(r"\bout/'|, out\)", line)]
    assert not wrong, wrong
    assert path.stem == 'figure4' or not WRITES.search(before)


# ---- commands for empty cells

def parsed(command):
    "Notebook and parameters of a papermill command, as papermill reads them."
    words = shlex.split(command)
    assert words[0] == 'papermill'
    given = {}
    for i, w in enumerate(words):
        if w == '-p': given[words[i + 1]] = papermill.cli._resolve_type(words[i + 2])
        if w == '-y': given |= yaml.safe_load(words[i + 1])
    return Path(words[1]).stem, given


def deciding(name, shown=True):
    wanted = r'parameters\.read|^given =|^grids =|report\.gather' + r'|report\.place|^jobs'*(shown or name in ('table3', 'table6'))
    return [c.source for c in code(name) if 'parameters' not in c.metadata.get('tags', []) and re.search(wanted, c.source, re.M)]


def execute(name, given, monkeypatch, there=(), shown=True):
    "The cells of a notebook that decide what is run; nothing is trained. Its variables, and what it would have trained."
    trained, parameter = [], next(c.source for c in code(name) if 'parameters' in c.metadata.get('tags', []))
    def gather(grids, ratios, train=(), *_, **__):
        trained.extend(r for k, g in grids.items() if k in train for r in g)
        left = {k: [r for r in g if r not in there] for k, g in grids.items()}
        return pd.DataFrame(columns=['method', 'known', 'seed', 'mAP', 'seconds']), [], {k: g for k, g in left.items() if g}
    monkeypatch.setattr(report, 'gather', gather)
    monkeypatch.setattr(report, 'need', lambda *a: None)
    monkeypatch.setattr(estimates, 'stored', lambda r, *a, **k: {} if r in there else None)
    space = dict(In=['', parameter, '# Parameters\n' + '\n'.join(f'{k} = {v!r}' for k, v in given.items())], display=print, Markdown=str)   # imported by the first cell, which shows what is stored
    exec(parameter, space)
    space.update(given)
    for cell in deciding(name, shown): exec(cell, space)
    return space, [r for r in dict.fromkeys(trained) if r not in there]


OWN = dict(dataset='voc', epochs=2, seeds=[0, 1], weights='', n_jobs=1)
ASKED = {'table1': dict(OWN, backbone='RN50', image_size=224, ratios=[.1, .5], methods=['zeroshot', 'taidpt', 'taidpt+dualcoop', 'trmml']),
         'table2': dict(OWN, dataset='voc2012', backbone='RN101', image_size=224, methods=['zeroshot', 'taidpt+dualcoop', 'splc', 'trmml']),
         'table3': dict(OWN, dataset='doodles', ratios=[.1, .5]), 'table4': dict(OWN, backbone='RN50', ratios=[.1]), 'table6': dict(OWN, dataset='doodles', ratios=[.1])}


@pytest.mark.parametrize('name', TABLES)
@pytest.mark.parametrize('usual', [True, False], ids=['defaults', 'given'])
def test_a_command_leads_to_exactly_the_missing_runs(name, usual, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT); monkeypatch.setenv('MPLBACKEND', 'agg')
    captions = tmp_path/'two words.json'
    captions.write_text('{}')
    given = dict(out=str(tmp_path/'my out'), train=False) | ({} if usual else ASKED[name] | dict(data_root=str(tmp_path)))
    if not usual and name in ('table1', 'table2'): given['captions'] = str(captions)
    space, trained = execute(name, given, monkeypatch)
    assert trained == []                                                                   # train=False
    some = [r for g in space['grids'].values() for r in g][::3]                            # some are there
    space, _ = execute(name, given, monkeypatch, some)
    assert len(space['jobs']) >= 2 and all(space['jobs'].values())
    for command, missing in space['jobs'].items():
        book, again = parsed(command)
        assert book == name and 'train' not in again and again['out'] == given['out']
        if not usual: assert {k: v for k, v in again.items() if k not in ('dataset', 'methods')} == {k: v for k, v in given.items() if k not in ('dataset', 'methods', 'train')}
        for r in missing: methods.check_inputs(r.method, **runs.settings_of(r))             # nothing that it names is missing
        _, runs_of_it = execute(name, again, monkeypatch, some, False)
        assert set(runs_of_it) == set(missing), command


def test_a_command_without_anything_given():
    assert report.command('table1', train=False, plan=True) == 'papermill nbs/table1.ipynb results/table1.ipynb'
    assert parsed(report.command('table1', data_root='a b', methods=['taidpt+dualcoop', "it's"], numbers=[''], ratios=[.1, 1])) == (
        'table1', dict(data_root='a b', methods=['taidpt+dualcoop', "it's"], numbers=[''], ratios=[.1, 1]))


def test_time_and_disk_follow_the_size_of_images():
    costs = report.measured_costs()
    small, usual = (report.estimate([Run('voc2007', 'trmml', backbone='RN101', image_size=s)], costs) for s in (224, 448))
    assert small[1] == usual[1]/4 and small[0] < usual[0] and usual == report.estimate([Run('voc2007', 'trmml', backbone='RN101')], costs)


def test_features_are_counted_once_for_each_way_of_reading_images():
    costs = report.measured_costs()
    trmml, dual = (Run('voc2007', m, backbone='RN101') for m in ('trmml', 'dualcoop'))
    def disk(*todo): return report.estimate([*todo], costs)[1]
    assert disk(trmml, dual) == 2*disk(trmml) and disk(trmml, runs.replace(dual, interpolation='bicubic')) == disk(trmml)
    assert disk(trmml, runs.replace(trmml, difficult='positive')) == disk(trmml)      # other labels of the same images
    splc, largeloss = (Run('nuswide', 'trmml', backbone='RN101', protocol=p) for p in ('splc', 'largeloss'))
    assert disk(splc, largeloss) == disk(splc) + disk(largeloss) and disk(splc) < disk(largeloss)


@pytest.mark.parametrize('dataset, protocol, said', [
    ('nuswide', 'splc', 'train is not here, 119,103 images are usual; test is not here, 50,720 images'),
    ('nuswide', 'largeloss', 'train is not here, 150,000 images are usual, 120,000 of them to train on; test is not here, 60,260 images'),
    ('nuswide', 'partial', 'train is not here, 161,789 images are usual; test is not here, 107,859 images'),
    ('voc2012', 'largeloss', '5,717 images are usual, 4,574 of them to train on; test is not here, 5,823 images'),
    ('cub200', 'largeloss', '5,994 images are usual, 4,795 of them to train on; test is not here, 5,794 images')])
def test_a_plan_says_the_sizes_of_its_own_setup(dataset, protocol, said, tmp_path):
    run = Run(dataset, 'hill', protocol=protocol, backbone='resnet50')
    text = report.plan({'hill': [run]}, report.measured_costs(), tmp_path, tmp_path)
    assert said in text and 'rough, from operations' in text and 'time not known' not in text


# ---- sentences

@pytest.mark.parametrize('name', ['table1', 'table2'])
def test_captions_reach_all_that_learn_from_sentences(name, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    (tmp_path/'said.json').write_text('{}')
    given = dict(captions=str(tmp_path/'said.json'), dataset='voc2012', out=str(tmp_path))
    space, _ = execute(name, given, monkeypatch)
    for m, grid in space['grids'].items():
        parts = [p for r in grid for p in (r, *runs.members(r))]
        told = {p.method: dict(p.settings).get('captions') for p in parts if p.method in ('taidpt', 'taiadapter', 'trmml', 'dualcoop', 'dualcoop-tai')}
        assert {k: v for k, v in told.items() if v} == {k: given['captions'] for k in told if k in ('taidpt', 'taiadapter')}, m
    plain, _ = execute(name, dict(given, captions=None), monkeypatch)
    for m in ('trmml', 'dualcoop', 'zeroshot'): assert plain['grids'][m] == space['grids'][m]    # the runs of others keep their names
    assert 'captions' in space['file'] and 'captions' not in plain['file']


def test_a_file_of_captions_that_is_not_there_stops_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match='captions=.*no/such.json.*there is no such file'): execute('table1', dict(captions='no/such.json'), monkeypatch)
    (tmp_path/'a.json').write_text('{}')
    monkeypatch.chdir(tmp_path)
    assert parameters.one('captions', 'str', 'a.json', {}) == str(tmp_path/'a.json') and parameters.one('captions', 'str', None, {}) is None


# ---- a plan

@pytest.mark.parametrize('name', [*TABLES, 'figure4'])
def test_a_plan_comes_before_anything_is_read(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as end: execute(name, dict(dataset='voc', plan=True, data_root=str(tmp_path), out=str(tmp_path)), monkeypatch)
    assert end.value.code == 0 and 'Nothing was computed.' in capsys.readouterr().out and not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', ['table2', 'figure4'])
def test_a_plan_ends_well_and_writes_nothing(name, clone):
    given = dict(dataset='voc2012' if name == 'table2' else 'voc', plan=True, data_root=str(clone/'none'))
    said = show(name, clone, **given)
    assert changed(clone) == '' and sorted(p.name for p in (clone/'results').iterdir()) == sorted(['figures', 'paper', 'tables', f'{name}.ipynb'])
    plan = said[said.index('The plan: '):]
    assert 'Nothing was computed.' in plan and 'images are usual' in plan and 'epochs=' in plan and re.search(r'All that is missing: about [\d.]+ (h|min), [\d.]+ GB', plan)
    assert 'To exit' not in said
    done = nbformat.read(clone/'results'/f'{name}.ipynb', 4)
    ran = [c for c in done.cells if c.cell_type == 'code' and c.execution_count]
    assert ran[-1].outputs[0].text.startswith('The plan: ') and [o.ename for o in ran[-1].outputs if o.output_type == 'error'] == ['SystemExit']


def test_the_console_prints_a_plan(clone, monkeypatch, few):
    monkeypatch.chdir(clone)
    shutil.copytree(ROOT/'nbs', clone/'nbs', ignore=lambda d, names: [n for n in names if n != 'table1.ipynb'])
    said = cli.run_table(1, dict(plan=True, dataset=str(few), methods=['trmml']), None, True)
    assert said.startswith('The plan: 15 runs, 0 of them there') and re.search(r'doodles.*: train 24 images, \d+ positives; test 12 images, \d+ positives', said)
    assert not (clone/'results'/'table1.ipynb').exists()


def test_a_plan_counts_what_is_there(tmp_path):
    "Ensembles have their members; results are found without data."
    grid = {m: runs.grid('voc2007', [m], [.1], [0], backbone='RN101') for m in ('taidpt+trmml', 'trmml')}
    text = report.plan(grid, report.measured_costs(), tmp_path, tmp_path)
    assert text.startswith('The plan: 3 runs, 0 of them there') and 'TaI-DPT, for another row' in text


# ---- the console finds the table, wherever it lies

def test_the_newest_table_is_found_in_both_places(tmp_path):
    start = time.time()
    for part in ('tables', '_partial/tables'): (tmp_path/part).mkdir(parents=True)
    (tmp_path/'tables'/'table1-doodles.md').write_text('full')
    for name in ('table1-doodles-recipes', 'table1-doodles-reading'): (tmp_path/'_partial'/'tables'/f'{name}.md').write_text('no')
    assert cli.with_place(cli.newest_table(tmp_path, 1, start), tmp_path) == 'full'
    (tmp_path/'_partial'/'tables'/'table1-doodles.md').write_text('part')
    os.utime(tmp_path/'_partial'/'tables'/'table1-doodles.md', (start + 9, start + 9))
    said = cli.with_place(cli.newest_table(tmp_path, 1, start), tmp_path)
    assert said.startswith('part\n') and 'holds fewer results than the table in' in said
