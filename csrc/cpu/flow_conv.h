#pragma once

// The inner loops of flow_conv on the CPU: the warp of all links of a few pixels into a
// buffer that stays in cache, and its transpose. The products between lie outside.

#include <ATen/OpMathType.h>

#include "cpu/capability.h"
#include "cpu/views.h"

namespace trajgru_ext {

template <typename scalar_t, typename coord_t = at::opmath_type<scalar_t>>
struct FlowConv {
  ImageSize size;  // of the input
  int64_t links;
  PixelView<scalar_t> input;
  FlowView<const coord_t> flows;  // of link 0; link l begins 2 l components later
  coord_t flow_scale;
};

// Some pixels of a sample, and some channels of the input.
struct Block {
  int64_t sample, begin, end, channel, channels;
};

template <typename scalar_t>
struct FlowConvKernels {
  using coord_t = at::opmath_type<scalar_t>;

  // warped: [pixels, links, channels] of the block, with these strides.
  void (*gather)(const FlowConv<scalar_t>& args, const Block& block, coord_t* warped,
                 int64_t pixel_stride, int64_t link_stride);

  // The gradient to warped, carried on to the input and the flows. sums, where not
  // null: [pixels of the image, sums_pixel] for the block's channels, added to.
  // flows_grad, where not null: the block's channels' part is written.
  void (*scatter)(const FlowConv<scalar_t>& args, const Block& block,
                  const coord_t* warped_grad, coord_t* sums, int64_t sums_pixel,
                  const FlowView<coord_t>& flows_grad);

  // planes[channel * plane + pixel] = rows[pixel * channels + channel]
  void (*transpose)(const coord_t* rows, int64_t pixels, int64_t channels,
                    scalar_t* planes, int64_t plane);
};

TRAJGRU_DECLARE_KERNELS(FlowConvKernels, flow_conv_kernels)

}  // namespace trajgru_ext
