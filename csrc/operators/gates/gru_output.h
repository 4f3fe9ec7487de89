#pragma once

// gru_output on any device.

#include <torch/library.h>

#include <optional>
#include <tuple>

#include "math/gru_output.h"
#include "operators/device.h"
#include "operators/gates/gru_operands.h"

namespace trajgru_ext {

template <typename Device>
struct GruOutputOperators {
  using Tensor = at::Tensor;

  static void implement(torch::Library& m) {
    static_assert(GateDevice<Device>);
    m.impl("gru_output", &forward);
    m.impl("gru_output_into", &forward_into);
    m.impl("gru_output_backward", &backward);
  }

  // u, h and the mask in the rows of the candidate.
  template <typename D>
  static void fill(GruOutput<D>& args, const GruOperands& in, const Tensor& u,
                   const GruOptions& options) {
    args.rows = in.layout.rows();
    in.layout.show(args.candidate, in.x_gates);
    in.layout.show(args.u, u);
    in.layout.show(args.h, in.h);
    in.layout.show(args.mask, in.mask);
    args.update.set(options.update);
  }

  static Tensor forward(const Tensor& u, const Tensor& candidate, const Tensor& h,
                        at::ArrayRef<double> options, const OptionalTensor& mask) {
    return compute("gru_output", u, candidate, h, options, mask, std::nullopt);
  }

  // For the sequences: to a buffer in the rows of the candidate.
  static void forward_into(const Tensor& u, const Tensor& candidate, const Tensor& h,
                           at::ArrayRef<double> options, const OptionalTensor& mask,
                           const Tensor& output) {
    compute("gru_output_into", u, candidate, h, options, mask, output);
  }

  static Tensor compute(const char* op, const Tensor& u, const Tensor& candidate,
                        const Tensor& h, at::ArrayRef<double> options,
                        const OptionalTensor& mask, const OptionalTensor& buffer) {
    check_gru_output(op, u, candidate, h);
    check_zoneout_mask(op, mask, "h", h);
    const GruOptions chosen = gru_options(op, options, 0);
    const typename Device::Guard guard(h.device());
    const PlainDispatch plain;
    const GruOperands in(candidate, std::nullopt, h, mask, Device::kRowLength);
    const Tensor gate = in.layout.fit(u, h.scalar_type());
    if (buffer.has_value()) {
      check_like_state(op, "output", *buffer, "h", h);
      check_buffers(op, in.layout, h.scalar_type(), {*buffer});
    }
    const Tensor output =
        buffer.has_value() ? *buffer : in.layout.empty(1, h, h.scalar_type());
    if (output.numel() == 0) return output;
    dispatch_gates(in.dtype, h, [&]<typename D>() {
      GruOutput<D> args{};
      fill(args, in, gate, chosen);
      in.layout.show(args.output, output);
      Device::run(args);
    });
    return output;
  }

  static std::tuple<Tensor, Tensor, Tensor> backward(
      const Tensor& grad, const Tensor& u, const Tensor& candidate, const Tensor& h,
      at::ArrayRef<double> options, const OptionalTensor& mask, bool u_wanted,
      bool candidate_wanted, bool h_wanted) {
    const char* op = "gru_output_backward";
    check_gru_output(op, u, candidate, h);
    check_zoneout_mask(op, mask, "h", h);
    check_like_state(op, "grad", grad, "h", h);
    const GruOptions chosen = gru_options(op, options, 0);
    const typename Device::Guard guard(h.device());
    const PlainDispatch plain;
    const GruOperands in(candidate, std::nullopt, h, mask, Device::kRowLength);
    const Tensor gate = in.layout.fit(u, h.scalar_type());
    const Tensor grad_output = in.layout.fit(grad, h.scalar_type());
    Tensor u_grad, candidate_grad, h_grad;
    if (u_wanted) u_grad = in.layout.empty(1, h, h.scalar_type());
    if (candidate_wanted) candidate_grad = in.layout.empty(1, h, in.dtype);
    if (h_wanted) h_grad = in.layout.empty(1, h, h.scalar_type());
    if (h.numel() > 0 && (u_wanted || candidate_wanted || h_wanted)) {
      dispatch_gates(in.dtype, h, [&]<typename D>() {
        GruOutputBackward<D> args{};
        fill<D>(args, in, gate, chosen);
        in.layout.show(args.grad, grad_output);
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
};

}  // namespace trajgru_ext
