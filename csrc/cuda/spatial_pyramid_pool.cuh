#pragma once

// In planes a warp pools all bins of one row of a level, so that its lanes go along the
// image's rows; in channels last a lane has a channel of its own, and a block up to 64
// bins of a level, whose results it writes together, since a channel's bins lie side by
// side. Backward, where bins of a level do not overlap, a thread has a pixel, and in
// channels last a block reads the gradients of 64 bins together.

#include "cuda/branch_kernels.cuh"
#include "math/spatial_pyramid_pool.h"

namespace trajgru_ext::cuda {

// What is known of a bin after some of its pixels.
template <typename T>
struct PyramidBin {
  T value = 0;
  int32_t place = -1;  // of the largest value

  __device__ void add(bool largest, T x, int64_t pixel) {
    if (!largest) {
      value += x;
    } else if (place < 0 || exceeds(x, value)) {
      value = x;
      place = static_cast<int32_t>(pixel);
    }
  }

  // Others of its pixels: the result is that of all, in their order.
  __device__ void join(bool largest, const PyramidBin& other) {
    if (!largest) {
      value += other.value;
    } else if (place < 0 || (other.place >= 0 && other.after(*this))) {
      *this = other;
    }
  }

 private:
  // Whether it is the one that stays: the last NaN, or the first of the largest.
  __device__ bool after(const PyramidBin& other) const {
    const bool nan = value != value, other_nan = other.value != other.value;
    if (nan || other_nan) return nan && (!other_nan || place > other.place);
    return value > other.value || (value == other.value && place < other.place);
  }
};

template <typename scalar_t, typename T>
__device__ void store_bin(const PyramidPool<scalar_t, T>& args, int64_t b, int64_t c,
                          int64_t n, int64_t number, const PyramidBin<T>& bin) {
  const PyramidSize& size = args.size;
  const int64_t at = size.place(b, c, n, number);
  args.output[at] = static_cast<scalar_t>(
      size.largest ? bin.value : bin.value / static_cast<T>(size.area(n)));
  if (size.largest) args.places[at] = bin.place;
}

// The rows of all levels, level n having n of them.
TRAJGRU_HOST_DEVICE int64_t rows_below(int64_t n) {
  return n * (n - 1) / 2;
}

// Bins of one level, and channels, that a block has in shared memory. A column more
// than there are channels, so that no bank has all bins of one of them.
constexpr int64_t kPyramidBins = 64, kPyramidStride = kWarpThreads + 1;
constexpr int64_t kPyramidTile = kPyramidBins * kPyramidStride;

// Threads of a block in channels last, whatever runs it: warps share a bin's rows.
constexpr unsigned kPyramidBlock = 256;

TRAJGRU_HOST_DEVICE int64_t tiles_of_level(int64_t n) {
  return divide_up(n * n, kPyramidBins);
}

// Of the tile that begins with the bin `first` of the level n.
TRAJGRU_HOST_DEVICE int64_t bins_of_tile(int64_t n, int64_t first) {
  return n * n - first < kPyramidBins ? n * n - first : kPyramidBins;
}

inline int64_t tiles(int64_t levels) {
  int64_t sum = 0;
  for (int64_t n = 1; n <= levels; ++n) sum += tiles_of_level(n);
  return sum;
}

// In channels last: of the level n the bins from `first` on, of 32 channels.
struct PyramidTile {
  int64_t sample, channel, n, first, bins;

