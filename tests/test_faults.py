"""A short, seeded form of tests/faults: kills, processes at once, spoilt files, full disks; `python tests/faults/long.py MINUTES SEED` is the long one."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT/'tests'/'faults'
KILLED = ['draw', 'extract', 'fit', 'predict', 'complete', 'perform']
SPOILT = ['features', 'run results', 'run weights', 'checkpoints', 'model.json', 'model weights', 'scores on the way', 'annotations read before', 'checkpoints of runs', 'checkpoints of pre-training',
          'hashes of photos', 'drawings']
pytestmark = pytest.mark.xdist_group('faults')   # one process for all


def python(*args):
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    return subprocess.run([sys.executable, *map(str, args)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=1200)


@pytest.fixture(scope='module')
def rows():
    "What came of the trials, by kind."
    done = python(HERE/'short.py')
    assert done.returncode == 0, done.stderr[-2000:]
    return {r['kind']: r for r in map(json.loads, done.stdout.splitlines())}


def counts(row): return {k: row[k] for k in ('lost', 'different', 'silent', 'foul', 'left')}
def clean(row): assert row['tried'] and not any(counts(row).values()), row['notes']


@pytest.mark.parametrize('name', KILLED)
def test_killed_and_done_again(rows, name): clean(rows[f'killed: {name}'])


@pytest.mark.parametrize('n', [2, 4])
def test_several_at_once(rows, n): clean(rows[f'{n} processes at once'])


@pytest.mark.parametrize('kind', SPOILT)
def test_spoilt_at_rest(rows, kind): clean(rows[f'flipped or cut: {kind}'])


@pytest.mark.parametrize('what', ['silent', 'foul', 'lost', 'nothing'])
def test_what_is_spoilt_is_noticed(rows, what):
    "The counts themselves: another result without a word, an error without a file, one that names a file that could be made again, or that could not."
    row = rows[f'reader: {what}']
    assert counts(row) == {k: int(k == what) for k in counts(row)}, row['notes']


def test_all_kinds_are_tried(rows):
    listed = python(HERE/'driver.py').stdout.splitlines()
    assert {k for k in listed if 'papermill' not in k and k != 'full disk'} <= set(rows), set(listed) - set(rows)


def test_temporary_files_that_stay_are_counted(tmp_path):
    (tmp_path/'x.1-abcd012345.tmp').touch()
    done = python('-c', f'import sys; sys.path.insert(0, {str(HERE)!r}); import driver; from pathlib import Path; print(driver.leftovers(Path({str(tmp_path)!r})))')
    assert done.stdout.strip() == "['x.1-abcd012345.tmp']", done.stderr


def test_full_disk():
    done = python('-c', f'import sys; sys.path.insert(0, {str(HERE)!r}); import driver; sys.exit(not driver.can_mount())')
    if done.returncode: pytest.skip('cannot mount a small disk here')
    done = subprocess.run(['unshare', '-m', sys.executable, str(HERE/'driver.py'), 'full disk', '2', '0'], capture_output=True, text=True, env=dict(os.environ, PYTHONPATH=str(ROOT)))
    assert done.returncode == 0, done.stderr
    assert [c.strip() for c in done.stdout.splitlines()[2].split('|')[2:8]] == ['2', *'00000'], done.stdout
