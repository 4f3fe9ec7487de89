#pragma once

// The inner loops of copy_image: from planes to channels last and back.

#include "cpu/capability.h"
#include "cpu/views.h"

namespace trajgru_ext {

// Samples, each of them dense.
template <typename T>
struct Batched {
  T* data;
  int64_t batch;
};

template <typename scalar_t>
struct CopyImageKernels {
  using Move = void (*)(const ImageSize& size, const Batched<const scalar_t>& from,
                        const Batched<scalar_t>& to, int64_t begin_tile,
                        int64_t end_tile);
  Move to_channels_last;  // from planes [C, pixels] to [pixels, C]
  Move to_planes;         // and back
};

TRAJGRU_DECLARE_KERNELS(CopyImageKernels, copy_image_kernels)

}  // namespace trajgru_ext
