"""Faults on purpose: kills, several processes on one thing, flipped and cut files, full disks; what comes out is compared with the undisturbed.

Each trial is a fork of one process that has everything imported, so a trial costs what its work costs. A trial's `place` is a folder of its
own; `world` holds what all of them read. Counts are kept per kind: tried; lost (a result that does not come though it could); different (it comes and
is another, with a word about it); silent (the same without a word); foul (an error that names no file, or of a kind that nobody catches);
left (temporary files of dead processes that stay).
"""
import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path

os.environ['OMP_NUM_THREADS'] = os.environ['MKL_NUM_THREADS'] = '1'
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch
from joblib import cpu_count

from trmml import clip, data, features, runs
from trmml.data import annotation_cache, table
from trmml.doodles import ensure
from trmml.labels import partial
from trmml.photos import TRMML, kept, read_model
from trmml.report import parameters
from trmml.runs.content import method_digests

torch.set_num_threads(1)
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
kept.BLOCK = 4                # 24 photos are six blocks
annotation_cache.cached.__defaults__ = (0,)   # annotations are cached however few they are


# ---- a trial is a fork

@dataclass
class Child:
    "A forked process and where it says what came of it."
    pid: int
    said: Path
    status: int | None = None

    def over(self):
        "Whether it has ended."
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid: self.status = status
        return self.status is not None

    def send(self, number):
        "A signal to it and to what it has started; whether it was still there."
        if self.over(): return False
        os.killpg(self.pid, number)
        return True

    def result(self, limit=240):
        "What its work gave: value, or error and message; words of warning; 'hang' past the limit."
        end = time.monotonic() + limit
        while not self.over() and time.monotonic() < end: time.sleep(.005)
        if self.status is None:
            os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.status = -1
            return dict(error='hang', message=f'no end after {limit} s', words=[])
        if not self.said.exists(): return dict(error='dead', message=f'status {self.status}', words=[])
        return json.loads(self.said.read_text())


def start(work, *args, folder):
    "Begin `work(*args)` in a fork."
    folder.mkdir(parents=True, exist_ok=True)
    said = folder/f'said-{time.monotonic_ns()}.json'
    pid = os.fork()
    if pid:
        try: os.setpgid(pid, pid)
        except OSError: pass   # it was faster
        return Child(pid, said)
    code = 1
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = trial(work, args, said)
    finally: os._exit(code)


def trial(work, args, said):
    "In the fork: work, and say what came of it."
    words = said.with_suffix('.err')
    number = os.open(words, os.O_WRONLY | os.O_CREAT)
    os.dup2(number, 2)
    sys.stderr = open(2, 'w', buffering=1, closefd=False)
    warnings.showwarning = lambda message, *_, **__: print(message, file=sys.stderr)   # where a test keeps them, they are words all the same
    out = {}
    try: out = dict(value=work(*args))
    except KeyboardInterrupt: return 130
    except BaseException as error:
        out = dict(error=type(error).__name__, mro=[t.__name__ for t in type(error).__mro__], message=str(error), trace=traceback.format_exc()[-1500:])
    sys.stderr.flush()
    half = said.with_suffix('.half')
    half.write_text(json.dumps(out | dict(words=words.read_text(errors='replace').splitlines()), default=str))
    half.rename(said)
    words.unlink()
    return 0


def run(work, *args, folder, limit=240): return start(work, *args, folder=folder).result(limit)


# ---- what is done

@dataclass
class World:
    "Small doodles, photos with a table, two models."
    place: Path
    mini: str = ''
    photos: Path = None
    csv: Path = None
    seconds: dict = field(default_factory=dict)   # of each command, undisturbed
    wanted: dict = field(default_factory=dict)    # its result


def digest(path): return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def within(place):
    "This process's own features, data and cache."
    place.mkdir(parents=True, exist_ok=True)
    os.environ.update(TRMML_FEATURES=str(place/'features'), TRMML_DATA=str(place/'cache'))
    warnings.filterwarnings('ignore', '.*(cannot be learned|few|too few|positive).*')


