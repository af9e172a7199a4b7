"""A disk that is full while something is written: one sentence with the path, exit 4, nothing that fills the rest."""
import os
import shutil
import subprocess
import sys

import pytest

from trmml import data
from trmml.report import parameters

CAN = shutil.which('unshare') and not subprocess.run(['unshare', '-m', 'sh', '-c', 'mount -t tmpfs -o size=1m x /mnt'], capture_output=True).returncode
pytestmark = pytest.mark.skipif(not CAN, reason='cannot mount a small disk here')


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    place = tmp_path_factory.mktemp('photos')
    ds = data.load(parameters.small('doodles', place/'data', 32, 16), 'train')
    (place/'photos').mkdir()
    rows = [','.join(['photo', *ds.classes[:6]])]
    for path, labels in zip(ds.paths, ds.labels):
        rows.append(','.join([os.path.basename(shutil.copy(path, place/'photos')), *(str(int(v > 0)) for v in labels[:6])]))
    (place/'labels.csv').write_text('\n'.join(rows) + '\n')
    (place/'disk').mkdir()
    return place


@pytest.mark.parametrize('room', ['80k', '400k', '6m'])   # features; a checkpoint; a second one beside it
def test_a_full_disk_is_said(photos, room):
    command = (f'mount -t tmpfs -o size={room} x disk && {{ {sys.executable} -c "import sys; from trmml.cli import main; main(sys.argv[1:])" fit photos labels.csv --out disk/model --backbone doodle-clip '
               '--epochs 2 --image-size 64; echo "exit $?"; find disk -name "*.tmp" -o -name "*.part" | wc -l; }')
    done = subprocess.run(['unshare', '-m', 'sh', '-c', command], cwd=photos, env=dict(os.environ, TRMML_FEATURES='disk/features'), capture_output=True, text=True)
    *_, code, left = done.stdout.split('\n')[:-1]
    said = done.stderr.strip().split('\n')[-1]
    assert (code, left.strip()) == ('exit 4', '0'), done.stderr[-2000:]
    assert said.startswith('trmml: ') and 'disk/' in said and ('make room' in said), said


def test_a_disk_that_is_full_of_drawings(tmp_path):
    (tmp_path/'disk').mkdir()
    command = f"""mount -t tmpfs -o size=80k x disk && TRMML_DATA=disk/data {sys.executable} -c 'from trmml import data; data.load("doodles", "train")'"""
    done = subprocess.run(['unshare', '-m', 'sh', '-c', command], cwd=tmp_path, capture_output=True, text=True)
    said = done.stderr.strip().split('\n')[-1]
    assert 'No space left on device; make room or choose another folder: ' in said and '.png' in said, said
