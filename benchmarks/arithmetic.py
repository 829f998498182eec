"""The share of time that convolutions and matrix products take, in training and evaluation.

    python -m benchmarks.arithmetic [--rounds 5]

The ceiling is measured. Every convolution, linear layer and attention product of the network in
params.yaml runs alone, forward (and backward for training). Shapes, types, memory order and number
of threads are those of a whole step. The share is the sum of the products' times over the time of a
whole step. At 1, only these products would take time. A real step cannot reach 1: a product that
runs alone, again and again, finds its inputs in the caches.

An evaluation takes one batch on one core, as in sampling. Sampling spends a little more time on
noise, solver and PNGs. Rounds alternate between whole steps and products. Writes
benchmarks/results/arithmetic.json, with a row for bfloat16 and one for float32: the row of the
other kind of processor stays.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.own import Shape, on_noise, precision, write_rows
from src import params
from src.common import device
from src.common.allocator import keep_freed_memory
from src.diffusion.unet import SelfAttention, UNet
from src.training.trainer import Trainer
from tools.machine import describe

RESULT = Path("benchmarks/results/arithmetic.json")


class Product(NamedTuple):
    """A convolution or matrix product: `function` of `inputs`."""

    function: Callable
    inputs: list[Tensor]
    first_needs_gradient: bool  # false if the first input is images or times


def products(network: UNet, x: Tensor, t: Tensor, label: Tensor) -> list[Product]:
    """Every convolution, linear layer and attention product of one pass of `network`."""
    noted: list[Product] = []
    first = (network.stem, network.time_embedding[0])

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        h = inputs[0]
        if isinstance(module, nn.Conv2d):
            weight = module.weight.detach().to(memory_format=torch.channels_last)
            stride, padding = module.stride, module.padding

            def convolve(a: Tensor, w: Tensor) -> Tensor:
                return F.conv2d(a, w, None, stride, padding)

            noted.append(Product(convolve, [h, weight], module not in first))
        elif isinstance(module, nn.Linear):
            noted.append(Product(F.linear, [h, module.weight.detach()], module not in first))
        else:
            B, C, H, W = h.shape
            q = torch.randn(B, module.heads, H * W, C // module.heads)
            attention = torch.rand(B, module.heads, H * W, H * W)
            noted.append(Product(lambda q, k: q @ k.mT, [q, q.clone()], True))
            noted.append(Product(torch.matmul, [attention, q], True))

    kinds = (nn.Conv2d, nn.Linear, SelfAttention)
    modules = [module for module in network.modules() if isinstance(module, kinds)]
    hooks = [module.register_forward_pre_hook(note) for module in modules]
    with torch.no_grad():
        network(x, t, label)
    for hook in hooks:
        hook.remove()
    return noted


def timed(work: Callable[[], object], repeats: int) -> float:
    """Mean seconds of a call, after one call to warm up."""
    work()
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - started) / repeats


def ceiling(products: list[Product], dtype: torch.dtype, backward: bool, repeats: int) -> float:
    """Seconds that these products take alone, one after another."""
    work = backward_work if backward else forward_work
    return sum(timed(work(product, dtype), repeats) for product in products)


def forward_work(product: Product, dtype: torch.dtype) -> Callable[[], object]:
    inputs = [value.detach().to(dtype) for value in product.inputs]

    def work() -> object:
        with torch.inference_mode():
            return product.function(*inputs)

    return work


def backward_work(product: Product, dtype: torch.dtype) -> Callable[[], object]:
    """The product, forward and backward."""
    inputs = [value.detach().to(dtype) for value in product.inputs]
    learned = inputs if product.first_needs_gradient else inputs[1:]
    for value in learned:
        value.requires_grad_()
    gradient = torch.randn_like(product.function(*inputs).detach())

    def work() -> object:
        return torch.autograd.grad(product.function(*inputs), learned, gradient)

    return work


def flops(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def report(whole: list[float], alone: list[float], images: int, count: int) -> dict:
    """Rates and the share of the ceiling, from seconds of whole steps and of their products alone.

    A step on `images` images has `count` floating-point operations.
    """
    seconds, ceiling_seconds = statistics.median(whole), statistics.median(alone)
    return {
        "images": images,
        "gflop_per_image": count / images / 1e9,
        "images_per_second": images / seconds,
        "gflop_per_second": count / seconds / 1e9,
        "ceiling_gflop_per_second": count / ceiling_seconds / 1e9,
        "share_of_ceiling": ceiling_seconds / seconds,
    }


def inputs(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, timesteps and classes for `count` images of MNIST's shape."""
    side = Shape().image_size
    x = torch.randn(count, Shape().channels, side, side).to(memory_format=torch.channels_last)
    return x, torch.full((count,), 500), torch.zeros(count, dtype=torch.long)


def measure_training(p: params.Params, trainer: Trainer, rounds: int) -> dict:
    model, steps = trainer.denoiser, trainer.run()
    dtype = getattr(torch, precision())
    batch = p.train.batch_size
    of_batch = products(model.unet, *inputs(batch))
    whole, alone = [], []
    for _ in range(rounds):
        whole.append(timed(lambda: next(steps), 10))
        alone.append(ceiling(of_batch, dtype, True, 5))
    work = inputs(batch)
    return report(whole, alone, batch, flops(lambda: model(*work).sum().backward()))


def measure_evaluation(p: params.Params, trainer: Trainer, rounds: int) -> dict:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # in sampling, each core draws its own batches
    batch, averaged = p.sample.batch_size, trainer.averaged
    work = inputs(batch)
    averaged.precision = device.precision(p.sample.precision, torch.device("cpu"))
    of_batch = products(averaged.unet, *work)

    def evaluate() -> None:
        with torch.inference_mode():
            averaged.predict_x0(*work)

    whole, alone = [], []
    for _ in range(rounds):
        whole.append(timed(evaluate, 5))
        alone.append(ceiling(of_batch, getattr(torch, averaged.precision), False, 5))
    torch.set_num_threads(threads)
    return report(whole, alone, batch, flops(evaluate)) | {"threads": 1}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds, about = parser.parse_args().rounds, describe("torch")
    keep_freed_memory()  # as the stages do
    p = params.load()
    trainer = on_noise(p, Shape())
    row = about | {
        "precision": precision(),
        "rounds": rounds,
        "training": measure_training(p, trainer, rounds),
        "evaluation": measure_evaluation(p, trainer, rounds),
    }
    write_rows(RESULT, [row], "precision")
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
