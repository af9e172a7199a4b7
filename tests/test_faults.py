"""A short, seeded form of tests/faults: kills, processes at once, spoilt files, full disks; `python tests/faults/long.py MINUTES SEED` is the long one."""
import random
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent/'faults'
sys.path.insert(0, str(HERE))
pytestmark = pytest.mark.xdist_group('faults')   # one world for all


@pytest.fixture(scope='module')
def driver():
    import driver
    return driver


@pytest.fixture(scope='module')
def world(driver, tmp_path_factory): return driver.make_world(tmp_path_factory.mktemp('world')/'world')


def tried(driver, world, scratch, kind, n, seed=0):
    "Some trials of a kind."
    row, rng = driver.Row(kind), random.Random(seed)
    for _ in range(n): driver.kinds()[kind](world, row, rng, scratch)
    return row


def clean(row): assert (row.lost, row.different, row.silent, row.foul, row.left) == (0,)*5, row.notes


@pytest.mark.parametrize('name', ['draw', 'extract', 'fit', 'predict', 'complete', 'perform'])
def test_killed_and_done_again(driver, world, tmp_path, name): clean(tried(driver, world, tmp_path, f'killed: {name}', 1 if name == 'perform' else 2))


@pytest.mark.parametrize('n', [2, 4])
def test_several_at_once(driver, world, tmp_path, n): clean(tried(driver, world, tmp_path, f'{n} processes at once', 2))


SPOILT = ['features', 'run results', 'run weights', 'checkpoints', 'model.json', 'model weights', 'scores on the way', 'annotations read before']


@pytest.mark.parametrize('kind', SPOILT)
def test_spoilt_at_rest(driver, world, tmp_path, kind): clean(tried(driver, world, tmp_path, f'flipped or cut: {kind}', 2 if 'run' in kind else 4))


def test_full_disk(driver):
    if not driver.can_mount(): pytest.skip('cannot mount a small disk here')
    done = subprocess.run(['unshare', '-m', sys.executable, str(HERE/'driver.py'), 'full disk', '2', '0'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [c.strip() for c in done.stdout.splitlines()[2].split('|')[2:8]] == ['2', *'00000'], done.stdout


def test_what_is_spoilt_is_noticed(driver, world, tmp_path):
    "The counts themselves: a result that is another one, an error without a file, a temporary file that stays."
    def other(world, place): return 'another'
    def foul(world, place): raise KeyError('x')
    def named(world, place): raise ValueError(f'{place}/a.json: is cut; copy it again')
    for read, again, column in ((other, True, 'silent'), (foul, True, 'foul'), (named, True, 'lost'), (named, False, None)):
        with pytest.MonkeyPatch.context() as m:
            m.setitem(driver.KEPT, 'x', (driver.copy_model, 'model/model.json', driver.ask_model, False))
            driver.files_of(world, 'x', tmp_path)
            m.setitem(driver.KEPT, 'x', (driver.copy_model, 'model/model.json', read, again))
            row = driver.Row('x')
            driver.flip(world, row, 'x', random.Random(0), tmp_path)
        assert {k: getattr(row, k) for k in ('lost', 'different', 'silent', 'foul')} == {k: int(k == column) for k in ('lost', 'different', 'silent', 'foul')}, row.notes
    (tmp_path/'x.1-abcd012345.tmp').touch()
    assert driver.leftovers(tmp_path) == ['x.1-abcd012345.tmp']
