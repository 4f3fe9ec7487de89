"""What people do to a convolution inside a layer, each as a function of its owner."""

import torch
from torch import nn
from torch.ao.quantization import get_default_qat_qconfig
from torch.nn.utils import parametrizations, parametrize, prune


class Adapter(nn.Module):
    """As LoRA and PEFT wrap: beside the base, whose attributes are forwarded."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        options = {"padding": base.padding, "dilation": base.dilation}
        sizes = base.in_channels, base.out_channels, base.kernel_size
        self.extra = nn.Conv2d(*sizes, **options, dtype=base.weight.dtype)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)

    def forward(self, x):
        return self.base(x) + self.extra(x)


class Standardised(nn.Conv2d):
    """A subclass with its own forward."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight, self.bias)


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


class Tagged(nn.Parameter):
    """A parameter that is a subclass with functions of its own."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            result = function(*args, **(kwargs or {}))
        return 2 * result if function is torch.nn.functional.conv2d else result


def like(conv, kind=nn.Conv2d, **changes):
    """A convolution of the same sizes but for the changes, and other weights."""
    options = {
        "padding": conv.padding,
        "dilation": conv.dilation,
        "bias": conv.bias is not None,
        "dtype": conv.weight.dtype,
        **changes,
    }
    return kind(conv.in_channels, conv.out_channels, conv.kernel_size, **options)


def spectral_norm(owner, name):
    nn.utils.spectral_norm(getattr(owner, name))


def weight_norm(owner, name):
    nn.utils.weight_norm(getattr(owner, name))


def pruned(owner, name):
    prune.l1_unstructured(getattr(owner, name), "weight", amount=0.5)


def new_weight_norm(owner, name):
    parametrizations.weight_norm(getattr(owner, name))


def new_spectral_norm(owner, name):
    parametrizations.spectral_norm(getattr(owner, name))


def own_parametrization(owner, name):
    parametrize.register_parametrization(getattr(owner, name), "weight", Doubled())


def forward_pre_hook(owner, name):
    conv = getattr(owner, name)
    conv.register_forward_pre_hook(lambda module, args: (2 * args[0],))


def forward_hook(owner, name):
    conv = getattr(owner, name)
    conv.register_forward_hook(lambda module, args, result: result.cos())


def hook_with_kwargs(owner, name):
    def hook(module, args, kwargs, result):
        return result.sin()

    getattr(owner, name).register_forward_hook(hook, with_kwargs=True)


def backward_hook(owner, name):
    def hook(module, to_inputs, to_outputs):
        return tuple(None if one is None else 2 * one for one in to_inputs)

    getattr(owner, name).register_full_backward_hook(hook)


def backward_pre_hook(owner, name):
    conv = getattr(owner, name)
    conv.register_full_backward_pre_hook(lambda module, grads: (2 * grads[0],))


def adapter(owner, name):
    setattr(owner, name, Adapter(getattr(owner, name)))


def subclass(owner, name):
    setattr(owner, name, like(getattr(owner, name), Standardised))


def own_forward(owner, name):
    conv = getattr(owner, name)
    plain = conv.forward
    conv.forward = lambda x: plain(x).cos()


def in_sequence(owner, name):
    conv = getattr(owner, name)
    norm = nn.GroupNorm(1, conv.out_channels, dtype=conv.weight.dtype)
    setattr(owner, name, nn.Sequential(conv, norm))


def other_padding_mode(owner, name):
    conv = getattr(owner, name)
    setattr(owner, name, like(conv, padding_mode="circular"))


def other_bias(owner, name):
    conv = getattr(owner, name)
    setattr(owner, name, like(conv, bias=conv.bias is None))


def other_dilation(owner, name):
    """Set on the module itself."""
    conv = getattr(owner, name)
    conv.dilation = tuple(2 * d for d in conv.dilation)
    conv.padding = tuple(2 * p for p in conv.padding)


def larger_kernel(owner, name):
    """Set on the module itself."""
    conv = getattr(owner, name)
    shape = *conv.weight.shape[:2], *(k + 2 for k in conv.weight.shape[2:])
    conv.weight = nn.Parameter(0.1 * torch.randn(shape, dtype=conv.weight.dtype))
    pairs = zip(conv.padding, conv.dilation, strict=True)
    conv.padding = tuple(p + d for p, d in pairs)


def in_groups(owner, name):
    conv = getattr(owner, name)
    groups = nn.Conv2d(
        conv.in_channels, conv.out_channels, 1, bias=False, dtype=conv.weight.dtype
    )
    setattr(owner, name, groups)


def parameter_subclass(owner, name):
    conv = getattr(owner, name)
    conv.weight = Tagged(conv.weight.detach().clone())


def quantised_in_training(owner, name):
    conv = getattr(owner, name)
    conv.qconfig = get_default_qat_qconfig("fbgemm")
    setattr(owner, name, torch.ao.nn.qat.Conv2d.from_float(conv))


def observed(owner, name):
    conv = getattr(owner, name)
    seen = torch.zeros(1, dtype=conv.weight.dtype)
    conv.register_buffer("largest", seen)

    def observe(module, args, result):
        module.largest.copy_(torch.maximum(module.largest, result.detach().max()))

    conv.register_forward_hook(observe)


ALTERATIONS = {
    function.__name__: function
    for function in (
        spectral_norm,
        weight_norm,
        pruned,
        new_weight_norm,
        new_spectral_norm,
        own_parametrization,
        forward_pre_hook,
        forward_hook,
        hook_with_kwargs,
        backward_hook,
        backward_pre_hook,
        adapter,
        subclass,
        own_forward,
        in_sequence,
        other_padding_mode,
        other_bias,
        other_dilation,
        larger_kernel,
        in_groups,
        parameter_subclass,
        quantised_in_training,
        observed,
    )
}


# What torch quantises is in float32.
IN_DOUBLE = {k: v for k, v in ALTERATIONS.items() if k != "quantised_in_training"}


def tensors(results):
    """All tensors of nested results."""
    if results is None:
        return []
    if isinstance(results, torch.Tensor):
        return [results]
    return [tensor for one in results for tensor in tensors(one)]


def outputs_and_gradients(module, run):
    """The results, the gradients of all parameters, and what it leaves in buffers."""
    module.zero_grad()
    outputs = tensors(run(module))
    total = sum((k + 1) * t.double().pow(2).sum() for k, t in enumerate(outputs))
    total.backward()
    grads = {
        name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in module.named_parameters()
    }
    return [t.detach() for t in outputs], grads, dict(module.named_buffers())


def assert_same(got, wanted, tolerance):
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
