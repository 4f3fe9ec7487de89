#include "sequences/convolution.h"

#include <ATen/Context.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <array>
#include <vector>

#include "cpu/conv/conv_algorithm.h"
#include "cpu/gate_device.h"
#include "cpu/parallel.h"
#include "sequences/calls.h"
#include "tensors/tensors.h"

namespace trajgru_ext {
namespace {

using at::Tensor;

// Pieces that a gradient to parameters is summed up in on the CPU, each by one thread.
constexpr int64_t kPieces = 4;

// Rows of the image that a piece has at least, where it is less than an image.
constexpr int64_t kPieceRows = 8;

std::array<int64_t, 2> same_padding(const Conv& conv) {
  return {conv.dilation[0] * (conv.weight.size(2) / 2),
          conv.dilation[1] * (conv.weight.size(3) / 2)};
}

// Whether torch's convolution of the image rounds as the number of threads has it: not
// by oneDNN's, which it calls for all but double precision and the smallest images, and
// for kernels of one pixel where there is more than one thread.
bool rounds_by_threads(const Tensor& image, const Conv& conv) {
  constexpr int64_t kSmall = 20480;
  if (!image.is_cpu()) return false;
  if (conv.weight.size(2) * conv.weight.size(3) == 1) return true;
  const bool one_dnn =
      image.scalar_type() == at::kFloat && at::globalContext().userEnabledMkldnn();
  return !one_dnn || (image.size(0) == 1 && image.numel() <= kSmall);
}

Tensor empty_images(const Tensor& like, int64_t channels) {
  return at::empty({like.size(0), channels, like.size(2), like.size(3)},
                   like.options().memory_format(at::MemoryFormat::ChannelsLast));
}

// f(image number), by one thread each, put together.
template <typename F>
Tensor each_image(const Tensor& images, int64_t channels, const F& f) {
  const Tensor output = empty_images(images, channels);
  for_items(images.size(0), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) output.narrow(0, n, 1).copy_(f(n));
  });
  return output;
}

Tensor convolution(const Tensor& image, const Conv& conv) {
  return at::convolution(image, conv.weight, conv.bias, {1, 1}, same_padding(conv),
                         conv.dilation, false, {0, 0}, 1);
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(const Tensor& grad,
                                                        const Tensor& image,
                                                        const Conv& conv,
                                                        at::IntArrayRef padding,
                                                        std::array<bool, 3> wanted) {
  return at::convolution_backward(grad, image, conv.weight.to(image.scalar_type()),
                                  {conv.weight.size(0)}, {1, 1}, padding, conv.dilation,
                                  false, {0, 0}, 1, wanted);
}

// Some images, or some rows of one.
struct Piece {
  int64_t image, images, row, rows;
};

std::vector<Piece> pieces(const Tensor& images) {
  const int64_t count = images.size(0), height = images.size(2);
  std::vector<Piece> found;
  if (count >= kPieces) {
    for (int64_t k = 0; k < kPieces; ++k) {
      const int64_t first = k * count / kPieces, end = (k + 1) * count / kPieces;
      found.push_back({first, end - first, 0, height});
    }
    return found;
  }
  const int64_t bands =
      std::clamp<int64_t>(height / kPieceRows, 1, divide_up(kPieces, count));
  for (int64_t n = 0; n < count; ++n) {
    for (int64_t k = 0; k < bands; ++k) {
      const int64_t first = k * height / bands, end = (k + 1) * height / bands;
      found.push_back({n, 1, first, end - first});
    }
  }
  return found;
}

// The gradients to weight and bias that come from one piece.
std::tuple<Tensor, Tensor> piece_grad(const Piece& piece, const Tensor& grad,
                                      const Tensor& image, const Conv& conv,
                                      const ConvGrad& sums) {
  const std::array<bool, 3> wanted = {false, sums.weight.defined(),
                                      sums.bias.defined()};
  const auto padding = same_padding(conv);
  Tensor from = image.narrow(0, piece.image, piece.images);
  Tensor of = grad.narrow(0, piece.image, piece.images);
  // oneDNN's gradient to a dilated bfloat16 weight reads what nobody wrote
  // (torch 2.13).
  const bool dilated = conv.dilation[0] > 1 || conv.dilation[1] > 1;
  if (dilated && image.is_cpu() && image.scalar_type() == at::kBFloat16) {
    from = from.to(at::kFloat);
    of = of.to(at::kFloat);
  }
  if (piece.rows == image.size(2)) {
    const auto [_, weight, bias] =
        convolution_backward(of, from, conv, padding, wanted);
    return {weight, bias};
  }
  // The rows that the piece's result was made from, with those of the padding.
  const int64_t first = piece.row - padding[0];
  const int64_t end = piece.row + piece.rows + padding[0];
  const int64_t above = std::max<int64_t>(-first, 0);
  const int64_t below = std::max<int64_t>(end - image.size(2), 0);
  from = from.narrow(2, first + above, end - below - first - above);
  from = channels_last(at::constant_pad_nd(from, {0, 0, above, below}));
  const auto [_, weight, bias] =
      convolution_backward(channels_last(of.narrow(2, piece.row, piece.rows)), from,
                           conv, {0, padding[1]}, wanted);
  return {weight, bias};
}

void add(Tensor& sum, const Tensor& part) {
  if (sum.defined()) sum.add_(part);
}

// The image itself where a pixel's channels lie together.
Tensor with_pixels(const Tensor& image) {
  return image.stride(1) == 1 ? image : channels_last(image);
}

Tensor few_products(const Tensor& image, const Tensor& weights,
                    const std::optional<Tensor>& bias, int64_t outputs, int64_t taps) {
  const Tensor output = empty_images(image, outputs);
  winograd_conv({with_pixels(image)}, {weights, bias, taps}, output);
  return output;
}

}  // namespace

