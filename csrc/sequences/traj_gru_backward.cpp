// The gradient of traj_gru: back in time, the gradients to parameters for some steps
// together.

#include <ATen/ops/leaky_relu_backward.h>
#include <ATen/ops/tanh_backward.h>
#include <ATen/ops/threshold_backward.h>

#include <algorithm>
#include <array>
#include <tuple>
#include <utility>
#include <vector>

#include "tensors/library.h"
#include "math/gates.h"
#include "sequences/checks.h"
#include "tensors/tensors.h"
#include "sequences/traj_gru.h"

namespace trajgru_ext {
namespace {

using at::Tensor;

// From the gradient to the activation's value to that to its argument; a value has the
// sign of its argument.
Tensor activation_backward(const Tensor& grad, const Tensor& values,
                           const GruChoices& choices) {
  switch (static_cast<Activation>(choices.activation)) {
    case Activation::tanh:
      return at::tanh_backward(grad, values);
    case Activation::relu:
      return at::threshold_backward(grad, values, 0);
    default:
      return at::leaky_relu_backward(grad, values, choices.negative_slope, true);
  }
}

// The gradients to inputs, h and the ten parameters.
using TrajGruGradients = TensorTuple<12>;

class Backward {
 public:
  Backward(const TrajGru& net, const Tensor& grad, const OptionalTensor& flows_grad,
           const Tensor& outputs, const TrajGruSteps& left, Kept kept,
           const std::vector<bool>& wanted);

  void run();
  TrajGruGradients results() const;

 private:
  Tensor state_before(int64_t t) const {
    return net_.state_before(outputs_, net_.h, t);
  }
  TrajGruSteps steps(int64_t first, int64_t last) const;
  void step_back(const TrajGruSteps& some, int64_t k);
  void add_parameter_grads(const TrajGruSteps& some);
  bool state_wanted(int64_t t) const { return t > 0 || wanted_[1]; }
  // Whether the gradient to the flows of a step is 0: they moved nothing.
  bool flows_idle(int64_t t) const {
    return t == 0 && !net_.h.defined() && !flows_grad_.has_value();
  }

