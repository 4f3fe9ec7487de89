#pragma once

// Where flow_conv is one kernel (flow_conv_fused.cuh) rather than a gather and a
// product for each chunk.

#include <cstdint>

#include "math/divide_up.h"

namespace trajgru_ext::cuda {

// What a block computes.
constexpr int kTileWidth = 16, kTileHeight = 8, kTileOutputs = 192;

struct FusedSizes {
  int64_t batch, height, width;  // of the image
  int64_t channel_bytes;         // of a pixel
  int64_t links, outputs;
};

inline int64_t fused_tiles(const FusedSizes& sizes) {
  return sizes.batch * divide_up<int64_t>(sizes.height, kTileHeight) *
         divide_up<int64_t>(sizes.width, kTileWidth);
}

// Channels come in slices of this many bytes, outputs by four.
constexpr int64_t kSliceBytes = 32, kOutputsAtOnce = 4;

// Whether a block has all outputs, so that nothing is gathered twice, and every
// multiprocessor has a block.
inline bool tiles_pay(const FusedSizes& sizes, int64_t multiprocessors) {
  return sizes.links > 0 && sizes.channel_bytes > 0 &&
         sizes.channel_bytes % kSliceBytes == 0 && sizes.outputs <= kTileOutputs &&
         sizes.outputs % kOutputsAtOnce == 0 && fused_tiles(sizes) >= multiprocessors;
}

}  // namespace trajgru_ext::cuda
