#pragma once

// Gate updates as the loops see them: rows of consecutive elements, the same row of
// the state and of every gate. In planes (contiguous) a row is a piece of a sample's
// planes and a gate's slice begins `features * pixels` later than the one before; in
// channels last a row is a pixel's channels and a slice begins `features` later.

#include <cstdint>

#include "math/host_device.h"

namespace trajgru_ext {

// The dtypes of the gates and of the state. The arithmetic is the state's.
template <typename gate_type, typename state_type>
struct GateDtypes {
  using gate_t = gate_type;
  using state_t = state_type;
};

template <typename index_t>
struct GateRows {
  index_t outer, inner;  // rows: samples, and the rows of each
  index_t length, last;  // elements of a row, and of the last row of a sample
};

// An element's place is data + outer * row.outer + inner * row.inner + slot * number
// of the gate + its place in the row. Gradients may lie where the gates lie, since an
// element is read before it is written.
template <typename T, typename index_t>
struct GateView {
  T* data;  // null where absent
  index_t outer, inner, slot;

  TRAJGRU_HOST_DEVICE bool present() const { return data != nullptr; }

  TRAJGRU_HOST_DEVICE T* at(index_t outer_row, index_t inner_row, int number,
                            index_t index) const {
    return data + (outer_row * outer + inner_row * inner +
                   static_cast<index_t>(number) * slot + index);
  }
};

}  // namespace trajgru_ext
