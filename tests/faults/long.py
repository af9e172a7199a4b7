"""The long form of the faults: python tests/faults/long.py MINUTES SEED [KIND ...]

Kinds take turns by the time they have had, so that a run of any length tries all of them; the table is written after each round, to the
section Jobs of results/tables/faults.md, with what went wrong below it.
"""
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import driver
import page
from driver import ROOT, Row

WEIGHTS = {'killed': .3, 'processes': .4, 'flipped': .3}   # shares of the time
HEAD = """\
What happens to small jobs on doodles that are killed at random moments, run several at a time, find their files damaged or the disk full; \
then the same job again, and its result beside the undisturbed one. lost: no result, or a process that failed; different: another result, with a \
word about it; silent: another result without a word; foul: an error that names no file; left: temporary files that stay. \
`python tests/faults/long.py MINUTES SEED` makes it.

"""


def weight(kind, every):
    "The share of the time of one kind."
    group = next(g for g in WEIGHTS if g in kind)
    return WEIGHTS[group]/sum(group in k for k in every)


def write(rows, seed, skipped):
    "The table, and up to five notes of each kind."
    notes = [n.replace('\n', ' ') for r in rows for n in r.notes[:5]]
    page.put('Jobs', HEAD + driver.markdown(summed(rows), seed, skipped) + ''.join(f'\n- {n}' for n in notes))


def summed(rows):
    "The rows, and below them the sum of each group."
    for group in WEIGHTS:
        of = [r for r in rows if group in r.kind]
        rows = [*rows, Row(f'all of: {group}', *(sum(getattr(r, k) for r in of) for k in ('tried', 'lost', 'different', 'silent', 'foul', 'left', 'seconds')))]
    return rows


def full_disks(minutes, seed):
    "The trials on a small disk, in a process that may mount one; None where that is not allowed."
    if not driver.can_mount(): return None
    n = max(1, round(minutes))
    done = subprocess.run(['unshare', '-m', sys.executable, str(ROOT/'tests'/'faults'/'driver.py'), 'full disk', str(n), str(seed)], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    if done.returncode or len(lines) < 3: raise RuntimeError(done.stderr[-800:])
    cells = [c.strip() for c in lines[2].strip('| ').split('|')]
    row = Row(cells[0], *map(int, cells[1:7]), float(cells[7]))
    row.notes = [l for l in lines[3:] if l]
    return row


def main(minutes, seed, only=()):
    end = time.monotonic() + 60*minutes
    disk = full_disks(minutes/4, seed) if not only else None
    skipped = [] if disk or only else ['full disk']
    with tempfile.TemporaryDirectory() as folder:
        scratch, rng = Path(folder)/'scratch', random.Random(seed)
        world = driver.make_world(Path(folder)/'world')
        scratch.mkdir()
        every = {k: t for k, t in driver.kinds(papermills=minutes >= 20).items() if not only or any(o in k for o in only)}
        rows = {k: Row(k) for k in every}
        if 'killed: papermill' in rows: driver.time_papermill(world, scratch)
        while time.monotonic() < end:
            kind = min(every, key=lambda k: rows[k].seconds/weight(k, every))
            every[kind](world, rows[kind], rng, scratch)
            write([*rows.values(), *([disk] if disk else [])], seed, skipped)
    print(page.PAGE.read_text())


if __name__ == '__main__': main(float(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
