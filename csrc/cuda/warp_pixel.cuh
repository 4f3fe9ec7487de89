#pragma once

// One pixel's warp and its transpose, by a group of 2^group threads within one warp:
// each computes the pixel's cell and takes its part of the channels. Channels last, the
// group runs along the channels; in planes it is one thread, and the warp runs along
// the pixels: neighbouring threads read neighbouring memory in both.

#include <ATen/OpMathType.h>

#include "cuda/runtime.h"
#include "math/bilinear.h"
#include "math/rounded_product.h"

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

// The pixel that a thread works on, and its place in the pixel's group.
template <typename index_t>
struct Site {
  index_t sample, row, col, lane;

  TRAJGRU_HOST_DEVICE Site(index_t pixel, index_t lane, const ImageSize<index_t>& size)
      : lane(lane) {
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

template <Padding kPadding = Padding::zeros, typename T, typename index_t>
TRAJGRU_HOST_DEVICE FlowTarget locate(const Site<index_t>& site,
                                      const ImageView<const T, index_t>& flow,
                                      T flow_scale, const ImageSize<index_t>& size,
                                      Cell<T, index_t>& cell) {
  const T* at = flow.data + site.offset(flow);
  const T u = rounded_product(flow_scale, at[0]);
  const T v = rounded_product(flow_scale, at[flow.channel]);
  return trajgru_ext::locate<kPadding>(site.row, site.col, u, v, size.height,
                                       size.width, cell);
}

// Loaded and stored as one.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Vector {
  T value[kCount];
};

// What a pixel's warp reads: the first channel of each corner, null where it is not
// read, and what it is multiplied by.
template <typename scalar_t, typename coord_t>
struct Corners {
  const scalar_t* first[kCorners];
  coord_t weight[kCorners];
};

template <typename scalar_t, typename coord_t, typename index_t>
TRAJGRU_HOST_DEVICE Corners<scalar_t, coord_t> find_corners(
    const Site<index_t>& site, FlowTarget target, const Cell<coord_t, index_t>& cell,
    const ImageSize<index_t>& size, const ImageView<const scalar_t, index_t>& input) {
  Corners<scalar_t, coord_t> corners;
#pragma unroll
  for (int k = 0; k < kCorners; ++k) {
    corners.first[k] = nullptr;
    if (target == FlowTarget::inside) {
      corners.weight[k] = corner_weight(cell, k);
      // A corner of no weight is not read: it may be NaN.
      if (corners.weight[k] != 0 && corner_inside(cell, k, size.height, size.width)) {
        corners.first[k] = input.data + site.sample * input.batch +
                           (cell.row + (k >> 1)) * input.row +
                           (cell.col + (k & 1)) * input.col;
      }
    }
  }
  return corners;
}

// sum_k weight_k values_of(k): some channels of a warp. values_of is asked for corners
// that are read alone.
template <int kVector, typename scalar_t, typename coord_t, typename F>
__device__ Vector<scalar_t, kVector> blend(const Corners<scalar_t, coord_t>& corners,
                                           FlowTarget target, const F& values_of) {
  coord_t sum[kVector];
#pragma unroll
  for (int n = 0; n < kVector; ++n) sum[n] = value_without_cell<coord_t>(target);
#pragma unroll
  for (int k = 0; k < kCorners; ++k) {
    if (corners.first[k] != nullptr) {
      const Vector<scalar_t, kVector> values = values_of(k);
#pragma unroll
      for (int n = 0; n < kVector; ++n) {
        sum[n] += corners.weight[k] * static_cast<coord_t>(values.value[n]);
      }
    }
  }
  Vector<scalar_t, kVector> result;
#pragma unroll
  for (int n = 0; n < kVector; ++n) result.value[n] = static_cast<scalar_t>(sum[n]);
  return result;
}

// output[c * channel] = sum_k weight_k input[corner k, c], for the site's lane.
template <int kVector, typename scalar_t, typename coord_t, typename index_t>
__device__ void warp_pixel(const Site<index_t>& site, int group, FlowTarget target,
                           const Cell<coord_t, index_t>& cell,
                           const ImageSize<index_t>& size,
                           const ImageView<const scalar_t, index_t>& input,
                           scalar_t* output, index_t channel) {
  using Values = Vector<scalar_t, kVector>;
  const Corners<scalar_t, coord_t> corners =
      find_corners(site, target, cell, size, input);
  const index_t stride = static_cast<index_t>(kVector) << group;
  for (index_t c = site.lane * kVector; c < size.channels; c += stride) {
    // By its name, for a host's compiler else has blend() write to the output unseen by
    // the sanitizers.
    const Values blended = blend<kVector>(corners, target, [&](int k) {
      return *reinterpret_cast<const Values*>(corners.first[k] + c * input.channel);
    });
    *reinterpret_cast<Values*>(output + c * channel) = blended;
  }
}

// How many numbers beside each other a thread adds to at once, of those that it loads
// at once: four floats where the hardware can. Otherwise it is one, and the threads of
// a group add to numbers beside each other.
template <typename coord_t, int kVector>
TRAJGRU_HOST_DEVICE constexpr int added_at_once() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  return sizeof(coord_t) == sizeof(float) && kVector % 4 == 0 ? 4 : 1;
#else
  return 1;
#endif
}

