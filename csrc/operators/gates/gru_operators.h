#pragma once

// gru_gates, gru_reset and gru_output on any device. Device has a Guard, the length of
// rows, run(args), which updates all rows, args being those of csrc/math/gru_gates.h,
// and for the peepholes sum_pixels(sums).

#include <torch/library.h>

#include <optional>
#include <tuple>

#include "operators/gates/gate_checks.h"
#include "operators/gates/gate_layout.h"
#include "math/gru_gates.h"

namespace trajgru_ext {

inline GruUpdate<double> gru_update(int64_t activation, double negative_slope,
                                    bool keep) {
  return {static_cast<Activation>(activation), negative_slope, keep};
}

template <typename T>
void set_update(GruUpdate<T>& to, const GruUpdate<double>& update) {
  to = {update.activation, static_cast<T>(update.negative_slope), update.keep};
}

// The tensor whose memory format the others follow.
inline const at::Tensor& leading(const OptionalTensor& x_gates,
                                 const OptionalTensor& h_gates) {
  return x_gates.has_value() ? *x_gates : *h_gates;
}

inline GruSlots gru_slots(at::IntArrayRef slots) {
  return {static_cast<int>(slots[0]), static_cast<int>(slots[1]),
          slots.size() > 2 ? static_cast<int>(slots[2]) : 0};
}

// The operands of gru_gates and gru_reset in rows.
struct GruOperands {
  GateLayout layout;
  at::ScalarType dtype;  // of the gates as they are read
  at::Tensor x_gates, h_gates, h, mask;

  GruOperands(const OptionalTensor& x, const OptionalTensor& hg,
              const at::Tensor& state, const OptionalTensor& kept, int64_t row_length)
      : layout(leading(x, hg), state, row_length),
        dtype(read_dtype(gates_dtype(x, hg), state)),
        x_gates(layout.fit(x, dtype)),
        h_gates(layout.fit(hg, dtype)),
        h(layout.fit(state, state.scalar_type())),
        mask(layout.fit(kept, at::kBool)) {}
};

template <typename Device>
struct GruOperators {
  using Tensor = at::Tensor;

  template <typename D>
  static void fill(GruGates<D>& args, const GruOperands& in, at::IntArrayRef slots,
                   const GruUpdate<double>& update) {
    args.rows = in.layout.rows();
    in.layout.show(args.x_gates, in.x_gates);
    in.layout.show(args.h_gates, in.h_gates);
    in.layout.show(args.h, in.h);
    in.layout.show(args.mask, in.mask);
    args.slots = gru_slots(slots);
    set_update(args.update, update);
  }

  static Tensor gates(const OptionalTensor& x_gates, const OptionalTensor& h_gates,
                      const Tensor& h, at::IntArrayRef slots, int64_t activation,
                      double negative_slope, bool keep, const OptionalTensor& mask) {
    const char* op = "gru_gates";
    check_gates(op, x_gates, h_gates, "h", h, slots, 3);
    check_gru_update(op, activation, mask, h);
    const auto update = gru_update(activation, negative_slope, keep);
    const typename Device::Guard guard(h.device());
    const PlainDispatch plain;
    const GruOperands in(x_gates, h_gates, h, mask, Device::kRowLength);
    const Tensor output = in.layout.empty(1, h, h.scalar_type());
    if (output.numel() == 0) return output;
    dispatch_gates(in.dtype, h, [&]<typename D>() {
      GruGates<D> args{};
      fill(args, in, slots, update);
      in.layout.show(args.output, output);
      Device::run(args);
    });
    return output;
  }

