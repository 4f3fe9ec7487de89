// The gradient of conv_gru: back in time; the gradients to parameters for a block of
// steps at once.

#include <ATen/ops/cat.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "sequences/checks.h"
#include "sequences/conv_gru.h"
#include "sequences/floats.h"
#include "tensors/library.h"
#include "tensors/tensors.h"

namespace trajgru_ext {
namespace {

using at::Tensor;

// The gradients to inputs, h, and the weights and biases for inputs and state.
using ConvGruGradients = TensorTuple<6>;

class ConvGruBackward {
 public:
  // saved: all steps where the gates are saved.
  ConvGruBackward(const ConvGru& net, const Tensor& grad, const Tensor& outputs,
                  const ConvGruBlock& saved, const std::vector<bool>& wanted);

  void run();
  ConvGruGradients results() const;

 private:
  bool gates_saved() const { return saved_.gates.defined(); }
  ConvGruBlock block(int64_t first, int64_t last) const;
  void make_buffers(const ConvGruBlock& block);
  void step_back(const ConvGruBlock& block, int64_t k);
  void step_back_reset_after(const ConvGruBlock& block, int64_t k, const Tensor& grad);
  void step_back_reset_before(const ConvGruBlock& block, int64_t k, const Tensor& grad);
  void add_parameter_grads(const ConvGruBlock& block);
  Tensor state_before(int64_t t) const {
    return net_.state_before(outputs_, net_.h, t);
  }
  // Whether the gradient to the state before step t is read.
  bool to_state(int64_t t) const {
    return t > 0 || (net_.h.defined() && wanted_[kToH]);
  }

  const ConvGru& net_;
  const Tensor grad_, outputs_;
  const ConvGruBlock saved_;
  const std::vector<bool> wanted_;
  InputsGrad inputs_;
  ConvGrad h_;       // reset after
  ConvGrad ru_, n_;  // reset before
  Tensor h_grad_;    // of a step, to the state before it