  const TrajGru& net_;
  const Tensor grad_;
  const OptionalTensor flows_grad_;
  const Tensor outputs_;
  const TrajGruSteps left_;  // of all steps, as far as kept
  const Kept kept_;
  const std::vector<bool> wanted_;
  ConvGrad i2h_, i2f_, h2f_, flows_, ret_;
  Tensor inputs_grad_;
  Tensor h_grad_, h_gates_grad_;       // of a step, to what is before it
  Tensor hidden_grads_, flows_grads_;  // of some steps
};

Backward::Backward(const TrajGru& net, const Tensor& grad,
                   const OptionalTensor& flows_grad, const Tensor& outputs,
                   const TrajGruSteps& left, Kept kept, const std::vector<bool>& wanted)
    : net_(net),
      grad_(grad),
      flows_grad_(flows_grad),
      outputs_(outputs),
      left_(left),
      kept_(kept),
      wanted_(wanted) {
  if (net.inputs.defined()) {
    i2h_ = ConvGrad(*net.i2h, wanted[2], wanted[3]);
    i2f_ = ConvGrad(*net.i2f, wanted[4], wanted[5]);
    if (wanted[0]) inputs_grad_ = net.inputs_grad().zero_();
  }
  h2f_ = ConvGrad(net.h2f, wanted[6], wanted[7]);
  flows_ = ConvGrad(net.flows, wanted[8], wanted[9]);
  ret_ = ConvGrad(net.ret, wanted[10], wanted[11]);
  h_grad_ = net.images(1, net.features).zero_();
  h_gates_grad_ = net.images(1, 3 * net.features);
}

// Some steps as the forward pass left them, or again.
TrajGruSteps Backward::steps(int64_t first, int64_t last) const {
  const int64_t count = last - first;
  const auto part = [&](const Tensor& all) { return net_.of_step(all, first, count); };
  if (kept_ == Kept::gates) {
    return {first,
            last,
            part(left_.hidden),
            part(left_.flows),
            part(left_.gates),
            part(left_.candidates)};
  }
  const bool flows_kept = kept_ == Kept::flows;
  TrajGruSteps again = net_.prepare(first, last, true, !flows_kept);
  if (flows_kept) {
    again.hidden = part(left_.hidden);
    again.flows = part(left_.flows);
  }
  const Tensor output = net_.images(1, net_.features);
  for (int64_t k = 0; k < count; ++k) {
    const Tensor state = state_before(first + k);
    if (!flows_kept) net_.generate_flows(again, k, state);
    net_.update(again, k, state, output);
  }
  return again;
}

void Backward::step_back(const TrajGruSteps& some, int64_t k) {
  const int64_t t = some.first + k;
  const Tensor state = state_before(t);
  Tensor grad = channels_last(grad_.select(0, t));
  if (t + 1 < net_.steps) grad = h_grad_.add_(grad);
  gru_step_backward(net_.of_step(some.gates, k), net_.of_step(some.candidates, k),
                    net_.or_zero(state), grad, net_.choices, net_.mask_of(t),
                    h_gates_grad_, h_grad_);
  const bool moved = state.defined(), to_state = moved && state_wanted(t);
  const auto [to_h, to_flows, to_weight, to_bias] = flow_conv_backward(
      h_gates_grad_, net_.or_zero(state), net_.of_step(some.flows, k), net_.ret.weight,
      kTrajGruFlowScale,
      {to_state, moved, moved && ret_.weight.defined(), ret_.bias.defined()});
  if (to_state) h_grad_.add_(to_h);
  if (moved && ret_.weight.defined()) ret_.weight.add_(to_weight);
  if (ret_.bias.defined()) ret_.bias.add_(to_bias);

  Tensor flows_grad = net_.of_step(flows_grads_, k);
  Tensor hidden_grad = net_.of_step(hidden_grads_, k);
  if (flows_idle(t)) {
    flows_grad.zero_();
    hidden_grad.zero_();
    return;
  }
  moved ? flows_grad.copy_(to_flows) : flows_grad.zero_();
  if (flows_grad_.has_value()) flows_grad.add_(flows_grad_->select(0, t));
  const Tensor hidden = net_.of_step(some.hidden, k);
  const at::ScalarType coordinates = flows_grad.scalar_type();
  const Tensor to_hidden =
      convolve_backward(flows_grad, hidden.to(coordinates), net_.coordinates);
  hidden_grad.copy_(
      activation_backward(to_hidden.to(hidden.scalar_type()), hidden, net_.choices));
  if (to_state) h_grad_.add_(convolve_backward(hidden_grad, state, net_.h2f));
}

void Backward::add_parameter_grads(const TrajGruSteps& some) {
  const int64_t count = some.last - some.first;
  if (net_.inputs.defined()) {
    const Tensor from = net_.inputs_of(some.first, count);
    add_conv_grad(some.gates, from, *net_.i2h, i2h_);
    if (inputs_grad_.defined()) {
      copy_image(net_.of_step(inputs_grad_, some.first, count),
                 convolve_backward(some.gates, from, *net_.i2h));
    }
  }
  const int64_t idle = flows_idle(some.first) ? 1 : 0, busy = count - idle;
  if (busy == 0) return;
  const auto part = [&](const Tensor& all) { return net_.of_step(all, idle, busy); };
  const Tensor hidden_grads = part(hidden_grads_), flows_grads = part(flows_grads_);
  const at::ScalarType coordinates = flows_grads.scalar_type();
  add_conv_grad(flows_grads, part(some.hidden).to(coordinates), net_.coordinates,
                flows_);
  add_conv_grad(hidden_grads,
                net_.states_before(outputs_, net_.h, some.first + idle, some.last),
                net_.h2f, h2f_);
  if (net_.inputs.defined()) {
    const Tensor from = net_.inputs_of(some.first + idle, busy);
    add_conv_grad(hidden_grads, from, *net_.i2f, i2f_);
    if (inputs_grad_.defined()) {
      net_.of_step(inputs_grad_, some.first + idle, busy)
          .add_(convolve_backward(hidden_grads, from, *net_.i2f));
    }
  }
}

void Backward::run() {
  const int64_t together = kept_ == Kept::gates ? kStepsBack : kStepsAgain;
  for (int64_t last = net_.steps; last > 0;) {
    const int64_t first = std::max<int64_t>(last - together, 0);
    const TrajGruSteps some = steps(first, last);
    const int64_t count = last - first;
    if (!hidden_grads_.defined() || hidden_grads_.size(0) != count * net_.batch) {
      hidden_grads_ = net_.images(count, some.hidden.size(1));
      flows_grads_ = net_.images(count, some.flows.size(1), some.flows.scalar_type());
    }
    for (int64_t k = count - 1; k >= 0; --k) step_back(some, k);
    add_parameter_grads(some);
    last = first;
  }
}

// In the order of `wanted`; what is not wanted is empty.
TrajGruGradients Backward::results() const {
  std::array<Tensor, 12> found;
  if (inputs_grad_.defined()) found[0] = net_.as_sequence(inputs_grad_);
  if (wanted_[1]) found[1] = in_format(h_grad_, net_.h_format);
  size_t next = 2;
  for (const ConvGrad* grad : {&i2h_, &i2f_, &h2f_, &flows_, &ret_}) {
    found[next++] = grad->weight;
    found[next++] = grad->bias;
  }
  return gradients(found, net_.options);
}

// The gates, where kept, serve their gradients.
TrajGruGradients traj_gru_backward_(
    const Tensor& grad, const OptionalTensor& flows_grad, const OptionalTensor& inputs,
    const OptionalTensor& h, const c10::List<OptionalTensor>& parameters,
    int64_t activation, double negative_slope, const OptionalTensor& mask,
    const OptionalTensor& offset, const Tensor& outputs, const Tensor& flows,
    const Tensor& hidden, const Tensor& gates, const Tensor& candidates, int64_t kept,
    const c10::List<bool>& wanted) {
  const char* op = "traj_gru_backward";
  const PlainDispatch plain;
  TORCH_CHECK_VALUE(grad.dim() == 5, op, ": grad must be [T, B, F, H, W], got ",
                    grad.sizes());
  const TrajGru net(op, inputs, h, parameters, grad.size(0), activation, negative_slope,
                    mask, offset);
  const Tensor& like = net.ret.weight;
  check_beside(op, "grad", grad, net.sizes(net.features), like);
  check_beside(op, "outputs", outputs, net.sizes(net.features), like);
  TORCH_CHECK_VALUE(kept >= 0 && kept <= 2 && wanted.size() == 12, op,
                    ": kept must be 0, 1 or 2 and wanted 12 flags, got ", kept, " and ",
                    wanted.size());
  const Kept level = static_cast<Kept>(kept);
  TrajGruSteps left;
  left.last = net.steps;
  const int64_t coordinates = net.flows.weight.size(0);
  if (flows_grad.has_value()) {
    check_like_sizes(op, "flows_grad", *flows_grad, net.sizes(coordinates), like);
  }
  if (!net.empty() && level != Kept::nothing) {
    check_like_sizes(op, "flows", flows, net.sizes(coordinates), like);
    check_beside(op, "hidden", hidden, net.sizes(net.h2f.weight.size(0)), like);
    left.flows = channels_last(flows.flatten(0, 1));
    left.hidden = channels_last(hidden.flatten(0, 1));
  }
  if (!net.empty() && level == Kept::gates) {
    check_beside(op, "gates", gates, net.sizes(3 * net.features), like);
    check_beside(op, "candidates", candidates, net.sizes(net.features), like);
    left.gates = channels_last(gates.flatten(0, 1));
    left.candidates = channels_last(candidates.flatten(0, 1));
  }
  Backward backward(net, grad, flows_grad, outputs, left, level, wanted.vec());
  if (!net.empty()) backward.run();
  return backward.results();
}

TrajGruGradients traj_gru_backward(
    const Tensor& grad, const OptionalTensor& flows_grad, const OptionalTensor& inputs,
    const OptionalTensor& h, const c10::List<OptionalTensor>& parameters,
    int64_t activation, double negative_slope, const OptionalTensor& mask,
    const OptionalTensor& offset, const Tensor& outputs, const Tensor& flows,
    const Tensor& hidden, const Tensor& gates, const Tensor& candidates, int64_t kept,
    const c10::List<bool>& wanted) {
  const Tensor copy = [&] {
    const PlainDispatch plain;
    return gates.clone();
  }();
  return traj_gru_backward_(grad, flows_grad, inputs, h, parameters, activation,
                            negative_slope, mask, offset, outputs, flows, hidden, copy,
                            candidates, kept, wanted);
}

TRAJGRU_LIBRARY_IMPL(CompositeExplicitAutograd, m) {
  m.impl("traj_gru_backward", &traj_gru_backward);
  m.impl("traj_gru_backward_", &traj_gru_backward_);
}

}  // namespace
}  // namespace trajgru_ext
