"""The memory bank without a loop against the plain one of section 3.4: the same bits, whatever arrives."""
import pytest
import torch

from trmml.model import MemoryBank as Used
from trmml.prototypes import MemoryBank, positives
from trmml.prototypes_fast import FastMemoryBank, counted_positives


def test_the_model_uses_the_fast_form(): assert Used is FastMemoryBank


@pytest.mark.parametrize('B, k, length, share, dtype', [
    (6, 2, 5, .1, torch.float32), (16, 3, 5, .9, torch.float32), (4, 2, 5, 0., torch.float32), (3, 7, 5, .3, torch.float32),
    (6, 1, 1, .5, torch.float32), (5, 2, 64, .4, torch.bfloat16), (1, 4, 4, 1., torch.float64)])
def test_both_banks_hold_the_same_bits(B, k, length, share, dtype):
    torch.manual_seed(0)
    plain, fast = MemoryBank(4, length, 8), FastMemoryBank(4, length, 8)
    for step in range(6):
        y = torch.where(torch.rand(B, 4) < share, 1, torch.randint(-1, 1, (B, 4))).to(torch.int8)
        v = torch.randn(int((y == 1).sum()), k, 8, dtype=dtype)
        old = fast.V, fast.V.clone(), plain.V, plain.V.clone()
        plain.push(v, y, None if step % 2 else positives(y))
        fast.push(v, y, counted_positives(y, len(v)) if step % 2 else None)
        assert list(plain.state_dict()) == list(fast.state_dict()) == ['V', 'filled', 'head']
        for name, a in plain.state_dict().items(): assert torch.equal(a, fast.state_dict()[name]), (step, name)
        assert torch.equal(old[0], old[1]) and torch.equal(old[2], old[3]), 'a push wrote into the tensor that gradients need'
    assert (plain.filled <= length).all() and plain.ready.any() == (share > 0)


@pytest.mark.parametrize('kind', [MemoryBank, FastMemoryBank])
@pytest.mark.parametrize('vectors, labels', [((3, 2, 9), (1, 3)), ((2, 2, 8), (1, 3)), ((4, 2, 8), (1, 4))])
def test_wrong_shapes_are_refused_and_nothing_is_written(kind, vectors, labels):
    bank = kind(3, 5, 8)
    with pytest.raises(ValueError, match='positives of 3'): bank.push(torch.randn(vectors), torch.ones(labels))
    assert not bank.V.any() and not bank.filled.any() and not bank.head.any()


@pytest.mark.parametrize('shape', [(0, 3), (1, 1), (7, 5)])
def test_counted_positives_are_the_positives(shape):
    torch.manual_seed(1)
    y = torch.randint(-1, 2, shape, dtype=torch.int8)
    for n in None, int((y == 1).sum()):
        for a, b in zip(counted_positives(y, n), positives(y)): assert torch.equal(a, b)


def test_the_loop_gives_the_same_gradient_of_the_contrast():
    "A bank that is pushed between forward and backward does not change what was computed."
    for kind in MemoryBank, FastMemoryBank:
        bank, w = kind(2, 3, 4), torch.ones(4, requires_grad=True)
        bank.push(torch.eye(4)[:2, None], torch.ones(1, 2))
        want = bank.V.sum((0, 1)).clone()
        loss = (bank.V*w).sum()
        bank.push(torch.eye(4)[2:, None], torch.ones(1, 2))
        loss.backward()
        assert torch.equal(w.grad, want)
