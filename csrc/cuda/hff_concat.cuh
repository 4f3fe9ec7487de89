#pragma once

// An element of all branches a thread, neighbouring threads at neighbouring elements.

#include "cuda/branches.cuh"
#include "math/hff_concat.h"

// Beside their arguments, where branch_items_kernel finds them.
namespace trajgru_ext {

template <typename scalar_t, typename T>
TRAJGRU_HOST_DEVICE void update(const HffConcat<scalar_t, T>& args, int64_t item) {
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
TRAJGRU_HOST_DEVICE void update(const HffConcatBackward<scalar_t, T>& args,
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

}  // namespace trajgru_ext
