#pragma once

// What a GRU's update can be told, by every operator that is one or a part of one; each
// reads what concerns it.

#include "math/gru_gates.h"
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

}  // namespace trajgru_ext
