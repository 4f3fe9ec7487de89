#pragma once

// What an LSTM's update can be told, by every operator that is one or has one.

#include "math/lstm_gates.h"
#include "tensors/options.h"

namespace trajgru_ext {

struct LstmOptions {
  LstmOrder order{0, 1, 2, 3};
  double forget_bias = 0;

  template <typename F>
  void visit(const F& f) {
    f("input_slice", order.i);
    f("forget_slice", order.f);
    f("candidate_slice", order.g);
    f("output_slice", order.o);
    f("forget_bias", forget_bias);
  }
};

}  // namespace trajgru_ext
