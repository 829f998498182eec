"""pytorch-fid's Inception network: where its weights are, whether to use it, and its features.

The network is pytorch-fid's own, so that `fid` means what its command prints; only the loading is ours: the weights are
checked against the hash in their name before they are read, and read without unpickling code.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from unittest import mock
from urllib.error import URLError

import torch
from torch import Tensor, nn
from tqdm import tqdm

from src import torchvision_remedy  # noqa: F401 (before pytorch_fid, which imports torchvision)
from src.errors import UserError
from src.frechet import Moments, MomentSums

from pytorch_fid import inception as pytorch_fid_inception  # isort: skip

DIMS = 2048
SHA256_PREFIX = "6726825d"
CPU_IMAGES_PER_SECOND = 10  # on two cores, for saying how long it would take


@dataclass(frozen=True)
class Decision:
    """Whether Inception features are computed, and the sentence that says why or why not."""

    compute: bool
    why: str


def weights_path() -> Path:
    """Where pytorch-fid keeps the weights, too: below TORCH_HOME."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(pytorch_fid_inception.FID_WEIGHTS_URL).name


def decide(mode: str, ready_made: bool, images: int) -> Decision:
    """`mode` is fid.inception; `ready_made`: a statistics file is named; `images`: how many it would have to see.

    Fetches the weights where they are wanted and missing. Raises UserError if the mode is "always" and they cannot be had.
    """
    if mode == "never":
        return Decision(False, "fid.inception is never")
    if mode == "auto" and not ready_made and not torch.cuda.is_available():
        minutes = images / CPU_IMAGES_PER_SECOND / 60
        return Decision(
            False,
            f"no GPU and no ready-made statistics: {images} images through Inception would take about {minutes:.0f} minutes "
            f"on a two-core CPU; `dvc exp run -S fid.inception=always` does it all the same, and naming a file of mu and "
            f"sigma in fid.statistics saves the real images' part of it",
        )
    try:
        fetch_weights()
    except UserError as error:
        if mode == "always":
            raise
        return Decision(False, f"{error}; then `dvc repro --force reference fid`, since DVC does not track those weights")
    return Decision(True, f"Inception weights at {weights_path()}")


def fetch_weights() -> None:
    """See that the weights are there and are the right ones. Raises UserError otherwise."""
    path = weights_path()
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(pytorch_fid_inception.FID_WEIGHTS_URL, str(path), hash_prefix=SHA256_PREFIX)
        except (OSError, URLError, RuntimeError) as error:
            raise UserError(
                f"{path}: Inception weights missing, and fetching them failed ({error}); put the file there by hand (from "
                f"{pytorch_fid_inception.FID_WEIGHTS_URL}), or set fid.inception to never"
            ) from None
    found = weights_hash()
    if not found.startswith(SHA256_PREFIX):
        raise UserError(f"{path}: expected a sha256 that starts with {SHA256_PREFIX}, found {found}; delete it to fetch it anew")


def weights_hash() -> str:
    """First 12 hex digits of the weights' sha256."""
    return hashlib.sha256(weights_path().read_bytes()).hexdigest()[:12]


def load(dims: int = DIMS) -> nn.Module:
    """pytorch-fid's InceptionV3 with output of `dims` (64, 192, 768 or 2048) features, in evaluation mode on the CPU."""
    fetch_weights()
    try:
        weights = torch.load(weights_path(), map_location="cpu", weights_only=True)
    except Exception as error:  # torch names no common base for what a bad file raises
        raise UserError(f"{weights_path()}: cannot be read ({error}); delete it to fetch it anew") from None
    with mock.patch.object(pytorch_fid_inception, "load_state_dict_from_url", lambda *args, **kwargs: weights):
        network = pytorch_fid_inception.InceptionV3([pytorch_fid_inception.InceptionV3.BLOCK_INDEX_BY_DIM[dims]])
    return network.eval().requires_grad_(False)


@torch.inference_mode()
def moments(network: nn.Module, images: Tensor, batch_size: int, dims: int = DIMS) -> Moments:
    """Moments of the features of uint8 images (N, C, H, W), C 1 or 3; greyscale becomes RGB as in our PNGs."""
    device = next(network.parameters()).device
    sums = MomentSums(dims)
    for chosen in tqdm(images.split(batch_size), desc="Inception", unit="batch"):
        x = chosen.to(device).expand(-1, 3, -1, -1).float() / 255
        sums.add(network(x)[0].mean(dim=(2, 3)).cpu().numpy())  # pooled already at 2048: (B, dims, 1, 1) -> (B, dims)
    return sums.moments()
