#include "conv_gru.h"

#include <algorithm>
#include <tuple>

#include "conv_algorithm.h"
#include "gate_checks.h"
#include "library.h"
#include "sequence_checks.h"
#include "tensors.h"

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
  if (!reset_before) return;
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
  joined = !empty() && winograd_serves_both(images(0, features), x_conv, n_conv);
  if (!joined || !inputs.defined()) return;
  x_ru_conv = conv_slices(x_conv, first, 2, features);
  x_n_conv = conv_slices(x_conv, n, 1, features);
}

ConvGruSteps ConvGru::prepare(int64_t first, int64_t last, bool keep_gates) const {
  ConvGruSteps made{first, last, x_gates(first, last - first), {}};
  if (keep_gates && !reset_before) made.candidates = images(last - first, features);
  return made;
}

void ConvGru::update(ConvGruSteps& made, int64_t k, const at::Tensor& state,
                     const at::Tensor& output) const {
  const at::Tensor gates = of_step(made.gates, k);
  if (reset_before) return update_reset_before(gates, made.first + k, state, output);
  OptionalTensor candidate;
  if (made.candidates.defined()) candidate = of_step(made.candidates, k);
  gru_step(gates, h_gates(state, h_conv), or_zero(state), inputs.defined(), choices,
           mask_of(made.first + k), candidate, output);
}

void ConvGru::update_reset_before(const at::Tensor& gates, int64_t t,
                                  const at::Tensor& state,
                                  const at::Tensor& output) const {
  // Both convolutions' sum; the inputs' part is there already where they are two.
  const auto sum = [&](const at::Tensor& part, const at::Tensor& from,
                       const Conv& from_x, const Conv& conv,
                       std::optional<JointConv>& both) {
    if (joined) {
      if (!both.has_value()) both = joint(from_x, conv);
      return winograd_conv(joint_images(t, from), *both, part);
    }
    const at::Tensor h_part = h_gates(from, conv);
    inputs.defined() ? part.add_(h_part) : part.copy_(h_part);
  };
  const at::Tensor old = or_zero(state);
  sum(ru(gates), state, x_ru_conv, ru_conv, joint_ru_);
  const auto [u, reset] = gru_reset(ru(gates), old, ru_slots);
  const at::Tensor passed = state.defined() ? channels_last(reset) : at::Tensor();
  sum(n(gates), passed, x_n_conv, n_conv, joint_n_);
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
  Tensor outputs = net.images(steps, net.features);
  Tensor gates = nothing(net.options), candidates = nothing(net.options);
  if (net.empty()) {
    if (keep_gates) gates = net.as_sequence(net.images(steps, 3 * net.features));
    if (keep_gates && !reset_before) {
      candidates = net.as_sequence(net.images(steps, net.features));
    }
    return {net.result(outputs, net.format), gates, candidates};
  }
  const int64_t together = keep_gates ? steps : std::min(steps, kStepsTogether);
  Tensor state = net.h;
  for (int64_t first = 0; first < steps; first += together) {
    ConvGruSteps some =
        net.prepare(first, std::min(first + together, steps), keep_gates);
    for (int64_t k = 0; k < some.last - first; ++k) {
      const Tensor output = net.of_step(outputs, first + k);
      net.update(some, k, state, output);
      state = output;
    }
    if (!keep_gates) continue;
    gates = net.as_sequence(some.gates);
    if (!reset_before) candidates = net.as_sequence(some.candidates);
  }
  return {net.result(outputs, net.format), gates, candidates};
}

TRAJGRU_LIBRARY_IMPL(CompositeExplicitAutograd, m) {
  m.impl("conv_gru", &conv_gru);
}

}  // namespace
}  // namespace trajgru_ext
