#pragma once

// gru_step and its gradient on any device, for the sequence operators: in buffers that
// the caller has made, all in one dtype and memory format. See gru_operators.h for
// what Device is.

#include <ATen/Dispatch.h>

#include <initializer_list>
#include <optional>

#include "gate_checks.h"
#include "gate_layout.h"
#include "gru_operators.h"
#include "math/gru_step.h"

namespace trajgru_ext {

// Buffers that are written must be dense, as all others here are.
inline void check_buffers(const char* op, GateLayout& layout, at::ScalarType dtype,
                          std::initializer_list<at::Tensor> buffers) {
  for (const at::Tensor& buffer : buffers) {
    TORCH_CHECK_VALUE(buffer.scalar_type() == dtype && layout.holds(buffer), op,
                      ": all tensors must be dense in one memory format and dtype, ",
                      "got strides ", buffer.strides(), " for ", buffer.sizes());
  }
}

template <typename Device>
struct GruSteps {
  using Tensor = at::Tensor;

  static void step(const Tensor& gates, const Tensor& h_gates, const Tensor& h,
                   bool has_inputs, at::IntArrayRef slots, int64_t activation,
                   double negative_slope, bool keep, const OptionalTensor& mask,
                   const OptionalTensor& candidate, const Tensor& output) {
    static constexpr const char* op = "gru_step";
    check_gates(op, gates, h_gates, "h", h, slots, 3);
    check_gru_update(op, activation, mask, h);
    check_like_state(op, "output", output, "h", h);
    if (candidate.has_value()) check_like_state(op, "candidate", *candidate, "h", h);
    const typename Device::Guard guard(h.device());
    const PlainDispatch plain;
    GateLayout layout(h_gates, h, Device::kRowLength);
    const at::ScalarType dtype = h.scalar_type();
    const Tensor read = layout.fit(h_gates, dtype), state = layout.fit(h, dtype);
    const Tensor kept = layout.fit(mask, at::kBool);
    const Tensor left = candidate.value_or(Tensor());
    check_buffers(op, layout, dtype, {gates, output});
    if (left.defined()) check_buffers(op, layout, dtype, {left});
    if (h.numel() == 0) return;
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, dtype, op, [&] {
      using D = GateDtypes<scalar_t, scalar_t>;
      using T = at::opmath_type<scalar_t>;
      Device::template run<D>(layout, [&]<typename index_t>() {
        return GruStep<D, T, index_t>{layout.rows<index_t>(),
                                      layout.view<scalar_t, index_t>(gates),
                                      has_inputs,
                                      layout.view<const scalar_t, index_t>(read),
                                      layout.view<const scalar_t, index_t>(state),
                                      layout.view<const bool, index_t>(kept),
                                      layout.view<scalar_t, index_t>(left),
                                      layout.view<scalar_t, index_t>(output),
                                      gru_slots(slots),
                                      gru_update<T>(activation, negative_slope, keep)};
      });
    });
  }

  static void backward(const Tensor& gates, const Tensor& candidate, const Tensor& h,
                       const Tensor& grad, at::IntArrayRef slots, int64_t activation,
                       double negative_slope, bool keep, const OptionalTensor& mask,
                       const Tensor& h_gates_grad, const Tensor& h_grad) {
    static constexpr const char* op = "gru_step_backward";
    check_gates(op, gates, h_gates_grad, "h", h, slots, 3);
    check_gru_update(op, activation, mask, h);
    check_like_state(op, "candidate", candidate, "h", h);
    check_like_state(op, "grad", grad, "h", h);
    check_like_state(op, "h_grad", h_grad, "h", h);
    const typename Device::Guard guard(h.device());
    const PlainDispatch plain;
    GateLayout layout(gates, h, Device::kRowLength);
    const at::ScalarType dtype = h.scalar_type();
    const Tensor state = layout.fit(h, dtype), seed = layout.fit(grad, dtype);
    const Tensor kept = layout.fit(mask, at::kBool);
    check_buffers(op, layout, dtype, {gates, candidate, h_gates_grad, h_grad});
    if (h.numel() == 0) return;
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, dtype, op, [&] {
      using D = GateDtypes<scalar_t, scalar_t>;
      using T = at::opmath_type<scalar_t>;
      Device::template run<D>(layout, [&]<typename index_t>() {
        return GruStepBackward<D, T, index_t>{
            layout.rows<index_t>(),
            layout.view<scalar_t, index_t>(gates),
            layout.view<const scalar_t, index_t>(candidate),
            layout.view<const scalar_t, index_t>(state),
            layout.view<const scalar_t, index_t>(seed),
            layout.view<const bool, index_t>(kept),
            layout.view<scalar_t, index_t>(h_gates_grad),
            layout.view<scalar_t, index_t>(h_grad),
            gru_slots(slots),
            gru_update<T>(activation, negative_slope, keep)};
      });
    });
  }
};

}  // namespace trajgru_ext
