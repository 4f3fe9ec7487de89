// The gradient of traj_gru: back in time; the gradients to parameters for a block of
// steps at once.

#include <ATen/ops/leaky_relu_backward.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/tanh_backward.h>
#include <ATen/ops/threshold_backward.h>

#include <algorithm>
#include <array>
#include <tuple>
#include <vector>

#include "math/gates.h"
#include "sequences/checks.h"
#include "sequences/floats.h"
#include "sequences/traj_gru.h"
#include "tensors/library.h"
#include "tensors/tensors.h"

namespace trajgru_ext {
namespace {

using at::Tensor;

// From the gradient to the activation's value to that to its argument; a value has the
// sign of its argument.
void activation_backward(const Tensor& grad, const Tensor& values,
                         const GruUpdate<double>& update, Tensor& result) {
  switch (update.activation) {
    case Activation::tanh:
      at::tanh_backward_out(result, grad, values);
      return;
    case Activation::relu:
      at::threshold_backward_out(result, grad, values, 0);
      return;
    default:
      at::leaky_relu_backward_out(result, grad, values, update.negative_slope, true);
  }
}

// The gradients to inputs, h and the ten parameters, as the operator returns them.
using TrajGruGradients = TensorTuple<12>;
constexpr int64_t kTrajGruParameters = 2;  // where those of the parameters begin

// Which of them are wanted.
struct TrajGruWanted {
  std::vector<bool> flags;

  bool inputs() const { return flags[0]; }
  bool h() const { return flags[1]; }
  bool weight(int64_t layer) const { return flags[kTrajGruParameters + 2 * layer]; }
  bool bias(int64_t layer) const { return flags[kTrajGruParameters + 2 * layer + 1]; }
};

class TrajGruBackward {
 public:
  // saved: all steps, as far as `level` has it.
  TrajGruBackward(const TrajGru& net, const Tensor& grad,
                  const OptionalTensor& flows_grad, const Tensor& outputs,
                  const TrajGruBlock& saved, Saved level, const TrajGruWanted& wanted);

  void run();
  TrajGruGradients results() const;

 private:
  Tensor state_before(int64_t t) const {
    return net_.state_before(outputs_, net_.h, t);
  }
  TrajGruBlock block(int64_t first, int64_t last) const;
  void make_buffers(const TrajGruBlock& block);
  void step_back(const TrajGruBlock& block, int64_t k);
  void step_back_flows(const TrajGruBlock& block, int64_t k, const Tensor& state);
  void add_parameter_grads(const TrajGruBlock& block);
  bool state_wanted(int64_t t) const { return t > 0 || wanted_.h(); }
  // Whether the gradient to the flows of a step is 0: they moved nothing.
  bool flows_idle(int64_t t) const {
    return t == 0 && !net_.h.defined() && !flows_grad_.has_value();
  }

  const TrajGru& net_;
  const Tensor grad_;
  const OptionalTensor flows_grad_;
  const Tensor outputs_;
  const TrajGruBlock saved_;
  const Saved level_;
  const TrajGruWanted wanted_;
  TrajGruLayers<ConvGrad> sums_;
  Tensor inputs_grad_;
  Tensor h_grad_;        // of a step, to the state before it
  Tensor h_gates_grad_;  // of a step; of the block's, where these are taken at once