  static std::tuple<Tensor, Tensor, Tensor> gates_backward(
      const Tensor& grad, const OptionalTensor& x_gates, const OptionalTensor& h_gates,
      const Tensor& h, at::IntArrayRef slots, int64_t activation, double negative_slope,
      bool keep, const OptionalTensor& mask, bool x_wanted, bool h_gates_wanted,
      bool h_wanted) {
    const char* op = "gru_gates_backward";
    check_gates(op, x_gates, h_gates, "h", h, slots, 3);
    check_gru_update(op, activation, mask, h);
    check_like_state(op, "grad", grad, "h", h);
    const auto update = gru_update(activation, negative_slope, keep);
    const typename Device::Guard guard(h.device());
    const PlainDispatch plain;
    const GruOperands in(x_gates, h_gates, h, mask, Device::kRowLength);
    const Tensor seed = in.layout.fit(grad, h.scalar_type());
    Tensor x_grad, h_gates_grad, h_grad;
    if (x_wanted && x_gates.has_value()) x_grad = in.layout.empty(3, h, in.dtype);
    if (h_gates_wanted && h_gates.has_value()) {
      h_gates_grad = in.layout.empty(3, h, in.dtype);
    }
    if (h_wanted) h_grad = in.layout.empty(1, h, h.scalar_type());
    if (h.numel() > 0 && (x_wanted || h_gates_wanted || h_wanted)) {
      dispatch_gates(in.dtype, h, [&]<typename D>() {
        GruGatesBackward<D> args{};
        fill<D>(args, in, slots, update);
        in.layout.show(args.grad, seed);
        in.layout.show(args.x_grad, x_grad);
        in.layout.show(args.h_gates_grad, h_gates_grad);
        in.layout.show(args.h_grad, h_grad);
        Device::run(args);
      });
    }
    return {wanted_or_empty(x_grad, h, (x_gates ? *x_gates : h).scalar_type()),
            wanted_or_empty(h_gates_grad, h, (h_gates ? *h_gates : h).scalar_type()),
            wanted_or_empty(h_grad, h, h.scalar_type())};
  }

  template <typename D>
  static void fill(GruReset<D>& args, const GruOperands& in, at::IntArrayRef slots) {
    args.rows = in.layout.rows();
    in.layout.show(args.x_gates, in.x_gates);
    in.layout.show(args.h_gates, in.h_gates);
    in.layout.show(args.h, in.h);
    args.slots = gru_slots(slots);
  }

  static std::tuple<Tensor, Tensor> reset(const OptionalTensor& x_gates,
                                          const OptionalTensor& h_gates,
                                          const Tensor& h, at::IntArrayRef slots) {
    check_gates("gru_reset", x_gates, h_gates, "h", h, slots, 2);
    const typename Device::Guard guard(h.device());
    const PlainDispatch plain;
    const GruOperands in(x_gates, h_gates, h, std::nullopt, Device::kRowLength);
    const Tensor u = in.layout.empty(1, h, h.scalar_type());
    const Tensor reset = in.layout.empty(1, h, h.scalar_type());
    if (h.numel() == 0) return {u, reset};
    dispatch_gates(in.dtype, h, [&]<typename D>() {
      GruReset<D> args{};
      fill(args, in, slots);
      in.layout.show(args.u, u);
      in.layout.show(args.reset, reset);
      Device::run(args);
    });
    return {u, reset};
  }

  static std::tuple<Tensor, Tensor> reset_backward(
      const OptionalTensor& u_grad, const OptionalTensor& reset_grad,
      const OptionalTensor& x_gates, const OptionalTensor& h_gates, const Tensor& h,
      at::IntArrayRef slots, bool gates_wanted, bool h_wanted) {
    const char* op = "gru_reset_backward";
    check_gates(op, x_gates, h_gates, "h", h, slots, 2);
    if (u_grad.has_value()) check_like_state(op, "u_grad", *u_grad, "h", h);
    if (reset_grad.has_value()) check_like_state(op, "reset_grad", *reset_grad, "h", h);
    const typename Device::Guard guard(h.device());
    const PlainDispatch plain;
    const GruOperands in(x_gates, h_gates, h, std::nullopt, Device::kRowLength);
    const Tensor u_seed = in.layout.fit(u_grad, h.scalar_type());
    const Tensor reset_seed = in.layout.fit(reset_grad, h.scalar_type());
    Tensor gates_grad, h_grad;
    if (gates_wanted) gates_grad = in.layout.empty(2, h, in.dtype);
    if (h_wanted) h_grad = in.layout.empty(1, h, h.scalar_type());
    if (h.numel() > 0 && (gates_wanted || h_wanted)) {
      dispatch_gates(in.dtype, h, [&]<typename D>() {
        GruResetBackward<D> args{};
        fill<D>(args, in, slots);
        in.layout.show(args.u_grad, u_seed);
        in.layout.show(args.reset_grad, reset_seed);
        in.layout.show(args.gates_grad, gates_grad);
        in.layout.show(args.h_grad, h_grad);
        Device::run(args);
      });
    }
    return {wanted_or_empty(gates_grad, h, gates_dtype(x_gates, h_gates)),
            wanted_or_empty(h_grad, h, h.scalar_type())};
  }

