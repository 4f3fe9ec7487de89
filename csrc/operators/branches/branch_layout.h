#pragma once

// From Tensors to the views of branches, on any device.

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/core/Tensor.h>

#include <array>
#include <vector>

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
  const auto [batch, channels, height, width] =
      std::array{sizes[0], sizes[1], sizes[2], sizes[3]};
  if (format == at::MemoryFormat::Contiguous) {
    return at::empty({count, batch, channels, height, width}, like.options());
  }
  return at::empty({count, batch, height, width, channels}, like.options())
      .permute({0, 1, 4, 2, 3});
}

template <typename Device>
BranchSize branch_size(const at::Tensor& image, size_t branches,
                       at::MemoryFormat format) {
  const bool planes = format == at::MemoryFormat::Contiguous;
  const int64_t channels = image.size(1), pixels = image.size(2) * image.size(3);
  const int64_t chunk = Device::chunk(planes, channels, pixels);
  return {image.size(0), channels, pixels, static_cast<int>(branches), planes, chunk};
}

// The branches of an operator, all in the format of the first.
template <typename Device>
struct Branches {
  at::MemoryFormat format;
  BranchSize size;
  std::vector<at::Tensor> tensors;

  explicit Branches(at::TensorList branches)
      : format(memory_format(branches[0])),
        size(branch_size<Device>(branches[0], branches.size(), format)) {
    for (const at::Tensor& one : branches) {
      tensors.push_back(fit_branch<Device>(one, format));
    }
  }

  template <typename scalar_t>
  void show(BranchView<const scalar_t>* views) const {
    for (size_t m = 0; m < tensors.size(); ++m) {
      views[m] = branch_view<const scalar_t>(tensors[m], format);
    }
  }
};

// Room for a sum of each sample, chunk, branch and channel.
inline at::Tensor empty_sums(const BranchSize& size, const at::Tensor& like) {
  return at::empty({size.batch, size.chunks(), size.branches, size.channels},
                   like.options().dtype(opmath_dtype(like)));
}

// f.operator()<scalar_t, T>() for an image's dtype and that of its sums.
template <typename F>
void dispatch_branches(const at::Tensor& image, const F& f) {
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kBFloat16, at::kHalf, image.scalar_type(), "branches",
      [&] { f.template operator()<scalar_t, at::opmath_type<scalar_t>>(); });
}

}  // namespace trajgru_ext
