// Winograd's convolution and its gradients.

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <array>

#include "cpu/conv/winograd_conv.h"
#include "tensors/library.h"

namespace trajgru_ext {
namespace {

using at::Tensor;

}  // namespace

Tensor winograd_weights(at::TensorList weights, bool rotated, int64_t gates,
                        const std::function<Tensor(int64_t)>& allocate) {
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
      packed = allocate(kernels.weights_size(view));
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

using WeightsGrad = WinogradWeightsGrad<float>;
using Kernels = WinogradKernels<float>;

// Where the gradient goes: [O, C, taps].
struct Target {
  float* data;
  int64_t output_stride;
};

void transform(const Kernels& kernels, const WeightsGrad& grad) {
  at::parallel_for(0, grad.count, 1, [&](int64_t begin, int64_t end) {
    kernels.transform_sides(grad, begin, end);
  });
}

// From tiles that are all worked on together: what is summed up of a block of channels
// and outputs is transformed to the gradient before it leaves the cache.
void grad_of_all_tiles(const Kernels& kernels, WeightsGrad grad, Target to) {
  constexpr int64_t kRows = 12;  // of a product
  constexpr int64_t kOutputs = 64;
  constexpr int64_t kFloats = 192 << 10;
  const int64_t points = grad.tiles.points();
  const int64_t rows = kFloats / (points * kOutputs) / kRows * kRows;
  const int64_t most = std::clamp(rows, kRows, divide_up(grad.channels, kRows) * kRows);
  const int64_t across = divide_up(grad.outputs, kOutputs);
  grad.count = grad.tiles.count();
  const Scratch<WeightsGrad> buffer(kernels.grad_buffer_size(grad));
  grad.buffer = buffer.data();
  transform(kernels, grad);
  const int64_t blocks = across * divide_up(grad.channels, most);
  at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    const Scratch<class BlockSums> sums(points * most * kOutputs);
    for (int64_t k = begin; k < end; ++k) {
      const int64_t channel = k / across * most, output = k % across * kOutputs;
      const int64_t channels = std::min(most, grad.channels - channel);
      const int64_t outputs = std::min(kOutputs, grad.outputs - output);
      const WinogradGradBlock<float> block = {
          channel, channels,    output,  outputs,           0,
          points,  sums.data(), outputs, channels * outputs};
      kernels.sum_products(grad, block);
      kernels.finish_grad(grad, block, to.data, to.output_stride);
    }
  });
}

// From some tiles after the others, whose products are summed up by point, where no
// thread's part is small.
void grad_by_lots(const Kernels& kernels, WeightsGrad grad, Target to) {
  const int64_t together = kernels.grad_together(grad);
  const int64_t points = grad.tiles.points(), outputs = grad.outputs;
  const int64_t across = divide_up(outputs, kMostGradOutputs);
  grad.count = std::min(together, grad.tiles.count());
  const int64_t floats = kernels.grad_buffer_size(grad);
  const int64_t point_sums = grad.channels * outputs;
  const Scratch<WeightsGrad> scratch(floats + points * point_sums);
  grad.buffer = scratch.data();
  float* sums = scratch.data() + floats;
  for (; grad.first < grad.tiles.count(); grad.first += together) {
    grad.count = std::min(together, grad.tiles.count() - grad.first);
    transform(kernels, grad);
    at::parallel_for(0, points * across, 1, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        const int64_t point = k / across, output = k % across * kMostGradOutputs;
        kernels.sum_products(grad, {0, grad.channels, output,
                                    std::min(kMostGradOutputs, outputs - output), point,
                                    1, sums + point * point_sums + output, outputs, 0});
      }
    });
  }
  at::parallel_for(0, grad.channels, 1, [&](int64_t begin, int64_t end) {
    kernels.finish_grad(grad,
                        {begin, end - begin, 0, outputs, 0, points,
                         sums + begin * outputs, outputs, point_sums},
                        to.data, to.output_stride);
  });
}

}  // namespace

// Neither a sum's order nor the work depends on the threads.
Tensor winograd_weights_grad(const Tensor& grad, const Tensor& image, Sides taps,
                             Sides padding) {
  const char* op = "winograd_weights_grad";
  WeightsGrad some{};
  some.image = pixels_of(op, "image", image);
  some.grad = pixels_of(op, "grad", grad);
  some.tiles = tiles_of(op, image, grad, taps, padding);
  some.outputs = grad.size(1);
  some.channels = image.size(1);
  const std::array<int64_t, 4> sizes = {some.outputs, some.channels, taps[0], taps[1]};
  if (grad.numel() == 0) return at::zeros(sizes, image.options());
  const Tensor result = at::empty(sizes, image.options());
  if (result.numel() == 0) return result;
  const auto& kernels = winograd_kernels<float>(some.outputs);
  Target to{result.mutable_data_ptr<float>(), result.stride(0)};
  // Floats that stay in the last-level cache: of the sums, and of the values at the
  // points.
  constexpr int64_t kSums = 4 << 20, kValues = 4 << 20;
  const int64_t an_output = some.tiles.points() * some.channels;
  const int64_t values =
      some.tiles.points() * (some.channels + some.outputs) * some.tiles.count();
  if (2 * an_output * some.outputs > kSums && values <= kValues) {
    grad_of_all_tiles(kernels, some, to);
    return result;
  }
  const int64_t most =
      std::max<int64_t>(kSums / (an_output * kMostGradOutputs), 1) * kMostGradOutputs;
  for (int64_t first = 0; first < grad.size(1); first += most) {
    some.outputs = std::min(most, grad.size(1) - first);
    grad_by_lots(kernels, some, to);
    some.grad.data += most;
    to.data += most * to.output_stride;
  }
  return result;
}

TRAJGRU_LIBRARY_IMPL(CPU, m) {
  m.impl("winograd_weights", [](at::TensorList weights, bool rotated, int64_t gates) {
    return winograd_weights(weights, rotated, gates, [](int64_t floats) {
      return at::empty({floats}, at::kFloat);
    });
  });
  m.impl("winograd_conv", &winograd_conv);
  m.impl("winograd_weights_grad", &winograd_weights_grad);
}

}  // namespace trajgru_ext
