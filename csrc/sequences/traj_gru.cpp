#include "sequences/traj_gru.h"

#include <ATen/Context.h>
#include <ATen/ops/leaky_relu.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/tanh.h>

#include <algorithm>
#include <tuple>
#include <utility>
#include <vector>

#include "math/gates.h"
#include "operators/gates/gate_checks.h"
#include "sequences/checks.h"
#include "sequences/floats.h"
#include "tensors/library.h"
#include "tensors/tensors.h"

namespace trajgru_ext {
using at::Tensor;

void activate_(Tensor& values, const GruUpdate<double>& update) {
  switch (update.activation) {
    case Activation::tanh:
      values.tanh_();
      return;
    case Activation::relu:
      values.relu_();
      return;
    default:
      at::leaky_relu_(values, update.negative_slope);
  }
}

TrajGru::TrajGru(const char* op, const TrajGruTensors& given, int64_t count,
                 at::ArrayRef<double> numbers)
    : Sequence(op, count),
      chosen(gru_options(op, numbers, 3)),
      options(numbers.begin(), numbers.end()) {
  check_slope(op, chosen);
  TORCH_CHECK_VALUE(given.parameters.size() == 10, op, ": parameters must be 10, got ",
                    given.parameters.size());
  size_t next = 0;
  for (Conv* conv : layers.all()) {
    const OptionalTensor weight = given.parameters.get(next++);
    const OptionalTensor bias = given.parameters.get(next++);
    if (!weight.has_value()) continue;
    *conv = {*weight, bias};
    if (bias.has_value()) conv->bias = bias->contiguous();
  }
  check_layers(op);
  const Tensor& parameter = layers.ret.weight;
  take_images(op, given.inputs, given.h, given.mask, parameter.size(0) / 3, parameter,
              layers.h2f.weight);
  if (inputs.defined()) {
    const Conv &i2h = layers.i2h, &i2f = layers.i2f;
    TORCH_CHECK_VALUE(i2h.weight.defined() && i2f.weight.defined(), op,
                      ": the weights of i2h and i2f_conv1 must be given with inputs");
    check_conv(op, "i2h", i2h, 3 * features, inputs.size(2), parameter);
    check_conv(op, "i2f_conv1", i2f, hidden_channels(), inputs.size(2), parameter);
  } else {
    layers.i2h = layers.i2f = {};
  }
  if (plan.at_once) {
    // As the convolutions would have them at every step.
    for (Conv* conv : {&layers.i2h, &layers.i2f, &layers.h2f, &layers.flows}) {
      if (conv->weight.defined()) conv->weight = channels_last(conv->weight);
    }
  }
  coordinates = layers.flows.to(opmath_dtype(parameter));
  if (given.flow_offset.has_value()) {
    const Tensor& offset = *given.flow_offset;
    check_sizes(op, "flow_offset", offset, {flow_channels(), height, width}, parameter);
    flow_offset = channels_last(offset.unsqueeze(0).to(opmath_dtype(parameter)));
  }
}

// Those that there are with or without inputs.
void TrajGru::check_layers(const char* op) const {
  const Conv &h2f = layers.h2f, &flows = layers.flows, &ret = layers.ret;
  TORCH_CHECK_VALUE(
      h2f.weight.defined() && flows.weight.defined() && ret.weight.defined(), op,
      ": the weights of h2f_conv1, flows_conv and ret must be given, got None");
  const Tensor& matrix = ret.weight;
  check_tensor(op, "ret_weight", matrix, matrix.device());
  const bool fits = matrix.dim() == 2 && matrix.size(0) > 0 && matrix.size(0) % 3 == 0;
  TORCH_CHECK_VALUE(
      fits && matrix.size(1) > 0 && matrix.size(1) % (matrix.size(0) / 3) == 0, op,
      ": ret_weight must be [3F, L * F], F and L > 0, got ", matrix.sizes());
  const int64_t outputs = matrix.size(0) / 3, links = matrix.size(1) / outputs;
  check_conv(op, "h2f_conv1", h2f, -1, outputs, matrix);
  check_conv(op, "flows_conv", flows, 2 * links, hidden_channels(), matrix);
  if (ret.bias.has_value()) {
    check_argument(op, "ret_bias", *ret.bias, {3 * outputs}, matrix);
  }
}

TrajGruBlock TrajGru::prepare(int64_t first, int64_t last, bool save_gates,
                              bool with_flows) const {
  TrajGruBlock block{first, last, {}, {}, {}, {}};
  const int64_t count = block.count();
  if (inputs.defined()) {
    const Tensor from = inputs_of(first, count);
    block.gates = convolve(from, layers.i2h, !plan.adds_biases);
    if (with_flows) block.hidden = convolve(from, layers.i2f);
  } else {
    block.gates = images(count, 3 * features);
    if (with_flows) block.hidden = images(count, hidden_channels());
  }
  if (with_flows) {
    block.flows = images(count, flow_channels(), opmath_dtype(layers.ret.weight));
  }
  if (save_gates) block.candidates = images(count, features);
  return block;
}

void TrajGru::generate_flows(const TrajGruBlock& block, int64_t k,
                             const Tensor& state) const {
  if (plan.adds_biases) return generate_flows_in_kernels(block, k, state);
  const Conv& h2f = layers.h2f;
  Tensor hidden = of_step(block.hidden, k);
  const Tensor from_h = state.defined() ? convolve(state, h2f) : conv_of_zero(h2f);
  inputs.defined() ? hidden.add_(from_h) : hidden.copy_(from_h);
  activate_(hidden, chosen.update);
  const at::NoTF32Guard no_tf32;  // flows are at least float32
  const Tensor flow = of_step(block.flows, k);
  flow.copy_(convolve(hidden.to(flow.scalar_type()), coordinates));
  if (flow_offset.defined()) flow.add_(flow_offset);
}

void TrajGru::generate_flows_in_kernels(const TrajGruBlock& block, int64_t k,
                                        const Tensor& state) const {
  const Tensor hidden = of_step(block.hidden, k), flow = of_step(block.flows, k);
  OptionalTensor from_h, offset;
  if (state.defined()) from_h = convolve(state, layers.h2f, false);
  if (flow_offset.defined()) offset = flow_offset;
  call::conv_sum(hidden, from_h, layers.h2f.bias, std::nullopt, inputs.defined(),
                 options, /*activates=*/true);
  const at::NoTF32Guard no_tf32;  // flows are at least float32
  const Tensor found = convolve(hidden.to(flow.scalar_type()), coordinates, false);
  call::conv_sum(flow, found, coordinates.bias, offset, false, options, false);
}

void TrajGru::step(const TrajGruBlock& block, int64_t k, const Tensor& state,
                   const Tensor& output) const {
  const Conv& ret = layers.ret;
  const Tensor gates = of_step(block.gates, k);
  const OptionalTensor mask = mask_of(block.first + k);
  OptionalTensor candidate;
  if (block.candidates.defined()) candidate = of_step(block.candidates, k);
  if (state.defined() && plan.adds_biases) {
    call::flow_conv_gru_step(gates, state, of_step(block.flows, k), ret.weight,
                             kTrajGruFlowScale, inputs.defined(), options, mask,
                             candidate, output, layers.i2h.bias, ret.bias);
    return;
  }
  const auto bias_of = [&](const Conv& conv) {
    return plan.adds_biases ? conv.bias : std::nullopt;
  };
  Tensor h_gates;
  if (state.defined()) {
    h_gates = call::flow_conv(state, of_step(block.flows, k), ret.weight, ret.bias,
                              kTrajGruFlowScale);
  } else if (plan.adds_biases) {
    h_gates = images(1, 3 * features).zero_();
  } else {
    h_gates = images(1, 3 * features).copy_(conv_of_zero(ret));
  }
  call::gru_step(gates, h_gates, or_zero(state), inputs.defined(), options, mask,
                 candidate, output, bias_of(layers.i2h), bias_of(ret));
}

namespace {

using Results = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

// Outputs, and as `saved` has it: flows and hidden, gates and candidates.
Results traj_gru(const OptionalTensor& inputs, const OptionalTensor& h,
                 const c10::List<OptionalTensor>& parameters, int64_t steps,
                 at::ArrayRef<double> options, const OptionalTensor& mask,
                 const OptionalTensor& offset, int64_t saved) {
  const PlainDispatch plain;
  TORCH_CHECK_VALUE(saved >= 0 && saved <= 2, "traj_gru: saved must be 0, 1 or 2, got ",
                    saved);
  const TrajGru net("traj_gru", {inputs, h, parameters, mask, offset}, steps, options);
  const bool save_flows = saved >= static_cast<int64_t>(Saved::flows);
  const bool save_gates = saved >= static_cast<int64_t>(Saved::gates);
  if (net.in_floats()) {
    Results found = in_floats(&traj_gru, inputs, h, parameters, steps, options, mask,
                              offset, saved);
    if (!save_flows) return in_dtype(std::move(found), net.like);
    // Flows are at least float32.
    const Tensor flows = std::exchange(std::get<1>(found), nothing(net.like));
    Results results = in_dtype(std::move(found), net.like);
    std::get<1>(results) = flows;
    return results;
  }
  const States outputs(net);
  if (net.empty()) {
    const auto images = [&](bool save, int64_t channels, at::ScalarType dtype) {
      return save ? net.as_sequence(net.images(steps, channels, dtype))
                  : nothing(net.like);
    };
    const Tensor& parameter = net.layers.ret.weight;
    const at::ScalarType dtype = parameter.scalar_type();
    return {outputs.all(),
            images(save_flows, net.flow_channels(), opmath_dtype(parameter)),
            images(save_flows, net.hidden_channels(), dtype),
            images(save_gates, 3 * net.features, dtype),
            images(save_gates, net.features, dtype)};
  }
  const int64_t steps_per_block =
      save_gates ? steps : net.steps_per_block(3 * net.features);
  std::vector<Tensor> hidden, flows;
  Tensor gates = nothing(net.like), candidates = nothing(net.like), state = net.h;
  for (int64_t first = 0; first < steps; first += steps_per_block) {
    const int64_t last = std::min(first + steps_per_block, steps);
    const TrajGruBlock block = net.prepare(first, last, save_gates);
    for (int64_t t = first; t < last; ++t) {
      const Tensor output = outputs.buffer(t);
      net.generate_flows(block, t - first, state);
      net.step(block, t - first, state, output);
      outputs.store(t);
      state = output;
    }
    if (save_flows) {
      hidden.push_back(block.hidden);
      flows.push_back(block.flows);
    }
    if (save_gates) {
      gates = net.as_sequence(block.gates);
      candidates = net.as_sequence(block.candidates);
    }
  }
  const auto whole = [&](const std::vector<Tensor>& parts) {
    return save_flows ? net.as_sequence(join(parts)) : nothing(net.like);
  };
  return {outputs.all(), whole(flows), whole(hidden), gates, candidates};
}

TRAJGRU_LIBRARY_IMPL(CompositeExplicitAutograd, m) {
  m.impl("traj_gru", &traj_gru);
}

}  // namespace
}  // namespace trajgru_ext
