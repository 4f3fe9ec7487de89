#pragma once

// The inner loops of flow_warp on the CPU. They work on tiles of consecutive pixels
// (a pixel is i * width + j), read images channels last, and write either format.

#include <ATen/OpMathType.h>

#include <cstdint>

#include "cpu/capability.h"

namespace trajgru_ext {

// A tile's cells and, for planes, its values wait in the first-level cache.
constexpr int64_t kTilePixels = 64;

struct ImageSize {
  int64_t batch, channels, height, width;

  int64_t pixels() const { return height * width; }
  int64_t tiles() const { return (pixels() + kTilePixels - 1) / kTilePixels; }
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

template <typename scalar_t, typename coord_t = at::opmath_type<scalar_t>>
struct FlowWarpForward {
  ImageSize size;
  PixelView<scalar_t> input;
  FlowView<const coord_t> flow;
  coord_t flow_scale;
  ImageView<scalar_t> output;
};

// The pixels of the input that a tile of output pixels reads, as a range.
struct Reach {
  int64_t begin, end;
};

template <typename scalar_t, typename coord_t = at::opmath_type<scalar_t>>
struct FlowWarpBackward {
  ImageSize size;
  PixelView<scalar_t> grad, input;
  FlowView<const coord_t> flow;
  coord_t flow_scale;
  ImageView<scalar_t> input_grad;
  FlowView<coord_t> flow_grad;
  Reach* reach;         // [batch, tiles]
  int64_t band_pixels;  // of the input, owned by one thread at a time
  int64_t bands;        // in one sample

  // Where the sums of a band cannot be formed in input_grad itself.
  bool needs_sums() const {
    return !std::is_same_v<scalar_t, coord_t> || input_grad.channel != 1;
  }
};

// Ranges of work are numbered through all samples: tiles, or bands.
template <typename scalar_t>
struct FlowWarpKernels {
  using coord_t = at::opmath_type<scalar_t>;

  // Planes [B, C, pixels] to channels last [B, pixels, C], both dense.
  void (*pack)(const ImageSize& size, const scalar_t* planes, scalar_t* packed,
               int64_t begin_tile, int64_t end_tile);

  void (*forward)(const FlowWarpForward<scalar_t>& args, int64_t begin_tile,
                  int64_t end_tile);

  // Writes reach, and flow_grad of the pixels that read nothing.
  void (*reach)(const FlowWarpBackward<scalar_t>& args, int64_t begin_tile,
                int64_t end_tile);

  // Writes input_grad of the bands, and flow_grad of the pixels whose cell's first
  // corner lies in them. An input pixel's sum runs over the output pixels in their
  // order, whatever the bands: the result depends on neither them nor the threads.
  // sums: [band_pixels, C], used where needs_sums().
  void (*backward)(const FlowWarpBackward<scalar_t>& args, int64_t begin_band,
                   int64_t end_band, coord_t* sums);
};

namespace DEFAULT {
template <typename scalar_t>
const FlowWarpKernels<scalar_t>& flow_warp_kernels();
}
namespace AVX2 {
template <typename scalar_t>
const FlowWarpKernels<scalar_t>& flow_warp_kernels();
}
namespace AVX512 {
template <typename scalar_t>
const FlowWarpKernels<scalar_t>& flow_warp_kernels();
}

template <typename scalar_t>
const FlowWarpKernels<scalar_t>& flow_warp_kernels() {
  TRAJGRU_CHOOSE_KERNELS(flow_warp_kernels<scalar_t>());
}

}  // namespace trajgru_ext