def estimator(seed=0): return TRMML(backbone='doodle-clip', epochs=2, image_size=64, workers=0, progress=False, folds=0, batch=8, seed=seed)


def draw(world, place):
    folder = ensure(place/'data', 'train', 24, 8, size=64, progress=False, n_jobs=1)
    return {p.name: digest(p) for p in sorted(folder.rglob('*')) if p.suffix in ('.png', '.json')}


def extract(world, place):
    within(place)
    store = features.extract(clip.load('doodle-clip'), data.load(world.mini, 'train'), image_size=64, block=4, workers=0)
    return [hashlib.sha256(np.ascontiguousarray(store.arrays[k]).tobytes()).hexdigest()[:16] for k in sorted(store.arrays)]


def of_model(folder):
    "A model on the disk: names of tensors and what model.json says, but for sums."
    said, state = read_model(Path(folder))
    h = hashlib.sha256()
    for k in sorted(state): h.update(k.encode() + state[k].contiguous().numpy().tobytes())
    return [h.hexdigest()[:16], str(said['thresholds'])[:200], str(said['calibration'])[:400]]


def fit(world, place):
    within(place)
    estimator().fit(world.photos, world.csv).save(place/'model')
    return of_model(place/'model')


def loaded(world, name='a'): return TRMML.load(world.place/name, progress=False)


def predict(world, place):
    within(place)
    return digest(loaded(world).predict_to(place/'p.csv', world.photos))


def complete(world, place):
    within(place)
    out = loaded(world).complete(world.csv, world.photos, confidence=.6).to_csv(place/'f.csv')
    return [digest(out), digest(place/'f.confidence.csv')]


def some_runs(world, n=2):
    few = dict(epochs=2, batch=12, n_ctx=4, class_specific=False)
    return [runs.Run(world.mini, m, .5, 0, settings=s, image_size=64) for m, s in (('trmml', few), ('zeroshot', {}))[:n]]


def perform(world, place, n=2):
    within(place)
    found = runs.perform_all(some_runs(world, n), None, place/'results', n_jobs=1, progress=False)
    return [[r['key'], r['mAP'], digest(next((place/'results'/'runs').glob(f"{r['key']}-*.safetensors")))] for r in found]


def papermill(world, place):
    "Table 1 by papermill, in a process of its own."
    within(place)
    given = dict(dataset=world.mini, out=str(place/'results'), methods='[zeroshot, trmml]', ratios='[0.5]', seeds='[0]', epochs='1', image_size='64', backbone='doodle-clip')
    args = [a for k, v in given.items() for a in ('-y', f'{k}: {v}')]
    done = subprocess.run([sys.executable, '-m', 'papermill', str(ROOT/'nbs'/'table1.ipynb'), str(place/'done.ipynb'), '--cwd', str(ROOT), '--no-progress-bar', *args],
                          capture_output=True, text=True, env=dict(os.environ, PYTHONPATH=str(ROOT)))
    if done.returncode: raise RuntimeError(done.stderr[-600:])
    return sorted([json.loads(p.read_text())['key'], json.loads(p.read_text())['mAP']] for p in (place/'results'/'runs').glob('*.json'))


COMMANDS = dict(draw=draw, extract=extract, fit=fit, predict=predict, complete=complete, perform=perform)


def make_world(place):
    "Inputs of all trials, and the undisturbed result and time of each command."
    place = Path(place)
    world = World(place, photos=place/'photos', csv=place/'labels.csv')
    made = run(_inputs, world, folder=place/'said')
    if 'value' not in made: raise RuntimeError(made)
    world.mini = made['value']
    for run_ in some_runs(world): method_digests(run_)   # once, not in each fork
    for name, work in COMMANDS.items():
        begun, where = time.monotonic(), place/f'undisturbed-{name}'
        found = run(work, world, where, folder=place/'said')
        if 'value' not in found: raise RuntimeError(f'{name}: {found}')
        world.seconds[name], world.wanted[name] = time.monotonic() - begun, found['value']
    return world


