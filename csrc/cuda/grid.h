#pragma once

#include <algorithm>
#include <cstdint>

namespace trajgru_ext::cuda {

// Blocks for a grid-stride loop over the items; one for none, for a launch of no blocks
// is an error.
inline unsigned grid_size(int64_t items, unsigned block, int64_t most) {
  return static_cast<unsigned>(std::min((items - 1) / block + 1, most));
}

}  // namespace trajgru_ext::cuda