const Tensor& Conv::packed_weight(bool rotated) const {
  Tensor& made = packed[rotated];
  if (!made.defined()) made = winograd_weights({weight}, rotated);
  return made;
}

Conv Conv::to(at::ScalarType dtype) const {
  Conv cast{weight.to(dtype), bias, dilation};
  if (bias.has_value()) cast.bias = bias->to(dtype);
  return cast;
}

ConvGrad::ConvGrad(const Conv& conv, bool weight_wanted, bool bias_wanted) {
  const auto options = conv.weight.options().dtype(opmath_dtype(conv.weight));
  if (weight_wanted) weight = at::zeros(conv.weight.sizes(), options);
  if (bias_wanted) bias = at::zeros({conv.weight.size(0)}, options);
}

Tensor channels_last(const Tensor& image) {
  if (image.is_contiguous(at::MemoryFormat::ChannelsLast)) {
    // One channel fits both formats; by its strides torch's convolution chooses.
    const int64_t row = image.size(3), pixels = image.size(2) * row;
    return image.size(1) == 1 ? image.as_strided(image.sizes(), {pixels, 1, row, 1})
                              : image;
  }
  const Tensor found = empty_images(image, image.size(1));
  copy_image(found, image);
  return found;
}

Tensor conv_of_zero(const Conv& conv) {
  if (conv.bias.has_value()) return conv.bias->view({1, -1, 1, 1});
  return at::zeros({1, 1, 1, 1}, conv.weight.options());
}

Tensor convolve(const Tensor& image, const Conv& conv) {
  if (winograd_serves(image, conv)) {
    return few_products(image, conv.packed_weight(false), conv.bias,
                        conv.weight.size(0), conv.weight.size(2));
  }
  if (rounds_by_threads(image, conv)) {
    return each_image(image, conv.weight.size(0), [&](int64_t n) {
      return convolution(image.narrow(0, n, 1), conv);
    });
  }
  return channels_last(convolution(image, conv));
}

Tensor convolve_backward(const Tensor& grad, const Tensor& image, const Conv& conv) {
  if (winograd_serves(image, conv)) {
    return few_products(grad, conv.packed_weight(true), std::nullopt,
                        conv.weight.size(1), conv.weight.size(2));
  }
  const auto to_image = [&](const Tensor& of, const Tensor& from) {
    return std::get<0>(
        convolution_backward(of, from, conv, same_padding(conv), {true, false, false}));
  };
  if (rounds_by_threads(image, conv)) {
    return each_image(image, image.size(1), [&](int64_t n) {
      return to_image(grad.narrow(0, n, 1), image.narrow(0, n, 1));
    });
  }
  return channels_last(to_image(grad, image));
}

void add_conv_grad(const Tensor& grad, const Tensor& image, const Conv& conv,
                   ConvGrad& sums) {
  if (!sums.weight.defined() && !sums.bias.defined()) return;
  if (sums.weight.defined() && winograd_serves_weights_grad(image, conv)) {
    sums.weight.add_(winograd_weights_grad(with_pixels(grad), with_pixels(image),
                                           conv.weight.size(2)));
    if (sums.bias.defined()) {
      sums.bias.add_(CpuGateDevice::sum_pixels(grad).sum({0, 2, 3}));
    }
    return;
  }
  std::vector<Piece> all = {{0, image.size(0), 0, image.size(2)}};
  if (image.is_cpu()) all = pieces(image);
  std::vector<std::tuple<Tensor, Tensor>> parts(all.size());
  const auto compute = [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      parts[k] = piece_grad(all[k], grad, image, conv, sums);
    }
  };
  if (image.is_cpu()) {
    for_items(all.size(), compute);
  } else {
    compute(0, all.size());
  }
  for (const auto& [weight, bias] : parts) {
    add(sums.weight, weight);
    add(sums.bias, bias);
  }
}

}  // namespace trajgru_ext
