"""Table 1 on the doodles with the code of two commits, in turn, each from empty caches: seconds of the command, and what came out.

python .ci/then_and_now.py [THEN [NOW]] [--device cuda] [--jobs N]     # writes results/tables/table1-then-and-now-<device>.csv
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

ROOT = Path(__file__).resolve().parent.parent
FIRST = '5cc1e63'   # with which the table was first called finished


def git(*args): return subprocess.run(('git', '-C', str(ROOT), *args), check=True, capture_output=True, text=True).stdout.strip()


def command(code, folder, device, jobs):
    "Run the notebook of one commit; seconds."
    env = {k: v for k, v in os.environ.items() if k not in ('OMP_NUM_THREADS', 'TRMML_CLUSTER')}
    env |= dict(PYTHONPATH=str(code), TRMML_DATA=str(folder/'data'), TRMML_FEATURES=str(folder/'features'))
    given = ['-p', 'device', device] + (['-p', 'n_jobs', str(jobs)] if jobs else [])
    start = time.time()
    subprocess.run((sys.executable, '-m', 'papermill', 'nbs/table1.ipynb', str(folder/'table1.ipynb'), *given), cwd=code, env=env, check=True)
    return round(time.time() - start, 1)


def averages(folder):
    "Of each method's stored runs: how many, mean mAP, mean seconds."
    results = [json.loads(p.read_text()) for p in folder.glob('*.json')]
    runs = pd.DataFrame([dict(method=r['run']['method'], mAP=100*r['mAP'], seconds=r['seconds']) for r in results], columns=['method', 'mAP', 'seconds'])
    return {f'{m}_{k}': v for m, g in runs.groupby('method')
            for k, v in dict(runs=len(g), mAP=round(g.mAP.mean(), 2), seconds=round(g.seconds.mean(), 2)).items()}


def row(commit, device, jobs):
    "Everything that is stored of one commit."
    from trmml.runs import processor
    machine = processor() if device == 'cpu' else torch.cuda.get_device_name(device)
    about = dict(device=device, machine=machine, torch=torch.__version__, commit=git('rev-parse', '--short', commit),
                 date=git('show', '-s', '--format=%cs', commit), side_by_side=jobs or (os.cpu_count() if device == 'cpu' else 'default'))
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder); code = folder/'code'
        try:
            git('worktree', 'add', '--detach', str(code), commit)
            return dict(about, seconds=command(code, folder, device, jobs), **averages(code/'results'/'runs'))
        finally: subprocess.run(('git', '-C', str(ROOT), 'worktree', 'remove', '--force', str(code)))


def main():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument('then', nargs='?', default=FIRST)
    args.add_argument('now', nargs='?', default='HEAD')
    args.add_argument('--device', default='cpu')
    args.add_argument('--jobs', type=int, help='runs side by side; if not given, what each code does by itself')
    args = args.parse_args()
    path, rows = ROOT/'results'/'tables'/f'table1-then-and-now-{args.device.replace(":", "")}.csv', []
    for commit in (args.then, args.now):
        rows.append(row(commit, args.device, args.jobs)); pd.DataFrame(rows).to_csv(path, index=False)
    print(pd.DataFrame(rows).T.to_string()); print(f'{rows[0]["seconds"]/rows[1]["seconds"]:.2f} times as fast')


if __name__ == '__main__': main()
