#pragma once

// An element of all branches a thread, neighbouring threads at neighbouring elements.

#include "cuda/branch_kernels.cuh"
#include "math/hff_concat.h"

// Beside their arguments, where branch_items_kernel finds them.
namespace trajgru_ext {

template <typename scalar_t, typename T>
TRAJGRU_HOST_DEVICE void compute(const HffConcat<scalar_t, T>& args, int64_t item) {
  const cuda::BranchElement at(args.size, item);
  const int64_t channels = args.size.channels;
  const auto load = [&](int i) {
    return static_cast<T>(*args.branch[i].at(at.sample, at.channel, at.pixel));
  };
  const auto store = [&](int k, T z) {
    *args.output.at(at.sample, k * channels + at.channel, at.pixel) =
        static_cast<scalar_t>(z);
  };
  const auto weight = [&](const T* numbers, int k) {
    return numbers[k * channels + at.channel];
  };
  fuse<T>(args, load, store, weight);
}

template <typename scalar_t, typename T>
TRAJGRU_HOST_DEVICE void compute(const HffConcatBackward<scalar_t, T>& args,
                                 int64_t item) {
  const cuda::BranchElement at(args.size, item);
  const auto load = [&](int k) {
    const int64_t channel = k * args.size.channels + at.channel;
    return static_cast<T>(*args.grad.at(at.sample, channel, at.pixel));
  };
  const auto store = [&](int i, T sum) {
    *args.branch_grad[i].at(at.sample, at.channel, at.pixel) =
        static_cast<scalar_t>(sum);
  };
  fuse<T>(args, load, store);
}

template <typename scalar_t, typename T>
TRAJGRU_HOST_DEVICE HffSliceGrads<T> slice_grads_at(
    const HffAffineBackward<scalar_t, T>& args, int k, int64_t b, int64_t c,
    int64_t p) {
  const int64_t channels = args.of.size.channels;
  const auto load = [&](int i) {
    return static_cast<T>(*args.of.branch[i].at(b, c, p));
  };
  const auto weight = [&](const T* numbers, int slice) {
    return numbers[slice * channels + c];
  };
  const T grad = static_cast<T>(*args.grad.at(b, k * channels + c, p));
  return slice_grads(args.of, k, grad, load, weight);
}

template <typename scalar_t, typename T>
TRAJGRU_HOST_DEVICE void compute(const HffAffineBackward<scalar_t, T>& args,
                                 int64_t item) {
  const cuda::BranchElement at(args.of.size, item);
  T total = 0;
  for (int k = args.slices() - 1; k >= 0; --k) {
    total += slice_grads_at(args, k, at.sample, at.channel, at.pixel).sum;
    *args.slice_grad[k].at(at.sample, at.channel, at.pixel) =
        static_cast<scalar_t>(total);
  }
}

template <typename scalar_t, typename T>
__device__ void sum_lane(const HffAffineBackward<scalar_t, T>& args, int64_t item,
                         int64_t lane) {
  const cuda::BranchLane at(args.of.size, item, lane);
  const BranchSize size = args.sums_size();
  const int slices = args.slices();
  for (int k = 0; k < slices; ++k) {
    T scale = 0, shift = 0, slope = 0;
    for (int64_t p = at.first; p < at.end; p += at.step) {
      const auto grads = slice_grads_at(args, k, at.sample, at.channel, p);
      scale += grads.scale;
      shift += grads.shift;
      slope += grads.slope;
    }
    cuda::store_sum(size, at, lane, k, scale, args.sums);
    cuda::store_sum(size, at, lane, slices + k, shift, args.sums);
    cuda::store_sum(size, at, lane, 2 * slices + k, slope, args.sums);
  }
}

}  // namespace trajgru_ext
