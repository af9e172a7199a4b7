"""Two processes on one thing: models, runs, features, output files; locks say who is waited for; temporary files of the dead go, of the living stay."""
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from trmml import files

ROUNDS = int(os.environ.get('TRMML_ROUNDS', 8))


@pytest.fixture(scope='module')
def driver():
    import driver
    return driver


@pytest.fixture(scope='module')
def world(driver, tmp_path_factory): return driver.make_world(tmp_path_factory.mktemp('world')/'world')


def clean(row): assert (row.lost, row.different, row.silent, row.foul, row.left) == (0,)*5, row.notes


def test_saves_and_loads_at_once(driver, world, tmp_path):
    "Every load gives a model that was saved, whole; after all saves there is one, and nothing else."
    row, rng = driver.Row('saves'), random.Random(0)
    for _ in range(ROUNDS): driver.round_of_saves(world, row, 2, rng, tmp_path)
    clean(row)


@pytest.mark.parametrize('name', ['perform', 'predict', 'extract', 'complete'])
def test_one_thing_twice(driver, world, tmp_path, name):
    row = driver.Row(name)
    driver.round_of(world, row, name, 2, random.Random(0), tmp_path)
    clean(row)


def test_a_load_between_model_and_tensors(driver, world, tmp_path, monkeypatch):
    "model.json is read, then another process saves a newer model: the newer one is loaded."
    import shutil

    from trmml.photos import read_model, saving
    folder, real, calls = tmp_path/'m', saving.tensors_in, []
    shutil.copytree(world.place/'a', folder)
    def late(*given):
        calls.append(1)
        if len(calls) == 1:
            shutil.rmtree(folder); shutil.copytree(world.place/'b', folder)
        return real(*given)
    monkeypatch.setattr(saving, 'tensors_in', late)
    assert read_model(folder)[0] == read_model(world.place/'b')[0] and len(calls) == 3
    next(folder.glob('*.safetensors')).unlink(); calls[:] = [1, 1]
    with pytest.raises(saving.ModelError, match='is missing'): read_model(folder)   # and is not asked for for ever
    assert len(calls) == 3


HOLDS = 'import sys, time\nfrom trmml.files import in_turn\nwith in_turn(sys.argv[1], sys.argv[2]): print("in", flush=True); time.sleep(float(sys.argv[3]))'


@pytest.fixture
def holder(tmp_path):
    "A process that holds the lock of a file for a time."
    started = []
    def start(path, what='computes these features', seconds=300):
        p = subprocess.Popen([sys.executable, '-c', HOLDS, str(path), what, str(seconds)], stdout=subprocess.PIPE, text=True)
        started.append(p)
        assert p.stdout.readline() == 'in\n'
        return p
    yield start
    for p in started: p.kill(); p.wait()


def test_who_waits_says_for_whom(holder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(files, 'MOMENT', .05)
    first = holder(tmp_path/'x', 'writes this file', .6)
    with files.in_turn(tmp_path/'x', 'writes this file') as waited: assert waited
    assert capsys.readouterr().err == f"{tmp_path/'x'}: process {first.pid} writes this file; waiting for it\n"
    with files.in_turn(tmp_path/'x', 'writes this file') as waited: assert not waited
    assert capsys.readouterr().err == '' and not list(tmp_path.iterdir())   # nor do locks pile up


def test_a_killed_holder_is_not_waited_for(holder, tmp_path, capsys):
    first = holder(tmp_path/'x')
    first.kill(); first.wait()
    begun = time.monotonic()
    with files.in_turn(tmp_path/'x', 'goes on') as waited: assert not waited and files.holder(tmp_path/'x.lock') == f'process {os.getpid()}'
    assert time.monotonic() - begun < 1 and capsys.readouterr().err == ''


def test_waiting_may_be_refused(holder, tmp_path):
    holder(tmp_path/'x')
    with pytest.raises(BlockingIOError, match='is in use'):
        with files.in_turn(tmp_path/'x', '', wait=False): pass


def test_temporary_files_of_the_dead_go_and_of_the_living_stay(tmp_path):
    code = 'import sys\nfrom trmml.files import whole\nwith whole(sys.argv[1]) as p: p.write_text("half"); print("in", flush=True); sys.stdin.read()'
    def writer(): return subprocess.Popen([sys.executable, '-c', code, str(tmp_path/'t.csv')], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    dead, living = writer(), writer()
    for p in (dead, living): assert p.stdout.readline() == 'in\n'
    dead.kill(); dead.wait()
    assert len(list(tmp_path.glob('t.csv.*.tmp'))) == 2
    files.write_whole(tmp_path/'t.csv', 'new')   # the next writer of the same file sweeps
    [left] = tmp_path.glob('*.tmp')
    assert left.name.startswith(f't.csv.{living.pid}-')
    assert files.sweep(tmp_path) == []
    living.communicate('')
    assert (tmp_path/'t.csv').read_text() == 'half' and not list(tmp_path.glob('*.tmp'))


def test_a_run_that_another_process_has_done_is_taken(driver, world, tmp_path, monkeypatch):
    "Who had to wait for a run takes its result and does not train again."
    import contextlib

    from trmml.runs import perform as _, schedule
    import trmml.runs.perform as module
    done = driver.run(driver.perform, world, tmp_path, 1, folder=tmp_path/'said')
    @contextlib.contextmanager
    def waited(*given, **how): yield True
    def again(world, place):
        module = sys.modules['trmml.runs.perform']
        module.in_turn = waited
        def no(*a): raise AssertionError('trains')
        module.learn = no
        driver.within(place)
        return module.perform(driver.some_runs(world, 1)[0], None, place/'results')['mAP']
    assert driver.run(again, world, tmp_path, folder=tmp_path/'said')['value'] == done['value'][0][1]


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name, path, what', [('predict', 'p.csv', 'writes this file'), ('filled', 'f.csv', 'writes this file'), ('put', 'x.csv', 'writes this file'),
                                              ('save', 'm/model.json', 'saves a model here'), ('features', None, 'computes these features')])
def test_every_writer_waits_in_turn(name, path, what, driver, world, holder, tmp_path, capsys, monkeypatch):
    "With the lock of what it writes in the hands of another process, each says so, and then does its work."
    import pandas as pd

    from trmml import TRMML, cli
    from trmml.features import extraction
    from trmml.photos import Filled
    monkeypatch.setattr(files, 'MOMENT', .05); monkeypatch.setenv('TRMML_FEATURES', str(tmp_path/'features'))
    t = pd.DataFrame(dict(cat=[1.]), index=pd.Index(['a.png'], name='image'))
    def features():
        with extraction.alone_in(tmp_path/'f'): pass
    model = TRMML.load(world.place/'a', progress=False) if name in ('predict', 'save') else None
    works = dict(predict=lambda: model.predict_to(tmp_path/path, world.photos), filled=lambda: Filled(t, t).to_csv(tmp_path/path),
                 put=lambda: cli.put('x', str(tmp_path/path)), save=lambda: model.save(tmp_path/'m'), features=features)
    first = holder(tmp_path/(path or 'f'), what, 1.5)
    works[name]()
    assert f'process {first.pid} {what}; waiting for it' in capsys.readouterr().err
    assert (tmp_path/(path or 'f')).exists() and not list(tmp_path.rglob('*.lock'))
