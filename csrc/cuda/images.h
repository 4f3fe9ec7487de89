#pragma once

// From Tensors to the views and launch parameters of the CUDA kernels.

#include <ATen/core/Tensor.h>

#include <initializer_list>

#include "cuda/warp_pixel.cuh"
#include "tensors/tensors.h"

namespace trajgru_ext::cuda {

// The widest load of one thread.
constexpr int kVectorBytes = 16;

constexpr int kWarpLog2 = 5;

// Whether 32 bits hold every offset into the tensors, every item and one step beyond:
// the bound leaves one bit to spare.
inline bool fits_32_bits(int64_t items, std::initializer_list<at::Tensor> tensors) {
  constexpr int64_t kLimit = int64_t(1) << 30;
  for (const at::Tensor& tensor : tensors) {
    int64_t last = 0;
    for (int64_t d = 0; d < tensor.dim(); ++d) {
      last += (tensor.size(d) - 1) * tensor.stride(d);
    }
    if (last >= kLimit) return false;
  }
  return items < kLimit;
}

// The smallest group that takes all parts of a pixel at once, a warp at most.
inline int group_log2(int64_t parts) {
  int group = 0;
  while (group < kWarpLog2 && (int64_t(1) << group) < parts) ++group;
  return group;
}

inline bool channels_last(const at::Tensor& image) {
  return image.size(1) > 1 && image.stride(1) == 1;
}

// Whether each pixel's channels can be loaded `count` at a time.
inline bool aligned(const at::Tensor& image, int64_t count) {
  const auto address = reinterpret_cast<uintptr_t>(image.const_data_ptr());
  const auto multiple = [&](int64_t d) {
    return image.size(d) == 1 || image.stride(d) % count == 0;
  };
  return channels_last(image) && image.size(1) % count == 0 && multiple(0) &&
         multiple(2) && multiple(3) && address % (count * image.element_size()) == 0;
}

template <typename index_t>
ImageSize<index_t> image_size(const at::Tensor& image) {
  return {static_cast<index_t>(image.size(0)), static_cast<index_t>(image.size(1)),
          static_cast<index_t>(image.size(2)), static_cast<index_t>(image.size(3))};
}

template <typename T, typename index_t>
ImageView<T, index_t> image_view(const at::Tensor& image) {
  return {data<T>(image), static_cast<index_t>(image.stride(0)),
          static_cast<index_t>(image.stride(1)), static_cast<index_t>(image.stride(2)),
          static_cast<index_t>(image.stride(3))};
}

// Sums in the form of an image, to which threads add.
inline at::Tensor zero_sums(const at::Tensor& image) {
  return empty_image(image, opmath_dtype(image)).zero_();
}

inline int64_t pixels(const at::Tensor& image) {
  return image.size(0) * image.size(2) * image.size(3);
}

}  // namespace trajgru_ext::cuda
