#pragma once

// What the operators of a GRU's update share.

#include <torch/library.h>

#include <optional>
#include <tuple>

#include "operators/gates/gate_checks.h"
#include "operators/gates/gate_layout.h"
#include "operators/gates/gru_options.h"

namespace trajgru_ext {

// The tensor whose memory format the others follow.
inline const at::Tensor& leading(const OptionalTensor& x_gates,
                                 const OptionalTensor& h_gates) {
  return x_gates.has_value() ? *x_gates : *h_gates;
}

// The operands of gru_gates and gru_reset in rows.
struct GruOperands {
  GateLayout layout;
  at::ScalarType dtype;  // of the gates as they are read
  at::Tensor x_gates, h_gates, h, mask;

  GruOperands(const OptionalTensor& x, const OptionalTensor& hg,
              const at::Tensor& state, const OptionalTensor& zoneout,
              int64_t row_length)
      : layout(leading(x, hg), state, row_length),
        dtype(read_dtype(gates_dtype(x, hg), state)),
        x_gates(layout.fit(x, dtype)),
        h_gates(layout.fit(hg, dtype)),
        h(layout.fit(state, state.scalar_type())),
        mask(layout.fit(zoneout, at::kBool)) {}
};

}  // namespace trajgru_ext
