#pragma once

// What every operator's thin layer needs to know of a Tensor, on any device.

#include <ATen/core/Tensor.h>
#include <ATen/OpMathType.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <optional>
#include <type_traits>

#include "math/divide_up.h"

namespace trajgru_ext {

using OptionalTensor = std::optional<at::Tensor>;

// A tensor's elements, to be written too where T is not const.
template <typename T>
T* data(const at::Tensor& tensor) {
  if constexpr (std::is_const_v<T>) {
    return tensor.const_data_ptr<std::remove_const_t<T>>();
  } else {
    return tensor.mutable_data_ptr<T>();
  }
}

// While torch's own operators are called inside ours: no autograd and no autocast.
// Threads of a pool do not inherit either, so that each needs a guard of its own.
struct PlainDispatch {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast{c10::autocast_dispatch_keyset};
};

// Channels last where the channels of a pixel are contiguous, as a channel slice of
// a channels-last tensor is too; where strides fit both formats, contiguous.
// trajgru_ext/ops/_layout.py states the same for the fake kernels.
inline at::MemoryFormat memory_format(const at::Tensor& image) {
  const bool channels_last =
      image.size(1) > 1 && image.stride(1) == 1 && !image.is_contiguous();
  return channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
}

inline bool is_half(at::ScalarType dtype) {
  return dtype == at::kBFloat16 || dtype == at::kHalf;
}

// Whether a dimension has this stride, or none that matters.
inline bool has_stride(const at::Tensor& tensor, int64_t dim, int64_t stride) {
  return tensor.size(dim) <= 1 || tensor.stride(dim) == stride;
}

inline at::Tensor empty_image(const at::Tensor& like, at::ScalarType dtype) {
  return at::empty(like.sizes(),
                   like.options().dtype(dtype).memory_format(memory_format(like)));
}

inline at::Tensor empty_image(const at::Tensor& like) {
  return empty_image(like, like.scalar_type());
}

// The output [B, channels, H, W] of a convolution of the image, in its format.
inline at::Tensor empty_conv_output(const at::Tensor& image, int64_t channels) {
  return at::empty({image.size(0), channels, image.size(2), image.size(3)},
                   image.options().memory_format(memory_format(image)));
}

// What stands for a result that is not wanted.
inline at::Tensor empty_result(const at::Tensor& like) {
  return at::empty({0}, like.options());
}

inline void copy_plainly(const at::Tensor& to, const at::Tensor& from) {
  to.copy_(from);
}

// The values in the target's dtype and strides: the values themselves where they have
// both, else the target, filled by `copy`.
inline at::Tensor in_form_of(const at::Tensor& target, const at::Tensor& values,
                             void (*copy)(const at::Tensor& to,
                                          const at::Tensor& from) = copy_plainly) {
  if (values.scalar_type() == target.scalar_type() &&
      values.strides() == target.strides()) {
    return values;
  }
  copy(target, values);
  return target;
}

// Uninitialised images of the size of others.
inline at::Tensor empty_channels_last(const at::Tensor& like, int64_t channels) {
  return at::empty({like.size(0), channels, like.size(2), like.size(3)},
                   like.options().memory_format(at::MemoryFormat::ChannelsLast));
}

// The dtype of sums and coordinates for images of a dtype: float64 for float64,
// float32 for the others.
inline at::ScalarType opmath_dtype(const at::Tensor& image) {
  return at::toOpMathType(image.scalar_type());
}

}  // namespace trajgru_ext
