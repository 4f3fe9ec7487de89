// Winograd's convolution and its gradients.

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "cpu/conv/winograd_conv.h"
#include "tensors/library.h"

namespace trajgru_ext {
namespace {

using at::Tensor;

// Bytes of the sums of a gradient to weights for the outputs that are worked on at a
// time.
constexpr int64_t kGradSums = 16 << 20;

}  // namespace

Tensor winograd_weights(at::TensorList weights, bool rotated, int64_t gates) {
  const char* op = "winograd_weights";
  TORCH_CHECK_VALUE(
      !weights.empty() && gates > 0 && (gates == 1 || !rotated), op,
      ": weights and gates must be given, and one gate where rotated, got ",
      weights.size(), " and ", gates);
  const Tensor& first = weights[0];
  const auto taps = first.dim() == 4 ? first.sizes().slice(2) : at::IntArrayRef{};
  check_taps(op, taps);
  int64_t depth = 0;
  for (const Tensor& weight : weights) {
    const bool fits = weight.is_cpu() && weight.scalar_type() == at::kFloat &&
                      weight.dim() == 4 && weight.sizes().slice(2) == taps &&
                      weight.size(0) % gates == 0 &&
                      weight.size(rotated ? 1 : 0) == first.size(rotated ? 1 : 0);
    TORCH_CHECK_VALUE(
        fits, op, ": weights must be [O, C, k', k] of float32 on the CPU, ",
        "of the same outputs, got ", weight.sizes(), " of ", weight.scalar_type());
    depth += weight.size(rotated ? 0 : 1);
  }
  Tensor packed;
  WinogradWeights<float> view{};
  view.gates = gates;
  view.tap_rows = taps[0];
  view.tap_columns = taps[1];
  view.depth = depth;
  for (const Tensor& weight : weights) {
    view.data = weight.const_data_ptr<float>();
    view.features = weight.size(0) / gates;
    view.channels = weight.size(1);
    view.output = weight.stride(0);
    view.channel = weight.stride(1);
    view.row = weight.stride(2);
    view.col = weight.stride(3);
    if (rotated) {
      view.data += (taps[0] - 1) * view.row + (taps[1] - 1) * view.col;
      std::swap(view.features, view.channels);
      std::swap(view.output, view.channel);
      view.row = -view.row;
      view.col = -view.col;
    }
    const auto& kernels = winograd_kernels<float>(view.features);
    if (!packed.defined()) {
      packed = at::empty({kernels.weights_size(view)}, weight.options());
    }
    float* data = packed.mutable_data_ptr<float>();
    at::parallel_for(
        0, gates * kernels.panels(view.features), 1,
        [&](int64_t begin, int64_t end) { kernels.pack(view, begin, end, data); });
    view.first_channel += view.channels;
  }
  return packed;
}

void winograd_conv(at::TensorList images, const Tensor& weights,
                   const std::optional<Tensor>& bias, Sides taps, Sides padding,
                   const Tensor& output) {
  const char* op = "winograd_conv";
  Tensor offset;
  auto conv = conv_args(op, images, weights, bias, 1, taps, padding, output, offset);
  show_output(op, "output", conv, output);
  if (output.numel() == 0) return;
  const auto& kernels = winograd_kernels<float>(conv.features);
  for_winograd_tiles(conv, [&](int64_t begin, int64_t end, float* buffer) {
    kernels.convolve(conv, begin, end, buffer);
  });
}

namespace {

// The gradient to weights of some outputs, from at least one tile. Some tiles after the
// others are transformed by all threads, and their products are summed up by point,
// so that neither a sum's order nor the work depends on the threads.
void sum_weights_grad(WinogradWeightsGrad<float> grad, float* result, int64_t stride) {
  const auto& kernels = winograd_kernels<float>(grad.outputs);
  const int64_t points = grad.tiles.points();
  const int64_t together = kernels.grad_together(grad);
  const int64_t blocks = divide_up(grad.outputs, kWinogradOutputs);
  const int64_t floats = kernels.grad_buffer_size(grad);
  const Scratch<WinogradWeightsGrad<float>> scratch(floats + points * grad.channels *
                                                                 grad.outputs);
  grad.buffer = scratch.data();
  grad.sums = scratch.data() + floats;
  for (; grad.first < grad.tiles.count(); grad.first += together) {
    grad.count = std::min(together, grad.tiles.count() - grad.first);
    at::parallel_for(0, grad.count, 1, [&](int64_t begin, int64_t end) {
      kernels.transform_sides(grad, begin, end);
    });
    at::parallel_for(0, points * blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) {
        kernels.sum_products(grad, item / blocks, item % blocks * kWinogradOutputs);
      }
    });
  }
  at::parallel_for(0, grad.channels, 1, [&](int64_t begin, int64_t end) {
    kernels.finish_grad(grad, begin, end, result, stride);
  });
}

}  // namespace

Tensor winograd_weights_grad(const Tensor& grad, const Tensor& image, Sides taps,
                             Sides padding) {
  const char* op = "winograd_weights_grad";
  const auto from = pixels_of(op, "image", image), of = pixels_of(op, "grad", grad);
  WinogradWeightsGrad<float> some{};
  some.tiles = tiles_of(op, image, grad, taps, padding);
  some.grad = of;
  some.image = from;
  const int64_t outputs = grad.size(1), channels = image.size(1);
  const Tensor result =
      at::zeros({outputs, channels, taps[0], taps[1]}, image.options());
  if (result.numel() == 0 || grad.numel() == 0) return result;
  some.channels = channels;
  const int64_t stride = channels * taps[0] * taps[1];
  const int64_t bytes = some.tiles.points() * channels * int64_t{sizeof(float)};
  const int64_t most =
      std::max<int64_t>(kGradSums / bytes / kWinogradOutputs, 1) * kWinogradOutputs;
  for (int64_t first = 0; first < outputs; first += most) {
    some.outputs = std::min(most, outputs - first);
    sum_weights_grad(some, result.mutable_data_ptr<float>() + first * stride, stride);
    some.grad.data += most;
  }
  return result;
}

TRAJGRU_LIBRARY_IMPL(CPU, m) {
  m.impl("winograd_weights", &winograd_weights);
  m.impl("winograd_conv", &winograd_conv);
  m.impl("winograd_weights_grad", &winograd_weights_grad);
}

}  // namespace trajgru_ext