def _inputs(world):
    within(world.place)
    mini = parameters.small('doodles', world.place/'data', 24, 8)
    ds = data.load(mini, 'train')
    world.photos.mkdir()
    names = [Path(p).name for p in ds.paths[:24]]
    for p, n in zip(ds.paths, names): shutil.copy(p, world.photos/n)
    table.write_csv(world.csv, names, ds.classes[:6], partial(ds.labels[:24, :6], .7))
    for name, seed in (('a', 0), ('b', 1)): estimator(seed).fit(world.photos, world.csv).save(world.place/name)
    return str(mini)


# ---- counts

@dataclass
class Row:
    "What came of the trials of a kind."
    kind: str
    tried: int = 0
    lost: int = 0
    different: int = 0
    silent: int = 0
    foul: int = 0
    left: int = 0
    seconds: float = 0
    notes: list = field(default_factory=list)

    def note(self, what, text):
        setattr(self, what, getattr(self, what) + 1)
        self.notes.append(f'{self.kind}: {what}: {text}'[:600])


def leftovers(place):
    "Temporary files; every process that could be writing them is gone."
    return [str(p.relative_to(place)) for p in place.rglob('*') if p.suffix == '.tmp' or p.name.endswith(('.part', '.journal'))]


# ---- kills

def kill(world, row, name, rng, scratch):
    "A command, killed at a random moment, and then to its end."
    work, place = (papermill if name == 'papermill' else COMMANDS[name]), scratch/f'kill-{row.tried}-{rng.random()}'
    number, begun = rng.choice(SIGNALS), time.monotonic()
    child = start(work, world, place, folder=scratch/'said')
    time.sleep(rng.random()*world.seconds[name])
    row.tried += child.send(number)   # not counted if it was over
    child.result(30)
    found = run(work, world, place, folder=scratch/'said')
    if 'value' not in found: row.note('lost', f"{name} after {number.name}: {found['error']}: {found['message']}")
    elif found['value'] != world.wanted[name]: row.note('silent', f'{name} after {number.name}: {found["value"]}')
    elif rest := leftovers(place): row.note('left', f'{name} after {number.name}: {rest}')
    shutil.rmtree(place, ignore_errors=True)
    row.seconds += time.monotonic() - begun


# ---- several processes on one thing

def save_often(world, place, name, times):
    within(place)
    model = loaded(world, name)
    for _ in range(times): model.save(place/'model')
    return True


def load_often(world, place, stop):
    "Read a model until a file is there; what was seen."
    seen = []
    while not stop.exists():
        if not (place/'model'/'model.json').exists(): continue
        now = of_model(place/'model')
        if now not in seen: seen.append(now)
    return seen


def round_of_saves(world, row, n, rng, scratch):
    "Processes that save two models to one folder, and one that loads it meanwhile."
    place, begun = scratch/f'save-{row.tried}', time.monotonic()
    place.mkdir(parents=True)
    reader = start(load_often, world, place, place/'stop', folder=scratch/'said')
    writers = [start(save_often, world, place, 'ab'[i % 2], 3, folder=scratch/'said') for i in range(n)]
    said = [w.result() for w in writers]
    (place/'stop').touch()
    seen, ok = reader.result(), [of_model(world.place/x) for x in 'ab']
    for s in said:
        if 'value' not in s: row.note('lost', f"save: {s['error']}: {s['message']}")
    if 'value' not in seen: row.note('lost', f"load: {seen['error']}: {seen['message']}")
    elif any(s not in ok for s in seen['value']): row.note('silent', 'load: a model that nobody saved')
    if of_model(place/'model') not in ok: row.note('silent', 'a model that nobody saved')
    if len(list((place/'model').iterdir())) != 3: row.note('left', str([p.name for p in (place/'model').iterdir()]))
    finish(row, place, begun)


