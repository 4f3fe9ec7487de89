// conv2d on the CPU: by Winograd's convolution where it pays, else by torch's, which
// one thread runs alone where there is little to do. Images and results in planes are
// copied to channels last and back, and what is shorter than float32 to that; a kernel
// of one column convolves the transposed image by one row.

#include "cpu/conv/conv2d.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sum.h>

#include <algorithm>
#include <array>
#include <optional>
#include <tuple>

#include "cpu/conv/conv_algorithm.h"
#include "cpu/conv/packed_weights.h"
#include "cpu/conv/pixels.h"
#include "cpu/conv/winograd_conv.h"
#include "cpu/gate_device.h"
#include "cpu/parallel.h"
#include "operators/conv/conv2d.h"
#include "tensors/library.h"

namespace trajgru_ext {
namespace {

using at::Tensor;

constexpr int64_t kNoDilation[] = {1, 1};

ConvProblem problem(const Tensor& input, const Tensor& weight,
                    at::IntArrayRef padding) {
  return {weight, kNoDilation, input.size(2) + 2 * padding[0] - weight.size(2) + 1,
          input.size(3) + 2 * padding[1] - weight.size(3) + 1};
}

// Whether the gradient to the image is a convolution of a padded gradient, as well.
bool padded_within(const Tensor& weight, at::IntArrayRef padding) {
  const auto within = [&](int64_t k) {
    return padding[k] >= 0 && padding[k] < weight.size(2 + k);
  };
  return within(0) && within(1);
}

// Whether the operands are of a convolution, and nothing that torch has to tell of.
bool is_convolution(const Tensor& input, const Tensor& weight,
                    at::IntArrayRef padding) {
  if (input.dim() != 4 || weight.dim() != 4 || input.size(1) != weight.size(1) ||
      weight.scalar_type() != input.scalar_type() || weight.numel() == 0 ||
      !at::isFloatingType(input.scalar_type())) {
    return false;
  }
  const ConvProblem conv = problem(input, weight, padding);
  return padding[0] >= 0 && padding[1] >= 0 && conv.height > 0 && conv.width > 0;
}

bool by_winograd(const Tensor& input, const Tensor& weight, at::IntArrayRef padding) {
  const auto dtype = input.scalar_type();
  const bool fits =
      (dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf) &&
      is_convolution(input, weight, padding) && input.size(0) > 0 &&
      padded_within(weight, padding);
  return fits && use_winograd_conv2d(problem(input, weight, padding));
}

// Whether torch is given floats in their place, whose own loops for the dtype are slow.
bool in_floats(const Tensor& input, const Tensor& weight, at::IntArrayRef padding) {
  return convolved_in_floats(input.scalar_type()) &&
         is_convolution(input, weight, padding);
}

// Whether the products are so few that one thread has them sooner than several wake up.
bool few_products(const Tensor& input, const Tensor& weight, at::IntArrayRef padding) {
  const ConvProblem conv = problem(input, weight, padding);
  return input.size(0) * conv.height * conv.width * weight.numel() <= kFewProducts;
}

// While it lives there is one thread, where the products are few.
struct Alone {
  Alone(const Tensor& input, const Tensor& weight, at::IntArrayRef padding) {
    if (at::get_num_threads() > 1 && few_products(input, weight, padding)) {
      thread.emplace();
    }
  }

  std::optional<OneThread> thread;
};

Tensor by_torch(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                at::IntArrayRef padding) {
  const Alone alone(input, weight, padding);
  const auto dtype = input.scalar_type();
  const bool fits = !bias.has_value() || bias->scalar_type() == dtype;
  if (!fits || !in_floats(input, weight, padding)) {
    return plain_conv2d(input, weight, bias, padding);
  }
  const PlainDispatch plain;
  const OptionalTensor offset =
      bias.has_value() ? OptionalTensor(bias->to(at::kFloat)) : std::nullopt;
  return plain_conv2d(input.to(at::kFloat), weight.to(at::kFloat), offset, padding)
      .to(dtype);
}

std::tuple<Tensor, Tensor, Tensor> by_torch_backward(
    const Tensor& grad, const Tensor& input, const Tensor& weight,
    at::IntArrayRef padding, const std::array<bool, 3>& wanted) {
  const Alone alone(input, weight, padding);
  const bool fits = grad.scalar_type() == input.scalar_type();
  if (!fits || !in_floats(input, weight, padding)) {
    return plain_conv2d_backward(grad, input, weight, padding, wanted);
  }
  const PlainDispatch plain;
  const auto [to_input, to_weight, to_bias] =
      plain_conv2d_backward(grad.to(at::kFloat), input.to(at::kFloat),
                            weight.to(at::kFloat), padding, wanted);
  const auto dtype = input.scalar_type();
  return {to_input.to(dtype), to_weight.to(dtype), to_bias.to(dtype)};
}

// The convolution as the kernels have it: of one row of taps, where it is of one
// column.
struct Turned {
  bool turned;
  std::array<int64_t, 2> taps, padding, rotated_padding;

