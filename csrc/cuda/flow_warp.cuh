#pragma once

#include "cuda/warp_pixel.cuh"

namespace trajgru_ext::cuda {

template <typename scalar_t, typename index_t>
struct FlowWarpForward {
  using coord_t = at::opmath_type<scalar_t>;
  ImageSize<index_t> size;
  ImageView<const scalar_t, index_t> input;
  ImageView<const coord_t, index_t> flow;
  coord_t flow_scale;
  ImageView<scalar_t, index_t> output;
  int group;
};

template <typename scalar_t, typename index_t>
struct FlowWarpBackward {
  using coord_t = at::opmath_type<scalar_t>;
  ImageSize<index_t> size;
  ImageView<const scalar_t, index_t> grad, input;
  ImageView<const coord_t, index_t> flow;
  coord_t flow_scale;
  ImageView<coord_t, index_t> input_grad, flow_grad;
  int group;
};

template <typename scalar_t, int kVector, Padding kPadding, typename index_t>
__global__ void flow_warp_kernel(FlowWarpForward<scalar_t, index_t> args) {
  using coord_t = at::opmath_type<scalar_t>;
  const ImageSize<index_t>& size = args.size;
  const index_t items = size.batch * size.height * size.width << args.group;
  const index_t step = static_cast<index_t>(gridDim.x) * blockDim.x;
  const index_t lanes = (static_cast<index_t>(1) << args.group) - 1;
  for (index_t item = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       item < items; item += step) {
    const Site<index_t> site(item >> args.group, item & lanes, size);
    Cell<coord_t, index_t> cell;
    const FlowTarget target =
        locate<kPadding>(site, args.flow, args.flow_scale, size, cell);
    warp_pixel<kVector>(site, args.group, target, cell, size, args.input,
                        args.output.data + site.offset(args.output),
                        args.output.channel);
  }
}

// Adds to input_grad, which holds sums of the opmath type and starts at zero, and
// writes flow_grad.
template <typename scalar_t, int kVector, Padding kPadding, typename index_t>
__global__ void flow_warp_backward_kernel(FlowWarpBackward<scalar_t, index_t> args) {
  using coord_t = at::opmath_type<scalar_t>;
  const ImageSize<index_t>& size = args.size;
  const index_t items = size.batch * size.height * size.width << args.group;
  const index_t step = static_cast<index_t>(gridDim.x) * blockDim.x;
  const index_t lanes = (static_cast<index_t>(1) << args.group) - 1;
  // The whole block goes round together, so that whole warps meet in the shuffles.
  for (index_t first = static_cast<index_t>(blockIdx.x) * blockDim.x; first < items;
       first += step) {
    const bool active = first + threadIdx.x < items;
    const index_t item = active ? first + threadIdx.x : 0;
    const Site<index_t> site(item >> args.group, item & lanes, size);
    Cell<coord_t, index_t> cell;
    const FlowTarget target =
        locate<kPadding>(site, args.flow, args.flow_scale, size, cell);
    pull_back<kVector, kPadding>(active, site, args.group, target, cell, size,
                                 args.input, args.grad.data + site.offset(args.grad),
                                 args.grad.channel, args.flow_scale, args.input_grad,
                                 args.flow_grad);
  }
}

}  // namespace trajgru_ext::cuda
