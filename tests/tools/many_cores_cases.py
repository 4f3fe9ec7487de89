"""What many_cores.py measures: layers and operators at the benchmarks' sizes."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

import trajgru_ext
from trajgru_ext.nn import ConvGRU, ConvLSTM, TrajGRU

BATCH = 3  # as HKO-7's networks are trained
Work = Callable[[], object]


def last(*shape: int) -> Tensor:
    """An image, channels last."""
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def passes(
    function: Callable[..., Tensor | tuple[Tensor, ...]],
    *tensors: Tensor,
    parameters: tuple[Tensor, ...] = (),
) -> Iterator[tuple[str, Work]]:
    """Forward, and the gradients to the tensors and the parameters."""
    leaves = [one.requires_grad_() for one in tensors]
    found = function(*leaves)
    outputs = (found,) if isinstance(found, Tensor) else found
    seeds = [torch.randn_like(one) for one in outputs]
    to = [*leaves, *parameters]
    yield "forward", lambda: function(*leaves)
    yield (
        "backward",
        lambda: torch.autograd.grad(outputs, to, seeds, retain_graph=True),
    )


def layer(module: nn.Module, steps: int, *image: int) -> Iterator[tuple[str, Work]]:
    """Passes of a layer in training."""
    module = module.to(memory_format=torch.channels_last)
    inputs = last(steps * image[0], *image[1:]).unflatten(0, (steps, image[0]))
    parameters = tuple(module.parameters())
    return passes(lambda given: module(given)[0], inputs, parameters=parameters)


def flows(batch: int, links: int, side: int) -> Tensor:
    """Of some pixels."""
    coarse = torch.randn(batch, 2 * links, max(2, side // 12), max(2, side // 12))
    return 3 * nn.functional.interpolate(coarse, (side, side), mode="bicubic")


def cases() -> Iterator[tuple[str, Iterator[tuple[str, Work]]]]:
    """What is measured."""
    for channels, features, side, links in (
        (8, 64, 96, 13),
        (192, 192, 32, 13),
        (192, 192, 16, 9),
    ):
        title = f"HKO-7's TrajGRU {channels} to {features}, {side}x{side}"
        of = TrajGRU(channels, features, links, zero_flows=False)
        yield title, layer(of, 2, BATCH, channels, side, side)
    for channels, side, links in ((64, 96, 13), (192, 32, 13), (192, 16, 9)):
        weight = torch.randn(3 * channels, links * channels, 1, 1)
        yield (
            f"flow_conv {channels}, {side}x{side}",
            passes(
                trajgru_ext.flow_conv,
                last(BATCH, channels, side, side),
                flows(BATCH, links, side),
                weight,
                torch.randn(3 * channels),
            ),
        )
    for batch, channels, side in ((3, 64, 96), (1, 8, 480)):
        yield (
            f"flow_warp {channels}, {side}x{side}",
            passes(
                trajgru_ext.flow_warp,
                last(batch, channels, side, side),
                flows(batch, 1, side),
            ),
        )
    for batch, channels, outputs, side, taps in (
        (4, 16, 64, 64, 3),
        (4, 64, 256, 64, 3),
        (3, 192, 576, 32, 3),
        (3, 64, 32, 96, 5),
        (4, 256, 512, 16, 5),
    ):
        yield (
            f"conv2d {channels} to {outputs}, {side}x{side}, {taps} taps",
            passes(
                lambda x, w, b, taps=taps: trajgru_ext.conv2d(
                    x, w, b, padding=taps // 2
                ),
                last(batch, channels, side, side),
                last(outputs, channels, taps, taps),
                torch.randn(outputs),
            ),
        )
    for kind in ConvLSTM, ConvGRU:
        for channels, features, side in ((64, 64, 64), (1, 16, 128)):
            title = f"{kind.__name__} {channels} to {features}, {side}x{side}"
            yield title, layer(kind(channels, features, 3), 3, 4, channels, side, side)
    yield (
        "lstm_gates 64, 64x64",
        passes(trajgru_ext.lstm_gates, *(last(4, n * 64, 64, 64) for n in (4, 4, 1))),
    )
    yield (
        "gru_gates 64, 64x64",
        passes(trajgru_ext.gru_gates, *(last(4, n * 64, 64, 64) for n in (3, 3, 1))),
    )
    yield (
        "channel_mean 256, 56x56",
        passes(trajgru_ext.channel_mean, last(8, 256, 56, 56)),
    )
    yield (
        "se_scale 256, 56x56",
        passes(trajgru_ext.se_scale, last(8, 256, 56, 56), torch.randn(8, 256)),
    )
    yield (
        "sk_select 512, 28x28",
        passes(
            lambda one, two, logits: trajgru_ext.sk_select([one, two], logits),
            last(8, 512, 28, 28),
            last(8, 512, 28, 28),
            torch.randn(8, 2, 512),
        ),
    )
    yield (
        "hff_concat 4 of 32, 28x28",
        passes(
            lambda *branches: trajgru_ext.hff_concat(branches),
            *(last(8, 32, 28, 28) for _ in range(4)),
        ),
    )
    yield (
        "spatial_pyramid_pool 256, 13x13",
        passes(
            lambda image: trajgru_ext.spatial_pyramid_pool(image, 4, "max"),
            last(8, 256, 13, 13),
        ),
    )