// sums[corner k, c] += weight_k grad[c * channel], atomically.
template <int kCount, typename scalar_t, typename coord_t, typename index_t>
__device__ void add_to_corners(const Site<index_t>& site, int group,
                               const Cell<coord_t, index_t>& cell,
                               const ImageSize<index_t>& size, const scalar_t* grad,
                               index_t channel,
                               const ImageView<coord_t, index_t>& sums) {
  using Values = Vector<scalar_t, kCount>;
  const index_t stride = static_cast<index_t>(kCount) << group;
  const index_t first =
      site.sample * sums.batch + cell.row * sums.row + cell.col * sums.col;
  for (index_t c = site.lane * kCount; c < size.channels; c += stride) {
    const Values g = *reinterpret_cast<const Values*>(grad + c * channel);
#pragma unroll
    for (int k = 0; k < kCorners; ++k) {
      const coord_t weight = corner_weight(cell, k);
      if (weight == 0 || !corner_inside(cell, k, size.height, size.width)) continue;
      const index_t corner = first + (k >> 1) * sums.row + (k & 1) * sums.col;
      coord_t* const to = sums.data + corner + c * sums.channel;
      if constexpr (kCount == 1) {
        atomicAdd(to, weight * static_cast<coord_t>(g.value[0]));
      } else {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
        atomicAdd(reinterpret_cast<float4*>(to),
                  make_float4(weight * static_cast<float>(g.value[0]),
                              weight * static_cast<float>(g.value[1]),
                              weight * static_cast<float>(g.value[2]),
                              weight * static_cast<float>(g.value[3])));
#endif
      }
    }
  }
}

// The pixel's gradient grad[c * channel], carried to the sums of its corners (where
// sums.data is not null) and to the flow (where flow_grad.data is not null); the
// pixel's warp takes the gradient's place where kKeepsWarp. Each corner is read once.
// The whole warp calls it together; of idle threads nothing is read or written.
template <int kVector, Padding kPadding = Padding::zeros, bool kKeepsWarp = false,
          typename scalar_t, typename coord_t, typename index_t, typename grad_t>
__device__ void pull_back(bool active, const Site<index_t>& site, int group,
                          FlowTarget target, const Cell<coord_t, index_t>& cell,
                          const ImageSize<index_t>& size,
                          const ImageView<const scalar_t, index_t>& input, grad_t* grad,
                          index_t channel, coord_t flow_scale,
                          const ImageView<coord_t, index_t>& sums,
                          const ImageView<coord_t, index_t>& flow_grad) {
  using Values = Vector<scalar_t, kVector>;
  const bool inside = target == FlowTarget::inside;
  if (sums.data != nullptr && active && inside) {
    const scalar_t* from = grad;
    add_to_corners<added_at_once<coord_t, kVector>()>(site, group, cell, size, from,
                                                      channel, sums);
  }
  // A thread may have read what others now write.
  if constexpr (kKeepsWarp) __syncwarp();
  coord_t dot[kCorners] = {0, 0, 0, 0};
  const bool reads = kKeepsWarp || (flow_grad.data != nullptr && inside);
  if (active && reads) {
    const index_t first =
        site.sample * input.batch + cell.row * input.row + cell.col * input.col;
    const index_t stride = static_cast<index_t>(kVector) << group;
    for (index_t c = site.lane * kVector; c < size.channels; c += stride) {
      const Values g = *reinterpret_cast<const Values*>(grad + c * channel);
      coord_t warp[kVector];
#pragma unroll
      for (int n = 0; n < kVector; ++n) warp[n] = value_without_cell<coord_t>(target);
#pragma unroll
      for (int k = 0; k < kCorners; ++k) {
        if (!inside || !corner_inside(cell, k, size.height, size.width)) continue;
        const index_t corner = first + (k >> 1) * input.row + (k & 1) * input.col;
        const Values values =
            *reinterpret_cast<const Values*>(input.data + corner + c * input.channel);
        const coord_t weight = corner_weight(cell, k);
#pragma unroll
        for (int n = 0; n < kVector; ++n) {
          const auto value = static_cast<coord_t>(values.value[n]);
          dot[k] += static_cast<coord_t>(g.value[n]) * value;
          if (weight != 0) warp[n] += weight * value;
        }
      }
      if constexpr (kKeepsWarp) {
        Values result;
#pragma unroll
        for (int n = 0; n < kVector; ++n) {
          result.value[n] = static_cast<scalar_t>(warp[n]);
        }
        *reinterpret_cast<Values*>(grad + c * channel) = result;
      }
    }
  }
  if (flow_grad.data != nullptr) {  // the same for all threads
    coord_t u = value_without_cell<coord_t>(target);
    coord_t v = u;
    if (target == FlowTarget::inside) {
      u = flow_scale * gradient_u(cell, dot);
      v = flow_scale * gradient_v(cell, dot);
      stop_where_clipped<kPadding>(cell, size.height, size.width, u, v);
    }
    for (int distance = 1 << group >> 1; distance > 0; distance >>= 1) {
      u += __shfl_xor_sync(0xffffffffu, u, distance);
      v += __shfl_xor_sync(0xffffffffu, v, distance);
    }
    if (active && site.lane == 0) {
      coord_t* out = flow_grad.data + site.offset(flow_grad);
      out[0] = u;
      out[flow_grad.channel] = v;
    }
  }
}

}  // namespace trajgru_ext::cuda
