#pragma once

// The kernels of flow_warp. A group of 2^group threads, within one warp, shares a
// pixel: each computes its cell and takes its part of the channels. Channels last, the
// group runs along the channels; in planes it is one thread, and the warp runs along
// the pixels: neighbouring threads read neighbouring memory in both.

#include <ATen/OpMathType.h>

#include "cuda/runtime.h"
#include "math/bilinear.h"

namespace trajgru_ext::cuda {

template <typename index_t>
struct ImageSize {
  index_t batch, channels, height, width;
};

template <typename T, typename index_t>
struct ImageView {
  T* data;  // null where the image is absent
  index_t batch, channel, row, col;
};

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

// The pixel that a thread works on, and its place in the pixel's group.
template <typename index_t>
struct Site {
  index_t sample, row, col, lane;

  TRAJGRU_HOST_DEVICE Site(index_t item, int group, const ImageSize<index_t>& size) {
    const index_t pixel = item >> group;
    lane = item - (pixel << group);
    const index_t line = pixel / size.width;
    col = pixel - line * size.width;
    sample = line / size.height;
    row = line - sample * size.height;
  }

  template <typename T>
  TRAJGRU_HOST_DEVICE index_t offset(const ImageView<T, index_t>& image) const {
    return sample * image.batch + row * image.row + col * image.col;
  }
};

template <typename T, typename index_t>
TRAJGRU_HOST_DEVICE Landing locate(const Site<index_t>& site,
                                   const ImageView<const T, index_t>& flow,
                                   T flow_scale, const ImageSize<index_t>& size,
                                   Cell<T, index_t>& cell) {
  const T* at = flow.data + site.offset(flow);
  return trajgru_ext::locate(site.row, site.col, flow_scale * at[0],
                             flow_scale * at[flow.channel], size.height, size.width,
                             cell);
}

// Loaded and stored as one.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T value[kCount];
};

template <typename scalar_t, int kPack, typename index_t>
__global__ void flow_warp_kernel(FlowWarpForward<scalar_t, index_t> args) {
  using coord_t = at::opmath_type<scalar_t>;
  using Values = Pack<scalar_t, kPack>;
  const ImageSize<index_t>& size = args.size;
  const index_t items = size.batch * size.height * size.width << args.group;
  const index_t step = static_cast<index_t>(gridDim.x) * blockDim.x;
  const index_t stride = static_cast<index_t>(kPack) << args.group;
  for (index_t item = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       item < items; item += step) {
    const Site<index_t> site(item, args.group, size);
    Cell<coord_t, index_t> cell;
    const Landing landing = locate(site, args.flow, args.flow_scale, size, cell);
    const scalar_t* corner[kCorners];
    coord_t weight[kCorners];
#pragma unroll
    for (int k = 0; k < kCorners; ++k) {
      corner[k] = nullptr;
      if (landing == Landing::inside) {
        weight[k] = corner_weight(cell, k);
        // A corner of no weight is not read: it may be NaN.
        if (weight[k] != 0 && corner_inside(cell, k, size.height, size.width)) {
          corner[k] = args.input.data + site.sample * args.input.batch +
                      (cell.row + (k >> 1)) * args.input.row +
                      (cell.col + (k & 1)) * args.input.col;
        }
      }
    }
    scalar_t* output = args.output.data + site.offset(args.output);
    for (index_t c = site.lane * kPack; c < size.channels; c += stride) {
      coord_t sum[kPack];
#pragma unroll
      for (int n = 0; n < kPack; ++n) sum[n] = value_without_cell<coord_t>(landing);
#pragma unroll
      for (int k = 0; k < kCorners; ++k) {
        if (corner[k] != nullptr) {
          const Values values =
              *reinterpret_cast<const Values*>(corner[k] + c * args.input.channel);
#pragma unroll
          for (int n = 0; n < kPack; ++n) {
            sum[n] += weight[k] * static_cast<coord_t>(values.value[n]);
          }
        }
      }
      Values result;
#pragma unroll
      for (int n = 0; n < kPack; ++n) result.value[n] = static_cast<scalar_t>(sum[n]);
      *reinterpret_cast<Values*>(output + c * args.output.channel) = result;
    }
  }
}

// Adds to input_grad, which holds sums of the opmath type and starts at zero, and
// writes flow_grad.
template <typename scalar_t, typename index_t>
__global__ void flow_warp_backward_kernel(FlowWarpBackward<scalar_t, index_t> args) {
  using coord_t = at::opmath_type<scalar_t>;
  const ImageSize<index_t>& size = args.size;
  const index_t items = size.batch * size.height * size.width << args.group;
  const index_t step = static_cast<index_t>(gridDim.x) * blockDim.x;
  // The whole block goes round together, so that whole warps meet in the shuffles.
  for (index_t first = static_cast<index_t>(blockIdx.x) * blockDim.x; first < items;
       first += step) {
    const index_t item = first + threadIdx.x;
    const bool active = item < items;
    const Site<index_t> site(active ? item : 0, args.group, size);
    Cell<coord_t, index_t> cell;
    const Landing landing = locate(site, args.flow, args.flow_scale, size, cell);
    coord_t dot[kCorners] = {0, 0, 0, 0};
    if (active && landing == Landing::inside) {
      const scalar_t* grad = args.grad.data + site.offset(args.grad);
#pragma unroll
      for (int k = 0; k < kCorners; ++k) {
        if (!corner_inside(cell, k, size.height, size.width)) continue;
        const index_t row = cell.row + (k >> 1), col = cell.col + (k & 1);
        const coord_t weight = corner_weight(cell, k);
        const index_t input = site.sample * args.input.batch + row * args.input.row +
                              col * args.input.col;
        const index_t sum = site.sample * args.input_grad.batch +
                            row * args.input_grad.row + col * args.input_grad.col;
        for (index_t c = site.lane; c < size.channels;
             c += static_cast<index_t>(1) << args.group) {
          const coord_t g = static_cast<coord_t>(grad[c * args.grad.channel]);
          if (args.flow_grad.data != nullptr) {
            dot[k] += g * static_cast<coord_t>(
                              args.input.data[input + c * args.input.channel]);
          }
          if (args.input_grad.data != nullptr && weight != 0) {
            atomicAdd(args.input_grad.data + sum + c * args.input_grad.channel,
                      weight * g);
          }
        }
      }
    }
    if (args.flow_grad.data != nullptr) {  // the same for all threads
      coord_t u = value_without_cell<coord_t>(landing);
      coord_t v = u;
      if (landing == Landing::inside) {
        u = args.flow_scale * gradient_u(cell, dot);
        v = args.flow_scale * gradient_v(cell, dot);
      }
      for (int distance = 1 << args.group >> 1; distance > 0; distance >>= 1) {
        u += __shfl_xor_sync(0xffffffffu, u, distance);
        v += __shfl_xor_sync(0xffffffffu, v, distance);
      }
      if (active && site.lane == 0) {
        coord_t* out = args.flow_grad.data + site.offset(args.flow_grad);
        out[0] = u;
        out[args.flow_grad.channel] = v;
      }
    }
  }
}

}  // namespace trajgru_ext::cuda
