#pragma once

// The gather of flow_conv and its transpose, for a chunk of pixels (numbered through
// the batch) and all links. A row of the chunk's buffer is one pixel: [links,
// channels].

#include "cuda/warp_pixel.cuh"

namespace trajgru_ext::cuda {

template <typename scalar_t, typename index_t>
struct FlowConvChunk {
  using coord_t = at::opmath_type<scalar_t>;
  ImageSize<index_t> size;
  index_t links, first, pixels;
  ImageView<const scalar_t, index_t> input;
  ImageView<const coord_t, index_t> flows;
  coord_t flow_scale;
  int group;
};

// What a thread works on: one link of one pixel. Groups of threads beside each other go
// along the pixels for one link: their corners are neighbours, too, and a block finds
// most of them in its own cache.
template <typename scalar_t, typename index_t>
struct LinkSite {
  using coord_t = at::opmath_type<scalar_t>;
  index_t link, row;  // of the buffer
  Site<index_t> site;
  Cell<coord_t, index_t> cell;
  FlowTarget target;

  TRAJGRU_HOST_DEVICE LinkSite(index_t item,
                               const FlowConvChunk<scalar_t, index_t>& args)
      : link((item >> args.group) / args.pixels),
        row((item >> args.group) - link * args.pixels),
        site(args.first + row, item & ((static_cast<index_t>(1) << args.group) - 1),
             args.size),
        target(locate(site, of_link(args.flows, link), args.flow_scale, args.size,
                      cell)) {}

  template <typename T>
  static TRAJGRU_HOST_DEVICE ImageView<T, index_t> of_link(ImageView<T, index_t> flows,
                                                           index_t link) {
    if (flows.data != nullptr) flows.data += 2 * link * flows.channel;
    return flows;
  }

  TRAJGRU_HOST_DEVICE index_t
  offset(const FlowConvChunk<scalar_t, index_t>& args) const {
    return (row * args.links + link) * args.size.channels;
  }
};

template <typename scalar_t, int kVector, typename index_t>
__global__ void flow_conv_gather_kernel(FlowConvChunk<scalar_t, index_t> args,
                                        scalar_t* warped) {
  const index_t items = args.pixels * args.links << args.group;
  const index_t step = static_cast<index_t>(gridDim.x) * blockDim.x;
  for (index_t item = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       item < items; item += step) {
    const LinkSite<scalar_t, index_t> at(item, args);
    warp_pixel<kVector>(at.site, args.group, at.target, at.cell, args.size, args.input,
                        warped + at.offset(args), static_cast<index_t>(1));
  }
}

// Adds to sums [B, H, W, C], of the opmath type, and writes flows_grad. warped has the
// gradient to the warped values, in whose place these are left where kKeepsWarped.
template <typename scalar_t, int kVector, bool kKeepsWarped, typename index_t>
__global__ void flow_conv_backward_kernel(
    FlowConvChunk<scalar_t, index_t> args, scalar_t* warped,
    ImageView<at::opmath_type<scalar_t>, index_t> sums,
    ImageView<at::opmath_type<scalar_t>, index_t> flows_grad) {
  const index_t items = args.pixels * args.links << args.group;
  const index_t step = static_cast<index_t>(gridDim.x) * blockDim.x;
  // The whole block goes round together, so that whole warps meet in the shuffles.
  for (index_t first = static_cast<index_t>(blockIdx.x) * blockDim.x; first < items;
       first += step) {
    const bool active = first + threadIdx.x < items;
    const LinkSite<scalar_t, index_t> at(active ? first + threadIdx.x : 0, args);
    pull_back<kVector, Padding::zeros, kKeepsWarped>(
        active, at.site, args.group, at.target, at.cell, args.size, args.input,
        warped + at.offset(args), static_cast<index_t>(1), args.flow_scale, sums,
        at.of_link(flows_grad, at.link));
  }
}

}  // namespace trajgru_ext::cuda
