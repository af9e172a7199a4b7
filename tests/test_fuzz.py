"""A short form of `python tests/faults/fuzz.py`: files changed at random are read, or refused in one sentence."""
import importlib.util
from pathlib import Path

spec = importlib.util.spec_from_file_location('fuzz', Path(__file__).parent/'faults'/'fuzz.py'); fuzz = importlib.util.module_from_spec(spec); spec.loader.exec_module(fuzz)


def test_three_hundred_changed_files(tmp_path):
    counts, foul = fuzz.fuzz(300, seed=1, root=tmp_path)
    assert not foul, foul
    total = sum(counts.values(), fuzz.Counter())
    assert sum(total.values()) == 300 and len(counts) > 30 and total['refused'] > 100 and total['read'] > 20 and not list(tmp_path.iterdir())


def test_a_foul_reader_is_noticed(tmp_path):
    "Other errors, other files' names, several lines, no end."
    (tmp_path/'x.csv').write_text('')
    def raises(error):
        def call(path): raise error
        return call
    for error, want in ((KeyError('x.csv'), 'foul'), (ValueError('no name'), 'foul'), (ValueError('x.csv:\n1'), 'foul'), (UnicodeDecodeError('utf-8', b'x.csv', 0, 1, 'x.csv'), 'foul'), (ValueError('x.csv: is none'), 'refused')):
        assert fuzz.outcome(raises(error), tmp_path/'x.csv')[0] == want, error
    fuzz.LIMIT, before = .05, fuzz.LIMIT
    def endless(path):
        while True: pass
    try: assert fuzz.outcome(endless, tmp_path/'x.csv')[0] == 'hang' and fuzz.outcome(len, tmp_path/'x.csv')[0] == 'foul'
    finally: fuzz.LIMIT = before
