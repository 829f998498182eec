"""Seeded random weights of the shape of pytorch-fid's, for tests and timings where the real ones cannot be had.

Values measured with them mean nothing, but must be the same for everyone who computes them.
"""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import torch

from src import torchvision_remedy  # noqa: F401 (before pytorch_fid, which imports torchvision)

from pytorch_fid import inception  # isort: skip


def write_weights(home: Path) -> Path:
    """The file that pytorch-fid and its kin look for below the TORCH_HOME `home`."""
    kept: dict[str, torch.Tensor] = {}
    with (
        torch.random.fork_rng(),
        mock.patch.object(torch.nn.Module, "load_state_dict", lambda self, state: kept.update(self.state_dict())),
        mock.patch.object(inception, "load_state_dict_from_url", lambda *args, **kwargs: {}),
    ):
        torch.manual_seed(0)
        inception.fid_inception_v3()
    random = torch.Generator().manual_seed(1)
    for name, value in kept.items():  # as large as real ones: features that vanish with depth would equal any others
        if name.endswith("conv.weight"):
            torch.nn.init.kaiming_normal_(value, nonlinearity="relu", generator=random)
        elif name.endswith("running_var"):
            value.copy_(torch.rand(value.shape, generator=random) + 0.5)
    path = home / "hub" / "checkpoints" / Path(inception.FID_WEIGHTS_URL).name
    path.parent.mkdir(parents=True)
    torch.save(kept, path)
    return path
