"""Moving handwritten digits, in the manner of MovingMNIST++ (Shi et al. 2017)."""

import math

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

CANVAS = 48  # pixels a side
COUNT = 2  # digits on the canvas
TEST_SCANS = 360  # of the 1797 scans, the last: digits that training never sees

# Ranges of what each digit draws for itself, all a frame except the first two.
ENLARGEMENT = (2.0, 2.8)  # of the 8x8 scans of scikit-learn: 16 to 22 pixels high
BRIGHTNESS = (0.7, 0.95)
SPEED = (0.8, 2.2)  # pixels
TURN = (-3.0, 3.0)  # degrees
GROWTH = (0.99, 1.01)  # factor on the size
DIMMING = (0.98, 1.02)  # factor on the brightness


def moving_digits(movies: int, frames: int, seed: int, *, test: bool = False) -> Tensor:
    """Make movies of digits that move, turn, grow, dim and bounce off the edges.

    Args:
        movies: how many, S.
        frames: of each, T.
        seed: of all that is drawn at random.
        test: whether to draw digits from the test scans instead of the others.

    Returns:
        uint8 `[S, T, 48, 48]`.

    """
    random = torch.Generator().manual_seed(seed)

    def draw(low: float, high: float) -> Tensor:
        return torch.empty(movies, COUNT, 1).uniform_(low, high, generator=random)

    scans = torch.from_numpy(load_digits().images).float() / 16  # they count to 16
    scans = scans[-TEST_SCANS:] if test else scans[:-TEST_SCANS]
    chosen = torch.randint(len(scans), (movies * COUNT,), generator=random)
    scans = F.pad(scans[chosen], (1, 1, 1, 1))[:, None]
    size, brightness = draw(*ENLARGEMENT), draw(*BRIGHTNESS)
    direction = draw(0, 2 * math.pi)
    velocity = draw(*SPEED) * torch.cat([direction.cos(), direction.sin()], 2)  # x, y
    turn, growth, dimming = draw(*TURN).deg2rad(), draw(*GROWTH), draw(*DIMMING)
    centre = torch.cat([draw(-1, 1), draw(-1, 1)], 2) * (CANVAS / 2 - 4 * size)

    movie = torch.empty(movies, frames, CANVAS, CANVAS, dtype=torch.uint8)
    for t in range(frames):
        seen = _render(scans, centre, size, turn * t) * brightness[..., None]
        # Where digits overlap the brighter one is in front.
        movie[:, t] = seen.clamp(0, 1).amax(1).mul(255).round()
        centre = centre + velocity
        margin = CANVAS / 2 - 4 * size  # 4: half of the pixels of a scan
        outwards = (centre.abs() > margin) & (centre * velocity > 0)
        velocity = torch.where(outwards, -velocity, velocity)
        size, brightness = size * growth, brightness * dimming
    return movie


def _render(scans: Tensor, centre: Tensor, size: Tensor, angle: Tensor) -> Tensor:
    """Each digit alone on the canvas, `[S, COUNT, 48, 48]`.

    centre: x and y from the middle of the canvas, in pixels.
    """
    # affine_grid wants where in the scan each pixel of the canvas comes from, with
    # half of the image's side as the unit.
    cos, sin = angle.cos(), angle.sin()
    turned = torch.stack([torch.cat([cos, sin], 2), torch.cat([-sin, cos], 2)], 2)
    inverse = turned / size[..., None]
    offset = -(inverse @ centre[..., None])
    side = scans.shape[-1]
    units = torch.cat([inverse * CANVAS / side, offset * 2 / side], 3).flatten(0, 1)
    shape = [len(scans), 1, CANVAS, CANVAS]
    grid = F.affine_grid(units, shape, align_corners=False)
    seen = F.grid_sample(scans, grid, mode="bicubic", align_corners=False)
    return seen.view(-1, COUNT, CANVAS, CANVAS)