  // Of the block's steps: the gradients to the gates W x (in place of the gates where
  // these were computed again); and reset after, those to V h, reset before, r h.
  Tensor gates_grad_, h_gates_grad_, resets_;
};

ConvGruBackward::ConvGruBackward(const ConvGru& net, const Tensor& grad,
                                 const Tensor& outputs, const ConvGruBlock& saved,
                                 const std::vector<bool>& wanted)
    : net_(net),
      grad_(net.at_once(grad)),
      outputs_(net.at_once(outputs)),
      saved_(saved),
      wanted_(wanted),
      inputs_(net, wanted) {
  const bool weight = wanted[kToHWeight], bias = wanted[kToHBias];
  if (net.reset_before()) {
    ru_ = ConvGrad(net.ru_conv, weight, bias);
    n_ = ConvGrad(net.n_conv, weight, bias);
  } else {
    h_ = ConvGrad(net.h_conv, weight, bias);
  }
  h_grad_ = net.images(1, net.features);
  if (net.empty()) h_grad_.zero_();  // else the steps write it
}

// Some steps as the forward pass saved them, or computed again.
ConvGruBlock ConvGruBackward::block(int64_t first, int64_t last) const {
  if (gates_saved()) {
    const auto part = [&](const Tensor& all) {
      return all.defined() ? net_.of_step(all, first, last - first) : all;
    };
    return {first, last, part(saved_.gates), part(saved_.candidates)};
  }
  const ConvGruBlock again = net_.prepare(first, last, true);
  const Tensor output = net_.images(1, net_.features);
  for (int64_t t = first; t < last; ++t) {
    net_.step(again, t - first, state_before(t), output);
  }
  return again;
}

void ConvGruBackward::make_buffers(const ConvGruBlock& block) {
  const auto fit = [&](Tensor& buffer, int64_t channels) {
    if (buffer.defined() && buffer.size(0) == block.count() * net_.batch) return;
    buffer = net_.images(block.count(), channels);
  };
  if (gates_saved()) {
    fit(gates_grad_, 3 * net_.features);
  } else {
    gates_grad_ = block.gates;
  }
  net_.reset_before() ? fit(resets_, net_.features)
                      : fit(h_gates_grad_, 3 * net_.features);
}

void ConvGruBackward::step_back(const ConvGruBlock& block, int64_t k) {
  const int64_t t = block.first + k;
  Tensor grad = channels_last(grad_.select(0, t));
  if (t + 1 < net_.steps) grad = h_grad_.add_(grad);
  net_.reset_before() ? step_back_reset_before(block, k, grad)
                      : step_back_reset_after(block, k, grad);
}

void ConvGruBackward::step_back_reset_after(const ConvGruBlock& block, int64_t k,
                                            const Tensor& grad) {
  const int64_t t = block.first + k;
  const Tensor h_gates_grad = net_.of_step(h_gates_grad_, k);
  call::gru_step_backward(
      net_.of_step(block.gates, k), net_.of_step(block.candidates, k),
      net_.or_zero(state_before(t)), grad, net_.options, net_.mask_of(t),
      net_.of_step(gates_grad_, k), h_gates_grad, h_grad_);
  if (to_state(t)) h_grad_.add_(convolve_backward(h_gates_grad, h_grad_, net_.h_conv));
}

void ConvGruBackward::step_back_reset_before(const ConvGruBlock& block, int64_t k,
                                             const Tensor& grad) {
  const int64_t t = block.first + k;
  const Tensor state = state_before(t), old = net_.or_zero(state);
  const Tensor gates = net_.of_step(block.gates, k);
  const Tensor gates_grad = net_.of_step(gates_grad_, k);
  const Tensor ru = net_.ru(gates);
  const auto [u, fresh] = call::gru_reset(ru, std::nullopt, old, net_.ru_options);
  const Tensor reset = net_.of_step(resets_, k).copy_(fresh);
  const auto [u_grad, n_grad, to_h] = call::gru_output_backward(
      grad, u, net_.n(gates), old, net_.options, net_.mask_of(t), true, true, true);
  h_grad_.copy_(to_h);
  net_.n(gates_grad).copy_(n_grad);
  // Where the state is 0 so is r h, and its gradient goes nowhere.
  OptionalTensor reset_grad;
  if (state.defined()) {
    reset_grad = convolve_backward(channels_last(n_grad), reset, net_.n_conv);
  }
  const auto [ru_grad, through_reset] = call::gru_reset_backward(
      u_grad, reset_grad, ru, std::nullopt, old, net_.ru_options, true, to_state(t));
  net_.ru(gates_grad).copy_(ru_grad);
  if (!to_state(t)) return;
  h_grad_.add_(through_reset);
  h_grad_.add_(convolve_backward(channels_last(ru_grad), h_grad_, net_.ru_conv));
}

void ConvGruBackward::add_parameter_grads(const ConvGruBlock& block) {
  inputs_.add(net_, block.first, block.count(), gates_grad_);
  if (!wanted_[kToHWeight] && !wanted_[kToHBias]) return;
  const Tensor states = net_.states_before(outputs_, net_.h, block.first, block.last);
  if (net_.reset_before()) {
    ru_.add(channels_last(net_.ru(gates_grad_)), states, net_.ru_conv);
    n_.add(channels_last(net_.n(gates_grad_)), resets_, net_.n_conv);
  } else {
    h_.add(h_gates_grad_, states, net_.h_conv);
  }
}

void ConvGruBackward::run() {
  const int64_t steps_per_block =
      net_.steps_per_block_back(3 * net_.features, gates_saved());
  for (int64_t last = net_.steps; last > 0; last -= std::min(steps_per_block, last)) {
    const ConvGruBlock some = block(std::max<int64_t>(last - steps_per_block, 0), last);
    make_buffers(some);
    for (int64_t k = some.count() - 1; k >= 0; --k) step_back(some, k);
    add_parameter_grads(some);
  }
}

// In the order of `wanted`; what is not wanted is empty.
ConvGruGradients ConvGruBackward::results() const {
  // Where the reset comes before, the state's convolution is in two parts.
  const auto whole = [&](const OptionalTensor& ru, const OptionalTensor& n,
                         const OptionalTensor& one) {
    if (!ru.has_value()) return one.value_or(Tensor());
    return net_.n_first() == 0 ? at::cat({*n, *ru}) : at::cat({*ru, *n});
  };
  std::array<Tensor, 6> found;
  if (inputs_.inputs.defined()) {
    found[kToInputs] = net_.as_sequence(inputs_.inputs);
  }
  if (wanted_[kToH]) found[kToH] = in_format(h_grad_, net_.h_format);
  found[kToXWeight] = inputs_.conv.weight.value_or(Tensor());
  found[kToXBias] = inputs_.conv.bias.value_or(Tensor());
  found[kToHWeight] = whole(ru_.weight, n_.weight, h_.weight);
  found[kToHBias] = whole(ru_.bias, n_.bias, h_.bias);
  return gradients(found, net_.like);
}

ConvGruGradients conv_gru_backward(
    const Tensor& grad, const OptionalTensor& inputs, const OptionalTensor& h,
    const OptionalTensor& x_weight, const OptionalTensor& x_bias,
    const Tensor& h_weight, const OptionalTensor& h_bias, at::IntArrayRef x_dilation,
    at::IntArrayRef h_dilation, at::ArrayRef<double> options,
    const OptionalTensor& mask, const Tensor& outputs, const Tensor& gates,
    const Tensor& candidates, bool gates_saved, const c10::List<bool>& wanted) {
  const char* op = "conv_gru_backward";
  const PlainDispatch plain;
  TORCH_CHECK_VALUE(grad.dim() == 5, op, ": grad must be [T, B, F, H, W], got ",
                    grad.sizes());
  const ConvGru net(op, {inputs, h, x_weight, x_bias, h_weight, h_bias}, grad.size(0),
                    {x_dilation, h_dilation}, options, mask);
  check_argument(op, "grad", grad, net.sizes(net.features), h_weight);
  check_argument(op, "outputs", outputs, net.sizes(net.features), h_weight);
  TORCH_CHECK_VALUE(wanted.size() == 6, op, ": wanted must be 6 flags, got ",
                    wanted.size());
  ConvGruBlock saved;
  if (!net.empty() && gates_saved) {
    check_argument(op, "gates", gates, net.sizes(3 * net.features), h_weight);
    saved.gates = channels_last(gates.flatten(0, 1));
    if (!net.reset_before()) {
      check_argument(op, "candidates", candidates, net.sizes(net.features), h_weight);
      saved.candidates = channels_last(candidates.flatten(0, 1));
    }
  }
  if (net.in_floats()) {
    return in_dtype(in_floats(&conv_gru_backward, grad, inputs, h, x_weight, x_bias,
                              h_weight, h_bias, x_dilation, h_dilation, options, mask,
                              outputs, gates, candidates, gates_saved, wanted),
                    net.like);
  }
  ConvGruBackward backward(net, grad, outputs, saved, wanted.vec());
  if (!net.empty()) backward.run();
  return backward.results();
}

TRAJGRU_LIBRARY_IMPL(CompositeExplicitAutograd, m) {
  m.impl("conv_gru_backward", &conv_gru_backward);
}

}  // namespace
}  // namespace trajgru_ext
