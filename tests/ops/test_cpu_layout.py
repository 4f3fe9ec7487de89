"""Images from one memory format to the other."""

import pytest
import torch
from autograd_checks import gradcheck, gradgradcheck
from torch.autograd import forward_ad

from trajgru_ext.ops._layout import in_format

FORMATS = {"planes": torch.contiguous_format, "channels last": torch.channels_last}
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
copy_image = torch.ops.trajgru_ext.copy_image

pytestmark = pytest.mark.kernels


@pytest.mark.parametrize("wanted", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape", [(2, 33, 9, 17), (3, 64, 8, 8), (1, 5, 1, 70), (2, 1, 4, 4), (0, 4, 3, 3)]
)
def test_the_same_values(shape, dtype, wanted):
    """In every sample, whole blocks and what is left of them."""
    given = next(name for name in FORMATS if name != wanted)
    image = torch.randn(shape).to(dtype).contiguous(memory_format=FORMATS[given])
    found = in_format(image, FORMATS[wanted])
    assert found.is_contiguous(memory_format=FORMATS[wanted])
    assert torch.equal(found, image)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_not_finite(dtype):
    """Comes through as it is, the sign of zero and denormals too."""
    tiny = torch.finfo(dtype).smallest_normal
    some = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0, 0.0, tiny / 4, -tiny])
    image = some.to(dtype).repeat(2 * 40 * 8 * 7 // 7)[: 2 * 40 * 56].view(2, 40, 8, 7)
    found = in_format(image, torch.channels_last)
    assert torch.equal(found.isnan(), image.isnan())
    assert torch.equal(found.signbit() | image.isnan(), image.signbit() | image.isnan())
    assert torch.equal(found.nan_to_num(7), image.nan_to_num(7))


@pytest.mark.parametrize("to_planes", [False, True])
def test_strided_samples(to_planes):
    """Samples may lie apart on either side; nothing is written between them."""
    formats = list(FORMATS.values())[:: -1 if to_planes else 1]
    room = [
        torch.full((4, 20, 8, 9), torch.nan).contiguous(memory_format=one)
        for one in formats
    ]
    source, target = room[0][::2], room[1][1::2]
    source.copy_(torch.randn(2, 20, 8, 9))
    copy_image(target, source)
    assert torch.equal(target, source)
    assert room[1][::2].isnan().all()


def test_what_it_leaves_to_torch():
    """Other dtypes, dense in one format both, or in none."""
    image = torch.randn(2, 6, 5, 7)
    for target in (
        torch.empty(2, 6, 5, 7, dtype=torch.bfloat16),
        torch.empty(2, 6, 5, 7),
        torch.empty(2, 6, 5, 14)[..., ::2],
        torch.empty(6, 2, 5, 7).transpose(0, 1),
    ):
        copy_image(target, image)
        assert torch.equal(target, image.to(target.dtype))
    whole = image.round().int()
    assert torch.equal(in_format(whole, torch.channels_last), whole)


def test_other_sizes_are_refused():
    wanted = r"copy_image: to and from must be images .* of one size, got "
    with pytest.raises(ValueError, match=wanted):
        copy_image(torch.empty(2, 3, 4, 5), torch.empty(2, 3, 5, 4))
    with pytest.raises(ValueError, match=wanted):
        copy_image(torch.empty(3, 4, 5), torch.empty(3, 4, 5))


def test_derivatives():
    """The gradient is in the image's own format; forward mode and vmap."""
    image = torch.randn(2, 5, 4, 3, dtype=torch.float64, requires_grad=True)

    def change(one):
        return in_format(one, torch.channels_last)

    assert gradcheck(change, (image,), check_forward_ad=True)
    assert gradgradcheck(change, (image,))
    seed = torch.randn_like(image).contiguous(memory_format=torch.channels_last)
    (grad,) = torch.autograd.grad(change(image), image, seed)
    assert grad.is_contiguous() and torch.equal(grad, seed)
    with forward_ad.dual_level():
        found = change(forward_ad.make_dual(image.detach(), seed))
        assert torch.equal(forward_ad.unpack_dual(found).tangent, seed)
    images = torch.randn(3, 2, 5, 4, 3)
    assert torch.equal(torch.func.vmap(change)(images), images)
