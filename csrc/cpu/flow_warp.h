#pragma once

// The inner loops of flow_warp on the CPU: they read images channels last, and write
// either format.

#include <ATen/OpMathType.h>

#include <cstdint>

#include "cpu/capability.h"
#include "cpu/views.h"
#include "math/bilinear.h"

namespace trajgru_ext {

template <typename scalar_t, typename coord_t = at::opmath_type<scalar_t>>
struct FlowWarpForward {
  ImageSize size;
  PixelView<scalar_t> input;
  FlowView<const coord_t> flow;
  coord_t flow_scale;
  Padding padding;
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
  Padding padding;
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

TRAJGRU_DECLARE_KERNELS(FlowWarpKernels, flow_warp_kernels)

}  // namespace trajgru_ext