  // u, h and the mask in the rows of the candidate.
  template <typename D>
  static void fill(GruOutput<D>& args, const GruOperands& in, const Tensor& u,
                   const GruUpdate<double>& update) {
    args.rows = in.layout.rows();
    in.layout.show(args.candidate, in.x_gates);
    in.layout.show(args.u, u);
    in.layout.show(args.h, in.h);
    in.layout.show(args.mask, in.mask);
    set_update(args.update, update);
  }

  static Tensor output(const Tensor& u, const Tensor& candidate, const Tensor& h,
                       int64_t activation, double negative_slope, bool keep,
                       const OptionalTensor& mask) {
    const char* op = "gru_output";
    check_gru_output(op, u, candidate, h);
    check_gru_update(op, activation, mask, h);
    const auto update = gru_update(activation, negative_slope, keep);
    const typename Device::Guard guard(h.device());
    const PlainDispatch plain;
    const GruOperands in(candidate, std::nullopt, h, mask, Device::kRowLength);
    const Tensor gate = in.layout.fit(u, h.scalar_type());
    const Tensor output = in.layout.empty(1, h, h.scalar_type());
    if (output.numel() == 0) return output;
    dispatch_gates(in.dtype, h, [&]<typename D>() {
      GruOutput<D> args{};
      fill(args, in, gate, update);
      in.layout.show(args.output, output);
      Device::run(args);
    });
    return output;
  }

  static std::tuple<Tensor, Tensor, Tensor> output_backward(
      const Tensor& grad, const Tensor& u, const Tensor& candidate, const Tensor& h,
      int64_t activation, double negative_slope, bool keep, const OptionalTensor& mask,
      bool u_wanted, bool candidate_wanted, bool h_wanted) {
    const char* op = "gru_output_backward";
    check_gru_output(op, u, candidate, h);
    check_gru_update(op, activation, mask, h);
    check_like_state(op, "grad", grad, "h", h);
    const auto update = gru_update(activation, negative_slope, keep);
    const typename Device::Guard guard(h.device());
    const PlainDispatch plain;
    const GruOperands in(candidate, std::nullopt, h, mask, Device::kRowLength);
    const Tensor gate = in.layout.fit(u, h.scalar_type());
    const Tensor seed = in.layout.fit(grad, h.scalar_type());
    Tensor u_grad, candidate_grad, h_grad;
    if (u_wanted) u_grad = in.layout.empty(1, h, h.scalar_type());
    if (candidate_wanted) candidate_grad = in.layout.empty(1, h, in.dtype);
    if (h_wanted) h_grad = in.layout.empty(1, h, h.scalar_type());
    if (h.numel() > 0 && (u_wanted || candidate_wanted || h_wanted)) {
      dispatch_gates(in.dtype, h, [&]<typename D>() {
        GruOutputBackward<D> args{};
        fill<D>(args, in, gate, update);
        in.layout.show(args.grad, seed);
        in.layout.show(args.candidate_grad, candidate_grad);
        in.layout.show(args.u_grad, u_grad);
        in.layout.show(args.h_grad, h_grad);
        Device::run(args);
      });
    }
    return {wanted_or_empty(u_grad, h, h.scalar_type()),
            wanted_or_empty(candidate_grad, h, candidate.scalar_type()),
            wanted_or_empty(h_grad, h, h.scalar_type())};
  }

  static void implement(torch::Library& m) {
    m.impl("gru_gates", &gates);
    m.impl("gru_gates_backward", &gates_backward);
    m.impl("gru_reset", &reset);
    m.impl("gru_reset_backward", &reset_backward);
    m.impl("gru_output", &output);
    m.impl("gru_output_backward", &output_backward);
  }
};

}  // namespace trajgru_ext
