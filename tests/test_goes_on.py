"""Long work goes on after a stop: scores are kept block by block, for the same model, photos and settings alone; a dead reader costs its batch."""
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from trmml import TRMML, cli, photos
from trmml.features import Pictures, read_batches
from trmml.photos import example, kept, matcher

N = 24


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp('place')
    with pytest.MonkeyPatch.context() as m, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        m.setenv('TRMML_FEATURES', str(place/'features'))
        found = example(place, n=N, known=.7)
        TRMML(backbone='doodle-clip', epochs=1, image_size=64, workers=0, progress=False).fit(found.photos, found.labels).save(place/'model')
    return place


@pytest.fixture
def model(place, tmp_path, monkeypatch):
    monkeypatch.setenv('TRMML_FEATURES', str(tmp_path/'features'))
    monkeypatch.setattr(kept, 'BLOCK', 4)
    monkeypatch.setattr('trmml.photos.predicting.BLOCK', 4)
    return TRMML.load(place/'model', progress=False)


@contextlib.contextmanager
def counted(stop=None):
    "How many photos are scored inside; Ctrl-C once so many are."
    n, real = [], matcher.raw_of
    def counting(method, f):
        if stop is not None and sum(n) >= stop: raise KeyboardInterrupt
        n.append(len(f.pooled))
        return real(method, f)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(matcher, 'raw_of', counting)
        with contextlib.suppress(KeyboardInterrupt): yield n


WORK = {
    'predict': lambda m, p: m.predict(p/'photos').to_csv(),
    'complete': lambda m, p: m.complete(p/'labels.csv', p/'photos', confidence=.6).labels.to_csv(),
    'evaluate': lambda m, p: repr(m.evaluate(p/'photos', p/'labels.csv')),
    'ask': lambda m, p: photos.ask(m, p/'labels.csv', photos=p/'photos', n=9).to_csv(),
    'score': lambda m, p: repr(m.score(p/'photos', p/'labels.csv'))}


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', WORK)
def test_stopped_and_gone_on_with(name, model, place, tmp_path):
    with counted() as every: wanted = WORK[name](model, place)
    assert sum(every) == N and not list((tmp_path/'features').rglob('*.part'))   # nothing stays when all is well
    with counted(stop=12) as first: WORK[name](model, place)
    assert sum(first) == 12 and len(list((tmp_path/'features'/'scores').glob('*.journal'))) == 1
    with counted() as rest: assert WORK[name](model, place) == wanted
    assert sum(rest) == N - 12 and not list((tmp_path/'features'/'scores').iterdir())


@pytest.mark.filterwarnings('ignore')
def test_doubts_of_photos_that_were_not_cross_fitted(model, place, tmp_path):
    "The same for labels of photos that the model has no cross-fitted score of."
    if model.cross_ is None or not model.facts_['folds']: pytest.skip('nothing was cross-fitted')
    shutil.copytree(place/'photos', tmp_path/'new')
    for p in sorted((tmp_path/'new').iterdir()): p.rename(p.with_name(f'new-{p.name}'))
    text = (place/'labels.csv').read_text().splitlines()
    (tmp_path/'new.csv').write_text('\n'.join([text[0], *(f'new-{line}' for line in text[1:])]))
    doubt = lambda: model.doubtful(tmp_path/'new.csv', tmp_path/'new', 5).to_csv()
    wanted = doubt()
    with counted(stop=12): doubt()
    with counted() as rest: assert doubt() == wanted
    assert sum(rest) == N - 12


@pytest.mark.filterwarnings('ignore')
def test_what_changed_is_scored_anew(model, place, tmp_path):
    folder = tmp_path/'photos'
    shutil.copytree(place/'photos', folder)
    def stopped(m=model, **how):
        with counted(stop=12): m.predict(folder, **how)
    def rest(m=model, **how):
        with counted() as n: p = m.predict(folder, **how)
        return sum(n), p
    _, before = rest()
    stopped()
    first, second = sorted(folder.iterdir())[:2]
    s = os.stat(first)
    first.write_bytes((second.read_bytes() + bytes(s.st_size))[:s.st_size]); os.utime(first, ns=(s.st_atime_ns, s.st_mtime_ns))   # rsync -t, of the same size
    n, after = rest()
    assert n == N - 12 + 4 and not np.allclose(before.iloc[0], after.iloc[0])   # its block
    stopped(); model.thresholds_ = model.thresholds_ + .1; assert rest()[0] == N - 12   # no part of a score
    stopped(); model.calibration_ = model.calibration_._replace(b=[v + 1 for v in model.calibration_.b]); assert rest()[0] == N
    stopped(); assert rest(precision='bfloat16')[0] == N


@pytest.mark.filterwarnings('ignore')
def test_photos_that_cannot_be_read_are_tried_again(model, place, tmp_path):
    folder = tmp_path/'photos'
    shutil.copytree(place/'photos', folder)
    bad = sorted(folder.iterdir())[1]
    bad.write_bytes(b'')
    with counted(stop=11): model.predict(folder, skip_unreadable=True)
    with counted() as n, pytest.raises(ValueError, match=f'(?s){bad.name}.*What is done is kept'): model.predict(folder)
    with counted() as n: model.predict(folder, skip_unreadable=True)
    assert sum(n) == 12


@pytest.mark.filterwarnings('ignore')
def test_where_nothing_can_be_kept_work_is_done(model, place, tmp_path, monkeypatch):
    (tmp_path/'features').write_text('a file')   # as a read-only disk, for root too
    with counted() as n: model.predict(place/'photos')
    assert sum(n) == N
    (tmp_path/'features').unlink()
    monkeypatch.setattr(kept, 'append_line', lambda *_: (_ for _ in ()).throw(OSError(28, 'full')))
    monkeypatch.setattr('trmml.photos.predicting.begin', lambda k: {})
    monkeypatch.setattr(kept, 'begin', lambda k: k.part.write_bytes(bytes(4*k.C*len(k.paths))) and {})
    with counted() as n: model.predict(place/'photos')
    assert sum(n) == N


