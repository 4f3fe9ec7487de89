#pragma once

// The inner loops of spatial_pyramid_pool on the CPU, for kPyramidChannels channels at
// a time: item = b * groups of channels + group. Rows of pixels are brought into a
// buffer [width, channels], unless they lie so, and all levels take from it what is
// theirs.

#include <ATen/OpMathType.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "cpu/capability.h"
#include "math/spatial_pyramid_pool.h"

namespace trajgru_ext {

// A few registers of them, so that finding the bins is little beside what is done
// there.
constexpr int64_t kPyramidChannels = 32;

// Where bins lie, which is the same for all channels: found once.
struct PyramidBins {
  struct Span {
    int64_t begin, count;  // pixels of a row
  };
  const int64_t* first;  // [levels, height]: of a row's bins, among those of all levels
  const Span* spans;     // level by level, n each
  const int32_t* start;  // a bin's first pixel, -1 where it has none
};

// Of one thread.
template <typename T>
struct PyramidBuffers {
  T* row;           // [width, channels]
  T* values;        // [bins, channels]
  int32_t* places;  // [bins, channels]
};

template <typename scalar_t>
struct PyramidKernels {
  using T = at::opmath_type<scalar_t>;

  void (*forward)(const PyramidPool<scalar_t, T>& args, const PyramidBins& bins,
                  const PyramidBuffers<T>& buffers, int64_t begin, int64_t end);
  void (*backward)(const PyramidPoolBackward<scalar_t, T>& args,
                   const PyramidBins& bins, const PyramidBuffers<T>& buffers,
                   int64_t begin, int64_t end);
};

TRAJGRU_DECLARE_KERNELS(PyramidKernels, pyramid_kernels)

}  // namespace trajgru_ext