  __device__ PyramidTile(const PyramidSize& size, int64_t all, int64_t item) {
    const int64_t groups = channel_groups(size.channels), row = item / all;
    int64_t rest = item - row * all;
    sample = row / groups;
    channel = (row - sample * groups) * kWarpThreads;
    for (n = 1; rest >= tiles_of_level(n); ++n) rest -= tiles_of_level(n);
    first = rest * kPyramidBins;
    bins = bins_of_tile(n, first);
  }
};

template <typename scalar_t, typename T>
__global__ void pyramid_channels_last_kernel(PyramidPool<scalar_t, T> args, int64_t all,
                                             int64_t items) {
  TRAJGRU_SHARED(T, values, kPyramidTile);
  TRAJGRU_SHARED(int32_t, places, kPyramidTile);
  const PyramidSize& size = args.size;
  const int64_t warps = blockDim.x / kWarpThreads;
  const int64_t warp = threadIdx.x / kWarpThreads, lane = threadIdx.x % kWarpThreads;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const PyramidTile tile(size, all, item);
    const PyramidAxis rows(size.height, tile.n), cols(size.width, tile.n);
    const int64_t c = tile.channel + lane;
    // Where bins are fewer than warps, several warps share the rows of one.
    const int64_t parts = tile.bins < warps ? warps / tile.bins : 1;
    for (int64_t k = warp; k < tile.bins * parts; k += warps) {
      const int64_t number = tile.first + k / parts, i = number / tile.n;
      const int64_t j = number - i * tile.n;
      PyramidBin<T> bin;
      const int64_t end = c < size.channels ? rows.end(i) : 0;
      for (int64_t h = rows.begin(i) + k % parts; h < end; h += parts) {
        for (int64_t w = cols.begin(j); w < cols.end(j); ++w) {
          const int64_t pixel = h * size.width + w;
          bin.add(size.largest, *args.input.at(tile.sample, c, pixel), pixel);
        }
      }
      values[k * kPyramidStride + lane] = bin.value;
      places[k * kPyramidStride + lane] = bin.place;
    }
    __syncthreads();
    for (int64_t k = threadIdx.x; k < kWarpThreads * tile.bins; k += blockDim.x) {
      const int64_t channel = k / tile.bins, number = k - channel * tile.bins;
      if (tile.channel + channel >= size.channels) break;
      PyramidBin<T> bin;
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t at = (number * parts + part) * kPyramidStride + channel;
        bin.join(size.largest, {values[at], places[at]});
      }
      store_bin(args, tile.sample, tile.channel + channel, tile.n, tile.first + number,
                bin);
    }
    __syncthreads();  // before those of the next item
  }
}

// Pixels of a block, of 32 channels.
constexpr int64_t kPyramidPixels = 64;

template <typename scalar_t, typename T>
__global__ void pyramid_channels_last_backward_kernel(
    PyramidPoolBackward<scalar_t, T> args, int64_t items) {
  TRAJGRU_SHARED(T, grads, kPyramidTile);
  TRAJGRU_SHARED(int32_t, places, kPyramidTile);
  // Of a thread's own pixels and channel; in registers they would fill these.
  TRAJGRU_SHARED(T, sums, kPyramidPixels * kWarpThreads);
  const int64_t warps = blockDim.x / kWarpThreads;
  const PyramidSize& size = args.size;
  const int64_t warp = threadIdx.x / kWarpThreads, lane = threadIdx.x % kWarpThreads;
  const int64_t groups = channel_groups(size.channels);
  const int64_t chunks = divide_up(size.pixels(), kPyramidPixels);
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t row = item / groups, channel = (item - row * groups) * kWarpThreads;
    const int64_t b = row / chunks, begin = (row - b * chunks) * kPyramidPixels;
    const int64_t rest = size.pixels() - begin;
    const int64_t pixels = rest < kPyramidPixels ? rest : kPyramidPixels;
    for (int64_t k = warp; k < pixels; k += warps) sums[k * kWarpThreads + lane] = 0;
    for (int64_t n = 1; n <= size.levels; ++n) {
      const PyramidAxis rows(size.height, n);
      const int64_t end = (rows.bin(size.row(begin + pixels - 1)) + 1) * n;
      int64_t first = rows.bin(size.row(begin)) * n / kPyramidBins * kPyramidBins;
      for (; first < end; first += kPyramidBins) {
        const int64_t bins = bins_of_tile(n, first);
        __syncthreads();  // the bins before have been read
        for (int64_t k = threadIdx.x; k < kWarpThreads * bins; k += blockDim.x) {
          const int64_t c = k / bins, number = k - c * bins;
          if (channel + c >= size.channels) break;
          const int64_t from = size.place(b, channel + c, n, first + number);
          const int64_t to = number * kPyramidStride + c;
          grads[to] = size.largest ? static_cast<T>(args.grad[from])
                                   : args.grad[from] / static_cast<T>(size.area(n));
          if (size.largest) places[to] = args.places[from];
        }
        __syncthreads();  // these bins are there
        if (channel + lane >= size.channels) continue;
        for (int64_t k = warp; k < pixels; k += warps) {
          const int64_t number = size.bin(n, begin + k) - first;
          const int64_t at = number * kPyramidStride + lane;
          if (number >= 0 && number < bins &&
              (!size.largest || places[at] == begin + k)) {
            sums[k * kWarpThreads + lane] += grads[at];
          }
        }
      }
    }
    if (channel + lane >= size.channels) continue;
    for (int64_t k = warp; k < pixels; k += warps) {
      *args.input_grad.at(b, channel + lane, begin + k) =
          static_cast<scalar_t>(sums[k * kWarpThreads + lane]);
    }
  }
}

}  // namespace trajgru_ext::cuda

