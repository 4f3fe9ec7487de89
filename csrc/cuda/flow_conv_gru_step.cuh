#pragma once

// The update of a GRU's gates where flow_conv's sums are, which are the state's part of
// them and go to no memory.

#include "cuda/flow_conv_fused.cuh"
#include "cuda/gate_kernels.cuh"
#include "math/gru_step.h"

namespace trajgru_ext::cuda {

constexpr int kGates = 3;
static_assert(kWarpColumns == kGates);

// An element of the state, and the products' sums for its gates.
template <typename T>
struct PlaceInTile : PlaceOfThread<T> {
  T sums[kGates];

  // Of tensors; the state's part of the gates, which is absent, is here.
  template <typename data_t>
  __device__ T load(const GateView<data_t>& view, int gate) const {
    if (view.present()) return PlaceOfThread<T>::load(view, gate);
    return gate == 0 ? sums[0] : gate == 1 ? sums[1] : sums[2];
  }
};

// A warp has all gates of 16 features, a fragment each.
template <typename scalar_t>
struct GruTiles {
  GruStep<GateDtypes<scalar_t, scalar_t>> step;

  __device__ int output_of(int column, int outputs) const {
    const int gate = column / kSide % kGates;
    return gate * (outputs / kGates) + feature_of(column);
  }

  template <typename Products>
  __device__ void take(const FlowConvTiles<scalar_t>& args, const Tile& tile,
                       const Products& products, float* sums) const {
    // Half of the lanes has one pixel's features, half the pixel's after the next.
    constexpr int kPixels = kSide * kSide / kLanes;
    const int lane = threadIdx.x % kLanes;
    const auto pixel_of = [&](int n) { return n / 2 * 4 + n % 2 + lane / kSide * 2; };
    float of_gate[kGates][kPixels];
    products.visit(sums, [&](int i, int j) {
#pragma unroll
      for (int n = 0; n < kPixels; ++n) {
        of_gate[j][n] = load_shared(sums + pixel_of(n) * kSumStride + lane % kSide);
      }
      if (j + 1 < kGates) return;
      const int32_t row = tile.row + warp_line() + i;
      const int32_t first = (tile.sample * args.size.height + row) * args.size.width;
      const int feature = feature_of(warp_column()) + lane % kSide;
#pragma unroll
      for (int n = 0; n < kPixels; ++n) {
        const int32_t col = tile.col + pixel_of(n);
        if (row >= args.size.height || col >= args.size.width) continue;
        update(step, PlaceInTile<float>{{0, first + col, feature},
                                        {of_gate[0][n], of_gate[1][n], of_gate[2][n]}});
      }
    });
  }

 private:
  static __device__ int feature_of(int column) {
    return column / (kGates * kSide) * kSide + column % kSide;
  }
};

}  // namespace trajgru_ext::cuda
