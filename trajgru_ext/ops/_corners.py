"""The bilinear warp in torch operators, for the derivatives that no kernel computes."""

import torch
from torch import Tensor

from trajgru_ext.ops._options import PADDINGS


def _between(f: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(1 - f) a + f b, in which what has no weight does not count, even NaN."""
    a = torch.where((f == 1) & ~a.isfinite(), 0, a)
    b = torch.where((f == 0) & ~b.isfinite(), 0, b)
    return (1 - f) * a + f * b


class Corners:
    """The four corners that each pixel reads, in differentiable torch operators.

    Their weights are polynomials of the displacement within a cell, so derivatives of
    any order are those of the cell that the floor of the displacement names.

    padding: of `PADDINGS`. Positions clipped to the border are constant.
    """

    def __init__(
        self, image: Tensor, flow: Tensor, flow_scale: float, padding: int = 0
    ) -> None:
        self.shape = image.shape
        height, width = image.shape[2:]
        self.dtype = torch.promote_types(image.dtype, torch.float32)
        self.flow_scale = flow_scale
        device = flow.device
        u, v = (flow_scale * flow.to(self.dtype)).unbind(1)
        self.undefined = u.isnan() | v.isnan()
        # Floors as numbers: those that lie outside any image are never converted.
        floor_u, floor_v = u.detach().floor(), v.detach().floor()
        cols = torch.arange(width, device=device)
        rows = torch.arange(height, device=device)[:, None]
        limit = 2.0**62
        border = PADDINGS[padding] == "border"
        if border:  # one place outside is as good as another
            floor_u = floor_u.clamp(-width, width)
            floor_v = floor_v.clamp(-height, height)
        near = (floor_u.abs() < limit) & (floor_v.abs() < limit)
        self.col = cols + torch.where(near, floor_u, 0).long()
        self.row = rows + torch.where(near, floor_v, 0).long()
        if border:
            self.col = self.col.clamp(-1, width - 1)
            self.row = self.row.clamp(-1, height - 1)
        self.inside = near & (self.row >= -1) & (self.row < height)
        self.inside = self.inside & (self.col >= -1) & (self.col < width)
        # Where the position follows the flow, along x and along y.
        self.moves = self.inside, self.inside
        if border:
            self.moves = (
                self.inside & (self.col >= 0) & (self.col < width - 1),
                self.inside & (self.row >= 0) & (self.row < height - 1),
            )
        # Before the subtraction, so that no gradient of inf - inf is formed.
        moves_x, moves_y = self.moves
        self.fx = torch.where(moves_x, u, 0) - torch.where(moves_x, floor_u, 0)
        self.fy = torch.where(moves_y, v, 0) - torch.where(moves_y, floor_v, 0)
        if border:
            self.fx = torch.where(self.col < 0, 1, self.fx)
            self.fy = torch.where(self.row < 0, 1, self.fy)

    def weights(self) -> list[Tensor]:
        """Of corner k = 2 * (lower row) + (right column), each [B, H, W]."""
        fx, fy = self.fx, self.fy
        return [(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx]

    def slopes(self, flow_tangent: Tensor) -> list[Tensor]:
        """How fast the weights change where the flow moves along the tangent."""
        fx, fy = self.fx, self.fy
        u, v = (self.flow_scale * flow_tangent.to(self.dtype)).unbind(1)
        u, v = self._of_moving(u, v)
        return [
            -(1 - fy) * u - (1 - fx) * v,
            (1 - fy) * u - fx * v,
            -fy * u + (1 - fx) * v,
            fy * u + fx * v,
        ]

    def _of_moving(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """What concerns x and y, 0 where the position does not move along them."""
        moves_x, moves_y = self.moves
        return torch.where(moves_x, x, 0), torch.where(moves_y, y, 0)

    def _corner(self, k: int) -> tuple[Tensor, Tensor]:
        """Where corner k lies in the flattened image, and whether it is inside."""
        height, width = self.shape[2:]
        row, col = self.row + (k >> 1), self.col + (k & 1)
        valid = self.inside & (row >= 0) & (row < height) & (col >= 0) & (col < width)
        return torch.where(valid, row * width + col, 0).flatten(1), valid

    def read(self, image: Tensor, k: int) -> Tensor:
        """The values [B, C, H, W] at corner k, 0 outside the image."""
        index, valid = self._corner(k)
        index = index[:, None].expand(-1, self.shape[1], -1)
        values = image.to(self.dtype).flatten(2).gather(2, index)
        return torch.where(valid[:, None], values.view(self.shape), 0)

    def blend(self, image: Tensor, weights: list[Tensor]) -> Tensor:
        """The sum over corners of weight * value; NaN where the flow is."""
        output = torch.zeros_like(image, dtype=self.dtype)
        for k, weight in enumerate(weights):
            value = self.read(image, k)
            unread = (weight[:, None] == 0) & ~value.isfinite()
            output = output + weight[:, None] * torch.where(unread, 0, value)
        return torch.where(self.undefined[:, None], torch.nan, output)

    def image_grad(self, grad: Tensor) -> Tensor:
        """The gradient to the image, from that to its warp."""
        values = grad.to(self.dtype)
        spread = torch.zeros_like(values).flatten(2)
        for k, weight in enumerate(self.weights()):
            index, valid = self._corner(k)
            index = index[:, None].expand(-1, self.shape[1], -1)
            part = torch.where(valid[:, None], weight[:, None] * values, 0)
            spread = spread.scatter_add(2, index, part.flatten(2))
        return spread.view(self.shape).to(grad.dtype)

    def flow_grad(self, grad: Tensor, image: Tensor) -> Tensor:
        """The gradient to the flow, from that to the warp of the image."""
        values = grad.to(self.dtype)
        dot = [(values * self.read(image, k)).sum(1) for k in range(4)]
        slope_u = _between(self.fy, dot[1] - dot[0], dot[3] - dot[2])
        slope_v = _between(self.fx, dot[2] - dot[0], dot[3] - dot[1])
        slopes = torch.stack(self._of_moving(slope_u, slope_v), 1)
        flow_grad = self.flow_scale * slopes
        return torch.where(self.undefined[:, None], torch.nan, flow_grad)
