#pragma once

// How many pixels flow_conv warps before it multiplies them by the weights.

#include <algorithm>
#include <cstdint>

#include "math/divide_up.h"

namespace trajgru_ext::cuda {

// What decides it of a device.
struct ChunkLimits {
  int64_t cache_bytes;  // of the second level
  int64_t multiprocessors;
  int64_t tile;  // rows, and outputs, that a multiprocessor multiplies at a time
};

// A third of the cache's, in whole waves of multiprocessors; a wave at least, since
// multiprocessors that have nothing to do cost more than values that leave the cache.
// row_bytes: of a pixel's warped values. A multiple of the tile.
inline int64_t chunk_rows(int64_t row_bytes, int64_t outputs,
                          const ChunkLimits& device) {
  const int64_t across = std::max<int64_t>(divide_up(outputs, device.tile), 1);
  const int64_t wave = std::max<int64_t>(device.multiprocessors / across, 1);
  const int64_t tile_bytes = std::max<int64_t>(row_bytes, 1) * device.tile;
  const int64_t cached = device.cache_bytes / 3 / tile_bytes;
  return std::max(wave, cached / wave * wave) * device.tile;
}

}  // namespace trajgru_ext::cuda
