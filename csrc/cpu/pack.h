#pragma once

// Brings images channels last, in which all loops read them.

#include "cpu/capability.h"
#include "cpu/views.h"

namespace trajgru_ext {

template <typename scalar_t>
struct PackKernels {
  // Planes [B, C, pixels] to channels last [B, pixels, C], both dense.
  void (*pack)(const ImageSize& size, const scalar_t* planes, scalar_t* packed,
               int64_t begin_tile, int64_t end_tile);
};

TRAJGRU_DECLARE_KERNELS(PackKernels, pack_kernels)

}  // namespace trajgru_ext
