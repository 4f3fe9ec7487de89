#pragma once

// The inner loops over branches on the CPU. Items are chunks of pixels: in planes of
// one channel, item = (b * channels + c) * chunks + chunk; in channels last of all
// channels, item = b * chunks + chunk.

#include <ATen/OpMathType.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "cpu/capability.h"
#include "math/branches.h"

namespace trajgru_ext {

template <typename scalar_t>
struct BranchKernels {
  using T = at::opmath_type<scalar_t>;

  void (*sums)(const BranchSums<scalar_t, T>& args, int64_t begin, int64_t end);
  void (*blend)(const BranchBlend<scalar_t, T>& args, int64_t begin, int64_t end);
  void (*backward)(const BranchBlendBackward<scalar_t, T>& args, int64_t begin,
                   int64_t end);
};

TRAJGRU_DECLARE_KERNELS(BranchKernels, branch_kernels)

}  // namespace trajgru_ext
