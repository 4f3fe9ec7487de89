#include "cpu/flow_conv.h"

#include "cpu/vec/tile.h"
#include "cpu/vec/transpose.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {
namespace {

template <typename T>
FlowView<T> link_of(FlowView<T> flows, int64_t link) {
  if (flows.data != nullptr) flows.data += 2 * link * flows.component;
  return flows;
}

template <typename scalar_t>
void gather(const FlowConv<scalar_t>& args, const Block& block,
            at::opmath_type<scalar_t>* warped, int64_t pixel_stride,
            int64_t link_stride) {
  using coord_t = at::opmath_type<scalar_t>;
  const Tile tile{block.sample, block.begin, block.end};
  const scalar_t* image =
      args.input.data + block.sample * args.input.batch + block.channel;
  for (int64_t link = 0; link < args.links; ++link) {
    const auto visit = [&](const Located<coord_t>& at) {
      warp_pixel(image, find_taps(args.size, args.input, at), block.channels,
                 warped + (at.pixel - block.begin) * pixel_stride + link * link_stride);
    };
    for_each_cell(args.size, link_of(args.flows, link), args.flow_scale, tile, visit);
  }
}

template <bool kSums, bool kDots, typename scalar_t, typename coord_t>
void scatter_links(const FlowConv<scalar_t>& args, const Block& block,
                   const coord_t* warped_grad, coord_t* sums, int64_t sums_pixel,
                   const FlowView<coord_t>& flows_grad) {
  const Tile tile{block.sample, block.begin, block.end};
  const Band<coord_t> all{0, args.size.pixels(), sums, sums_pixel};
  const scalar_t* image =
      args.input.data + block.sample * args.input.batch + block.channel;
  for (int64_t link = 0; link < args.links; ++link) {
    const FlowView<coord_t> link_grad = link_of(flows_grad, link);
    const auto visit = [&](const Located<coord_t>& at) {
      coord_t du = value_without_cell<coord_t>(at.target), dv = du;
      if (at.target == FlowTarget::inside) {
        const int64_t row = (at.pixel - block.begin) * args.links + link;
        pull_back<kSums, kDots>(args.size, at, all, image, args.input,
                                warped_grad + row * block.channels, block.channels, du,
                                dv);
      }
      if (kDots) {
        coord_t* out = link_grad.data + block.sample * link_grad.batch +
                       at.row * link_grad.row + at.col * link_grad.col;
        out[0] = args.flow_scale * du;
        out[link_grad.component] = args.flow_scale * dv;
      }
    };
    for_each_cell(args.size, link_of(args.flows, link), args.flow_scale, tile, visit);
  }
}

template <typename scalar_t, typename coord_t = at::opmath_type<scalar_t>>
void scatter(const FlowConv<scalar_t>& args, const Block& block,
             const coord_t* warped_grad, coord_t* sums, int64_t sums_pixel,
             const FlowView<coord_t>& flows_grad) {
  const auto run = flows_grad.data == nullptr
                       ? scatter_links<true, false, scalar_t, coord_t>
                   : sums == nullptr ? scatter_links<false, true, scalar_t, coord_t>
                                     : scatter_links<true, true, scalar_t, coord_t>;
  run(args, block, warped_grad, sums, sums_pixel, flows_grad);
}

template <typename scalar_t, typename coord_t = at::opmath_type<scalar_t>>
void transpose_rows(const coord_t* rows, int64_t pixels, int64_t channels,
                    scalar_t* planes, int64_t plane) {
  transpose(rows, channels, pixels, channels, planes, plane);
}

}  // namespace

template <typename scalar_t>
const FlowConvKernels<scalar_t>& flow_conv_kernels() {
  static constexpr FlowConvKernels<scalar_t> kernels = {
      gather<scalar_t>, scatter<scalar_t>, transpose_rows<scalar_t>};
  return kernels;
}

TRAJGRU_INSTANTIATE_KERNELS(FlowConvKernels, flow_conv_kernels)

}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
