#pragma once

// Images from one memory format to another.

#include <ATen/core/Tensor.h>

#include "tensors/calls.h"
#include "tensors/tensors.h"

namespace trajgru_ext {

namespace call {
// to.copy_(from), as fast as the device can between planes and channels last.
TRAJGRU_OPERATOR(copy_image, copy_plainly);
}  // namespace call

inline at::Tensor channels_last(const at::Tensor& image) {
  if (image.is_contiguous(at::MemoryFormat::ChannelsLast)) {
    // One channel fits both formats; by its strides torch's convolution chooses.
    const int64_t row = image.size(3), pixels = image.size(2) * row;
    return image.size(1) == 1 ? image.as_strided(image.sizes(), {pixels, 1, row, 1})
                              : image;
  }
  const at::Tensor found = empty_channels_last(image, image.size(1));
  call::copy_image(found, image);
  return found;
}

}  // namespace trajgru_ext
