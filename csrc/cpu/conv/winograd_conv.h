#pragma once

// From Tensors to Winograd's convolutions, for float alone: its convolutions are what
// takes the time, and in double precision the direct sum is what one asks for.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <functional>
#include <optional>

#include "cpu/conv/winograd.h"
#include "cpu/images.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "tensors/checks.h"
#include "tensors/tensors.h"

namespace trajgru_ext {

// Rows and columns of taps, or of padding.
using Sides = at::IntArrayRef;

// weights: [O, C, k', k] each, of images whose channels follow one another; rotated:
// those of the gradient to the image, for which outputs and channels are exchanged.
// allocate: makes room for so many floats.
at::Tensor winograd_weights(at::TensorList weights, bool rotated, int64_t gates,
                            const std::function<at::Tensor(int64_t)>& allocate);

// output: [B, O, H', W'], channels last, of the images padded by so much.
void winograd_conv(at::TensorList images, const at::Tensor& weights,
                   const OptionalTensor& bias, Sides taps, Sides padding,
                   const at::Tensor& output);

// [O, C, k', k], from the gradient to the result and the image.
at::Tensor winograd_weights_grad(const at::Tensor& grad, const at::Tensor& image,
                                 Sides taps, Sides padding);

inline PixelView<float> pixels_of(const char* op, const char* name,
                                  const at::Tensor& image) {
  TORCH_CHECK_VALUE(
      image.dim() == 4 && image.scalar_type() == at::kFloat && has_stride(image, 1, 1),
      op, ": ", name, " must be channels last and float32, got ", image.sizes(),
      " with strides ", image.strides(), " of ", image.scalar_type());
  return {image.const_data_ptr<float>(), image.stride(0), image.stride(2),
          image.stride(3)};
}

inline void check_taps(const char* op, Sides taps) {
  TORCH_CHECK_VALUE(taps.size() == 2 && winograd_taps(taps[0], taps[1]), op,
                    ": taps must be (3, 3), (5, 5), (1, 3), (1, 5) or (1, 7), got ",
                    taps);
}

// The tiles of a result of the size of `output`.
inline WinogradTiles tiles_of(const char* op, const at::Tensor& image,
                              const at::Tensor& output, Sides taps, Sides padding) {
  check_taps(op, taps);
  const auto fits = [&](int64_t k) {
    return output.size(2 + k) == image.size(2 + k) + 2 * padding[k] - taps[k] + 1;
  };
  TORCH_CHECK_VALUE(image.dim() == 4 && output.dim() == 4 && padding.size() == 2 &&
                        image.size(0) == output.size(0) && fits(0) && fits(1),
                    op, ": images padded by ", padding, " must fit the result, ",
                    output.sizes(), ", of ", taps, " taps, got ", image.sizes());
  return {image.size(0), output.size(2), output.size(3), image.size(2), image.size(3),
          taps[0],       taps[1],        padding[0],     padding[1]};
}

// All but where the results go. like: of a gate's features, which decide about the
// instruction set; offset: holds the bias.
inline WinogradConv<float> conv_args(const char* op, at::TensorList images,
                                     const at::Tensor& weights,
                                     const std::optional<at::Tensor>& bias,
                                     int64_t gates, Sides taps, Sides padding,
                                     const at::Tensor& like, at::Tensor& offset) {
  const int64_t features = like.size(1);
  TORCH_CHECK_VALUE(images.size() == 1 || images.size() == kWinogradImages, op,
                    ": images must be one or two, got ", images.size());
  WinogradConv<float> conv{};
  for (size_t n = 0; n < images.size(); ++n) {
    conv.tiles = tiles_of(op, images[n], like, taps, padding);
    conv.images[n] = pixels_of(op, "an image", images[n]);
    conv.channels[n] = images[n].size(1);
  }
  conv.gates = gates;
  conv.features = features;
  WinogradWeights<float> wanted{};
  wanted.gates = gates;
  wanted.features = features;
  wanted.tap_rows = taps[0];
  wanted.tap_columns = taps[1];
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

// The same of images that are as large as the result, with as many rows of taps as
// columns.
inline WinogradConv<float> same_conv_args(const char* op, at::TensorList images,
                                          const at::Tensor& weights,
                                          const OptionalTensor& bias, int64_t gates,
                                          int64_t taps, const at::Tensor& like,
                                          at::Tensor& offset) {
  const int64_t padding = taps / 2;
  return conv_args(op, images, weights, bias, gates, {taps, taps}, {padding, padding},
                   like, offset);
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
  // Groups of fewer tiles than the cache has room for, where some threads would have
  // none or the last would come late.
  constexpr int64_t kGroups = 32, kFewTiles = 12, kStep = 4;
  const int64_t tiles = conv.tiles.count();
  const int64_t some = divide_up(divide_up(tiles, kGroups), kFewTiles) * kFewTiles;
  const int64_t most = std::min(kernels.together(conv), std::max(some, kFewTiles));
  const int64_t together = fair_share(1, tiles, most, kStep);
  at::parallel_for(0, divide_up(tiles, together), 1, [&](int64_t begin, int64_t end) {
    const Scratch<WinogradConv<float>> buffer(kernels.buffer_size(conv));
    f(begin * together, std::min(end * together, tiles), buffer.data());
  });
}

}  // namespace trajgru_ext
