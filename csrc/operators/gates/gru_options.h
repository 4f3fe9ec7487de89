#pragma once

// What a GRU's update can be told, by every operator that is one or a part of one; each
// reads what concerns it.

#include <array>

#include "math/gates.h"
#include "operators/gates/gate_checks.h"
#include "tensors/options.h"

namespace trajgru_ext {

struct GruOptions {
  GruOrder order{0, 1, 2};  // gru_reset has no candidate's slice
  GruUpdate<double> update{Activation::tanh, 0, true};
  bool reset_before = false;  // of the state's convolution; sequences alone

  template <typename F>
  void visit(const F& f) {
    f("reset_slice", order.r);
    f("update_slice", order.u);
    f("candidate_slice", order.n);
    f("activation", update.activation);
    f("negative_slope", update.negative_slope);
    f("u_weighs_old", update.u_weighs_old);
    f("reset_before", reset_before);
  }
};

// Reads and checks them. slices: of the gates that an operator takes, r and u before n.
inline GruOptions gru_options(const char* op, c10::ArrayRef<double> numbers,
                              size_t slices) {
  const auto options = read_options<GruOptions>(op, numbers);
  const std::array<int64_t, 3> order = {options.order.r, options.order.u,
                                        options.order.n};
  check_gate_order(op, at::IntArrayRef(order.data(), slices));
  TORCH_CHECK_VALUE(options.update.activation <= Activation::leaky_relu, op,
                    ": activation must be 0, 1 or 2, got ",
                    static_cast<int>(options.update.activation));
  return options;
}

// Sequences know the slope of leaky_relu at an argument by the sign of the value.
inline void check_slope(const char* op, const GruOptions& options) {
  TORCH_CHECK_VALUE(options.update.negative_slope >= 0, op,
                    ": negative_slope must not be below 0, got ",
                    options.update.negative_slope);
}

}  // namespace trajgru_ext
