// For float alone: its convolutions are what takes the time, and in double precision
// the direct sum is what one asks for.

#include "cpu/winograd.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "checks.h"
#include "cpu/gate_device.h"
#include "cpu/images.h"
#include "library.h"
#include "lstm_step.h"
#include "tensors.h"

namespace trajgru_ext {
namespace {

using at::Tensor;

// Bytes of the sums of a gradient to weights for the outputs that are worked on at a
// time.
constexpr int64_t kGradSums = 16 << 20;

// The features of a gate decide about the instruction set, as it does about the panels.
const WinogradKernels<float>& kernels_for(int64_t features) {
  return winograd_kernels<float>(features);
}

PixelView<float> pixels_of(const char* op, const char* name, const Tensor& image) {
  TORCH_CHECK_VALUE(image.dim() == 4 && image.scalar_type() == at::kFloat &&
                        (image.size(1) == 1 || image.stride(1) == 1),
                    op, ": ", name, " must be channels last and float32, got ",
                    image.sizes(), " with strides ", image.strides(), " of ",
                    image.scalar_type());
  return {image.const_data_ptr<float>(), image.stride(0), image.stride(2),
          image.stride(3)};
}

void check_taps(const char* op, int64_t taps) {
  TORCH_CHECK_VALUE(taps == 3 || taps == 5, op, ": taps must be 3 or 5, got ", taps);
}

// weights: of images whose channels follow one another. rotated: those of the gradient
// to the image, for which outputs and channels are exchanged.
Tensor winograd_weights(at::TensorList weights, bool rotated, int64_t gates) {
  const char* op = "winograd_weights";
  TORCH_CHECK_VALUE(
      !weights.empty() && gates > 0 && (gates == 1 || !rotated), op,
      ": weights and gates must be given, and one gate where rotated, got ",
      weights.size(), " and ", gates);
  const Tensor& first = weights[0];
  const int64_t taps = first.dim() == 4 ? first.size(2) : 0;
  check_taps(op, taps);
  int64_t depth = 0;
  for (const Tensor& weight : weights) {
    const bool fits = weight.is_cpu() && weight.scalar_type() == at::kFloat &&
                      weight.dim() == 4 && weight.size(2) == taps &&
                      weight.size(3) == taps && weight.size(0) % gates == 0 &&
                      weight.size(rotated ? 1 : 0) == first.size(rotated ? 1 : 0);
    TORCH_CHECK_VALUE(
        fits, op, ": weights must be [O, C, k, k] of float32 on the CPU, ",
        "of the same outputs, got ", weight.sizes(), " of ", weight.scalar_type());
    depth += weight.size(rotated ? 0 : 1);
  }
  Tensor packed;
  WinogradWeights<float> view{};
  view.gates = gates;
  view.taps = taps;
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
      view.data += (taps - 1) * (view.row + view.col);
      std::swap(view.features, view.channels);
      std::swap(view.output, view.channel);
      view.row = -view.row;
      view.col = -view.col;
    }
    const auto& kernels = kernels_for(view.features);
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

// What all convolutions have but where their results go. like: of a gate's features;
// offset: holds the bias.
WinogradConv<float> conv_args(const char* op, at::TensorList images,
                              const Tensor& weights, const std::optional<Tensor>& bias,
                              int64_t gates, int64_t taps, const Tensor& like,
                              Tensor& offset) {
  const int64_t features = like.size(1);
  check_taps(op, taps);
  TORCH_CHECK_VALUE(images.size() == 1 || images.size() == kWinogradImages, op,
                    ": images must be one or two, got ", images.size());
  WinogradConv<float> conv{};
  for (const Tensor& image : images) {
    TORCH_CHECK_VALUE(image.dim() == 4 && image.size(0) == like.size(0) &&
                          image.size(2) == like.size(2) &&
                          image.size(3) == like.size(3),
                      op, ": images must be as large as the result, ", like.sizes(),
                      ", got ", image.sizes());
  }
  conv.tiles = {images[0].size(0), images[0].size(2), images[0].size(3), taps};
  for (size_t n = 0; n < images.size(); ++n) {
    conv.images[n] = pixels_of(op, "an image", images[n]);
    conv.channels[n] = images[n].size(1);
  }
  conv.gates = gates;
  conv.features = features;
  WinogradWeights<float> wanted{};
  wanted.gates = gates;
  wanted.features = features;
  wanted.taps = taps;
  wanted.depth = conv.depth();
  TORCH_CHECK_VALUE(weights.numel() == kernels_for(features).weights_size(wanted) &&
                        weights.is_contiguous() && weights.scalar_type() == at::kFloat,
                    op, ": weights must be those of ", conv.depth(), " to ", gates,
                    " * ", features, " channels");
  TORCH_CHECK_VALUE(!bias.has_value() || (bias->numel() == gates * features &&
                                          bias->scalar_type() == at::kFloat),
                    op, ": bias must be ", gates * features, " of float32");
  conv.weights = weights.const_data_ptr<float>();
  if (bias.has_value()) {
    offset = bias->contiguous();
    conv.bias = offset.const_data_ptr<float>();
  }
  return conv;
}

// f(first tile, last tile, buffer) for all tiles.
template <typename F>
void for_winograd_tiles(const WinogradConv<float>& conv, const F& f) {
  const auto& kernels = kernels_for(conv.features);
  // No fewer groups than threads may want, where that leaves each of them some tiles.
  constexpr int64_t kGroups = 32, kFewTiles = 12;
  const int64_t tiles = conv.tiles.count();
  const int64_t some = divide_up(divide_up(tiles, kGroups), kFewTiles) * kFewTiles;
  const int64_t together = std::min(kernels.together(conv), std::max(some, kFewTiles));
  at::parallel_for(0, divide_up(tiles, together), 1, [&](int64_t begin, int64_t end) {
    const Tensor buffer = at::empty({kernels.buffer_size(conv)}, at::kFloat);
    f(begin * together, std::min(end * together, tiles),
      buffer.mutable_data_ptr<float>());
  });
}

void winograd_conv(at::TensorList images, const Tensor& weights,
                   const std::optional<Tensor>& bias, int64_t taps,
                   const Tensor& output) {
  const char* op = "winograd_conv";
  Tensor offset;
  pixels_of(op, "output", output);
  auto conv = conv_args(op, images, weights, bias, 1, taps, output, offset);
  conv.output = output.mutable_data_ptr<float>();
  conv.batch = output.stride(0);
  conv.row = output.stride(2);
  conv.col = output.stride(3);
  const auto& kernels = kernels_for(conv.features);
  for_winograd_tiles(conv, [&](int64_t begin, int64_t end, float* buffer) {
    kernels.convolve(conv, begin, end, buffer);
  });
}

// lstm_step of the convolution's sums; all images are channels last and float32.
void winograd_lstm_step(at::TensorList images, const Tensor& weights,
                        const std::optional<Tensor>& bias, int64_t taps,
                        const std::optional<Tensor>& h, const Tensor& c,
                        const std::optional<Tensor>& w_ci,
                        const std::optional<Tensor>& w_cf,
                        const std::optional<Tensor>& w_co, at::IntArrayRef slots,
                        double forget_bias, const std::optional<Tensor>& mask,
                        const std::optional<Tensor>& gates, const Tensor& h_output,
                        const Tensor& c_output) {
  const char* op = "winograd_lstm_step";
  LstmSteps<CpuGateDevice>::check_step(op, h, c, w_ci, w_cf, w_co, slots, mask,
                                       h_output, c_output);
  if (gates.has_value()) check_gates(op, *gates, std::nullopt, "c", c, slots, 4);
  const PlainDispatch plain;
  Tensor offset;
  const auto conv = conv_args(op, images, weights, bias, 4, taps, c, offset);
  const LstmStepOperands in(h_output, c, mask, w_ci, w_cf, w_co,
                            CpuGateDevice::kRowLength);
  const Tensor state = in.layout.fit(c, at::kFloat);
  const Tensor old = in.layout.fit(mask.has_value() ? h : std::nullopt, at::kFloat);
  check_buffers(op, in.layout, at::kFloat, {h_output, c_output});
  if (gates.has_value()) check_buffers(op, in.layout, at::kFloat, {*gates});
  TORCH_CHECK_VALUE(!in.layout.planes(), op, ": h_output must be channels last, got ",
                    h_output.sizes(), " with strides ", h_output.strides());
  LstmStep<GateDtypes<float, float>> args{};
  in.fill(args, slots);
  args.leaves = gates.has_value();
  if (gates.has_value()) in.layout.show(args.gates, *gates);
  in.layout.show(args.h, old);
  in.layout.show(args.c, state);
  in.layout.show(args.h_output, h_output);
  in.layout.show(args.c_output, c_output);
  args.forget_bias = static_cast<float>(forget_bias);
  const auto& kernels = winograd_lstm_kernels<float>(conv.features);
  for_winograd_tiles(conv, [&](int64_t begin, int64_t end, float* buffer) {
    kernels.convolve(conv, args, begin, end, buffer);
  });
}

// The gradient to weights of some outputs, from at least one tile. Some tiles after the
// others are transformed by all threads, and their products are summed up by point,
// so that neither a sum's order nor the work depends on the threads.
void sum_weights_grad(WinogradWeightsGrad<float> grad, float* result, int64_t stride) {
  const auto& kernels = kernels_for(grad.outputs);
  const int64_t points = grad.tiles.points();
  const int64_t together = kernels.grad_together(grad);
  const int64_t blocks = divide_up(grad.outputs, kWinogradOutputs);
  const Tensor buffer = at::empty({kernels.grad_buffer_size(grad)}, at::kFloat);
  const Tensor sums = at::empty({points * grad.channels * grad.outputs}, at::kFloat);
  grad.buffer = buffer.mutable_data_ptr<float>();
  grad.sums = sums.mutable_data_ptr<float>();
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

Tensor winograd_weights_grad(const Tensor& grad, const Tensor& image, int64_t taps) {
  const char* op = "winograd_weights_grad";
  check_taps(op, taps);
  const auto from = pixels_of(op, "image", image), of = pixels_of(op, "grad", grad);
  TORCH_CHECK_VALUE(grad.size(0) == image.size(0) && grad.size(2) == image.size(2) &&
                        grad.size(3) == image.size(3),
                    op, ": grad must be as large as the image, ", image.sizes(),
                    ", got ", grad.sizes());
  const int64_t outputs = grad.size(1), channels = image.size(1);
  const Tensor result = at::zeros({outputs, channels, taps, taps}, image.options());
  if (result.numel() == 0 || grad.numel() == 0) return result;
  WinogradWeightsGrad<float> some{};
  some.tiles = {image.size(0), image.size(2), image.size(3), taps};
  some.grad = of;
  some.image = from;
  some.channels = channels;
  const int64_t stride = channels * taps * taps;
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
  m.impl("winograd_lstm_step", &winograd_lstm_step);
  m.impl("winograd_weights_grad", &winograd_weights_grad);
}

}  // namespace
}  // namespace trajgru_ext
