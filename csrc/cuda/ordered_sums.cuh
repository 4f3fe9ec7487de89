#pragma once

// The transpose of warps in a fixed order, without atomic additions. Warps are numbered
// by pixel and link. They are sorted by the cell that they read (stably, so that those
// of one cell stay in the order of their numbers), and then each pixel of the image is
// owned by a group of threads, which goes through the warps of the four cells around
// it:
//
//     cells of row m - 1   ... (m-1, n-1) (m-1, n) ...    two runs of the sorted list:
//     the cells of row m       ... (m,   n-1) (m,   n) ...    cells of a row are
//     neighbours

#include "cuda/warp_pixel.cuh"

namespace trajgru_ext::cuda {

// The cells of an image of height x width begin one pixel before it: they are numbered
// by rows of width + 1, through the samples.
template <typename index_t>
TRAJGRU_HOST_DEVICE index_t cell_number(index_t sample, index_t row, index_t col,
                                        index_t height, index_t width) {
  return (sample * (height + 1) + row + 1) * (width + 1) + col + 1;
}

template <typename coord_t, typename index_t>
struct WarpCells {
  ImageSize<index_t> size;
  index_t links, first, pixels;  // the pixels, numbered through the batch
  ImageView<const coord_t, index_t> flows;
  coord_t flow_scale;
  index_t first_sample, count;   // of the cells that the list has
  index_t* cell;                 // [pixels, links]; `count` where none is read
  Vector<coord_t, 2>* fraction;  // [pixels, links], fy and fx
};

template <typename coord_t, Padding kPadding, typename index_t>
__global__ void warp_cells_kernel(WarpCells<coord_t, index_t> args) {
  const ImageSize<index_t>& size = args.size;
  const index_t warps = args.pixels * args.links;
  const index_t step = static_cast<index_t>(gridDim.x) * blockDim.x;
  for (index_t warp = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       warp < warps; warp += step) {
    const index_t pixel = warp / args.links, link = warp - pixel * args.links;
    const Site<index_t> site(args.first + pixel, 0, size);
    ImageView<const coord_t, index_t> flow = args.flows;
    flow.data += 2 * link * flow.channel;
    Cell<coord_t, index_t> cell;
    const bool inside =
        locate<kPadding>(site, flow, args.flow_scale, size, cell) == FlowTarget::inside;
    args.cell[warp] = inside ? cell_number(site.sample - args.first_sample, cell.row,
                                           cell.col, size.height, size.width)
                             : args.count;
    if (!inside) cell.fy = cell.fx = 0;
    args.fraction[warp] = {{cell.fy, cell.fx}};
  }
}

template <typename scalar_t, typename index_t>
struct OrderedSums {
  using coord_t = at::opmath_type<scalar_t>;
  index_t samples, channels, height, width;
  const index_t* begin;  // [cells + 1], where a cell's warps begin in `order`
  const int64_t* order;  // the warps, sorted
  const Vector<coord_t, 2>* fraction;  // as above, not sorted
  const scalar_t* grad;                // [warps, channels], not sorted
  coord_t* sums;                       // [samples, height, width, channels], added to
  int group;
};

template <typename scalar_t, int kVector, typename index_t>
__global__ void ordered_sums_kernel(OrderedSums<scalar_t, index_t> args) {
  using coord_t = at::opmath_type<scalar_t>;
  using Values = Vector<scalar_t, kVector>;
  using Sums = Vector<coord_t, kVector>;
  const ImageSize<index_t> size{args.samples, args.channels, args.height, args.width};
  const index_t items = args.samples * args.height * args.width << args.group;
  const index_t step = static_cast<index_t>(gridDim.x) * blockDim.x;
  const index_t lanes = (static_cast<index_t>(1) << args.group) - 1;
  const index_t stride = static_cast<index_t>(kVector) << args.group;
  for (index_t item = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       item < items; item += step) {
    const index_t pixel = item >> args.group;
    const Site<index_t> site(pixel, item & lanes, size);
    for (index_t c = site.lane * kVector; c < args.channels; c += stride) {
      Sums* const to = reinterpret_cast<Sums*>(args.sums + pixel * args.channels + c);
      Sums sum = *to;
#pragma unroll
      for (int below = 1; below >= 0;
           --below) {  // whether the pixel is the cell's lower
        const index_t left = cell_number(site.sample, site.row - below, site.col - 1,
                                         args.height, args.width);
        const index_t middle = args.begin[left + 1], end = args.begin[left + 2];
        for (index_t k = args.begin[left]; k < end; ++k) {
          const auto warp = static_cast<index_t>(args.order[k]);
          const Vector<coord_t, 2> fraction = args.fraction[warp];
          const Cell<coord_t, index_t> cell{0, 0, fraction.value[0], fraction.value[1]};
          const coord_t weight = corner_weight(cell, 2 * below + (k < middle));
          if (weight == 0) continue;  // nor does 0 times infinity count
          const Values values =
              *reinterpret_cast<const Values*>(args.grad + warp * args.channels + c);
#pragma unroll
          for (int n = 0; n < kVector; ++n) {
            sum.value[n] += weight * static_cast<coord_t>(values.value[n]);
          }
        }
      }
      *to = sum;
    }
  }
}

}  // namespace trajgru_ext::cuda
