#pragma once

// Spatial pyramid pooling (He et al. 2014, arXiv 1406.4729): level n has n x n bins of
// kernel = stride = ceil(size / n), along each axis, over an image that is padded by
// floor((kernel n - size + 1) / 2). Bins do not overlap; where n is large for the size,
// some lie in the padding alone, and hold 0.
//
// A sample's result: level by level [channels, n, n].

#include <cstdint>
#include <limits>

#include "math/branches.h"
#include "math/divide_up.h"
#include "math/host_device.h"

namespace trajgru_ext {

// Bins of all levels below n.
TRAJGRU_HOST_DEVICE int64_t bins_below(int64_t n) {
  return (n - 1) * n * (2 * n - 1) / 6;
}

// One axis of a level. An image has fewer than 2^31 pixels, and 32 bits divide sooner.
struct PyramidAxis {
  int64_t size, kernel, padding;

  TRAJGRU_HOST_DEVICE PyramidAxis(int64_t size, int64_t bins)
      : size(size),
        kernel(divide_up(static_cast<uint32_t>(size), static_cast<uint32_t>(bins))),
        padding((kernel * bins - size + 1) / 2) {}

  TRAJGRU_HOST_DEVICE int64_t bin(int64_t at) const {
    return static_cast<uint32_t>(at + padding) / static_cast<uint32_t>(kernel);
  }

  // The part of a bin that lies inside the image; it is empty where end <= begin.
  TRAJGRU_HOST_DEVICE int64_t begin(int64_t bin) const {
    const int64_t at = bin * kernel - padding;
    return at > 0 ? at : 0;
  }
  TRAJGRU_HOST_DEVICE int64_t end(int64_t bin) const {
    const int64_t at = (bin + 1) * kernel - padding;
    return at < size ? at : size;
  }
};

struct PyramidSize {
  int64_t batch, channels, height, width;
  int levels;
  bool largest;  // the largest value of a bin, else the mean

  TRAJGRU_HOST_DEVICE int64_t pixels() const { return height * width; }
  TRAJGRU_HOST_DEVICE int64_t row(int64_t pixel) const {
    return static_cast<uint32_t>(pixel) / static_cast<uint32_t>(width);
  }

  // The bin of level n that a pixel lies in.
  TRAJGRU_HOST_DEVICE int64_t bin(int64_t n, int64_t pixel) const {
    const int64_t h = row(pixel), w = pixel - h * width;
    return PyramidAxis(height, n).bin(h) * n + PyramidAxis(width, n).bin(w);
  }
  TRAJGRU_HOST_DEVICE int64_t bins() const { return bins_below(levels + 1); }

  // Of a bin of level n, with its padding.
  TRAJGRU_HOST_DEVICE int64_t area(int64_t n) const {
    return PyramidAxis(height, n).kernel * PyramidAxis(width, n).kernel;
  }

  // The offset of bin `number` of level n in the result.
  TRAJGRU_HOST_DEVICE int64_t place(int64_t b, int64_t c, int64_t n,
                                    int64_t number) const {
    return (b * bins() + bins_below(n)) * channels + c * n * n + number;
  }
};

// Whether x takes the place of the largest so far: NaN always does, as in PyTorch.
template <typename T>
TRAJGRU_HOST_DEVICE bool exceeds(T x, T largest) {
  return (x > largest) | (x != x);  // no branch, so that loops become vectors
}

template <typename scalar_t, typename T>
struct PyramidPool {
  PyramidSize size;
  BranchView<const scalar_t> input;
  scalar_t* output;
  int32_t* places;  // the pixel of each largest value, -1 for none; null for the mean
};

template <typename scalar_t, typename T>
struct PyramidPoolBackward {
  PyramidSize size;
  const scalar_t* grad;
  const int32_t* places;
  BranchView<scalar_t> input_grad;
};

}  // namespace trajgru_ext