def test_works_that_were_stopped_do_not_pile_up(model, place, tmp_path, monkeypatch):
    monkeypatch.setattr('trmml.photos.predicting.STOPPED', 3)
    names = sorted((place/'photos').iterdir())
    for k in range(6):
        with counted(stop=4): model.predict(names[k:])
    assert len(list((tmp_path/'features'/'scores').glob('*.journal'))) <= 4
    assert len(list((tmp_path/'features'/'scores').glob('*.part'))) <= 4


def test_ctrl_c_says_that_it_goes_on(model, place, capsys, monkeypatch):
    monkeypatch.setattr(cli, 'opened', lambda *_: model)
    real = matcher.raw_of
    monkeypatch.setattr(matcher, 'raw_of', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(SystemExit) as stop: cli.main(['complete', 'm', str(place/'labels.csv'), '--photos', str(place/'photos')])
    assert stop.value.code == 130 and 'finished blocks of 64 photos are kept, and the same command goes on' in capsys.readouterr().err


class Slow(Pictures):
    def __getitem__(self, i):
        time.sleep(.03)
        return super().__getitem__(i)


def pictures(place):
    from torchvision import transforms as T
    return Slow([str(p) for p in sorted((place/'photos').iterdir())]*2, T.Compose([T.Resize((32, 32)), T.ToTensor()]), 32)


def test_a_dead_reader_costs_its_batch(place):
    "One of two processes is killed: the same images, one warning, within seconds, and the signal's error nowhere else."
    batches = [[i, i + 1] for i in range(0, 2*N, 2)]
    wanted = torch.cat([x for x, _ in read_batches(pictures(place), batches)])
    from multiprocessing import active_children
    others, found, begun = {c.pid for c in active_children()}, [], time.monotonic()   # of earlier tests in this process
    with pytest.warns(UserWarning, match='a process that reads photos ended.*nothing is lost; workers=0') as said:
        for k, (x, _) in enumerate(read_batches(pictures(place), batches, 2)):
            found.append(x)
            if k == 2:
                os.kill(min({c.pid for c in active_children()} - others), signal.SIGKILL)
                for _ in range(50): time.sleep(.01)   # where torch's handler would raise
    assert torch.equal(torch.cat(found), wanted) and len([w for w in said if 'reads photos' in str(w.message)]) == 1 and time.monotonic() - begun < 30
    assert {c.pid for c in active_children()} <= others


@pytest.mark.parametrize('error', [RuntimeError('DataLoader worker (pid 7) is killed by signal: Bus error.'), ConnectionResetError('x'), EOFError()])
def test_every_way_in_which_a_dead_reader_is_noticed(error, place, monkeypatch):
    from trmml.features import reading
    real = reading.DataLoader
    def breaks(pictures, batch_sampler, num_workers=0, **how):
        for k, batch in enumerate(real(pictures, batch_sampler=batch_sampler)):
            if num_workers and k == 2: raise error
            yield batch
    monkeypatch.setattr(reading, 'DataLoader', breaks)
    batches = [[i] for i in range(6)]
    with pytest.warns(UserWarning, match='reads photos ended'): two = [x for x, _ in read_batches(pictures(place), batches, 2)]
    assert torch.equal(torch.cat(two), torch.cat([x for x, _ in read_batches(pictures(place), batches)]))


def test_a_small_shared_memory_is_named(monkeypatch):
    from trmml.features import reading
    usage = shutil.disk_usage('/')
    monkeypatch.setattr(reading.shutil, 'disk_usage', lambda p: usage._replace(total=2**16))
    assert '/dev/shm has 0 MB, which is little' in reading.why_lost(RuntimeError('unable to write')) and 'workers=0' in reading.why_lost(EOFError())


@pytest.mark.skipif(not os.environ.get('TRMML_SLOW'), reason='long: TRMML_SLOW=1')
def test_five_thousand_photos(place, tmp_path):
    "Killed at 3,000 of 5,000, the last 2,000 are done."
    folder, some = tmp_path/'many', sorted((place/'photos').iterdir())
    folder.mkdir()
    for k in range(5000): os.link(some[k % N], folder/f'{k:04}.png')
    env = dict(os.environ, TRMML_FEATURES=str(tmp_path/'features'))
    command = [sys.executable, '-c', 'import sys; from trmml.cli import main; main(sys.argv[1:])', 'evaluate', str(place/'model'), str(folder), str(tmp_path/'l.csv')]
    classes = json.loads((place/'model'/'model.json').read_text())['classes']
    rows = [','.join([f'{k:04}.png', *(str((k + c) % 2) for c in range(len(classes)))]) for k in range(5000)]
    (tmp_path/'l.csv').write_text('\n'.join([','.join(['image', *classes]), *rows]))
    first = subprocess.Popen(command, env=env, stderr=subprocess.PIPE)
    journal, end = lambda: list((tmp_path/'features'/'scores').glob('*.journal')), time.monotonic() + 900
    while time.monotonic() < end and first.poll() is None and (not journal() or len(journal()[0].read_bytes().splitlines()) < 48): time.sleep(.2)
    ended = first.poll(); first.kill(); said = first.communicate()[1].decode()
    assert ended is None, said
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and 'of 5000 photos were done before' in done.stderr, done.stderr
    assert int(done.stderr.split(' of 5000 photos')[0].split()[-1]) >= 3000
