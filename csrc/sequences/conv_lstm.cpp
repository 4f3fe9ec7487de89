#include "sequences/conv_lstm.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <tuple>

#include "cpu/conv/conv_algorithm.h"
#include "operators/gates/gate_checks.h"
#include "tensors/library.h"
#include "sequences/checks.h"
#include "tensors/tensors.h"

namespace trajgru_ext {

ConvLstm::ConvLstm(const char* op, const ConvRnnTensors& given,
                   const OptionalTensor& cell, const PeepholeTensors& peephole,
                   int64_t count, at::IntArrayRef dilation, at::IntArrayRef slots,
                   double forget_bias, const OptionalTensor& old_state_mask)
    : ConvRnn(op, given, count, 4, dilation, old_state_mask) {
  check_slots(op, slots, 4);
  if (cell.has_value()) {
    const auto wanted = {batch, features, height, width};
    check_beside(op, "c", *cell, wanted, given.h_weight);
    c = channels_last(*cell);
    c_format = memory_format(*cell);
  }
  choices.slots = slots.vec();
  choices.forget_bias = forget_bias;
  joined = !empty() && winograd_serves_gates(images(0, features), x_conv, h_conv);
  check_peephole(op, peephole.w_ci, peephole.w_cf, peephole.w_co,
                 {batch, features, height, width}, options.device());
  if (!peephole.w_ci.has_value()) return;
  for (const at::Tensor& w : {*peephole.w_ci, *peephole.w_cf, *peephole.w_co}) {
    check_beside(op, "peephole", w, {-1, -1, -1, -1}, given.h_weight);
  }
  const auto fitted = [&](const OptionalTensor& weight) {
    return channels_last(weight->to(opmath_dtype(given.h_weight)));
  };
  choices.w_ci = fitted(peephole.w_ci);
  choices.w_cf = fitted(peephole.w_cf);
  choices.w_co = fitted(peephole.w_co);
}

void ConvLstm::update(int64_t t, const at::Tensor& gates, const at::Tensor& h_before,
                      const at::Tensor& c_before, bool leaves,
                      const at::Tensor& h_after, const at::Tensor& c_after) const {
  const OptionalTensor kept = mask_of(t);
  OptionalTensor old;
  if (kept.has_value()) old = or_zero(h_before);
  if (joined) {
    if (!step_conv_.has_value()) step_conv_ = joint(x_conv, h_conv, 4);
    OptionalTensor left;
    if (leaves) left = gates;
    return winograd_lstm_step(joint_images(t, h_before), *step_conv_, old,
                              or_zero(c_before), choices, kept, left, h_after, c_after);
  }
  lstm_step(gates, h_gates(h_before, h_conv), old, or_zero(c_before), inputs.defined(),
            choices, kept, leaves, h_after, c_after);
}

namespace {

using at::Tensor;

// Outputs, the last cell state, and as wanted all cell states and gates.
std::tuple<Tensor, Tensor, Tensor, Tensor> conv_lstm(
    const OptionalTensor& inputs, const OptionalTensor& h,
    const OptionalTensor& x_weight, const OptionalTensor& x_bias,
    const Tensor& h_weight, const OptionalTensor& h_bias, const OptionalTensor& c,
    const OptionalTensor& w_ci, const OptionalTensor& w_cf, const OptionalTensor& w_co,
    int64_t steps, at::IntArrayRef dilation, at::IntArrayRef slots, double forget_bias,
    const OptionalTensor& mask, bool keep_cells, bool keep_gates) {
  const PlainDispatch plain;
  TORCH_CHECK_VALUE(keep_cells || !keep_gates,
                    "conv_lstm: keep_gates takes keep_cells");
  const ConvLstm net("conv_lstm", {inputs, h, x_weight, x_bias, h_weight, h_bias}, c,
                     {w_ci, w_cf, w_co}, steps, dilation, slots, forget_bias, mask);
  const int64_t features = net.features;
  Tensor gates = nothing(net.options), cells = nothing(net.options);
  const States outputs(net);
  if (keep_cells) cells = net.images(steps, features);
  Tensor c_after = net.or_zero(net.c);
  if (net.empty()) {
    if (keep_gates) gates = net.images(steps, 4 * features);
  } else {
    const int64_t together = keep_gates ? steps : net.steps_together(4 * features);
    Tensor h_before = net.h, c_before = net.c, some;
    if (!keep_cells) c_after = net.images(1, features);
    for (int64_t t = 0; t < steps; ++t) {
      const int64_t k = t % together;
      if (k == 0) some = net.x_gates(t, std::min(together, steps - t));
      const Tensor output = outputs.room(t);
      if (keep_cells) c_after = net.of_step(cells, t);
      net.update(t, net.of_step(some, k), h_before, c_before, keep_gates, output,
                 c_after);
      outputs.keep(t);
      h_before = output;
      c_before = c_after;
    }
    if (keep_gates) gates = some;
  }
  // A tensor of its own, neither an argument nor part of another result.
  const Tensor last =
      at::empty(c_after.sizes(), net.options.memory_format(net.c_format))
          .copy_(c_after);
  if (keep_cells) cells = net.as_sequence(cells);
  if (keep_gates) gates = net.as_sequence(gates);
  return {outputs.all(), last, cells, gates};
}

TRAJGRU_LIBRARY_IMPL(CompositeExplicitAutograd, m) {
  m.impl("conv_lstm", &conv_lstm);
}

}  // namespace
}  // namespace trajgru_ext
