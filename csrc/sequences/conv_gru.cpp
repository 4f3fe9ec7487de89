#include "sequences/conv_gru.h"

#include <algorithm>
#include <tuple>

#include "operators/gates/gate_checks.h"
#include "sequences/checks.h"
#include "sequences/floats.h"
#include "tensors/library.h"
#include "tensors/tensors.h"

namespace trajgru_ext {
namespace {

// Slices [first, first + count) of a convolution's outputs, each of `features`.
Conv conv_slices(const Conv& conv, int64_t first, int64_t count, int64_t features) {
  if (!conv.weight.defined()) return {};
  Conv part{conv.weight.narrow(0, first * features, count * features), conv.bias,
            conv.dilation};
  if (conv.bias.has_value()) {
    part.bias = conv.bias->narrow(0, first * features, count * features);
  }
  return part;
}

}  // namespace

ConvGru::ConvGru(const char* op, const ConvRnnTensors& given, int64_t count,
                 const Dilations& dilations, at::ArrayRef<double> numbers,
                 const OptionalTensor& zoneout_mask)
    : ConvRnn(op, given, count, 3, dilations, zoneout_mask),
      chosen(gru_options(op, numbers, 3)),
      options(numbers.begin(), numbers.end()) {
  check_slope(op, chosen);
  if (!reset_before()) return;
  steps_add_biases = false;
  TORCH_CHECK_VALUE(n_first() != 1, op,
                    ": the candidate's slice must be the first or the last where the "
                    "reset comes before the convolution, got ",
                    n_first());
  GruOptions ru = chosen;
  ru.order.r -= static_cast<int>(ru_first());
  ru.order.u -= static_cast<int>(ru_first());
  ru_options = as_numbers(ru);
  ru_conv = conv_slices(h_conv, ru_first(), 2, features);
  n_conv = conv_slices(h_conv, n_first(), 1, features);
}

const FusedConv& ConvGru::fused_after() const {
  if (!fused_after_.has_value()) fused_after_ = fuse({}, h_conv, 3);
  return *fused_after_;
}

const FusedConv& ConvGru::fused_ru() const {
  if (!fused_ru_.has_value()) {
    fused_ru_ = fuse(conv_slices(x_conv, ru_first(), 2, features), ru_conv, 2);
  }
  return *fused_ru_;
}

const FusedConv& ConvGru::fused_n() const {
  if (!fused_n_.has_value()) {
    fused_n_ = fuse(conv_slices(x_conv, n_first(), 1, features), n_conv, 1);
  }
  return *fused_n_;
}

ConvGruBlock ConvGru::prepare(int64_t first, int64_t last, bool save_gates) const {
  ConvGruBlock block{first, last, {}, {}};
  if (!fused_before()) {
    block.gates = x_gates(first, block.count());
  } else if (save_gates) {
    block.gates = images(block.count(), 3 * features);
  }
  if (save_gates && !reset_before()) block.candidates = images(block.count(), features);
  return block;
}

void ConvGru::step(const ConvGruBlock& block, int64_t k, const at::Tensor& state,
                   const at::Tensor& output) const {
  const auto of_block = [&](const at::Tensor& all) {
    return all.defined() ? OptionalTensor(of_step(all, k)) : std::nullopt;
  };
  const OptionalTensor gates = of_block(block.gates);
  const int64_t t = block.first + k;
  if (!reset_before()) {
    step_reset_after(*gates, of_block(block.candidates), t, state, output);
  } else if (fused_before()) {
    step_reset_before_fused(gates, t, state, output);
  } else {
    step_reset_before(*gates, t, state, output);
  }
}

void ConvGru::step_reset_after(const at::Tensor& gates, const OptionalTensor& candidate,
                               int64_t t, const at::Tensor& state,
                               const at::Tensor& output) const {
  const at::Tensor old = or_zero(state);
  if (state.defined() && fused_after().exists()) {
    const FusedConv& conv = fused_after();
    return call::winograd_gru_step({old}, conv.weights, conv.bias, conv.taps, gates,
                                   old, inputs.defined(), options, mask_of(t),
                                   candidate, output);
  }
  call::gru_step(gates, h_gates(state, h_conv), old, inputs.defined(), options,
                 mask_of(t), candidate, output, x_bias(), h_bias());
}

void ConvGru::step_reset_before(const at::Tensor& gates, int64_t t,
                                const at::Tensor& state,
                                const at::Tensor& output) const {
  // The sum of both convolutions; the inputs' part is there already.
  const auto add_h_gates = [&](const at::Tensor& part, const at::Tensor& from,
                               const Conv& conv) {
    const at::Tensor h_part = h_gates(from, conv);
    inputs.defined() ? part.add_(h_part) : part.copy_(h_part);
  };
  const at::Tensor old = or_zero(state);
  add_h_gates(ru(gates), state, ru_conv);
  const auto [u, reset] = call::gru_reset(ru(gates), std::nullopt, old, ru_options);
  add_h_gates(n(gates), state.defined() ? channels_last(reset) : at::Tensor(), n_conv);
  call::gru_output_into(u, n(gates), old, options, mask_of(t), output);
}

void ConvGru::step_reset_before_fused(const OptionalTensor& gates, int64_t t,
                                      const at::Tensor& state,
                                      const at::Tensor& output) const {
  OptionalTensor ru_sums, n_sums;
  if (gates.has_value()) {
    ru_sums = ru(*gates);
    n_sums = n(*gates);
  }
  const FusedConv &to_ru = fused_ru(), &to_n = fused_n();
  const at::Tensor old = or_zero(state);
  const at::Tensor u = images(1, features), reset = images(1, features);
  call::winograd_gru_reset(fused_images(t, old), to_ru.weights, to_ru.bias, to_ru.taps,
                           old, ru_options, ru_sums, u, reset);
  call::winograd_gru_output(fused_images(t, reset), to_n.weights, to_n.bias, to_n.taps,
                            u, old, options, mask_of(t), n_sums, output);
}

namespace {

using at::Tensor;

// Outputs, and where saved gates and candidates.
std::tuple<Tensor, Tensor, Tensor> conv_gru(
    const OptionalTensor& inputs, const OptionalTensor& h,
    const OptionalTensor& x_weight, const OptionalTensor& x_bias,
    const Tensor& h_weight, const OptionalTensor& h_bias, int64_t steps,
    at::IntArrayRef x_dilation, at::IntArrayRef h_dilation,
    at::ArrayRef<double> options, const OptionalTensor& mask, bool save_gates) {
  const PlainDispatch plain;
  const ConvGru net("conv_gru", {inputs, h, x_weight, x_bias, h_weight, h_bias}, steps,
                    {x_dilation, h_dilation}, options, mask);
  if (net.in_floats()) {
    return in_dtype(in_floats(&conv_gru, inputs, h, x_weight, x_bias, h_weight, h_bias,
                              steps, x_dilation, h_dilation, options, mask, save_gates),
                    net.like);
  }
  const bool save_candidates = save_gates && !net.reset_before();
  const States outputs(net);
  Tensor gates = nothing(net.like), candidates = nothing(net.like);
  if (net.empty()) {
    if (save_gates) gates = net.as_sequence(net.images(steps, 3 * net.features));
    if (save_candidates) candidates = net.as_sequence(net.images(steps, net.features));
    return {outputs.all(), gates, candidates};
  }
  const int64_t steps_per_block =
      save_gates ? steps : net.steps_per_block(3 * net.features);
  Tensor state = net.h;
  for (int64_t first = 0; first < steps; first += steps_per_block) {
    const int64_t last = std::min(first + steps_per_block, steps);
    const ConvGruBlock block = net.prepare(first, last, save_gates);
    for (int64_t t = first; t < last; ++t) {
      const Tensor output = outputs.buffer(t);
      net.step(block, t - first, state, output);
      outputs.store(t);
      state = output;
    }
    if (save_gates) gates = net.as_sequence(block.gates);
    if (save_candidates) candidates = net.as_sequence(block.candidates);
  }
  return {outputs.all(), gates, candidates};
}

TRAJGRU_LIBRARY_IMPL(CompositeExplicitAutograd, m) {
  m.impl("conv_gru", &conv_gru);
}

}  // namespace
}  // namespace trajgru_ext
