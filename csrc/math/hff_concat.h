#pragma once

// Hierarchical feature fusion (Mehta et al. 2018, arXiv 1803.06815): the running sums
// of branches, concatenated; then, where asked for, the batch norm of inference and
// PReLU:
//
//   s_i = x_0 + ... + x_i
//   z_i = scale s_i + shift
//   y_i = z_i > 0 ? z_i : slope z_i
//
// The first `skipped` sums are left out. Backward, dx_i is the sum of the ds_k for
// k >= i, and
//
//   dslope = z_i > 0 ? 0 : dy_i z_i     dz_i = z_i > 0 ? dy_i : slope dy_i
//   dscale = dz_i s_i     dshift = dz_i     ds_i = scale dz_i
//
// summed over samples and pixels; those sums are formed as in math/branches.h.

#include "math/branches.h"

namespace trajgru_ext {

// One number for each channel of the result; null where there are none.
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

template <typename scalar_t, typename T>
struct HffAffineBackward {
  using Scalar = scalar_t;

  HffConcat<scalar_t, T> of;
  BranchView<const scalar_t> grad;
  BranchView<scalar_t> slice_grad[kMostBranches];  // to the branches from `skipped` on
  T* sums;  // to scale, shift and slope, each of all slices

  TRAJGRU_HOST_DEVICE int slices() const { return of.size.branches - of.skipped; }

  TRAJGRU_HOST_DEVICE BranchSize sums_size() const {
    BranchSize size = of.size;
    size.branches = 3 * slices();
    return size;
  }
};

// The sums over all samples from those of the chunks: item = m * channels + c.
template <typename T>
struct HffNumbers {
  BranchSize size;
  const T* sums;
  T* numbers;
};

template <typename T>
TRAJGRU_HOST_DEVICE void compute(const HffNumbers<T>& args, int64_t item) {
  const BranchSize& size = args.size;
  const int64_t m = item / size.channels, c = item - m * size.channels;
  T sum = 0;
  for (int64_t b = 0; b < size.batch; ++b) {
    for (int64_t k = 0; k < size.chunks(); ++k) sum += args.sums[size.sum(b, k, m, c)];
  }
  args.numbers[item] = sum;
}

template <typename V, typename T, typename Weight>
TRAJGRU_HOST_DEVICE V scaled(const HffAffine<T>& affine, int k, const V& sum,
                             const Weight& weight) {
  if (affine.scale == nullptr) return sum;
  return sum * weight(affine.scale, k) + weight(affine.shift, k);
}

// One place of all branches. V: T, or a SIMD block of it. load(i) reads branch i,
// store(k, z) writes slice k of the result, and weight(numbers, k) is the number of the
// place's channel in that slice.
template <typename V, typename scalar_t, typename T, typename Load, typename Store,
          typename Weight>
TRAJGRU_HOST_DEVICE void fuse(const HffConcat<scalar_t, T>& args, const Load& load,
                              const Store& store, const Weight& weight) {
  V sum(0);
  for (int i = 0; i < args.size.branches; ++i) {
    sum = sum + load(i);
    const int k = i - args.skipped;
    if (k < 0) continue;
    V z = scaled(args.affine, k, sum, weight);
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

template <typename V>
struct HffSliceGrads {
  V sum, scale, shift, slope;
};

// The gradients of slice k. Its sum is formed again, rather than saved for every slice.
template <typename V, typename scalar_t, typename T, typename Load, typename Weight>
TRAJGRU_HOST_DEVICE HffSliceGrads<V> slice_grads(const HffConcat<scalar_t, T>& args,
                                                 int k, const V& grad, const Load& load,
                                                 const Weight& weight) {
  V sum(0);
  for (int i = 0; i <= k + args.skipped; ++i) sum = sum + load(i);
  const V z = scaled(args.affine, k, sum, weight);
  V dz = grad, slope(0);
  if (args.affine.slope != nullptr) {
    slope = where_positive(z, V(0), grad * z);
    dz = where_positive(z, grad, weight(args.affine.slope, k) * grad);
  }
  const V ds = args.affine.scale == nullptr ? dz : dz * weight(args.affine.scale, k);
  return {ds, dz * sum, dz, slope};
}

}  // namespace trajgru_ext