// Beside their arguments, where the kernels of branches find them.
namespace trajgru_ext {

// item: a row of bins, of one channel of a sample; where the image's rows are short,
// the lanes take several at once.
template <typename scalar_t, typename T>
__device__ void sum_lane(const PyramidPool<scalar_t, T>& args, int64_t item,
                         int64_t lane) {
  const PyramidSize& size = args.size;
  const int64_t all = cuda::rows_below(size.levels + 1), plane = item / all;
  const int64_t b = plane / size.channels, c = plane - b * size.channels;
  const int64_t rest = item - plane * all;
  int64_t n = 1;
  while (rest >= cuda::rows_below(n + 1)) ++n;
  const int64_t i = rest - cuda::rows_below(n);
  const PyramidAxis rows(size.height, n), cols(size.width, n);
  const int64_t length =
      size.width < cuda::kWarpThreads ? size.width : cuda::kWarpThreads;
  const int64_t together = cuda::kWarpThreads / length;
  const int64_t row = lane / length, col = lane - row * length;
  cuda::PyramidBin<T> bin;
  int64_t j = 0;  // the first bin that is not complete
  for (int64_t first = 0; first < size.width; first += length) {
    const int64_t w = first + col;
    const bool inside = row < together && w < size.width;
    cuda::PyramidBin<T> own;
    const int64_t end = inside ? rows.end(i) : 0;
    for (int64_t h = rows.begin(i) + row; h < end; h += together) {
      const int64_t pixel = h * size.width + w;
      own.add(size.largest, *args.input.at(b, c, pixel), pixel);
    }
    for (; j < n; ++j) {
      cuda::PyramidBin<T> part;
      if (inside && cols.bin(w) == j) part = own;
      for (int distance = 16; distance > 0; distance /= 2) {
        cuda::PyramidBin<T> other{__shfl_xor_sync(0xffffffffu, part.value, distance)};
        if (size.largest) {
          other.place = __shfl_xor_sync(0xffffffffu, part.place, distance);
        }
        part.join(size.largest, other);
      }
      bin.join(size.largest, part);
      if (cols.end(j) > first + length) break;
      if (lane == 0) store_bin(args, b, c, n, i * n + j, bin);
      bin = {};
    }
  }
}

// item: a pixel of planes, as the gradient lies in memory.
template <typename scalar_t, typename T>
TRAJGRU_HOST_DEVICE void compute(const PyramidPoolBackward<scalar_t, T>& args,
                                 int64_t item) {
  const PyramidSize& size = args.size;
  const int64_t plane = item / size.pixels(), pixel = item - plane * size.pixels();
  const int64_t b = plane / size.channels, c = plane - b * size.channels;
  T sum = 0;
  for (int64_t n = 1; n <= size.levels; ++n) {
    const int64_t from = size.place(b, c, n, size.bin(n, pixel));
    const T grad = args.grad[from];
    if (!size.largest) {
      sum += grad / static_cast<T>(size.area(n));
    } else if (args.places[from] == pixel) {
      sum += grad;
    }
  }
  *args.input_grad.at(b, c, pixel) = static_cast<scalar_t>(sum);
}

}  // namespace trajgru_ext
