"""The short form of the faults, for tests/test_faults.py: python tests/faults/short.py; a line of JSON for each kind. A process of its own, since trials are forks,
and a fork of a process that has computed with several threads may wait for ever."""
import json
import random
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import driver

KILLED = dict.fromkeys(['draw', 'extract', 'fit', 'predict', 'complete'], 2) | dict(perform=1)
SPOILT = dict.fromkeys(['features', 'checkpoints', 'model.json', 'model weights', 'scores on the way', 'annotations read before'], 4) | {'run results': 2, 'run weights': 2, 'checkpoints of runs': 2, 'checkpoints of pre-training': 4, 'hashes of photos': 4, 'drawings': 4}
SHORT = {f'killed: {k}': n for k, n in KILLED.items()} | {f'{n} processes at once': 2 for n in (2, 4)} | {f'flipped or cut: {k}': n for k, n in SPOILT.items()}


def other(world, place): return 'another'
def foul(world, place): raise KeyError('x')
def named(world, place): raise ValueError(f'{place}/a.json: is cut; copy it again')


NOTICED = {'silent': (other, True), 'foul': (foul, True), 'lost': (named, True), 'nothing': (named, False)}   # what is to be counted: who reads, whether the file can be made again


def noticed(world, what, scratch):
    "What is counted when a model.json is spoilt whose reader errs in one way."
    kind = f'reader: {what}'
    driver.KEPT[kind] = driver.copy_model, 'model/model.json', driver.ask_model, False
    driver.files_of(world, kind, scratch)
    driver.KEPT[kind] = driver.copy_model, 'model/model.json', *NOTICED[what]
    row = driver.Row(kind)
    driver.flip(world, row, kind, random.Random(0), scratch)
    return row


def main():
    with tempfile.TemporaryDirectory() as folder:
        world = driver.make_world(Path(folder)/'world')
        for k, (kind, n) in enumerate(SHORT.items()):
            row, rng, scratch = driver.Row(kind), random.Random(0), Path(folder)/f'scratch-{k}'
            scratch.mkdir()
            for _ in range(n): driver.kinds()[kind](world, row, rng, scratch)
            print(json.dumps(asdict(row)), flush=True)
        for what in NOTICED: print(json.dumps(asdict(noticed(world, what, scratch))), flush=True)


if __name__ == '__main__': main()
