// The gradient of conv_gru: back in time, the gradients to parameters for some steps
// together.

#include <ATen/ops/cat.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "sequences/conv_gru.h"
#include "tensors/library.h"
#include "sequences/checks.h"
#include "tensors/tensors.h"

namespace trajgru_ext {
namespace {

using at::Tensor;

// The gradients to inputs, h, and the weights and biases for inputs and state.
using ConvGruGradients = TensorTuple<6>;

class ConvGruBackward {
 public:
  // left: all steps where the gates are kept.
  ConvGruBackward(const ConvGru& net, const Tensor& grad, const Tensor& outputs,
                  const ConvGruSteps& left, const std::vector<bool>& wanted);

  void run();
  ConvGruGradients results() const;

 private:
  ConvGruSteps steps(int64_t first, int64_t last) const;
  void step_back(const ConvGruSteps& some, int64_t k);
  void step_back_reset_before(const Tensor& gates, int64_t t, int64_t k,
                              const Tensor& grad);
  void add_parameter_grads(const ConvGruSteps& some);
  Tensor state_before(int64_t t) const {
    return net_.state_before(outputs_, net_.h, t);
  }
  bool to_state(int64_t t) const {
    return t > 0 || (net_.h.defined() && wanted_[kToH]);
  }

  const ConvGru& net_;
  const Tensor grad_, outputs_;
  const ConvGruSteps left_;
  const std::vector<bool> wanted_;
  InputsGrad inputs_;
  ConvGrad h_, ru_, n_;   // reset after; reset before
  Tensor h_grad_;         // of a step, to the state before it
  Tensor h_gates_grads_;  // of some steps, reset after
  Tensor passed_;  // of some steps, reset before: what the reset gate lets through
};

ConvGruBackward::ConvGruBackward(const ConvGru& net, const Tensor& grad,
                                 const Tensor& outputs, const ConvGruSteps& left,
                                 const std::vector<bool>& wanted)
    : net_(net),
      grad_(grad),
      outputs_(outputs),
      left_(left),
      wanted_(wanted),
      inputs_(net, wanted) {
  const bool weight = wanted[kToHWeight], bias = wanted[kToHBias];
  if (net.reset_before) {
    ru_ = ConvGrad(net.ru_conv, weight, bias);
    n_ = ConvGrad(net.n_conv, weight, bias);
  } else {
    h_ = ConvGrad(net.h_conv, weight, bias);
  }
  h_grad_ = net.images(1, net.features).zero_();
}

// Some steps as the forward pass left them, or again.
ConvGruSteps ConvGruBackward::steps(int64_t first, int64_t last) const {
  const int64_t count = last - first;
  if (left_.gates.defined()) {
    ConvGruSteps some{first, last, net_.of_step(left_.gates, first, count), {}};
    if (!net_.reset_before) {
      some.candidates = net_.of_step(left_.candidates, first, count);
    }
    return some;
  }
  ConvGruSteps again = net_.prepare(first, last, true);
  const Tensor output = net_.images(1, net_.features);
  for (int64_t k = 0; k < count; ++k) {
    net_.update(again, k, state_before(first + k), output);
  }
  return again;
}

void ConvGruBackward::step_back(const ConvGruSteps& some, int64_t k) {
  const int64_t t = some.first + k;
  const Tensor state = state_before(t), gates = net_.of_step(some.gates, k);
  Tensor grad = channels_last(grad_.select(0, t));
  if (t + 1 < net_.steps) grad = h_grad_.add_(grad);
  if (net_.reset_before) return step_back_reset_before(gates, t, k, grad);
  const Tensor h_gates_grad = net_.of_step(h_gates_grads_, k);
  gru_step_backward(gates, net_.of_step(some.candidates, k), net_.or_zero(state), grad,
                    net_.choices, net_.mask_of(t), h_gates_grad, h_grad_);
  if (to_state(t)) h_grad_.add_(convolve_backward(h_gates_grad, h_grad_, net_.h_conv));
}

void ConvGruBackward::step_back_reset_before(const Tensor& gates, int64_t t, int64_t k,
                                             const Tensor& grad) {
  const Tensor state = state_before(t), old = net_.or_zero(state);
  const Tensor ru = net_.ru(gates), n = net_.n(gates);
  const auto [u, reset] = gru_reset(ru, old, net_.ru_slots);
  const Tensor passed = net_.of_step(passed_, k).copy_(reset);
  const auto [u_grad, n_grad, to_h] =
      gru_output_backward(grad, u, n, old, net_.choices, net_.mask_of(t));
  h_grad_.copy_(to_h);
  n.copy_(n_grad);
  // A state of 0 lets nothing of the reset gate's gradient through.
  OptionalTensor passed_grad;
  if (state.defined()) {
    passed_grad = convolve_backward(channels_last(n_grad), passed, net_.n_conv);
  }
  const auto [ru_grad, through_reset] =
      gru_reset_backward(u_grad, passed_grad, ru, old, net_.ru_slots, to_state(t));
  ru.copy_(ru_grad);
  if (!to_state(t)) return;
  h_grad_.add_(through_reset);
  h_grad_.add_(convolve_backward(channels_last(ru_grad), h_grad_, net_.ru_conv));
}

void ConvGruBackward::add_parameter_grads(const ConvGruSteps& some) {
  inputs_.add(net_, some.first, some.last - some.first, some.gates);
  if (!wanted_[kToHWeight] && !wanted_[kToHBias]) return;
  const Tensor states = net_.states_before(outputs_, net_.h, some.first, some.last);
  if (net_.reset_before) {
    add_conv_grad(channels_last(net_.ru(some.gates)), states, net_.ru_conv, ru_);
    add_conv_grad(channels_last(net_.n(some.gates)), passed_, net_.n_conv, n_);
  } else {
    add_conv_grad(h_gates_grads_, states, net_.h_conv, h_);
  }
}

void ConvGruBackward::run() {
  const int64_t together = left_.gates.defined() ? kStepsBack : kStepsAgain;
  for (int64_t last = net_.steps; last > 0;) {
    const int64_t first = std::max<int64_t>(last - together, 0);
    const int64_t count = last - first;
    const ConvGruSteps some = steps(first, last);
    Tensor& room = net_.reset_before ? passed_ : h_gates_grads_;
    if (!room.defined() || room.size(0) != count * net_.batch) {
      room = net_.images(count, (net_.reset_before ? 1 : 3) * net_.features);
    }
    for (int64_t k = count - 1; k >= 0; --k) step_back(some, k);
    add_parameter_grads(some);
    last = first;
  }
}

// In the order of `wanted`; what is not wanted is empty.
ConvGruGradients ConvGruBackward::results() const {
  // The slices of the state's convolution, which are two where the reset comes before.
  const auto both = [&](const Tensor& ru, const Tensor& n, const Tensor& one) {
    if (!net_.reset_before || !ru.defined()) return one;
    return net_.n_at == 0 ? at::cat({n, ru}) : at::cat({ru, n});
  };
  std::array<Tensor, 6> found;
  if (inputs_.inputs.defined()) {
    found[kToInputs] = net_.as_sequence(inputs_.inputs);
  }
  if (wanted_[kToH]) found[kToH] = in_format(h_grad_, net_.h_format);
  found[kToXWeight] = inputs_.conv.weight;
  found[kToXBias] = inputs_.conv.bias;
  found[kToHWeight] = both(ru_.weight, n_.weight, h_.weight);
  found[kToHBias] = both(ru_.bias, n_.bias, h_.bias);
  return gradients(found, net_.options);
}

// The gates, where kept, serve their gradients.
ConvGruGradients conv_gru_backward_(
    const Tensor& grad, const OptionalTensor& inputs, const OptionalTensor& h,
    const OptionalTensor& x_weight, const OptionalTensor& x_bias,
    const Tensor& h_weight, const OptionalTensor& h_bias, at::IntArrayRef dilation,
    at::IntArrayRef slots, bool reset_before, int64_t activation, double negative_slope,
    bool keep, const OptionalTensor& mask, const Tensor& outputs, const Tensor& gates,
    const Tensor& candidates, bool gates_kept, const c10::List<bool>& wanted) {
  const char* op = "conv_gru_backward";
  const PlainDispatch plain;
  TORCH_CHECK_VALUE(grad.dim() == 5, op, ": grad must be [T, B, F, H, W], got ",
                    grad.sizes());
  const ConvGru net(op, {inputs, h, x_weight, x_bias, h_weight, h_bias}, grad.size(0),
                    {dilation, slots, reset_before, activation, negative_slope, keep},
                    mask);
  check_beside(op, "grad", grad, net.sizes(net.features), h_weight);
  check_beside(op, "outputs", outputs, net.sizes(net.features), h_weight);
  TORCH_CHECK_VALUE(wanted.size() == 6, op, ": wanted must be 6 flags, got ",
                    wanted.size());
  ConvGruSteps left;
  if (!net.empty() && gates_kept) {
    check_beside(op, "gates", gates, net.sizes(3 * net.features), h_weight);
    left.gates = channels_last(gates.flatten(0, 1));
    if (!reset_before) {
      check_beside(op, "candidates", candidates, net.sizes(net.features), h_weight);
      left.candidates = channels_last(candidates.flatten(0, 1));
    }
  }
  ConvGruBackward backward(net, grad, outputs, left, wanted.vec());
  if (!net.empty()) backward.run();
  return backward.results();
}

ConvGruGradients conv_gru_backward(
    const Tensor& grad, const OptionalTensor& inputs, const OptionalTensor& h,
    const OptionalTensor& x_weight, const OptionalTensor& x_bias,
    const Tensor& h_weight, const OptionalTensor& h_bias, at::IntArrayRef dilation,
    at::IntArrayRef slots, bool reset_before, int64_t activation, double negative_slope,
    bool keep, const OptionalTensor& mask, const Tensor& outputs, const Tensor& gates,
    const Tensor& candidates, bool gates_kept, const c10::List<bool>& wanted) {
  const Tensor copy = [&] {
    const PlainDispatch plain;
    return gates.clone();
  }();
  return conv_gru_backward_(grad, inputs, h, x_weight, x_bias, h_weight, h_bias,
                            dilation, slots, reset_before, activation, negative_slope,
                            keep, mask, outputs, copy, candidates, gates_kept, wanted);
}

TRAJGRU_LIBRARY_IMPL(CompositeExplicitAutograd, m) {
  m.impl("conv_gru_backward", &conv_gru_backward);
  m.impl("conv_gru_backward_", &conv_gru_backward_);
}

}  // namespace
}  // namespace trajgru_ext
