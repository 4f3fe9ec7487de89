#pragma once

// From Tensors to Winograd's convolutions, for float alone: its convolutions are what
// takes the time, and in double precision the direct sum is what one asks for.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <optional>

#include "cpu/conv/winograd.h"
#include "cpu/images.h"
#include "tensors/checks.h"
#include "tensors/tensors.h"

namespace trajgru_ext {

// weights: [O, C, k, k] each, of images whose channels follow one another; rotated:
// those of the gradient to the image, for which outputs and channels are exchanged.
at::Tensor winograd_weights(at::TensorList weights, bool rotated, int64_t gates);

// output: [B, O, H, W], channels last.
void winograd_conv(at::TensorList images, const at::Tensor& weights,
                   const OptionalTensor& bias, int64_t taps, const at::Tensor& output);

// [O, C, taps, taps], from the gradient to the result and the image.
at::Tensor winograd_weights_grad(const at::Tensor& grad, const at::Tensor& image,
                                 int64_t taps);

inline PixelView<float> pixels_of(const char* op, const char* name,
                                  const at::Tensor& image) {
  TORCH_CHECK_VALUE(
      image.dim() == 4 && image.scalar_type() == at::kFloat && has_stride(image, 1, 1),
      op, ": ", name, " must be channels last and float32, got ", image.sizes(),
      " with strides ", image.strides(), " of ", image.scalar_type());
  return {image.const_data_ptr<float>(), image.stride(0), image.stride(2),
          image.stride(3)};
}

inline void check_taps(const char* op, int64_t taps) {
  TORCH_CHECK_VALUE(taps == 3 || taps == 5, op, ": taps must be 3 or 5, got ", taps);
}

// All but where the results go. like: of a gate's features, which decide about the
// instruction set; offset: holds the bias.
inline WinogradConv<float> conv_args(const char* op, at::TensorList images,
                                     const at::Tensor& weights,
                                     const std::optional<at::Tensor>& bias,
                                     int64_t gates, int64_t taps,
                                     const at::Tensor& like, at::Tensor& offset) {
  const int64_t features = like.size(1);
  check_taps(op, taps);
  TORCH_CHECK_VALUE(images.size() == 1 || images.size() == kWinogradImages, op,
                    ": images must be one or two, got ", images.size());
  WinogradConv<float> conv{};
  for (const at::Tensor& image : images) {
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
  TORCH_CHECK_VALUE(
      weights.numel() == winograd_kernels<float>(features).weights_size(wanted) &&
          weights.is_contiguous() && weights.scalar_type() == at::kFloat,
      op, ": weights must be those of ", conv.depth(), " to ", gates, " * ", features,
      " channels");
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

inline void show_output(const char* op, const char* name, WinogradConv<float>& conv,
                        const at::Tensor& output) {
  pixels_of(op, name, output);
  conv.output = output.mutable_data_ptr<float>();
  conv.batch = output.stride(0);
  conv.row = output.stride(2);
  conv.col = output.stride(3);
}

// f(first tile, last tile, buffer) for all tiles.
template <typename F>
void for_winograd_tiles(const WinogradConv<float>& conv, const F& f) {
  const auto& kernels = winograd_kernels<float>(conv.features);
  // No fewer groups than threads may want, where that leaves each of them some tiles.
  constexpr int64_t kGroups = 32, kFewTiles = 12;
  const int64_t tiles = conv.tiles.count();
  const int64_t some = divide_up(divide_up(tiles, kGroups), kFewTiles) * kFewTiles;
  const int64_t together = std::min(kernels.together(conv), std::max(some, kFewTiles));
  at::parallel_for(0, divide_up(tiles, together), 1, [&](int64_t begin, int64_t end) {
    const at::Tensor buffer = at::empty({kernels.buffer_size(conv)}, at::kFloat);
    f(begin * together, std::min(end * together, tiles),
      buffer.mutable_data_ptr<float>());
  });
}

}  // namespace trajgru_ext