  Turned(const Tensor& weight, at::IntArrayRef by) : turned(weight.size(3) == 1) {
    for (int k = 0; k < 2; ++k) {
      const int from = turned ? 1 - k : k;
      taps[k] = weight.size(2 + from);
      padding[k] = by[from];
      rotated_padding[k] = taps[k] - 1 - padding[k];
    }
  }

  Tensor of(const Tensor& image) const {
    return turned ? image.transpose(2, 3) : image;
  }
};

// The result of f, which writes it as the kernels do, as torch's convolution returns
// it: channels last where one of both operands is.
template <typename F>
Tensor as_torch(const Tensor& image, const Tensor& weight,
                const std::array<int64_t, 4>& sizes, const F& f) {
  const bool last =
      image.suggest_memory_format() == kLast || weight.suggest_memory_format() == kLast;
  const auto format = last ? kLast : at::MemoryFormat::Contiguous;
  const auto options = image.options().dtype(at::kFloat).memory_format(format);
  return from_pixels<class Result>(sizes, options, f).to(image.scalar_type());
}

// Whether the weight is the result of something that autograd records, as one with a
// spectral norm is in training: the next will have other contents.
bool is_computed(const Tensor& weight) {
  return (weight.is_view() ? weight._base() : weight).grad_fn() != nullptr;
}

// Whether a result of so many pixels pays for packing a weight, if that is for once.
bool packing_pays(const Tensor& weight, int64_t pixels) {
  constexpr int64_t kLeastPixels = 1024;
  return pixels >= kLeastPixels || !is_computed(weight) ||
         conv_algorithm() == ConvAlgorithm::winograd;
}

// The convolution of pixels by Winograd; rotated: that of the gradient to the image.
// image: that of the operator, and sizes: the result's.
Tensor by_tiles(const Tensor& pixels, const Tensor& image, const Tensor& weight,
                const OptionalTensor& bias, const Turned& way, bool rotated,
                const std::array<int64_t, 4>& sizes) {
  return as_torch(image, weight, sizes, [&](const Tensor& output) {
    with_packed_weight(
        way.of(weight), rotated, is_computed(weight), [&](const Tensor& packed) {
          winograd_conv({way.of(pixels)}, packed, bias, way.taps,
                        rotated ? way.rotated_padding : way.padding, way.of(output));
        });
  });
}

Tensor conv2d_on_cpu(const Tensor& input, const Tensor& weight,
                     const OptionalTensor& bias, at::IntArrayRef padding) {
  if (!by_winograd(input, weight, padding)) {
    return by_torch(input, weight, bias, padding);
  }
  const ConvProblem conv = problem(input, weight, padding);
  if (!packing_pays(weight, input.size(0) * conv.height * conv.width)) {
    return by_torch(input, weight, bias, padding);
  }
  const PlainDispatch plain;
  const OptionalTensor offset =
      bias.has_value() ? OptionalTensor(bias->to(at::kFloat)) : std::nullopt;
  const Pixels<class Input> pixels(input);
  return by_tiles(pixels.image, input, weight, offset, Turned(weight, padding), false,
                  {input.size(0), weight.size(0), conv.height, conv.width});
}

std::tuple<Tensor, Tensor, Tensor> backward_on_cpu(const Tensor& grad,
                                                   const Tensor& input,
                                                   const Tensor& weight,
                                                   at::IntArrayRef padding,
                                                   const std::array<bool, 3>& wanted) {
  if (!by_winograd(input, weight, padding)) {
    return by_torch_backward(grad, input, weight, padding, wanted);
  }
  const PlainDispatch plain;
  const Turned way(weight, padding);
  const bool our_weight_grad =
      wanted[1] && use_winograd_conv2d_weight_grad(problem(input, weight, padding));
  Tensor to_input = empty_result(input), to_weight = empty_result(weight);
  Tensor to_bias = empty_result(weight);
  std::optional<Pixels<class Grad>> pixels;
  const bool our_input_grad =
      wanted[0] && packing_pays(weight, grad.size(0) * grad.size(2) * grad.size(3));
  if (our_input_grad || our_weight_grad || wanted[2]) pixels.emplace(grad);
  if (our_input_grad) {
    to_input = by_tiles(pixels->image, input, weight, std::nullopt, way, true,
                        {input.size(0), input.size(1), input.size(2), input.size(3)});
  } else if (wanted[0]) {
    to_input = std::get<0>(
        by_torch_backward(grad, input, weight, padding, {true, false, false}));
  }
  if (our_weight_grad) {
    const Pixels<class Input> inputs(input);
    const Tensor found = winograd_weights_grad(
        way.of(pixels->image), way.of(inputs.image), way.taps, way.padding);
    const bool as_is = !way.turned && weight.is_contiguous();
    to_weight = as_is ? found.to(weight.scalar_type())
                      : at::empty_like(weight).copy_(way.of(found));
  } else if (wanted[1]) {
    to_weight = std::get<1>(
        by_torch_backward(grad, input, weight, padding, {false, true, false}));
  }
  if (wanted[2]) {
    to_bias = CpuGateDevice::sum_pixels(pixels->image)
                  .sum({0, 2, 3})
                  .to(weight.scalar_type());
  }
  return {to_input, to_weight, to_bias};
}

TRAJGRU_LIBRARY_IMPL(CPU, m) {
  m.impl("conv2d", &conv2d_on_cpu);
  m.impl("conv2d_backward", &backward_on_cpu);
}

// What autocast makes of an operand.
Tensor cast(const Tensor& tensor, at::ScalarType dtype) {
  return at::autocast::cached_cast(dtype, tensor, at::kCPU);
}

bool all_ones(at::IntArrayRef values) {
  return std::all_of(values.begin(), values.end(), [](int64_t k) { return k == 1; });
}

}  // namespace

Tensor conv2d_or_torch(const Tensor& input, const Tensor& weight,
                       const OptionalTensor& bias, at::IntArrayRef stride,
                       at::IntArrayRef padding, at::IntArrayRef dilation,
                       int64_t groups) {
  const auto plain = [](const Tensor& one) {
    return one.defined() && one.is_cpu() && one.layout() == at::kStrided;
  };
  bool ours = groups == 1 && (padding.size() == 1 || padding.size() == 2) &&
              plain(input) && plain(weight) && input.dim() == 4 && weight.dim() == 4 &&
              all_ones(stride) && all_ones(dilation) &&
              (!bias.has_value() ||
               (plain(*bias) && bias->dim() == 1 && bias->size(0) == weight.size(0)));
  if (ours) {
    const std::array<int64_t, 2> both = {padding[0], padding[padding.size() - 1]};
    const bool autocast = at::autocast::is_autocast_enabled(at::kCPU);
    const auto dtype =
        autocast ? at::autocast::get_autocast_dtype(at::kCPU) : input.scalar_type();
    const Tensor x = autocast ? cast(input, dtype) : input;
    const Tensor w = autocast ? cast(weight, dtype) : weight;
    const OptionalTensor b =
        autocast && bias.has_value() ? OptionalTensor(cast(*bias, dtype)) : bias;
    const bool few = at::get_num_threads() > 1 && is_convolution(x, w, both) &&
                     few_products(x, w, both);
    if ((few || by_winograd(x, w, both) || in_floats(x, w, both)) &&
        (!b.has_value() || b->scalar_type() == dtype)) {
      return call::conv2d(x, w, b, both);
    }
  }
  return at::conv2d(input, weight, bias, stride, padding, dilation, groups);
}

}  // namespace trajgru_ext
