"""No home directory, empty and relative variables, read-only places, a clock that is set back, checkpoints without bound: each right or one sentence."""
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from trmml import TRMML, cli, files
from trmml.features import features_root
from trmml.photos import example, fitting


def say(capsys, *args):
    with pytest.raises(SystemExit) as stop: cli.main([str(a) for a in args])
    out, err = capsys.readouterr()
    return stop.value.code, out, err


# ---- variables

@pytest.mark.parametrize('variable, root, name', [('TRMML_DATA', files.data_root, 'data'), ('TRMML_FEATURES', features_root, 'features')])
def test_folders_by_variables(variable, root, name, tmp_path, monkeypatch):
    home = tmp_path/'home'
    monkeypatch.setenv('HOME', str(home)); monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(variable, raising=False); assert root() == home/'.cache'/'trmml'/name
    monkeypatch.setenv(variable, ''); assert root() == home/'.cache'/'trmml'/name   # empty: not set
    monkeypatch.setenv(variable, 'here'); assert root() == tmp_path/'here'
    (tmp_path/'other').mkdir(); monkeypatch.chdir(tmp_path/'other'); assert root() == tmp_path/'here'   # the same after a change of folder
    monkeypatch.setenv(variable, '~/mine'); assert root() == home/'mine'


@pytest.mark.parametrize('variable, root', [('TRMML_DATA', files.data_root), ('TRMML_FEATURES', features_root)])
def test_no_home(variable, root, monkeypatch, tmp_path):
    def none(path): raise RuntimeError('Could not determine home directory.')
    monkeypatch.setattr(Path, 'expanduser', none)
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ValueError, match=f'{variable}.*there is no home directory; set {variable} to another folder'): root()


@pytest.mark.skipif(not hasattr(os, 'getuid') or os.getuid() != 0, reason='needs root, to become somebody without a name')
def test_a_user_without_a_name_and_a_home():
    code = 'import os; from trmml.features import features_root; os.setuid(54321)\ntry: features_root()\nexcept ValueError as e: print(e)'
    env = {k: v for k, v in os.environ.items() if k not in ('HOME', 'TRMML_FEATURES', 'TRMML_DATA')}
    done = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
    assert 'set TRMML_FEATURES to another folder' in done.stdout, done.stderr


def test_an_empty_cluster_is_none(monkeypatch):
    from trmml.runs import engine
    monkeypatch.setenv('TRMML_CLUSTER', '')
    with engine(1): pass


# ---- places

@pytest.fixture
def denied(monkeypatch):
    "A folder that refuses to be written to, for root too."
    real = files.tempfile.TemporaryFile
    def refuse(folder):
        def file(*args, dir=None, **how):
            if dir and Path(dir).is_relative_to(folder): raise OSError(30, 'Read-only file system')
            return real(*args, dir=dir, **how)
        monkeypatch.setattr(files.tempfile, 'TemporaryFile', file)
    return refuse


def test_a_read_only_place_is_said_before_the_training(tmp_path, capsys, denied, monkeypatch):
    (tmp_path/'full').mkdir(); denied(tmp_path/'full')
    monkeypatch.setattr(TRMML, 'fit', lambda *_, **__: pytest.fail('trains'))
    code, _, err = say(capsys, 'fit', tmp_path, tmp_path/'l.csv', '--out', tmp_path/'full'/'model')
    assert code == 4 and str(tmp_path/'full'/'model') in err and 'cannot be written to' in err and 'choose another folder' in err


def test_a_parameter_that_is_no_yaml(capsys):
    for bad in ('a=[1', 'a={', "a='x"):
        code, out, err = say(capsys, 'table', 1, '--param', bad)
        assert (code, out) == (2, '') and f'--param {bad}: the value is no YAML' in err and len(err.splitlines()) == 1
    assert cli.split_param('a=[1, 2]') == ('a', [1, 2])


# ---- clocks and bounds

@pytest.mark.filterwarnings('ignore')
def test_a_clock_set_back(tmp_path, monkeypatch):
    from trmml import runs
    from trmml.report import parameters
    monkeypatch.setenv('TRMML_FEATURES', str(tmp_path/'features'))
    mini, now = parameters.small('doodles', tmp_path/'data', 16, 8), [time.time()]
    def earlier():
        now[0] -= 1000
        return now[0]
    monkeypatch.setattr(time, 'time', earlier)
    run = runs.Run(mini, 'trmml', .5, 0, settings=dict(epochs=1, batch=8), image_size=64)
    assert 0 <= runs.perform(run, None, tmp_path/'results')['seconds'] < 600
    assert not list((tmp_path/'results').rglob('*.ckpt'))


@pytest.mark.filterwarnings('ignore')
def test_checkpoints_of_models_that_were_not_saved_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setenv('TRMML_FEATURES', str(tmp_path/'features')); monkeypatch.setattr(fitting, 'UNSAVED', 3)
    found, fits = example(tmp_path, n=12, known=.7), tmp_path/'features'/'fits'
    def fit(seed): return TRMML(backbone='doodle-clip', epochs=1, folds=0, image_size=64, workers=0, progress=False, seed=seed).fit(found.photos, found.labels)
    for seed in range(6): model = fit(seed)
    assert len(list(fits.iterdir())) == 4   # three, and the one that was just written
    assert model.checkpoints_[0] in fits.iterdir()
    old = sorted(fits.iterdir())[0]
    os.utime(old, (0, 0))
    with files.in_turn(old.with_suffix(''), 'trains'): fit(7)
    assert old.exists()        # in use: old or not
    fit(8); assert not old.exists()
    model.save(tmp_path/'model'); assert not model.checkpoints_[0].exists()
