#pragma once

// A thread a bin forward; backward, where bins of a level do not overlap, a thread a
// pixel. The levels' reads of a map meet in the cache.

#include "cuda/branch_kernels.cuh"
#include "math/spatial_pyramid_pool.h"

// Beside their arguments, where branch_items_kernel finds them.
namespace trajgru_ext {

// item: as the result lies in memory.
template <typename scalar_t, typename T>
TRAJGRU_HOST_DEVICE void compute(const PyramidPool<scalar_t, T>& args, int64_t item) {
  const PyramidSize& size = args.size;
  const int64_t sample = size.channels * size.bins();
  const int64_t b = item / sample, rest = item - b * sample;
  int64_t n = 1;
  while (rest >= size.channels * bins_below(n + 1)) ++n;
  const int64_t in_level = rest - size.channels * bins_below(n);
  const int64_t c = in_level / (n * n), number = in_level - c * n * n;
  const int64_t i = number / n, j = number - i * n;
  const PyramidAxis rows(size.height, n), cols(size.width, n);
  T value = 0;
  int32_t place = -1;
  for (int64_t h = rows.begin(i); h < rows.end(i); ++h) {
    for (int64_t w = cols.begin(j); w < cols.end(j); ++w) {
      const int64_t pixel = h * size.width + w;
      const T x = *args.input.at(b, c, pixel);
      if (!size.largest) {
        value += x;
      } else if (place < 0 || exceeds(x, value)) {
        value = x;
        place = static_cast<int32_t>(pixel);
      }
    }
  }
  if (!size.largest) value /= static_cast<T>(rows.kernel * cols.kernel);
  args.output[item] = static_cast<scalar_t>(value);
  if (size.largest) args.places[item] = place;
}

// item: as the gradient lies in memory.
template <typename scalar_t, typename T>
TRAJGRU_HOST_DEVICE void compute(const PyramidPoolBackward<scalar_t, T>& args,
                                 int64_t item) {
  const PyramidSize& size = args.size;
  const bool planes = args.input_grad.pixel == 1 && args.input_grad.channel != 1;
  const cuda::BranchElement at(
      BranchSize{size.batch, size.channels, size.pixels(), 1, planes, 1}, item);
  const int64_t h = at.pixel / size.width, w = at.pixel - h * size.width;
  T sum = 0;
  for (int64_t n = 1; n <= size.levels; ++n) {
    const PyramidAxis rows(size.height, n), cols(size.width, n);
    const int64_t from =
        size.place(at.sample, at.channel, n, rows.bin(h) * n + cols.bin(w));
    const T grad = args.grad[from];
    if (!size.largest) {
      sum += grad / static_cast<T>(rows.kernel * cols.kernel);
    } else if (args.places[from] == at.pixel) {
      sum += grad;
    }
  }
  *args.input_grad.at(at.sample, at.channel, at.pixel) = static_cast<scalar_t>(sum);
}

}  // namespace trajgru_ext
