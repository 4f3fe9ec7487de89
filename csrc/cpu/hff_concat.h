#pragma once

// The inner loops of hff_concat on the CPU; items as in cpu/branch_kernels.h.

#include <ATen/OpMathType.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "cpu/capability.h"
#include "math/hff_concat.h"

namespace trajgru_ext {

template <typename scalar_t>
struct HffKernels {
  using T = at::opmath_type<scalar_t>;

  void (*forward)(const HffConcat<scalar_t, T>& args, int64_t begin, int64_t end);
  void (*backward)(const HffConcatBackward<scalar_t, T>& args, int64_t begin,
                   int64_t end);
  void (*affine_backward)(const HffAffineBackward<scalar_t, T>& args, int64_t begin,
                          int64_t end);
};

TRAJGRU_DECLARE_KERNELS(HffKernels, hff_kernels)

}  // namespace trajgru_ext