def finish(row, place, begun):
    row.tried += 1
    row.seconds += time.monotonic() - begun
    shutil.rmtree(place, ignore_errors=True)


def round_of(world, row, name, n, rng, scratch):
    "The same command in several processes."
    place, begun = scratch/f'{name}-{row.tried}', time.monotonic()
    children = [start(COMMANDS[name], world, place, folder=scratch/'said') for _ in range(n)]
    for found in [c.result() for c in children]:
        if 'value' not in found: row.note('lost', f"{name}: {found['error']}: {found['message']}")
        elif found['value'] != world.wanted[name]: row.note('silent', f'{name}: {found["value"]}')
    if rest := leftovers(place): row.note('left', f'{name}: {rest}')
    finish(row, place, begun)


def at_once(world, row, n, rng, scratch):
    "A round of one of the kinds."
    name = rng.choice(('save', 'perform', 'predict', 'extract', 'complete'))
    if name == 'save': round_of_saves(world, row, n, rng, scratch)
    else: round_of(world, row, name, n, rng, scratch)


# ---- flips and cuts

class Stopped(KeyboardInterrupt): pass


def begun_scores(world, place):
    "A prediction that was stopped half way."
    from trmml.photos import matcher
    within(place)
    def stop(k, stop, out):
        kept.keep(k, stop, out)
        if stop >= 16: raise Stopped
    matcher.keep = stop
    try: loaded(world).predict_to(place/'p.csv', world.photos)
    except Stopped: return True


def fit_unsaved(world, place):
    within(place)
    estimator().fit(world.photos, world.csv)
    return True


def copy_model(world, place): return bool(shutil.copytree(world.place/'a', place/'model'))


def ask_model(world, place):
    within(place)
    model = TRMML.load(place/'model', progress=False)
    return [model.predict(world.photos).to_csv(float_format='%.5f'), model.predict_labels(world.photos).to_csv(), list(model.classes_)]


def ask_runs(world, place):
    "Numbers of the results, and the trained methods: a method that is trained again has as many threads as the first time."
    found = perform(world, place)
    torch.set_num_threads(cpu_count())
    states = [runs.trained(r, place/'results').state_dict() for r in some_runs(world)]
    return [[r[:2] for r in found], [hashlib.sha256(b''.join(v.cpu().contiguous().numpy().tobytes() for v in s.values())).hexdigest()[:16] for s in states]]


def runs_unwritten(world, place):
    "Runs that were stopped between their last epoch and their result."
    within(place)
    def stop(*_): raise Stopped
    sys.modules['trmml.runs.perform'].score_all = stop
    try: runs.perform(some_runs(world)[0], None, place/'results')
    except Stopped: return True


def ask_run(world, place):
    within(place)
    return runs.perform(some_runs(world)[0], None, place/'results')['mAP']


def resume_pretraining(world, place):
    "The state of a pre-training read, and written if there is none."
    from trmml.doodles import pretrain
    torch.manual_seed(0)
    place.mkdir(parents=True, exist_ok=True)
    model = torch.nn.Linear(40, 40)
    opt = torch.optim.SGD(model.parameters(), .1, momentum=.9)
    def step(k):
        opt.zero_grad()
        loss = (model(torch.full((40,), k/8.))**2).sum()
        loss.backward()
        opt.step()
        return loss.item()
    rows = list(pretrain.resumable(model, opt, place/'state.pt', 8 if place.name == 'at-rest' else 4, 2, step, lambda i, loss, seconds: dict(step=i, loss=loss)))
    return [rows[-1], hashlib.sha256(model.weight.detach().numpy().tobytes()).hexdigest()[:16]]


def read_data(world, place):
    within(place)
    ds = data.load(world.mini, 'train')
    return hashlib.sha256(np.ascontiguousarray(ds.labels).tobytes() + repr(ds.classes).encode()).hexdigest()[:16]


