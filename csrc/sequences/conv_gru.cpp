#include "sequences/conv_gru.h"

#include <algorithm>
#include <tuple>

#include "cpu/conv/conv_algorithm.h"
#include "operators/gates/gate_checks.h"
#include "tensors/library.h"
#include "sequences/checks.h"
#include "tensors/tensors.h"

namespace trajgru_ext {
namespace {

// Slices [first, first + count) of a convolution's outputs, each of `features`.
Conv conv_slices(const Conv& conv, int64_t first, int64_t count, int64_t features) {
  Conv part{conv.weight.narrow(0, first * features, count * features), conv.bias,
            conv.dilation};
  if (conv.bias.has_value()) {
    part.bias = conv.bias->narrow(0, first * features, count * features);
  }
  return part;
}

}  // namespace

ConvGru::ConvGru(const char* op, const ConvRnnTensors& given, int64_t count,
                 const ConvGruOptions& chosen, const OptionalTensor& old_state_mask)
    : ConvRnn(op, given, count, 3, chosen.dilation, old_state_mask),
      choices{chosen.slots.vec(), chosen.activation, chosen.negative_slope,
              chosen.keep},
      reset_before(chosen.reset_before) {
  check_slots(op, chosen.slots, 3);
  check_gru_update(op, chosen.activation, std::nullopt, given.h_weight);
  TORCH_CHECK_VALUE(chosen.negative_slope >= 0, op,
                    ": negative_slope must not be below 0, got ",
                    chosen.negative_slope);
  const auto image = images(0, features);
  if (!reset_before) {
    fused_ = !empty() && winograd_serves_gates(image, {}, h_conv);
    return;
  }
  const int64_t r = choices.slots[0], u = choices.slots[1], n = choices.slots[2];
  TORCH_CHECK_VALUE(n != 1, op,
                    ": the candidate's slice must be the first or the last where the "
                    "reset comes before the convolution, got slots ",
                    chosen.slots);
  const int64_t first = std::min(r, u);
  ru_slots = {r - first, u - first};
  ru_at = first * features;
  n_at = n * features;
  ru_conv = conv_slices(h_conv, first, 2, features);
  n_conv = conv_slices(h_conv, n, 1, features);
  joined = !empty() && winograd_serves_gates(image, x_conv, n_conv);
  if (!joined || !inputs.defined()) return;
  x_ru_conv = conv_slices(x_conv, first, 2, features);
  x_n_conv = conv_slices(x_conv, n, 1, features);
}

ConvGruSteps ConvGru::prepare(int64_t first, int64_t last, bool keep_gates) const {
  ConvGruSteps made{first, last, {}, {}};
  if (keep_gates || !joined) made.gates = x_gates(first, last - first);
  if (keep_gates && !reset_before) made.candidates = images(last - first, features);
  return made;
}

void ConvGru::update(ConvGruSteps& made, int64_t k, const at::Tensor& state,
                     const at::Tensor& output) const {
  at::Tensor gates;
  if (made.gates.defined()) gates = of_step(made.gates, k);
  const int64_t t = made.first + k;
  if (joined) return update_joined(gates, t, state, output);
  if (reset_before) return update_reset_before(gates, t, state, output);
  OptionalTensor candidate;
  if (made.candidates.defined()) candidate = of_step(made.candidates, k);
  const at::Tensor old = or_zero(state);
  if (fused_ && state.defined()) {
    if (!step_conv_.has_value()) step_conv_ = joint({}, h_conv, 3);
    return winograd_gru_step({old}, *step_conv_, gates, old, inputs.defined(), choices,
                             mask_of(t), candidate, output);
  }
  gru_step(gates, h_gates(state, h_conv), old, inputs.defined(), choices, mask_of(t),
           candidate, output);
}

void ConvGru::update_joined(const at::Tensor& gates, int64_t t, const at::Tensor& state,
                            const at::Tensor& output) const {
  if (!joint_ru_.has_value()) {
    joint_ru_ = joint(x_ru_conv, ru_conv, 2);
    joint_n_ = joint(x_n_conv, n_conv);
  }
  OptionalTensor ru_sums, n_sums;
  if (gates.defined()) {
    ru_sums = ru(gates);
    n_sums = n(gates);
  }
  const at::Tensor old = or_zero(state);
  const at::Tensor u = images(1, features), passed = images(1, features);
  winograd_gru_reset(joint_images(t, old), *joint_ru_, old, ru_slots, ru_sums, u,
                     passed);
  winograd_gru_output(joint_images(t, passed), *joint_n_, u, old, choices, mask_of(t),
                      n_sums, output);
}

void ConvGru::update_reset_before(const at::Tensor& gates, int64_t t,
                                  const at::Tensor& state,
                                  const at::Tensor& output) const {
  // Both convolutions' sum; the inputs' part is there already.
  const auto sum = [&](const at::Tensor& part, const at::Tensor& from,
                       const Conv& conv) {
    const at::Tensor h_part = h_gates(from, conv);
    inputs.defined() ? part.add_(h_part) : part.copy_(h_part);
  };
  const at::Tensor old = or_zero(state);
  sum(ru(gates), state, ru_conv);
  const auto [u, reset] = gru_reset(ru(gates), old, ru_slots);
  sum(n(gates), state.defined() ? channels_last(reset) : at::Tensor(), n_conv);
  output.copy_(gru_output(u, n(gates), old, choices, mask_of(t)));
}

namespace {

using at::Tensor;

// Outputs, and where kept gates and candidates.
std::tuple<Tensor, Tensor, Tensor> conv_gru(
    const OptionalTensor& inputs, const OptionalTensor& h,
    const OptionalTensor& x_weight, const OptionalTensor& x_bias,
    const Tensor& h_weight, const OptionalTensor& h_bias, int64_t steps,
    at::IntArrayRef dilation, at::IntArrayRef slots, bool reset_before,
    int64_t activation, double negative_slope, bool keep, const OptionalTensor& mask,
    bool keep_gates) {
  const PlainDispatch plain;
  const ConvGru net("conv_gru", {inputs, h, x_weight, x_bias, h_weight, h_bias}, steps,
                    {dilation, slots, reset_before, activation, negative_slope, keep},
                    mask);
  const States outputs(net);
  Tensor gates = nothing(net.options), candidates = nothing(net.options);
  if (net.empty()) {
    if (keep_gates) gates = net.as_sequence(net.images(steps, 3 * net.features));
    if (keep_gates && !reset_before) {
      candidates = net.as_sequence(net.images(steps, net.features));
    }
    return {outputs.all(), gates, candidates};
  }
  const int64_t together = keep_gates ? steps : net.steps_together(3 * net.features);
  Tensor state = net.h;
  for (int64_t first = 0; first < steps; first += together) {
    ConvGruSteps some =
        net.prepare(first, std::min(first + together, steps), keep_gates);
    for (int64_t k = 0; k < some.last - first; ++k) {
      const Tensor output = outputs.room(first + k);
      net.update(some, k, state, output);
      outputs.keep(first + k);
      state = output;
    }
    if (!keep_gates) continue;
    gates = net.as_sequence(some.gates);
    if (!reset_before) candidates = net.as_sequence(some.candidates);
  }
  return {outputs.all(), gates, candidates};
}

TRAJGRU_LIBRARY_IMPL(CompositeExplicitAutograd, m) {
  m.impl("conv_gru", &conv_gru);
}

}  // namespace
}  // namespace trajgru_ext
