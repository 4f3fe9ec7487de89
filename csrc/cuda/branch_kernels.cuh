#pragma once

// Branches on CUDA. Weights and what follows the sums: a thread for each sample and
// channel. Images: an element a thread, neighbouring threads at neighbouring elements.
// Sums over a chunk's pixels: a warp each, in planes along the pixels of a channel, in
// channels last along 32 channels, in no need of one another.

#include <ATen/OpMathType.h>

#include "cuda/runtime.h"
#include "math/branches.h"

namespace trajgru_ext::cuda {

constexpr int64_t kWarpThreads = 32;

// How many warps have all channels, a lane each.
TRAJGRU_HOST_DEVICE int64_t channel_groups(int64_t channels) {
  return divide_up<int64_t>(channels, kWarpThreads);
}

template <typename Args>
__global__ void branch_items_kernel(Args args, int64_t items) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t item = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       item < items; item += step) {
    compute(args, item);
  }
}

// An element, numbered as it lies in memory.
struct BranchElement {
  int64_t sample, channel, pixel;

  TRAJGRU_HOST_DEVICE BranchElement(const BranchSize& size, int64_t item) {
    const int64_t inner = size.planes ? size.pixels : size.channels;
    const int64_t middle = size.planes ? size.channels : size.pixels;
    const int64_t row = item / inner, along = item - row * inner;
    sample = row / middle;
    channel = size.planes ? row - sample * middle : along;
    pixel = size.planes ? along : row - sample * middle;
  }
};

// The pixels that a lane of a warp adds up: of one chunk, and of one channel.
struct BranchLane {
  int64_t sample, channel, number, first, end, step;

  static TRAJGRU_HOST_DEVICE int64_t groups(const BranchSize& size) {
    return size.planes ? size.channels : channel_groups(size.channels);
  }

  // Of a channel beyond the last there are no pixels.
  TRAJGRU_HOST_DEVICE BranchLane(const BranchSize& size, int64_t item, int64_t lane) {
    const int64_t chunks = size.chunks(), row = item / chunks;
    number = item - row * chunks;
    sample = row / groups(size);
    const int64_t group = row - sample * groups(size);
    channel = size.planes ? group : group * kWarpThreads + lane;
    first = number * size.chunk + (size.planes ? lane : 0);
    end = number * size.chunk + size.length(number);
    if (channel >= size.channels) end = first;
    step = size.planes ? kWarpThreads : 1;
  }
};

// The sum of a chunk from the lanes' parts; the whole warp comes here together.
template <typename T>
__device__ void store_sum(const BranchSize& size, const BranchLane& at, int64_t lane,
                          int m, T sum, T* sums) {
  if (size.planes) {
    for (int distance = kWarpThreads / 2; distance > 0; distance /= 2) {
      sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    }
  }
  const bool writes = size.planes ? lane == 0 : at.channel < size.channels;
  if (writes) sums[size.sum(at.sample, at.number, m, at.channel)] = sum;
}

template <typename scalar_t, typename T>
__device__ void sum_lane(const BranchSums<scalar_t, T>& args, int64_t item,
                         int64_t lane) {
  const BranchLane at(args.size, item, lane);
  T sum = 0;
  for (int64_t p = at.first; p < at.end; p += at.step) {
    for (int m = 0; m < args.branches; ++m) {
      sum += static_cast<T>(*args.branch[m].at(at.sample, at.channel, p));
    }
  }
  store_sum(args.size, at, lane, 0, sum, args.sums);
}

template <typename scalar_t, typename T>
__device__ void sum_lane(const BranchBlendBackward<scalar_t, T>& args, int64_t item,
                         int64_t lane) {
  const BranchSize& size = args.size;
  const BranchLane at(size, item, lane);
  for (int m = 0; m < size.branches; ++m) {
    const BranchView<scalar_t>& out = args.branch_grad[m];
    T dot = 0, weight = 0;
    if (at.first < at.end) weight = args.weights[size.weight(at.sample, m, at.channel)];
    for (int64_t p = at.first; p < at.end; p += at.step) {
      const T grad = *args.grad.at(at.sample, at.channel, p);
      if (args.sums != nullptr) {
        dot += grad * static_cast<T>(*args.branch[m].at(at.sample, at.channel, p));
      }
      if (out.data != nullptr) {
        *out.at(at.sample, at.channel, p) = static_cast<scalar_t>(grad * weight);
      }
    }
    if (args.sums != nullptr) store_sum(size, at, lane, m, dot, args.sums);
  }
}

template <typename Args>
__global__ void branch_sums_kernel(Args args, int64_t items) {
  const int64_t warps = blockDim.x / kWarpThreads;
  const int64_t lane = threadIdx.x % kWarpThreads;
  for (int64_t item = blockIdx.x * warps + threadIdx.x / kWarpThreads; item < items;
       item += gridDim.x * warps) {
    sum_lane(args, item, lane);
  }
}

}  // namespace trajgru_ext::cuda

// Beside its arguments, where branch_items_kernel finds it.
namespace trajgru_ext {

template <typename scalar_t, typename T>
TRAJGRU_HOST_DEVICE void compute(const BranchBlend<scalar_t, T>& args, int64_t item) {
  const cuda::BranchElement at(args.size, item);
  T sum = 0;
  for (int m = 0; m < args.size.branches; ++m) {
    const T value = *args.branch[m].at(at.sample, at.channel, at.pixel);
    sum += args.weights[args.size.weight(at.sample, m, at.channel)] * value;
  }
  *args.output.at(at.sample, at.channel, at.pixel) = static_cast<scalar_t>(sum);
}

}  // namespace trajgru_ext
