#pragma once

// Between planes and channels last, in which most loops read images.

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
struct PackKernels {
  using Move = void (*)(const ImageSize& size, const Batched<const scalar_t>& from,
                        const Batched<scalar_t>& to, int64_t begin_tile,
                        int64_t end_tile);
  Move pack;    // planes [C, pixels] to channels last [pixels, C]
  Move unpack;  // and back
};

TRAJGRU_DECLARE_KERNELS(PackKernels, pack_kernels)

}  // namespace trajgru_ext
