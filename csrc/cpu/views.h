#pragma once

// Images and flows as the CPU loops see them: pointers, sizes and strides. The loops
// work on tiles of consecutive pixels (a pixel is i * width + j).

#include <cstdint>

#include "math/divide_up.h"

namespace trajgru_ext {

// A tile's cells and, for planes, its values wait in the first-level cache.
constexpr int64_t kTilePixels = 64;

struct ImageSize {
  int64_t batch, channels, height, width;

  int64_t pixels() const { return height * width; }
  int64_t tiles() const { return divide_up(pixels(), kTilePixels); }
};

// A channels-last image: the channels of a pixel are contiguous.
template <typename T>
struct PixelView {
  const T* data;  // null where the image is absent
  int64_t batch, row, col;
};

template <typename T>
struct FlowView {
  T* data;  // null where the flow is absent
  int64_t batch, component, row, col;
};

// An image of either format: pixel 1 (planes) or channel 1 (channels last).
template <typename T>
struct ImageView {
  T* data;  // null where the image is absent
  int64_t batch, channel, pixel;
};

}  // namespace trajgru_ext
