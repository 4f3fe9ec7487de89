#pragma once

// lstm_memory on any device.

#include <torch/library.h>

#include <tuple>

#include "math/lstm_memory.h"
#include "operators/device.h"
#include "operators/gates/lstm_gates.h"

namespace trajgru_ext {

template <typename Device>
struct LstmMemoryOperators {
  using Tensor = at::Tensor;

  static void implement(torch::Library& m) {
    static_assert(GateDevice<Device>);
    m.impl("lstm_memory", &forward);
    m.impl("lstm_memory_backward", &backward);
  }

  static LstmOperands operands(const OptionalTensor& x_gates,
                               const OptionalTensor& h_gates, const Tensor& c) {
    return {x_gates, h_gates, c, {}, {}, {}, Device::kRowLength};
  }

  // There is no output gate: the slices are those of three gates.
  static LstmOptions options_of(const char* op, at::ArrayRef<double> numbers) {
    const LstmOptions options = lstm_options(op, numbers);
    TORCH_CHECK_VALUE(options.order.o == 3, op,
                      ": the input, forget and candidate slices must be a permutation "
                      "of 0 to 2, got the output slice ",
                      options.order.o);
    return options;
  }

  template <typename D>
  static void fill(LstmMemoryForward<D>& args, const LstmOperands& in,
                   const LstmOptions& options) {
    args.rows = in.layout.rows();
    in.layout.show(args.x_gates, in.x_gates);
    in.layout.show(args.h_gates, in.h_gates);
    in.layout.show(args.c, in.c);
    args.order = options.order;
    args.forget_bias = static_cast<typename D::math_t>(options.forget_bias);
  }

  static Tensor forward(const OptionalTensor& x_gates, const OptionalTensor& h_gates,
                        const Tensor& c, at::ArrayRef<double> options) {
    const char* op = "lstm_memory";
    check_gates(op, x_gates, h_gates, "c", c, 3);
    const LstmOptions chosen = options_of(op, options);
    const typename Device::Guard guard(c.device());
    const PlainDispatch plain;
    const LstmOperands in = operands(x_gates, h_gates, c);
    const Tensor output = in.layout.empty(1, c, c.scalar_type());
    if (c.numel() == 0) return output;
    dispatch_gates(in.dtype, c, [&]<typename D>() {
      LstmMemoryForward<D> args{};
      fill(args, in, chosen);
      in.layout.show(args.output, output);
      Device::run(args);
    });
    return output;
  }

  static std::tuple<Tensor, Tensor> backward(
      const Tensor& grad, const OptionalTensor& x_gates, const OptionalTensor& h_gates,
      const Tensor& c, at::ArrayRef<double> options, bool gates_wanted, bool c_wanted) {
    const char* op = "lstm_memory_backward";
    check_gates(op, x_gates, h_gates, "c", c, 3);
    check_like_state(op, "grad", grad, "c", c);
    const LstmOptions chosen = options_of(op, options);
    const typename Device::Guard guard(c.device());
    const PlainDispatch plain;
    const LstmOperands in = operands(x_gates, h_gates, c);
    const Tensor grad_output = in.layout.fit(grad, c.scalar_type());
    Tensor gates_grad, c_grad;
    if (gates_wanted) gates_grad = in.layout.empty(3, c, in.dtype);
    if (c_wanted) c_grad = in.layout.empty(1, c, c.scalar_type());
    if (c.numel() > 0 && (gates_wanted || c_wanted)) {
      dispatch_gates(in.dtype, c, [&]<typename D>() {
        LstmMemoryBackward<D> args{};
        fill<D>(args, in, chosen);
        in.layout.show(args.grad, grad_output);
        in.layout.show(args.gates_grad, gates_grad);
        in.layout.show(args.c_grad, c_grad);
        Device::run(args);
      });
    }
    return {wanted_or_empty(gates_grad, c, gates_dtype(x_gates, h_gates)),
            wanted_or_empty(c_grad, c, c.scalar_type())};
  }
};

}  // namespace trajgru_ext
