"""Moving handwritten digits, in the manner of MovingMNIST++ (Shi et al. 2017)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform
from sklearn.datasets import load_digits

CANVAS = 128  # pixels a side: room for each digit to move a dozen frames
COUNT = 4  # digits on the canvas

# Ranges of what each digit draws for itself, all a frame except the first.
ENLARGEMENT = (2.6, 3.4)  # of the 8x8 scans of scikit-learn: 20 to 27 pixels high
SPEED = (0.8, 2.2)  # pixels
TURN = (-3.0, 3.0)  # degrees
GROWTH = (0.99, 1.01)  # factor on the size
DIMMING = (0.98, 1.02)  # factor on the brightness


@dataclass
class Digit:
    """One digit and how it moves."""

    scan: NDArray
    centre: NDArray  # (row, column)
    velocity: NDArray
    angle: float
    turn: float
    size: float
    growth: float
    brightness: float
    dimming: float

    def advance(self) -> None:
        """Move on by one frame; a digit bounces off the edges of the canvas."""
        self.centre = self.centre + self.velocity
        margin = self.size * 4  # half of the 8 pixels that are not padding
        outwards = np.where(self.velocity < 0, self.centre < margin, False)
        outwards |= np.where(self.velocity > 0, self.centre > CANVAS - margin, False)
        self.velocity = np.where(outwards, -self.velocity, self.velocity)
        self.angle += self.turn
        self.size *= self.growth
        self.brightness *= self.dimming

    def render(self) -> NDArray:
        """The canvas with this digit alone, in [0, 1]."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        # affine_transform wants where in the scan each canvas pixel comes from.
        inverse = np.array([[cos, sin], [-sin, cos]]) / self.size
        middle = (np.array(self.scan.shape) - 1) / 2
        offset = middle - inverse @ self.centre
        shape = (CANVAS, CANVAS)
        canvas = affine_transform(self.scan, inverse, offset, shape, order=3)
        return np.clip(canvas * self.brightness, 0, 1)


def moving_digits(frames: int, seed: int = 0) -> NDArray:
    """Make frames `uint8 [T, 128, 128]` of digits that move, turn, grow and dim."""
    random = np.random.default_rng(seed)
    digits = _draw(random)
    movie = np.empty((frames, CANVAS, CANVAS), np.uint8)
    for frame in movie:
        # Where digits overlap the brighter one is in front.
        frame[:] = np.round(255 * np.max([d.render() for d in digits], axis=0))
        for digit in digits:
            digit.advance()
    return movie


def _draw(random: np.random.Generator) -> list[Digit]:
    """Choose the digits, one to each quarter of the canvas."""
    scans = load_digits().images / 16  # the scans count to 16
    digits = []
    for k in range(COUNT):
        direction = random.uniform(0, 2 * np.pi)
        heading = np.array([np.sin(direction), np.cos(direction)])
        quarter = CANVAS / 4 * np.array([1 + 2 * (k // 2 % 2), 1 + 2 * (k % 2)])
        digits.append(
            Digit(
                scan=np.pad(scans[random.integers(len(scans))], 1),
                centre=quarter + random.uniform(-6, 6, 2),
                velocity=random.uniform(*SPEED) * heading,
                angle=0.0,
                turn=np.deg2rad(random.uniform(*TURN)),
                size=random.uniform(*ENLARGEMENT),
                growth=random.uniform(*GROWTH),
                brightness=random.uniform(0.7, 0.95),
                dimming=random.uniform(*DIMMING),
            )
        )
    return digits