  // Of the block's steps; gates_grad_ in place of the gates where these were computed
  // again.
  Tensor gates_grad_, hidden_grads_, flows_grads_;
};

TrajGruBackward::TrajGruBackward(const TrajGru& net, const Tensor& grad,
                                 const OptionalTensor& flows_grad,
                                 const Tensor& outputs, const TrajGruBlock& saved,
                                 Saved level, const TrajGruWanted& wanted)
    : net_(net),
      grad_(net.at_once(grad)),
      flows_grad_(flows_grad),
      outputs_(net.at_once(outputs)),
      saved_(saved),
      level_(level),
      wanted_(wanted) {
  for (size_t k = 0; k < net.layers.all().size(); ++k) {
    const Conv& conv = *net.layers.all()[k];
    if (!conv.weight.defined()) continue;
    *sums_.all()[k] = ConvGrad(conv, wanted.weight(k), wanted.bias(k));
  }
  if (net.inputs.defined() && wanted.inputs()) inputs_grad_ = net.inputs_grad();
  h_grad_ = net.images(1, net.features);
  if (!net.empty()) return;  // the steps write both before they add to them
  if (inputs_grad_.defined()) inputs_grad_.zero_();
  h_grad_.zero_();
}

// Some steps as the forward pass saved them, or computed again.
TrajGruBlock TrajGruBackward::block(int64_t first, int64_t last) const {
  const auto part = [&](const Tensor& all) {
    return net_.of_step(all, first, last - first);
  };
  if (level_ == Saved::gates) {
    return {first,
            last,
            part(saved_.hidden),
            part(saved_.flows),
            part(saved_.gates),
            part(saved_.candidates)};
  }
  const bool flows_saved = level_ == Saved::flows;
  TrajGruBlock again = net_.prepare(first, last, true, !flows_saved);
  if (flows_saved) {
    again.hidden = part(saved_.hidden);
    again.flows = part(saved_.flows);
  }
  const Tensor output = net_.images(1, net_.features);
  for (int64_t t = first; t < last; ++t) {
    const Tensor state = state_before(t);
    if (!flows_saved) net_.generate_flows(again, t - first, state);
    net_.step(again, t - first, state, output);
  }
  return again;
}

void TrajGruBackward::make_buffers(const TrajGruBlock& block) {
  const bool fits =
      hidden_grads_.defined() && hidden_grads_.size(0) == block.count() * net_.batch;
  if (!fits) {
    hidden_grads_ = net_.images(block.count(), net_.hidden_channels());
    flows_grads_ =
        net_.images(block.count(), net_.flow_channels(), block.flows.scalar_type());
    h_gates_grad_ =
        net_.images(net_.plan.at_once ? block.count() : 1, 3 * net_.features);
  }
  if (level_ != Saved::gates) {
    gates_grad_ = block.gates;
  } else if (!fits) {
    gates_grad_ = net_.images(block.count(), 3 * net_.features);
  }
}

void TrajGruBackward::step_back(const TrajGruBlock& block, int64_t k) {
  const int64_t t = block.first + k;
  const Tensor state = state_before(t), old = net_.or_zero(state);
  const Tensor h_gates_grad = net_.of_step(h_gates_grad_, net_.plan.at_once ? k : 0);
  Tensor grad = channels_last(grad_.select(0, t));
  if (t + 1 < net_.steps) grad = h_grad_.add_(grad);
  call::gru_step_backward(net_.of_step(block.gates, k),
                          net_.of_step(block.candidates, k), old, grad, net_.options,
                          net_.mask_of(t), net_.of_step(gates_grad_, k), h_gates_grad,
                          h_grad_);
  // A state of 0 is moved nowhere.
  OptionalTensor to_state, to_flows, to_weight, to_bias;
  if (state.defined()) {
    if (state_wanted(t)) to_state = h_grad_;
    to_flows = net_.of_step(flows_grads_, k);
    to_weight = sums_.ret.weight;
  }
  if (!net_.plan.at_once) to_bias = sums_.ret.bias;
  call::flow_conv_add_grads(h_gates_grad, old, net_.of_step(block.flows, k),
                            net_.layers.ret.weight, kTrajGruFlowScale, to_state,
                            to_flows, to_weight, to_bias);
  step_back_flows(block, k, state);
}

// From the gradient to the flows, by way of flow_conv, to the layers that made them.
void TrajGruBackward::step_back_flows(const TrajGruBlock& block, int64_t k,
                                      const Tensor& state) {
  const int64_t t = block.first + k;
  const Tensor flows_grad = net_.of_step(flows_grads_, k);
  Tensor hidden_grad = net_.of_step(hidden_grads_, k);
  if (flows_idle(t)) {
    flows_grad.zero_();
    hidden_grad.zero_();
    return;
  }
  if (!state.defined()) flows_grad.zero_();  // no warp has written it
  if (flows_grad_.has_value()) flows_grad.add_(flows_grad_->select(0, t));
  const Tensor hidden = net_.of_step(block.hidden, k);
  const at::ScalarType coordinates = flows_grad.scalar_type();
  const Tensor to_hidden =
      convolve_backward(flows_grad, hidden.to(coordinates), net_.coordinates);
  activation_backward(to_hidden.to(hidden.scalar_type()), hidden, net_.chosen.update,
                      hidden_grad);
  if (!state.defined() || !state_wanted(t)) return;
  h_grad_.add_(convolve_backward(hidden_grad, state, net_.layers.h2f));
}

void TrajGruBackward::add_parameter_grads(const TrajGruBlock& block) {
  const TrajGruLayers<Conv>& layers = net_.layers;
  const int64_t count = block.count();
  if (net_.plan.at_once && sums_.ret.bias.has_value()) {
    sums_.ret.bias->add_(
        h_gates_grad_.sum({0, 2, 3}, false, sums_.ret.bias->scalar_type()));
  }
  if (net_.inputs.defined()) {
    const Tensor from = net_.inputs_of(block.first, count);
    sums_.i2h.add(gates_grad_, from, layers.i2h);
    if (inputs_grad_.defined()) {
      call::copy_image(net_.of_step(inputs_grad_, block.first, count),
                       convolve_backward(gates_grad_, from, layers.i2h));
    }
  }
  const int64_t idle = flows_idle(block.first) ? 1 : 0, busy = count - idle;
  const int64_t first = block.first + idle;
  if (busy == 0) return;
  const auto part = [&](const Tensor& all) { return net_.of_step(all, idle, busy); };
  const Tensor hidden_grads = part(hidden_grads_), flows_grads = part(flows_grads_);
  const at::ScalarType coordinates = flows_grads.scalar_type();
  sums_.flows.add(flows_grads, part(block.hidden).to(coordinates), net_.coordinates);
  sums_.h2f.add(hidden_grads, net_.states_before(outputs_, net_.h, first, block.last),
                layers.h2f);
  if (!net_.inputs.defined()) return;
  const Tensor from = net_.inputs_of(first, busy);
  sums_.i2f.add(hidden_grads, from, layers.i2f);
  if (!inputs_grad_.defined()) return;
  net_.of_step(inputs_grad_, first, busy)
      .add_(convolve_backward(hidden_grads, from, layers.i2f));
}

void TrajGruBackward::run() {
  const int64_t steps_per_block =
      net_.steps_per_block_back(3 * net_.features, level_ == Saved::gates);
  for (int64_t last = net_.steps; last > 0; last -= std::min(steps_per_block, last)) {
    const TrajGruBlock some = block(std::max<int64_t>(last - steps_per_block, 0), last);
    make_buffers(some);
    for (int64_t k = some.count() - 1; k >= 0; --k) step_back(some, k);
    add_parameter_grads(some);
  }
}

// In the order of `wanted`; what is not wanted is empty.
TrajGruGradients TrajGruBackward::results() const {
  std::array<Tensor, 12> found;
  if (inputs_grad_.defined()) found[0] = net_.as_sequence(inputs_grad_);
  if (wanted_.h()) found[1] = in_format(h_grad_, net_.h_format);
  size_t next = kTrajGruParameters;
  for (const ConvGrad* sum : sums_.all()) {
    found[next++] = sum->weight.value_or(Tensor());
    found[next++] = sum->bias.value_or(Tensor());
  }
  return gradients(found, net_.like);
}

TrajGruGradients traj_gru_backward(
    const Tensor& grad, const OptionalTensor& flows_grad, const OptionalTensor& inputs,
    const OptionalTensor& h, const c10::List<OptionalTensor>& parameters,
    at::ArrayRef<double> options, const OptionalTensor& mask,
    const OptionalTensor& offset, const Tensor& outputs, const Tensor& flows,
    const Tensor& hidden, const Tensor& gates, const Tensor& candidates, int64_t saved,
    const c10::List<bool>& wanted) {
  const char* op = "traj_gru_backward";
  const PlainDispatch plain;
  TORCH_CHECK_VALUE(grad.dim() == 5, op, ": grad must be [T, B, F, H, W], got ",
                    grad.sizes());
  const TrajGru net(op, {inputs, h, parameters, mask, offset}, grad.size(0), options);
  const Tensor& parameter = net.layers.ret.weight;
  check_argument(op, "grad", grad, net.sizes(net.features), parameter);
  check_argument(op, "outputs", outputs, net.sizes(net.features), parameter);
  TORCH_CHECK_VALUE(saved >= 0 && saved <= 2 && wanted.size() == 12, op,
                    ": saved must be 0, 1 or 2 and wanted 12 flags, got ", saved,
                    " and ", wanted.size());
  const Saved level = static_cast<Saved>(saved);
  const std::vector<int64_t> flow_sizes = net.sizes(net.flow_channels());
  TrajGruBlock all;
  all.last = net.steps;
  if (flows_grad.has_value()) {
    check_sizes(op, "flows_grad", *flows_grad, flow_sizes, parameter);
  }
  if (!net.empty() && level != Saved::nothing) {
    check_sizes(op, "flows", flows, flow_sizes, parameter);
    check_argument(op, "hidden", hidden, net.sizes(net.hidden_channels()), parameter);
    all.flows = channels_last(flows.flatten(0, 1));
    all.hidden = channels_last(hidden.flatten(0, 1));
  }
  if (!net.empty() && level == Saved::gates) {
    check_argument(op, "gates", gates, net.sizes(3 * net.features), parameter);
    check_argument(op, "candidates", candidates, net.sizes(net.features), parameter);
    all.gates = channels_last(gates.flatten(0, 1));
    all.candidates = channels_last(candidates.flatten(0, 1));
  }
  if (net.in_floats()) {
    return in_dtype(in_floats(&traj_gru_backward, grad, flows_grad, inputs, h,
                              parameters, options, mask, offset, outputs, flows, hidden,
                              gates, candidates, saved, wanted),
                    net.like);
  }
  TrajGruBackward backward(net, grad, flows_grad, outputs, all, level, {wanted.vec()});
  if (!net.empty()) backward.run();
  return backward.results();
}

TRAJGRU_LIBRARY_IMPL(CompositeExplicitAutograd, m) {
  m.impl("traj_gru_backward", &traj_gru_backward);
}

}  // namespace
}  // namespace trajgru_ext
