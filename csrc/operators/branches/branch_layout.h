#pragma once

// From Tensors to the views of branches, on any device.

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/core/Tensor.h>

#include "math/branches.h"
#include "tensors/tensors.h"

namespace trajgru_ext {

// From one pixel to the next, of an image in channels last.
inline int64_t pixel_stride(const at::Tensor& image) {
  if (image.size(3) > 1) return image.stride(3);
  return image.size(2) > 1 ? image.stride(2) : image.size(1);
}

// The image itself where its pixels can be numbered through, else a copy.
template <typename Device>
at::Tensor fit_branch(const at::Tensor& image, at::MemoryFormat format) {
  const bool planes = format == at::MemoryFormat::Contiguous;
  const int64_t pixel = planes ? 1 : pixel_stride(image);
  const bool fits = has_stride(image, 3, pixel) &&
                    has_stride(image, 2, image.size(3) * pixel) &&
                    (planes || has_stride(image, 1, 1));
  return fits ? image : Device::contiguous(image, format);
}

template <typename T>
BranchView<T> branch_view(const at::Tensor& image, at::MemoryFormat format) {
  if (format == at::MemoryFormat::Contiguous) {
    return {data<T>(image), image.stride(0), image.stride(1), 1};
  }
  return {data<T>(image), image.stride(0), 1, pixel_stride(image)};
}

inline at::Tensor empty_in_format(at::IntArrayRef sizes, const at::Tensor& like,
                                  at::MemoryFormat format) {
  return at::empty(sizes, like.options().memory_format(format));
}

// [count, B, C, H, W], each of them in the format.
inline at::Tensor empty_stack(int64_t count, at::IntArrayRef sizes,
                              const at::Tensor& like, at::MemoryFormat format) {
  const auto options = like.options().memory_format(at::MemoryFormat::Contiguous);
  if (format == at::MemoryFormat::Contiguous) {
    return at::empty({count, sizes[0], sizes[1], sizes[2], sizes[3]}, options);
  }
  return at::empty({count, sizes[0], sizes[2], sizes[3], sizes[1]}, options)
      .permute({0, 1, 4, 2, 3});
}

inline BranchSize branch_size(const at::Tensor& image, at::MemoryFormat format) {
  return {image.size(0),
          image.size(1),
          image.size(2) * image.size(3),
          1,
          format == at::MemoryFormat::Contiguous,
          1};
}

// f.operator()<scalar_t, T>() for an image's dtype and that of its sums.
template <typename F>
void dispatch_branches(const at::Tensor& image, const F& f) {
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kBFloat16, at::kHalf, image.scalar_type(), "branches",
      [&] { f.template operator()<scalar_t, at::opmath_type<scalar_t>>(); });
}

}  // namespace trajgru_ext
