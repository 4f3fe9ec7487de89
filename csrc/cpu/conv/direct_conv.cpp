#include "cpu/conv/direct_conv.h"

#include <ATen/Context.h>
#include <ATen/ops/constant_pad_nd.h>

#include <algorithm>
#include <array>
#include <tuple>
#include <vector>

#include "cpu/parallel.h"
#include "operators/conv/same_conv.h"
#include "operators/copy_image.h"

namespace trajgru_ext {
namespace {

using at::Tensor;

// Pieces that a gradient to parameters is summed up in, each by one thread.
constexpr int64_t kPieces = 16;

// Rows of the image that a piece has at least, where it is less than an image.
constexpr int64_t kPieceRows = 8;

// Whether torch's convolution of the image rounds as the number of threads has it: not
// by oneDNN's, which it calls for all but double precision and the smallest images, and
// for kernels of one pixel where there is more than one thread.
bool rounds_by_threads(const Tensor& image, const Tensor& weight) {
  constexpr int64_t kSmall = 20480;
  if (weight.size(2) * weight.size(3) == 1) return true;
  const bool one_dnn =
      image.scalar_type() == at::kFloat && at::globalContext().userEnabledMkldnn();
  return !one_dnn || (image.size(0) == 1 && image.numel() <= kSmall);
}

int64_t products(const Tensor& images, const Tensor& weight) {
  return images.size(0) * images.size(2) * images.size(3) * weight.numel();
}

// f(image number), by one thread each, put together.
template <typename F>
Tensor each_image(const Tensor& images, int64_t channels, const Tensor& weight,
                  const F& f) {
  const Tensor output = empty_channels_last(images, channels);
  for_items(images.size(0), products(images, weight), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) output.narrow(0, n, 1).copy_(f(n));
  });
  return output;
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
                                      const Tensor& image, const Tensor& weight,
                                      at::IntArrayRef dilation,
                                      std::array<bool, 3> wanted) {
  const auto padding = same_padding(weight, dilation);
  Tensor from = image.narrow(0, piece.image, piece.images);
  Tensor of = grad.narrow(0, piece.image, piece.images);
  // oneDNN's gradient to a dilated bfloat16 weight reads what nobody wrote
  // (torch 2.13).
  const bool dilated = dilation[0] > 1 || dilation[1] > 1;
  if (dilated && image.scalar_type() == at::kBFloat16) {
    from = from.to(at::kFloat);
    of = of.to(at::kFloat);
  }
  const Tensor like = weight.to(from.scalar_type());
  if (piece.rows == image.size(2)) {
    const auto [_, to_weight, to_bias] =
        torch_conv_backward(of, from, like, dilation, padding, wanted);
    return {to_weight, to_bias};
  }
  // The rows that the piece's result was made from, with those of the padding.
  const int64_t first = piece.row - padding[0];
  const int64_t end = piece.row + piece.rows + padding[0];
  const int64_t above = std::max<int64_t>(-first, 0);
  const int64_t below = std::max<int64_t>(end - image.size(2), 0);
  from = from.narrow(2, first + above, end - below - first - above);
  from = channels_last(at::constant_pad_nd(from, {0, 0, above, below}));
  const auto [_, to_weight, to_bias] =
      torch_conv_backward(channels_last(of.narrow(2, piece.row, piece.rows)), from,
                          like, dilation, {0, padding[1]}, wanted);
  return {to_weight, to_bias};
}

}  // namespace

Tensor direct_conv(const Tensor& image, const Tensor& weight,
                   const OptionalTensor& bias, at::IntArrayRef dilation) {
  if (!rounds_by_threads(image, weight)) {
    return channels_last(torch_conv(image, weight, bias, dilation));
  }
  return each_image(image, weight.size(0), weight, [&](int64_t n) {
    return torch_conv(image.narrow(0, n, 1), weight, bias, dilation);
  });
}

Tensor direct_conv_image_grad(const Tensor& grad, const Tensor& image,
                              const Tensor& weight, at::IntArrayRef dilation) {
  if (!rounds_by_threads(image, weight)) {
    return channels_last(torch_conv_image_grad(grad, image, weight, dilation));
  }
  return each_image(image, image.size(1), weight, [&](int64_t n) {
    return torch_conv_image_grad(grad.narrow(0, n, 1), image.narrow(0, n, 1), weight,
                                 dilation);
  });
}

void direct_conv_add_grads(const Tensor& grad, const Tensor& image,
                           const Tensor& weight, at::IntArrayRef dilation,
                           const OptionalTensor& weight_sum,
                           const OptionalTensor& bias_sum) {
  const std::array<bool, 3> wanted = {false, weight_sum.has_value(),
                                      bias_sum.has_value()};
  const std::vector<Piece> all = pieces(image);
  std::vector<std::tuple<Tensor, Tensor>> parts(all.size());
  for_items(all.size(), products(image, weight), [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      parts[k] = piece_grad(all[k], grad, image, weight, dilation, wanted);
    }
  });
  for (const auto& [to_weight, to_bias] : parts) {
    if (weight_sum.has_value()) weight_sum->add_(to_weight);
    if (bias_sum.has_value()) bias_sum->add_(to_bias);
  }
}

}  // namespace trajgru_ext
