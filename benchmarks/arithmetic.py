"""How much of a training step's and a network evaluation's time goes into convolutions and matrix products.

    python -m benchmarks.arithmetic [--rounds 5]

The ceiling is measured, not taken from a data sheet: every convolution, linear layer and attention product of the network
of params.yaml runs alone, in the same shapes, types and memory order and on as many threads, forward (and backward for
training), and the times add up. The share is that sum over the time that a whole step takes: 1 would mean that nothing but
these products costs anything. It is out of reach, since alone each runs again and again on what the caches hold already. An
evaluation is of one batch on one core, as in sampling, which spends a little more on noise, solver and PNGs. Rounds take turns
between both. Writes benchmarks/results/arithmetic.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import describe
from benchmarks.own import Shape, on_noise
from src import params
from src.allocator import keep_freed_memory
from src.common import device, reports
from src.diffusion.unet import SelfAttention, UNet


def products(network: UNet, x: Tensor, t: Tensor, label: Tensor) -> list[tuple[Callable, list[Tensor], bool]]:
    """Every convolution, linear layer and attention product that one pass of `network` takes: a function, its inputs, and
    whether the first of them wants a gradient: images and times do not."""
    found: list[tuple[Callable, list[Tensor], bool]] = []
    first = (network.stem, network.time_embedding[0])

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        h = inputs[0]
        if isinstance(module, nn.Conv2d):
            weight = module.weight.detach().to(memory_format=torch.channels_last)
            found.append((lambda a, w: F.conv2d(a, w, None, module.stride, module.padding), [h, weight], module not in first))
        elif isinstance(module, nn.Linear):
            found.append((F.linear, [h, module.weight.detach()], module not in first))
        else:
            B, C, H, W = h.shape
            q = torch.randn(B, module.heads, H * W, C // module.heads)
            found.append((lambda q, k: q @ k.mT, [q, q.clone()], True))
            found.append((torch.matmul, [torch.rand(B, module.heads, H * W, H * W), q], True))

    kinds = (nn.Conv2d, nn.Linear, SelfAttention)
    hooks = [module.register_forward_pre_hook(note) for module in network.modules() if isinstance(module, kinds)]
    with torch.no_grad():
        network(x, t, label)
    for hook in hooks:
        hook.remove()
    return found


def timed(work: Callable[[], object], repeats: int) -> float:
    """Mean seconds of one call, after one to warm up."""
    work()
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - started) / repeats


def ceiling(found: list[tuple[Callable, list[Tensor], bool]], dtype: torch.dtype, backward: bool, repeats: int) -> float:
    """Seconds that these products take alone, one after another."""
    total = 0.0
    for function, values, first_too in found:
        inputs = [value.detach().to(dtype) for value in values]
        if backward:
            wanted = [value.requires_grad_() for value in (inputs if first_too else inputs[1:])]
            gradient = torch.randn_like(function(*inputs).detach())

            def work(function=function, inputs=inputs, wanted=wanted, gradient=gradient) -> object:
                return torch.autograd.grad(function(*inputs), wanted, gradient)
        else:
            def work(function=function, inputs=inputs) -> object:
                with torch.inference_mode():
                    return function(*inputs)
        total += timed(work, repeats)
    return total


def flops(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def report(whole: list[float], alone: list[float], images: int, count: int) -> dict:
    return {
        "images": images, "gflop_per_image": count / images / 1e9, "images_per_second": images / statistics.median(whole),
        "gflop_per_second": count / statistics.median(whole) / 1e9,
        "ceiling_gflop_per_second": count / statistics.median(alone) / 1e9,
        "share_of_ceiling": statistics.median(alone) / statistics.median(whole),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds, about = parser.parse_args().rounds, describe("torch")
    keep_freed_memory()  # as stages do
    p = params.load()
    side, channels = Shape().image_size, Shape().channels
    trainer = on_noise(p, Shape())
    model, steps = trainer.denoiser, trainer.run()
    dtype = getattr(torch, device.precision(p.train.precision, torch.device("cpu")))

    def inputs(count: int) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.randn(count, channels, side, side).to(memory_format=torch.channels_last)
        return x, torch.full((count,), 500), torch.zeros(count, dtype=torch.long)

    batch = p.train.batch_size
    found = products(model.unet, *inputs(batch))
    whole, alone = [], []
    for _ in range(rounds):
        whole.append(timed(lambda: next(steps), 10))
        alone.append(ceiling(found, dtype, True, 5))
    work = inputs(batch)
    training = report(whole, alone, batch, flops(lambda: model(*work).sum().backward()))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # each core draws batches of its own
    batch, whole, alone = p.sample.batch_size, [], []
    work, averaged = inputs(batch), trainer.averaged
    averaged.precision = device.precision(p.sample.precision, torch.device("cpu"))
    found = products(averaged.unet, *work)

    def draw() -> None:
        with torch.inference_mode():
            averaged.predict_x0(*work)

    for _ in range(rounds):
        whole.append(timed(draw, 5))
        alone.append(ceiling(found, getattr(torch, averaged.precision), False, 5))
    torch.set_num_threads(threads)
    evaluation = report(whole, alone, batch, flops(draw)) | {"threads": 1}

    result = about | {
        "rounds": rounds, "type": str(dtype).removeprefix("torch."), "training": training, "evaluation": evaluation
    }
    path = Path("benchmarks/results/arithmetic.json")
    reports.write_json(path, result)
    print(path.read_text())


if __name__ == "__main__":
    main()