KEPT = {   # kind: how the files come to be, which they are, who reads them, whether they can be made again
    'features': (extract, 'features/*/*', extract, True),
    'checkpoints': (fit_unsaved, 'features/fits/*.ckpt', fit, True),
    'run results': (perform, 'results/runs/*.json', ask_runs, True),
    'run weights': (perform, 'results/runs/*.safetensors', ask_runs, True),
    'model.json': (copy_model, 'model/model.json', ask_model, False),
    'model weights': (copy_model, 'model/*.safetensors', ask_model, False),
    'checkpoints of runs': (runs_unwritten, 'results/runs/*.ckpt', ask_run, True),
    'checkpoints of pre-training': (resume_pretraining, 'state.pt', resume_pretraining, True),
    'hashes of photos': (extract, 'features/*.images', extract, True),
    'drawings': (draw, 'data/*/annotations/*.json', draw, True),
    'scores on the way': (begun_scores, 'p.csv.*', predict, True),
    'annotations read before': (read_data, 'cache/cache/*', read_data, True)}


def files_of(world, kind, scratch):
    "A folder with intact files of a kind, made once, and what reading them gives."
    clean, (make, names, read, _) = scratch/f'clean-{kind}'.replace(' ', '-'), KEPT[kind]
    if not clean.exists():
        made = run(make, world, clean, folder=scratch/'said')
        if 'value' not in made: raise RuntimeError(f'{kind}: {made}')
        place = scratch/'at-rest'
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(clean, place)
        world.wanted[kind] = run(read, world, place, folder=scratch/'said')['value']
    return clean


def spoil(path, rng):
    "Flip a bit of a file, or cut it; what was done, in words."
    content = bytearray(path.read_bytes())
    if not content: return 'nothing'
    at = rng.randrange(len(content))
    if rng.random() < .25:
        path.write_bytes(content[:at])
        return f'cut after {at} of {len(content)} bytes'
    bit = rng.randrange(8)
    content[at] ^= 1 << bit
    path.write_bytes(content)
    return f'bit {bit} of byte {at}'


def names_a_file(found, place):
    "Whether an error is of a kind that is caught, and says which file it is about."
    kinds, said = {'ValueError', 'OSError'}, found['message']
    return bool(kinds & set(found.get('mro', ()))) and (str(place) in said or any(p.name in said for p in place.rglob('*') if p.is_file()))


def flip(world, row, kind, rng, scratch):
    "One file of a kind is spoilt at rest, then read."
    begun, (_, names, read, again) = time.monotonic(), KEPT[kind]
    clean, place = files_of(world, kind, scratch), scratch/f'at-rest'
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(clean, place)
    path = rng.choice(sorted(p for p in place.glob(names) if p.stat().st_size > 16 and p.suffix != '.lock'))   # zero-shot's weights are an empty file of 16
    done = spoil(path, rng)
    found, where = run(read, world, place, folder=scratch/'said'), f'{path.name}, {done}'
    row.tried += 1
    if 'value' not in found:
        if not names_a_file(found, place): row.note('foul', f"{where}: {found['error']}: {found['message']}")
        elif again: row.note('lost', f"{where}: {found['error']}: {found['message']}")
    elif found['value'] != world.wanted[kind]: row.note('different' if found['words'] else 'silent', where)
    row.seconds += time.monotonic() - begun


# ---- full disks

def can_mount():
    return bool(shutil.which('unshare')) and not subprocess.run(['unshare', '-m', 'sh', '-c', 'mount -t tmpfs -o size=1m x /mnt'], capture_output=True).returncode


def size(place): return sum(p.stat().st_size for p in place.rglob('*') if p.is_file())


