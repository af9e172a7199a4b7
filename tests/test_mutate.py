"""The tool that breaks single lines: what it breaks, what it leaves alone, what it counts."""
import importlib.util
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location('mutate', Path(__file__).resolve().parents[1]/'.ci'/'mutate.py')
mutate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mutate)


def changes(code): return {(kind, before, after) for _, kind, _, before, after in mutate.places(code)}


@pytest.mark.parametrize('code, expected', [
    ('def f(x): return x < 1', {('compare', 'x < 1', 'x <= 1'), ('const', '1', '2')}),
    ('def f(a, b): return a + b', {('arith', 'a + b', 'a - b')}),
    ('def f(a, b): return g(a, b, k=True)', {('swap', 'g(a, b, k=True)', 'g(b, a, k=True)'), ('kwarg', 'g(a, b, k=True)', 'g(a, b)'), ('const', 'True', 'False')}),
    ('def f(a, b): return a, b', {('return', 'return a, b', 'return (b, a)')}),
    ('def f(a, b):\n    a += b\n    return -a', {('arith', 'a += b', 'a -= b'), ('drop', 'a += b', 'pass'), ('arith', '-a', 'a')}),
    ('def f(a, b): return b if a else not b', {('cond', 'a', 'True'), ('cond', 'a', 'False'), ('bool', 'not b', 'b')}),
])
def test_kinds(code, expected): assert changes(code) == expected


@pytest.mark.parametrize('code', [
    'X = 1 + 2', 'def f():\n    "Docstring 1."', 'def f(x): return f"{x} is not 3"', '@cache(3)\ndef f(x): return None', 'def f(x:int=None): warn(f"{x}", 3)', 'def f(ax): ax.plot(fontsize=8)',
])
def test_what_is_left_alone(code): assert not {c for c in changes(code) if c[0] != 'drop'}


def test_a_broken_source_is_the_source_with_one_place_changed():
    code = 'def f(ä):\n    "é"\n    return ä < 2 # ü\n'
    assert {b for _, _, b, _, _ in mutate.places(code)} == {code.replace('ä < 2', '(ä <= 2)'), code.replace('2', '(3)')}


def test_what_counts(monkeypatch):
    row = dict(module='m', before='a', after='b')
    found = [row | dict(outcome=o) for o in ('killed', 'timeout', 'survived', 'import')]
    assert mutate.score(found) == (2, 3)
    monkeypatch.setitem(mutate.EQUIVALENT, ('m', 'a', 'b'), 'why')
    assert mutate.score([*found, row | dict(before='c', outcome='killed')]) == (3, 3)   # one that survived is left out, nothing else


@pytest.mark.parametrize('status, said, imported, expected', [
    (None, '', True, 'timeout'), (0, '', True, 'survived'), (1, 'assert', True, 'killed'), (2, 'ERROR collecting tests/test_x.py', True, 'import'), (1, '', False, 'import')])
def test_outcomes(status, said, imported, expected): assert mutate.outcome(status, said, imported) == expected


def test_modules_have_their_tests():
    for name, tests in mutate.TESTS.items():
        assert mutate.modules_of(name) and all((mutate.ROOT/t).is_file() for t in tests), name
    assert mutate.tests_of('labels') == ['nbs/labels_and_metrics/1_labels.ipynb', 'tests/test_labels.py']
    assert mutate.tests_of('runs.content') == ['nbs/runs/2b_content.ipynb', 'tests/test_runs.py'] and mutate.modules_of('no such module') == []


def test_places_of_a_package_are_drawn_together():
    one, all_of = mutate.draw('train.losses', 40, 0), mutate.draw('train', 40, 0)
    assert [len(of) for _, of in one.values()] == [40] and sum(len(of) for _, of in all_of.values()) == 40
    assert list(all_of) == mutate.modules_of('train') and sum(bool(of) for _, of in all_of.values()) > 2
    assert [t[0] for t in all_of['train.learner'][1]] == sorted(t[0] for t in all_of['train.learner'][1])
