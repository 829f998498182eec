import pytest
import torch

from src.training.muon import Muon, orthogonalised


def weight(*shape: int, seed: int = 0) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 8, 30), (2, 30, 8)])
def test_singular_values_become_about_one_and_singular_vectors_stay(shape):
    matrices = weight(*shape).detach()
    u, _, vt = torch.linalg.svd(matrices, full_matrices=False)
    in_old_vectors = u.mT @ orthogonalised(matrices) @ vt.mT
    diagonal = in_old_vectors.diagonal(dim1=-2, dim2=-1)
    assert (diagonal > 0.3).all() and (diagonal < 1.3).all()
    torch.testing.assert_close(in_old_vectors, torch.diag_embed(diagonal), rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(16, 16), (16, 48), (48, 16)])
def test_matrices_take_the_steps_of_torchs_own_muon(shape):
    ours, theirs = ([weight(*shape, seed=i) for i in range(3)] for _ in range(2))
    settings = {"lr": 0.03, "momentum": 0.9, "weight_decay": 0.2}
    our_muon = Muon(ours, **settings)
    their_muon = torch.optim.Muon(theirs, **settings, nesterov=True, adjust_lr_fn="original")
    for step in range(4):
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            a.grad = weight(*shape, seed=10 * step + i + 50).detach()
            b.grad = a.grad.clone()
        our_muon.step()
        their_muon.step()
    rounding = 0.1 * 0.03 * 2 * min(shape) ** 0.5  # of the updates, to bfloat16
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).norm() < rounding


def test_a_kernel_is_a_matrix_of_outputs_by_everything_else():
    kernel = weight(6, 4, 3, 3)
    matrix = torch.nn.Parameter(kernel.detach().clone().reshape(6, 36))
    gradient = weight(6, 4, 3, 3, seed=1).detach()
    kernel.grad = gradient.contiguous(memory_format=torch.channels_last)
    matrix.grad = gradient.reshape(6, 36)
    for parameter in (kernel, matrix):
        Muon([parameter], lr=0.1, dtype=torch.float32).step()
    torch.testing.assert_close(kernel.reshape(6, 36), matrix, rtol=0, atol=1e-4)


def test_channels_last_weights_are_updated_in_place():
    channels_last = weight(6, 4, 3, 3).detach().contiguous(memory_format=torch.channels_last)
    kernel = torch.nn.Parameter(channels_last)
    before, address = kernel.detach().clone(), kernel.data_ptr()
    kernel.grad = torch.randn_like(kernel)
    Muon([kernel], lr=0.1).step()
    assert kernel.data_ptr() == address and not torch.equal(kernel, before)
    assert kernel.is_contiguous(memory_format=torch.channels_last)
