// The sequences' convolutions on the CPU: Winograd's where it pays, else torch's. Both
// are the same bit for bit for any number of threads.

#include "operators/conv/same_conv.h"

#include <ATen/ops/empty.h>

#include "cpu/conv/conv_algorithm.h"
#include "cpu/conv/direct_conv.h"
#include "cpu/conv/packed_weights.h"
#include "cpu/conv/winograd_conv.h"
#include "cpu/gate_device.h"
#include "operators/conv/winograd_step.h"
#include "operators/copy_image.h"
#include "tensors/library.h"

namespace trajgru_ext {
namespace {

using at::Tensor;

// Which stands for "the weight itself is read".
Tensor no_weights(const Tensor& weight) {
  return at::empty({0}, weight.options());
}

// The image itself where a pixel's channels lie together.
Tensor with_pixels(const Tensor& image) {
  return image.stride(1) == 1 ? image : channels_last(image);
}

Tensor winograd(const Tensor& image, const Tensor& packed, const OptionalTensor& bias,
                int64_t outputs, int64_t taps) {
  const Tensor output = empty_channels_last(image, outputs);
  winograd_conv({with_pixels(image)}, packed, bias, {taps, taps}, {taps / 2, taps / 2},
                output);
  return output;
}

Tensor packed_on_cpu(const Tensor& weight, at::IntArrayRef dilation, int64_t height,
                     int64_t width, bool image_grad) {
  const PlainDispatch plain;
  if (!use_winograd({weight, dilation, height, width})) return no_weights(weight);
  return packed_weights({weight}, image_grad, 1);
}

Tensor conv_on_cpu(const Tensor& image, const Tensor& weight,
                   const OptionalTensor& bias, at::IntArrayRef dilation,
                   const Tensor& packed) {
  const PlainDispatch plain;
  if (packed.numel() == 0) return direct_conv(image, weight, bias, dilation);
  return winograd(image, packed, bias, weight.size(0), weight.size(2));
}

Tensor image_grad_on_cpu(const Tensor& grad, const Tensor& image, const Tensor& weight,
                         at::IntArrayRef dilation, const Tensor& packed) {
  const PlainDispatch plain;
  if (packed.numel() == 0) return direct_conv_image_grad(grad, image, weight, dilation);
  return winograd(grad, packed, std::nullopt, weight.size(1), weight.size(2));
}

void add_grads_on_cpu(const Tensor& grad, const Tensor& image, const Tensor& weight,
                      at::IntArrayRef dilation, const OptionalTensor& weight_sum,
                      const OptionalTensor& bias_sum) {
  const PlainDispatch plain;
  const ConvProblem conv{weight, dilation, image.size(2), image.size(3)};
  if (!weight_sum.has_value() || !use_winograd_weight_grad(conv)) {
    direct_conv_add_grads(grad, image, weight, dilation, weight_sum, bias_sum);
    return;
  }
  weight_sum->add_(winograd_weights_grad(with_pixels(grad), with_pixels(image),
                                         weight.sizes().slice(2),
                                         same_padding(weight, dilation)));
  if (bias_sum.has_value()) {
    bias_sum->add_(CpuGateDevice::sum_pixels(grad).sum({0, 2, 3}));
  }
}

Tensor step_weights_on_cpu(const OptionalTensor& x_weight, const Tensor& h_weight,
                           at::IntArrayRef x_dilation, at::IntArrayRef h_dilation,
                           int64_t height, int64_t width, int64_t gates) {
  const PlainDispatch plain;
  const ConvProblem h_conv{h_weight, h_dilation, height, width};
  if (!use_winograd_gates(x_weight, x_dilation, h_conv)) return no_weights(h_weight);
  if (!x_weight.has_value()) return packed_weights({h_weight}, false, gates);
  return packed_weights({*x_weight, h_weight}, false, gates);
}

TRAJGRU_LIBRARY_IMPL(CPU, m) {
  m.impl("same_conv_packed", &packed_on_cpu);
  m.impl("same_conv", &conv_on_cpu);
  m.impl("same_conv_image_grad", &image_grad_on_cpu);
  m.impl("same_conv_add_grads", &add_grads_on_cpu);
  m.impl("pixel_sums", &CpuGateDevice::sum_pixels);
  m.impl("winograd_step_weights", &step_weights_on_cpu);
}

}  // namespace
}  // namespace trajgru_ext
