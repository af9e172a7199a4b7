"""What checks cost: the code of an earlier commit and today's in turn, in one process; seconds of four jobs and their ratio.

python .ci/cost_of_checks.py COMMIT [--rounds 15] [--images 256]     # writes results/tables/cost-of-checks.md

Jobs: features of drawings extracted; an epoch of TRM-ML; the results of 24 stored runs read as a table does; photos predicted by a
saved model. Both sides draw the same numbers; each round runs both, in turn first; ratios are of the same round. One thread.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ['OMP_NUM_THREADS'] = os.environ['MKL_NUM_THREADS'] = '1'
ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT/'results'/'tables'/'cost-of-checks.md'


class Side:
    "One of two copies of the package: inside `with`, it alone is `trmml`."

    def __init__(self, code, folder): self.code, self.folder, self.modules = str(code), Path(folder), {}

    def __enter__(self):
        sys.path.insert(0, self.code)
        sys.modules.update(self.modules)
        os.environ['TRMML_FEATURES'] = str(self.folder/'features')
        return self

    def __exit__(self, *_):
        sys.path.remove(self.code)
        self.modules = {k: sys.modules.pop(k) for k in list(sys.modules) if k.split('.')[0] == 'trmml'}


def prepare(side, n, data):
    "A folder of drawings, a saved model, 24 stored runs; the four jobs, by name."
    with side:
        import trmml
        import trmml.clip
        import trmml.data
        import trmml.features
        import trmml.methods
        import trmml.runs
        import trmml.train
        assert Path(trmml.__file__).is_relative_to(side.code), trmml.__file__
        from trmml.report import parameters
        small = parameters.small('doodles', data, n, 32)
        ds = trmml.data.load(small, 'train')
        clip = trmml.clip.load('doodle-clip')
        model = trmml.TRMML(backbone='doodle-clip', epochs=1, workers=0, progress=False, prompts='shared')
        model.fit(ds.paths, (ds.labels == 1).astype(int), classes=ds.classes)
        saved = trmml.TRMML.load(model.save(side.folder/'model'), progress=False)
        grid = [trmml.runs.Run(small, 'zeroshot', k/10, s, image_size=64) for k in range(1, 9) for s in range(3)]
        trmml.runs.perform_all(grid, None, side.folder/'results', n_jobs=1, progress=False)

        def extraction():
            folder = side.folder/'features'/'again'
            shutil.rmtree(folder, ignore_errors=True)
            return trmml.features.extract(clip, ds, root=folder, image_size=64, block=64)
        store = trmml.features.extract(clip, ds, image_size=128)
        method = trmml.methods.create('trmml', clip, ds.prompts, epochs=1, batch=32)
        start = {k: v.clone() for k, v in method.state_dict().items()}

        def epoch():
            method.load_state_dict(start)
            return trmml.train.fit(method, store, ds.labels)

        def table(): return trmml.runs.perform_all(grid, None, side.folder/'results', n_jobs=1, progress=False)

        def predict(): return saved.predict(ds.paths)
        return dict(extraction=extraction, epoch=epoch, table=table, predict=predict)


def seconds(side, job):
    with side:
        start = time.perf_counter()
        job()
        return time.perf_counter() - start


def measured(then, now, jobs, rounds):
    "Name -> (seconds then, seconds now) of each round; a first round is not counted."
    found = {name: [] for name in jobs[0]}
    for r in range(rounds + 1):
        for name in found:
            order = [(0, then), (1, now)][::1 if r % 2 else -1]
            took = {k: seconds(side, jobs[k][name]) for k, side in order}
            if r: found[name].append((took[0], took[1]))
        print(f'round {r} of {rounds}', flush=True)
    return found


def lines(found, commit):
    "The table: medians, and the ratio of rounds with its quartiles."
    yield f'Seconds with the code of {commit} and with today\'s, in turn in one process; the ratio is of the same round (median, quartiles).\n'
    yield '| job | then | now | now / then | rounds |'
    yield '|---|---:|---:|---:|---:|'
    for name, pairs in found.items():
        ratios = [b/a for a, b in pairs]
        low, mid, high = statistics.quantiles(ratios, n=4)
        a, b = (statistics.median(x) for x in zip(*pairs))
        yield f'| {name} | {a:.3f} | {b:.3f} | {mid:.3f} ({low:.3f} to {high:.3f}) | {len(pairs)} |'


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('commit')
    p.add_argument('--rounds', type=int, default=15)
    p.add_argument('--images', type=int, default=256)
    a = p.parse_args()
    sys.path[:] = [x for x in sys.path if Path(x or '.').resolve() not in (ROOT, ROOT/'.ci')]
    os.environ.pop('PYTHONPATH', None)
    with tempfile.TemporaryDirectory(prefix='cost-') as tmp:
        tmp = Path(tmp)
        (tmp/'then').mkdir()
        packed = subprocess.run(('git', '-C', str(ROOT), 'archive', a.commit, 'trmml', 'settings.ini'), check=True, capture_output=True).stdout
        subprocess.run(('tar', 'x', '-C', str(tmp/'then')), input=packed, check=True)
        then, now = Side(tmp/'then', tmp/'a'), Side(ROOT, tmp/'b')
        jobs = [prepare(side, a.images, tmp/'data') for side in (then, now)]
        found = measured(then, now, jobs, a.rounds)
    text = '\n'.join(lines(found, a.commit)) + '\n'
    TABLE.write_text(text, encoding='utf-8')
    print(text + json.dumps({k: [round(b/a, 3) for a, b in v] for k, v in found.items()}))


if __name__ == '__main__': main()
