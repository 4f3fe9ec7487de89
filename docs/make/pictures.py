"""Draws the pictures of the documents, with the operators that they explain.

python docs/make/pictures.py
"""

from pathlib import Path

import matplotlib as mpl
import torch
import torch.nn.functional as F
from torch import Tensor

from trajgru_ext import flow_warp

mpl.use("Agg")
import matplotlib.pyplot as plt

PICTURES = Path(__file__).parent.parent / "pictures"
SIZE, FRAMES = 96, 5  # pixels a side; frames of the past, and as many to come
INK, LINK = "tab:orange", "tab:blue"


def save(figure: plt.Figure, name: str) -> None:
    """Write a picture."""
    figure.savefig(PICTURES / name, dpi=110, bbox_inches="tight")
    plt.close(figure)


def cells(axes: plt.Axes, image: Tensor, title: str = "") -> None:
    """An image whose pixels can be counted."""
    axes.imshow(image, cmap="Greys", vmin=0, vmax=1.6)
    axes.set_xticks(range(image.shape[1]))
    axes.set_yticks(range(image.shape[0]))
    for column in range(image.shape[1] - 1):
        axes.axvline(column + 0.5, color="0.85", lw=0.8)
    for line in range(image.shape[0] - 1):
        axes.axhline(line + 0.5, color="0.85", lw=0.8)
    axes.set_title(title, fontsize=9)


def arrow(axes: plt.Axes, start: tuple, end: tuple, color: str = INK) -> None:
    """From one place (column, row) to another."""
    style = {"arrowstyle": "->", "color": color, "lw": 2}
    axes.annotate("", xy=end, xytext=start, arrowprops=style)


def echoes() -> tuple[Tensor, Tensor]:
    """Echoes that turn about the image's centre, and their motion in pixels a frame."""
    torch.manual_seed(3)
    noise = torch.randn(1, 1, 14, 14)
    field = F.interpolate(noise, (SIZE, SIZE), mode="bicubic").clamp(0.1, 1.6)
    field = field - field.min()
    y, x = torch.meshgrid(*2 * [torch.linspace(-1, 1, SIZE)], indexing="ij")
    motion = torch.stack([1.6 - 2.4 * y, 0.6 + 2.4 * x])[None]
    frames = [field]
    for _ in range(2 * FRAMES - 1):
        frames.append(flow_warp(frames[-1], motion, flow_scale=-1))
    return torch.stack(frames), motion


