#pragma once

// What an LSTM's update can be told, by every operator that is one or has one.

#include <array>

#include "math/gates.h"
#include "operators/gates/gate_checks.h"
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

// Reads and checks them.
inline LstmOptions lstm_options(const char* op, c10::ArrayRef<double> numbers) {
  const auto options = read_options<LstmOptions>(op, numbers);
  const LstmOrder& at = options.order;
  check_gate_order(op, std::array<int64_t, 4>{at.i, at.f, at.g, at.o});
  return options;
}

}  // namespace trajgru_ext
