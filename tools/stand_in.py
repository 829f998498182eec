"""Seeded random weights in the format of pytorch-fid, to use when the real ones are missing.

They are for tests and timings. Values measured with them mean nothing, but everyone gets the same.
"""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import torch

from src.common import torchvision_remedy  # noqa: F401 (before pytorch_fid imports torchvision)

from pytorch_fid import inception  # isort: skip


def write_weights(home: Path) -> Path:
    """Write the weights below `home`, where pytorch-fid finds them if TORCH_HOME is `home`."""
    weights: dict[str, torch.Tensor] = {}

    def keep(module: torch.nn.Module, state: dict) -> None:
        weights.update(module.state_dict())

    with (
        torch.random.fork_rng(),
        mock.patch.object(torch.nn.Module, "load_state_dict", keep),
        mock.patch.object(inception, "load_state_dict_from_url", lambda *args, **kwargs: {}),
    ):
        torch.manual_seed(0)
        inception.fid_inception_v3()
    random = torch.Generator().manual_seed(1)
    # Scaled like real weights: otherwise features vanish with depth, and all images look equal.
    for name, value in weights.items():
        if name.endswith("conv.weight"):
            torch.nn.init.kaiming_normal_(value, nonlinearity="relu", generator=random)
        elif name.endswith("running_var"):
            value.copy_(torch.rand(value.shape, generator=random) + 0.5)
    path = home / "hub" / "checkpoints" / Path(inception.FID_WEIGHTS_URL).name
    path.parent.mkdir(parents=True)
    torch.save(weights, path)
    return path
