#pragma once

// Gate updates as the loops see them: rows of consecutive elements, the same row of
// the state and of every gate. In planes (contiguous) a row is a piece of a sample's
// planes and a gate's slice begins `features * pixels` later than the one before; in
// channels last a row is a pixel's channels and a slice begins `features` later.
// docs/kernels.md has a picture.

#include <cstdint>
#include <type_traits>

#include "math/host_device.h"

namespace trajgru_ext {

// The dtypes of the gates, of the state, and of the arithmetic: the state's, float at
// least.
template <typename gate_type, typename state_type>
struct GateDtypes {
  using gate_t = gate_type;
  using state_t = state_type;
  using math_t = std::conditional_t<sizeof(state_t) < sizeof(float), float, state_t>;
};

// 64 bits on every device: 32 would save CUDA some arithmetic, but no memory traffic,
// and take twice as many kernels. nvcc divides by 32 bits where the numbers fit.
struct GateRows {
  int64_t outer, inner;  // rows: samples, and the rows of each
  int64_t length, last;  // elements of a row, and of the last row of a sample
};

// A state or some gates, seen as rows: the strides from a sample (outer), a row of it
// (inner) and a gate's slice to the next. Gradients may lie where the gates lie, since
// an element is read before it is written.
template <typename T>
struct GateView {
  T* data;  // null where absent
  int64_t outer, inner, gate;

  TRAJGRU_HOST_DEVICE bool present() const { return data != nullptr; }

  TRAJGRU_HOST_DEVICE T* at(int64_t outer_row, int64_t inner_row, int number,
                            int64_t index) const {
    return data + (outer_row * outer + inner_row * inner + number * gate + index);
  }
};

}  // namespace trajgru_ext
