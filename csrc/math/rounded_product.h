#pragma once

#include "math/host_device.h"

namespace trajgru_ext {

// a b, rounded before anything is added to it. A compiler that may contract, as nvcc
// does unless it is told not to, would otherwise take a product and a sum in one: the
// fraction of a scaled displacement would then be that of the exact product, and -1e-8
// where the rounded one is whole.
template <typename T>
TRAJGRU_HOST_DEVICE T rounded_product(T a, T b) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(T) == sizeof(double)) {
    return __dmul_rn(a, b);
  } else {
    return __fmul_rn(a, b);
  }
#else
  const volatile T product = a * b;
  return product;
#endif
}

}  // namespace trajgru_ext