def find_motion(past: Tensor) -> Tensor:
    """The smooth motion that carries each frame onto the next, by gradient descent."""
    points = torch.zeros(1, 2, 6, 6, requires_grad=True)
    optimizer = torch.optim.Adam([points], lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        motion = F.interpolate(points, past.shape[-2:], mode="bicubic")
        moved = flow_warp(past[:-1, 0], motion.expand(len(past) - 1, -1, -1, -1), -1)
        (moved - past[1:, 0])[..., 6:-6, 6:-6].square().mean().backward()
        optimizer.step()
    return motion.detach()


def draw_motion() -> None:
    """The README's picture."""
    frames, _ = echoes()
    past, coming = frames[:FRAMES], frames[FRAMES:]
    motion = find_motion(past)
    forecast = past[-1]
    for _ in range(FRAMES):
        forecast = flow_warp(forecast, motion, flow_scale=-1)
    figure, row = plt.subplots(1, 4, figsize=(10, 2.9), layout="constrained")
    shown = {
        "the first frame": past[0],
        f"the last of {FRAMES}, and the motion found": past[-1],
        f"carried on {FRAMES} frames": forecast,
        "what came": coming[-1],
    }
    for axes, (title, image) in zip(row, shown.items(), strict=True):
        axes.imshow(image[0, 0], cmap="Blues", vmin=0)
        axes.set_title(title, fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
    at = torch.arange(8, SIZE, 13)
    u, v = motion[0][:, at[:, None], at]
    row[1].quiver(at, at, u, v, color=INK, angles="xy", scale_units="xy", scale=0.35)
    save(figure, "motion.png")


def draw_sign() -> None:
    """What the two signs of a flow do to one bright pixel."""
    image = torch.zeros(1, 1, 5, 7)
    image[0, 0, 2, 3] = 1
    flow = torch.zeros(1, 2, 5, 7)
    flow[:, 0], flow[:, 1] = 2, 1
    figure, row = plt.subplots(1, 3, figsize=(10, 2.9), layout="constrained")
    cells(row[0], image[0, 0], "input, and the flow (U, V) = (2, 1)")
    arrow(row[0], (3, 2), (5, 3))
    row[0].set_xlabel("x, U: to the right")
    row[0].set_ylabel("y, V: down")
    read = flow_warp(image, flow)
    cells(row[1], read[0, 0], "flow_warp(input, flow): each pixel reads there")
    arrow(row[1], (1, 1), (3, 2), LINK)
    moved = flow_warp(image, flow, flow_scale=-1)
    cells(row[2], moved[0, 0], "flow_scale=-1: content goes there")
    arrow(row[2], (3, 2), (5, 3), LINK)
    save(figure, "sign.png")


def draw_corners() -> None:
    """The four corners of a fractional place, a whole one, and one at the border."""
    figure, row = plt.subplots(1, 3, figsize=(10, 2.9), layout="constrained")
    places = {
        "between pixels: four corners": (1.3, 1.6),
        "on a pixel: this one alone": (2, 2),
        "beyond the border: corners outside are 0": (3.4, 1.7),
    }
    for axes, (title, (x, y)) in zip(row, places.items(), strict=True):
        weights = torch.zeros(4, 5)
        for i in range(4):
            for j in range(5):
                weights[i, j] = max(0, 1 - abs(y - i)) * max(0, 1 - abs(x - j))
        cells(axes, weights[:, :4], title)
        for i, j in weights.nonzero().tolist():
            axes.text(j, i, f"{weights[i, j]:.2f}", ha="center", fontsize=8)
        axes.plot(x, y, "o", color=INK)
        axes.set_xlim(-0.6, 4.5)
    save(figure, "corners.png")


def draw_formats() -> None:
    """Where numbers lie in the two memory formats."""
    figure, rows = plt.subplots(2, 1, figsize=(10, 2.2), layout="constrained")
    colors = ("tab:blue", "tab:orange", "tab:green")
    orders = {
        "contiguous: channel after channel": [
            (c, p) for c in range(3) for p in range(8)
        ],
        "channels last: pixel after pixel": [
            (c, p) for p in range(8) for c in range(3)
        ],
    }
    for axes, (title, order) in zip(rows, orders.items(), strict=True):
        for k, (channel, pixel) in enumerate(order):
            axes.add_patch(
                plt.Rectangle((k, 0), 0.95, 1, color=colors[channel], alpha=0.6)
            )
            axes.text(
                k + 0.47,
                0.5,
                f"c{channel} p{pixel}",
                ha="center",
                va="center",
                fontsize=7,
            )
        axes.set_xlim(0, 24)
        axes.set_ylim(0, 1)
        axes.set_title(title, fontsize=9, loc="left")
        axes.axis("off")
    save(figure, "formats.png")


def draw_channels() -> None:
    """The order of the channels of three flows, and what each pair of them does."""
    moves = ((2, 1), (-2, 0), (0, -1))
    colors = ("tab:orange", "tab:green", "tab:purple")
    image = torch.zeros(1, 1, 5, 7)
    image[0, 0, 2, 3] = 1
    flows = torch.tensor(moves).float().view(1, 6, 1, 1).expand(1, 6, 5, 7)
    figure, rows = plt.subplot_mosaic(
        [["strip"] * 3, [0, 1, 2]],
        figsize=(10, 3.8),
        height_ratios=(1, 2.6),
        layout="constrained",
    )
    strip = rows["strip"]
    for channel in range(flows.shape[1]):
        link, component = divmod(channel, 2)
        place = {"color": colors[link], "alpha": 0.35 + 0.3 * component}
        strip.add_patch(plt.Rectangle((channel, 0), 0.96, 1, **place))
        text = f"channel {channel}\n{'UV'[component]} of link {link}"
        strip.text(channel + 0.48, 0.5, text, ha="center", va="center", fontsize=9)
    strip.set_xlim(0, flows.shape[1])
    strip.set_title("flows [B, 2L, H, W] of L = 3 links", fontsize=9, loc="left")
    strip.axis("off")
    for link, pair in enumerate(flows.split(2, dim=1)):
        u, v = pair[0, :, 0, 0].int().tolist()
        title = f"link {link}: channels {2 * link} and {2 * link + 1}, ({u}, {v})"
        cells(rows[link], flow_warp(image, pair, flow_scale=-1)[0, 0], title)
        arrow(rows[link], (3, 2), (3 + u, 2 + v), colors[link])
        rows[link].plot(3, 2, "o", color=colors[link])
    save(figure, "channels.png")


def draw_links() -> None:
    """What a pixel of a TrajGRU's new state reads."""
    figure, row = plt.subplots(1, 2, figsize=(7, 3), layout="constrained")
    inside = torch.zeros(7, 9)
    inside[2:5, 3:6] = 0.5
    cells(row[0], inside, "ConvGRU, 3x3: the same places everywhere")
    cells(row[1], torch.zeros(7, 9), "TrajGRU, 5 links: places that are learned")
    for x, y in ((0.7, 5.2), (1.9, 3.4), (2.6, 4.9), (4.4, 2.3), (1.2, 4.1)):
        arrow(row[1], (x, y), (4, 3))
        row[1].plot(x, y, "o", color=INK)
    for axes in row:
        axes.plot(4, 3, "s", color=LINK)
        axes.set_xticks([])
        axes.set_yticks([])
    save(figure, "links.png")


if __name__ == "__main__":
    torch.set_num_threads(2)
    for draw in (
        *(draw_motion, draw_sign, draw_corners),
        *(draw_formats, draw_channels, draw_links),
    ):
        draw()
