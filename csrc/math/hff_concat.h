#pragma once

// Hierarchical feature fusion (Mehta et al. 2018, arXiv 1803.06815): branches, each
// added to those before it, side by side; then, where asked for, the batch norm of
// inference and PReLU:
//
//   s_i = x_0 + ... + x_i     z_i = scale s_i + shift     y_i = z_i > 0 ? z_i : slope
//   z_i
//
// The first `skipped` sums are left out. Backward, dx_i = sum of the ds_k for k >= i.

#include "math/branches.h"

namespace trajgru_ext {

// Numbers for each channel of the result; null where there are none.
template <typename T>
struct HffAffine {
  const T *scale, *shift, *slope;
};

template <typename scalar_t, typename T>
struct HffConcat {
  using Scalar = scalar_t;

  BranchSize size;  // of a branch
  int skipped;
  BranchView<const scalar_t> branch[kMostBranches];
  HffAffine<T> affine;
  BranchView<scalar_t> output;
};

template <typename scalar_t, typename T>
struct HffConcatBackward {
  using Scalar = scalar_t;

  BranchSize size;
  int skipped;
  BranchView<const scalar_t> grad;
  BranchView<scalar_t> branch_grad[kMostBranches];
};

// What is read and written at one place. V: T, or a pack of them. load(i) reads branch
// i, store(k, z) writes slice k of the result, and weight(numbers, k) is what the
// place's channel in that slice has.
template <typename V, typename scalar_t, typename T, typename Load, typename Store,
          typename Weight>
TRAJGRU_HOST_DEVICE void fuse(const HffConcat<scalar_t, T>& args, const Load& load,
                              const Store& store, const Weight& weight) {
  V sum(0);
  for (int i = 0; i < args.size.branches; ++i) {
    sum = sum + load(i);
    const int k = i - args.skipped;
    if (k < 0) continue;
    V z = sum;
    if (args.affine.scale != nullptr) {
      z = z * weight(args.affine.scale, k) + weight(args.affine.shift, k);
    }
    if (args.affine.slope != nullptr) {
      z = where_positive(z, z, weight(args.affine.slope, k) * z);
    }
    store(k, z);
  }
}

// load(k) reads slice k of the gradient, store(i, dx) writes that to branch i.
template <typename V, typename scalar_t, typename T, typename Load, typename Store>
TRAJGRU_HOST_DEVICE void fuse(const HffConcatBackward<scalar_t, T>& args,
                              const Load& load, const Store& store) {
  V sum(0);
  for (int i = args.size.branches - 1; i >= 0; --i) {
    if (i >= args.skipped) sum = sum + load(i - args.skipped);
    store(i, sum);
  }
}

}  // namespace trajgru_ext