def full(world, row, name, rng, scratch, disk):
    "A command on a disk that is too small, and again when there is room."
    begun, need = time.monotonic(), size(world.place/f'undisturbed-{name}')
    def room(k): subprocess.run(['mount', '-o', f'remount,size={k}k', str(disk)], check=True)
    for p in disk.iterdir(): shutil.rmtree(p) if p.is_dir() else p.unlink()
    kilobytes = 16 + int(rng.random()*need/1024)
    room(kilobytes)
    found = run(COMMANDS[name], world, disk, folder=scratch/'said')
    if 'value' not in found and not ('No space' in found['message'] or 'disk' in found['message'] or 'GB are free' in found['message']):
        row.note('foul', f"{name} in {kilobytes} kB: {found['error']}: {found['message']}")
    if rest := [r for r in leftovers(disk) if r.endswith('.tmp')]: row.note('left', f'{name} in {kilobytes} kB: {rest}')
    room(65536)
    again = run(COMMANDS[name], world, disk, folder=scratch/'said')
    if 'value' not in again: row.note('lost', f"{name} after {kilobytes} kB: {again['error']}: {again['message']}")
    elif again['value'] != world.wanted[name]: row.note('silent', f'{name} after {kilobytes} kB')
    row.tried += 1
    row.seconds += time.monotonic() - begun


# ---- all of them

def kinds(papermills=False):
    "kind -> a trial of it; those of full disks are asked for by `disks`."
    out = {f'killed: {n}': (lambda w, r, g, s, n=n: kill(w, r, n, g, s)) for n in (*COMMANDS, *(['papermill'] if papermills else []))}
    out |= {f'{n} processes at once': (lambda w, r, g, s, n=n: at_once(w, r, n, g, s)) for n in (2, 4)}
    return out | {f'flipped or cut: {k}': (lambda w, r, g, s, k=k: flip(w, r, k, g, s)) for k in KEPT}


def disks(world, row, n, rng, scratch, until=float('inf')):
    "Trials on a small disk; in a process that may mount one, as `unshare -m` starts it."
    disk = scratch/'disk'
    disk.mkdir(exist_ok=True)
    subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64m', 'x', str(disk)], check=True)
    try:
        for k in range(n):
            if time.monotonic() > until: break
            full(world, row, rng.choice(list(COMMANDS)), rng, scratch, disk)
    finally: subprocess.run(['umount', '-l', str(disk)])


def markdown(rows, seed, skipped=()):
    "The table."
    head = ['kind', 'tried', 'lost', 'different', 'silent', 'foul', 'left', 'seconds', 'seed']
    body = [[r.kind, r.tried, r.lost, r.different, r.silent, r.foul, r.left, f'{r.seconds:.0f}', seed] for r in rows]
    body += [[k, 'skipped', *['']*6, seed] for k in skipped]
    return '\n'.join('| ' + ' | '.join(map(str, line)) + ' |' for line in [head, ['---']*len(head), *body]) + '\n'


def main():
    "python tests/faults/driver.py KIND N SEED: some trials of a kind, and what came of them; `python tests/faults/driver.py` lists the kinds."
    parser = argparse.ArgumentParser(description=main.__doc__)
    for name in ('kind', 'n', 'seed'): parser.add_argument(name, nargs='?')
    given = parser.parse_args()
    every = kinds(True)
    if not given.kind: return print('\n'.join([*every, 'full disk']))
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        world, rng, scratch = make_world(Path(folder)/'world'), random.Random(int(given.seed or 0)), Path(folder)/'scratch'
        row = Row(given.kind)
        scratch.mkdir()
        if given.kind == 'full disk': disks(world, row, int(given.n or 1), rng, scratch)
        else:
            if 'papermill' in given.kind: time_papermill(world, scratch)
            for _ in range(int(given.n or 1)): every[given.kind](world, row, rng, scratch)
    print(markdown([row], given.seed or 0), *row.notes, sep='\n')


def time_papermill(world, scratch):
    "Its undisturbed time and result."
    begun = time.monotonic()
    found = run(papermill, world, scratch/'undisturbed-papermill', folder=scratch/'said', limit=600)
    if 'value' not in found: raise RuntimeError(found)
    world.seconds['papermill'], world.wanted['papermill'] = time.monotonic() - begun, found['value']


if __name__ == '__main__': main()
