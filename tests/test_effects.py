"""Effects by ratio: what print says of Table 3, and how measured differences are said."""
from pathlib import Path

import numpy as np
import pandas as pd

from trmml.report import effects

ROOT = Path(__file__).resolve().parents[1]


def test_what_print_says_of_table_3():
    "The committed file is what Tables 1 and 4 give, and its differences are those that anybody can take."
    kept = pd.read_csv(ROOT/'results'/'paper'/'table3-derived.csv')
    pd.testing.assert_frame_equal(kept, effects.derived(), check_dtype=False)
    rows = kept.set_index(['dataset', 'row'])[['10', '20', '30', '40', '50', 'mean']]
    assert rows.loc['voc2007', 'MMCP + MMCL over CARL + KD'].tolist() == [1.9, .7, .5, .4, .4, .78]
    assert rows.loc['voc2007', 'CARL + KD over DualCoOp (reproduced)'].tolist() == [.2, .6, .7, .7, .8, .6]
    assert rows.loc['coco2014', 'CARL + KD over DualCoOp (reproduced)'].tolist() == [-.7, .2, .4, .5, .6, .2]
    assert rows.loc['coco2014', 'MMCP + MMCL over CARL + KD'].tolist() == [2.5, 1.6, 1.3, 1., 1., 1.48]


def runs_of(gains, seeds=8, noise=.1):
    "Runs of two rows that differ by a number of points at each ratio."
    rng = np.random.RandomState(0)
    return pd.DataFrame([dict(method=m, known=k, seed=s, mAP=60 + s + (m == 'a')*g + noise*rng.randn())
                         for k, g in gains.items() for s in range(seeds) for m in 'ab'])


def test_only_ratios_with_the_same_answer_are_averaged():
    said = effects.in_words(runs_of({5.: 4., 10.: 2., 20.: 0., 30.: -1., 40.: -3.}), 'a', 'b')
    parts = said.split('; ')
    assert len(parts) == 3 and parts[0].startswith('a over b: above at 5 to 10 %: +')
    assert parts[1].startswith('not told apart at 20 %: ') and parts[2].startswith('below at 30 to 40 %: -') and '8 seeds' in parts[2]


def test_effects_that_differ_in_size_are_not_averaged():
    "Neither where all are above, nor where some ratios have more seeds."
    said = effects.in_words(runs_of({5.: 9., 10.: 2., 20.: 2.}), 'a', 'b')
    assert said.startswith('a over b: above at 5 to 20 %: +') and said.count(' (+') == 3 and '+4.' not in said
    alike = effects.in_words(runs_of({5.: 2., 10.: 2.}, noise=1.), 'a', 'b')
    assert alike.count(' (+') == 1
    more = pd.concat([runs_of({5.: 2.}, 8, noise=1.), runs_of({10.: 2.}, 3, noise=.3)])
    assert effects.in_words(more, 'a', 'b').count(' to ') == 4   # two intervals, 5 to 10 %, 3 to 8 seeds


def test_what_is_not_told_apart_is_not_averaged():
    "Three intervals that hold zero can have a mean whose interval does not."
    d = {10.: (.1, -.9, -.6), 20.: (-.9, -.6, .1), 30.: (-.6, .1, -.9)}
    df = pd.DataFrame([dict(method=m, known=k, seed=s, mAP=60 + (m == 'a')*x) for k, xs in d.items() for s, x in enumerate(xs) for m in 'ab'])
    assert effects.effect(df, 'a', 'b')['high'] < 0
    said = effects.in_words(df, 'a', 'b')
    assert said.startswith('a over b: not told apart at 10 to 30 %: -0.5 (') and said.count('-0.5 (') == 3


def test_seeds_that_differ_between_ratios():
    df = pd.concat([runs_of({5.: 4.}, 8), runs_of({50.: 4.}, 3)])
    at = effects.effects(df, 'a', 'b')
    assert [e['seeds'] for e in at.values()] == [8, 3] and 'over 3 to 8 seeds' in effects.in_words(df, 'a', 'b')
    assert effects.side(effects.effects(runs_of({5.: 4.}, 1), 'a', 'b')[5.]) == 'one seed'


def test_what_was_not_run():
    df = runs_of({10.: 1.})
    assert effects.in_words(df, 'a', 'c') == 'a over c: not run.' and effects.effects(df, 'a', 'c') == {}
    name = 'CARL + KD over DualCoOp (reproduced)'
    t = effects.beside_print(df, {name: ('a', 'c'), 'another': ('a', 'b')})
    assert t.loc[(name, 'printed, voc2007'), '10 %'] == '+0.2' and t.loc[('another', 'here'), '10 %'].startswith('+1.')
    assert t.loc[(name, 'printed, coco2014'), '50 %'] == '+0.6' and ('another', 'printed, voc2007') not in t.index


def test_the_figure_has_both_sides():
    name = 'CARL + KD over DualCoOp (reproduced)'
    left, right = effects.effect_figure(runs_of({10.: 1., 50.: 0.}), {name: ('a', 'b')}).axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), [.2, .6, .7, .7, .8])
    assert right.get_title(loc='left').startswith('measured') and any(len(l.get_xdata()) == 2 for l in right.lines)
