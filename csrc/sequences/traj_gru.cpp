#include "sequences/traj_gru.h"

#include <ATen/ops/leaky_relu.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/tanh.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "operators/gates/gate_checks.h"
#include "tensors/library.h"
#include "math/gates.h"
#include "sequences/checks.h"
#include "tensors/tensors.h"

namespace trajgru_ext {
namespace {

using at::Tensor;

void activate_(Tensor& values, const GruChoices& choices) {
  switch (static_cast<Activation>(choices.activation)) {
    case Activation::tanh:
      values.tanh_();
      return;
    case Activation::relu:
      values.relu_();
      return;
    default:
      at::leaky_relu_(values, choices.negative_slope);
  }
}

// Parameter k of those that come in pairs of a weight and perhaps a bias.
std::optional<Conv> conv_parameters(const c10::List<OptionalTensor>& parameters,
                                    int64_t k) {
  const OptionalTensor weight = parameters.get(2 * k);
  if (!weight.has_value()) return std::nullopt;
  return Conv{*weight, parameters.get(2 * k + 1)};
}

}  // namespace

TrajGru::TrajGru(const char* op, const OptionalTensor& sequence,
                 const OptionalTensor& state,
                 const c10::List<OptionalTensor>& parameters, int64_t count,
                 int64_t activation, double negative_slope,
                 const OptionalTensor& zoneout_mask, const OptionalTensor& offset)
    : Sequence(op, count), choices{{0, 1, 2}, activation, negative_slope, true} {
  TORCH_CHECK_VALUE(parameters.size() == 10, op, ": parameters must be 10, got ",
                    parameters.size());
  i2h = conv_parameters(parameters, 0);
  i2f = conv_parameters(parameters, 1);
  const auto from_h = conv_parameters(parameters, 2);
  const auto to_flows = conv_parameters(parameters, 3);
  const auto product = conv_parameters(parameters, 4);
  TORCH_CHECK_VALUE(
      from_h && to_flows && product, op,
      ": the weights of h2f_conv1, flows_conv and ret must be given, got None");
  h2f = *from_h;
  flows = *to_flows;
  ret = *product;
  const Tensor& like = ret.weight;
  check_tensor(op, "ret_weight", like, like.device());
  const bool matrix = like.dim() == 2 && like.size(0) > 0 && like.size(0) % 3 == 0;
  TORCH_CHECK_VALUE(
      matrix && like.size(1) > 0 && like.size(1) % (like.size(0) / 3) == 0, op,
      ": ret_weight must be [3F, L * F], F and L > 0, got ", like.sizes());
  const int64_t outputs = like.size(0) / 3, links = like.size(1) / outputs;
  check_conv(op, "h2f_conv1", h2f, -1, outputs, like);
  const int64_t hidden = h2f.weight.size(0);
  check_conv(op, "flows_conv", flows, 2 * links, hidden, like);
  if (ret.bias.has_value()) {
    check_beside(op, "ret_bias", *ret.bias, {3 * outputs}, like);
  }
  coordinates = flows.to(opmath_dtype(like));
  take_images(op, sequence, state, zoneout_mask, outputs, like, h2f.weight);
  if (inputs.defined()) {
    TORCH_CHECK_VALUE(i2h && i2f, op,
                      ": the weights of i2h and i2f_conv1 must be given with inputs");
    check_conv(op, "i2h", *i2h, 3 * features, inputs.size(2), like);
    check_conv(op, "i2f_conv1", *i2f, hidden, inputs.size(2), like);
  }
  if (offset.has_value()) {
    check_like_sizes(op, "flow_offset", *offset, {2 * links, height, width}, like);
    flow_offset = channels_last(offset->unsqueeze(0).to(opmath_dtype(like)));
  }
  check_gru_update(op, activation, std::nullopt, like);
  TORCH_CHECK_VALUE(negative_slope >= 0, op,
                    ": negative_slope must not be below 0, got ", negative_slope);
}

TrajGruSteps TrajGru::prepare(int64_t first, int64_t last, bool keep_gates,
                              bool with_flows) const {
  const int64_t count = last - first;
  TrajGruSteps made;
  made.first = first;
  made.last = last;
  if (inputs.defined()) {
    const Tensor from = inputs_of(first, count);
    made.gates = convolve(from, *i2h);
    if (with_flows) made.hidden = convolve(from, *i2f);
  } else {
    made.gates = images(count, 3 * features);
    if (with_flows) made.hidden = images(count, h2f.weight.size(0));
  }
  if (with_flows) {
    made.flows = images(count, flows.weight.size(0), opmath_dtype(ret.weight));
  }
  if (keep_gates) made.candidates = images(count, features);
  return made;
}

void TrajGru::generate_flows(TrajGruSteps& made, int64_t k, const Tensor& state) const {
  Tensor hidden = of_step(made.hidden, k);
  const Tensor from_h = state.defined() ? convolve(state, h2f) : conv_of_zero(h2f);
  inputs.defined() ? hidden.add_(from_h) : hidden.copy_(from_h);
  activate_(hidden, choices);
  Tensor flow = of_step(made.flows, k);
  flow.copy_(convolve(hidden.to(flow.scalar_type()), coordinates));
  if (flow_offset.defined()) flow.add_(flow_offset);
}

void TrajGru::update(TrajGruSteps& made, int64_t k, const Tensor& state,
                     const Tensor& output) const {
  Tensor h_gates;
  if (state.defined()) {
    const Tensor flow = of_step(made.flows, k);
    h_gates = flow_conv(state, flow, ret.weight, ret.bias, kTrajGruFlowScale);
  } else {
    h_gates = images(1, 3 * features).copy_(conv_of_zero(ret));
  }
  OptionalTensor candidate;
  if (made.candidates.defined()) candidate = of_step(made.candidates, k);
  gru_step(of_step(made.gates, k), h_gates, or_zero(state), inputs.defined(), choices,
           mask_of(made.first + k), candidate, output);
}

namespace {

using Results = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

// Outputs, and as `kept` has it: flows and hidden, gates and candidates.
Results traj_gru(const OptionalTensor& inputs, const OptionalTensor& h,
                 const c10::List<OptionalTensor>& parameters, int64_t steps,
                 int64_t activation, double negative_slope, const OptionalTensor& mask,
                 const OptionalTensor& offset, int64_t kept) {
  const PlainDispatch plain;
  TORCH_CHECK_VALUE(kept >= 0 && kept <= 2, "traj_gru: kept must be 0, 1 or 2, got ",
                    kept);
  const TrajGru net("traj_gru", inputs, h, parameters, steps, activation,
                    negative_slope, mask, offset);
  const bool keep_flows = kept >= static_cast<int64_t>(Kept::flows);
  const bool keep_gates = kept >= static_cast<int64_t>(Kept::gates);
  const auto none = [&] { return nothing(net.options); };
  const States outputs(net);
  if (net.empty()) {
    const auto left = [&](bool keep, int64_t channels, at::ScalarType dtype) {
      return keep ? net.as_sequence(net.images(steps, channels, dtype)) : none();
    };
    const at::ScalarType dtype = net.ret.weight.scalar_type();
    return {outputs.all(),
            left(keep_flows, net.flows.weight.size(0), opmath_dtype(net.ret.weight)),
            left(keep_flows, net.h2f.weight.size(0), dtype),
            left(keep_gates, 3 * net.features, dtype),
            left(keep_gates, net.features, dtype)};
  }
  const int64_t together = keep_gates ? steps : net.steps_together(3 * net.features);
  std::vector<Tensor> hidden, flows;
  Tensor gates = none(), candidates = none(), state = net.h;
  for (int64_t first = 0; first < steps; first += together) {
    TrajGruSteps some =
        net.prepare(first, std::min(first + together, steps), keep_gates);
    for (int64_t k = 0; k < some.last - first; ++k) {
      const Tensor output = outputs.room(first + k);
      net.generate_flows(some, k, state);
      net.update(some, k, state, output);
      outputs.keep(first + k);
      state = output;
    }
    if (keep_flows) {
      hidden.push_back(some.hidden);
      flows.push_back(some.flows);
    }
    if (keep_gates) {
      gates = net.as_sequence(some.gates);
      candidates = net.as_sequence(some.candidates);
    }
  }
  if (!keep_flows) return {outputs.all(), none(), none(), none(), none()};
  return {outputs.all(), net.as_sequence(join(flows)), net.as_sequence(join(hidden)),
          gates, candidates};
}

TRAJGRU_LIBRARY_IMPL(CompositeExplicitAutograd, m) {
  m.impl("traj_gru", &traj_gru);
}

}  // namespace
}  // namespace trajgru_ext
