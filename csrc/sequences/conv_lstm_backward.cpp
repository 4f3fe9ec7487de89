// The gradient of conv_lstm: back in time, the gradients to parameters for some steps
// together.

#include <ATen/ops/empty.h>
#include <ATen/ops/sum.h>

#include <algorithm>
#include <vector>

#include "sequences/conv_lstm.h"
#include "cpu/gate_device.h"
#include "tensors/library.h"
#include "sequences/checks.h"
#include "tensors/tensors.h"

namespace trajgru_ext {
namespace {

using at::Tensor;

// In the order of `wanted`: as of ConvRnnWanted, then c and the peepholes.
constexpr int kToC = kToHBias + 1, kToPeephole = kToC + 1;
using ConvLstmGradients = TensorTuple<10>;

class ConvLstmBackward {
 public:
  // gates: of all steps, or undefined.
  ConvLstmBackward(const ConvLstm& net, const OptionalTensor& grad,
                   const OptionalTensor& c_grad, const Tensor& outputs,
                   const Tensor& cells, const Tensor& gates,
                   const std::vector<bool>& wanted);

  void run();
  ConvLstmGradients results(const PeepholeTensors& peephole) const;

 private:
  Tensor gates_of(int64_t first, int64_t last) const;
  void step_back(const Tensor& gates, int64_t t);
  void add_parameter_grads(const Tensor& gates, int64_t first, int64_t last);
  Tensor h_before(int64_t t) const { return net_.state_before(outputs_, net_.h, t); }
  Tensor c_before(int64_t t) const { return net_.state_before(cells_, net_.c, t); }
  Tensor c_after(int64_t t) const { return channels_last(cells_.select(0, t)); }

  const ConvLstm& net_;
  const OptionalTensor grad_;
  const Tensor outputs_, cells_, gates_;
  const std::vector<bool> wanted_;
  InputsGrad inputs_;
  ConvGrad h_;
  Tensor h_grad_, c_grad_;       // of a step, to what is before it
  OptionalTensor weight_grads_;  // to the peepholes, summed over samples and steps
};

ConvLstmBackward::ConvLstmBackward(const ConvLstm& net, const OptionalTensor& grad,
                                   const OptionalTensor& c_grad, const Tensor& outputs,
                                   const Tensor& cells, const Tensor& gates,
                                   const std::vector<bool>& wanted)
    : net_(net),
      grad_(grad),
      outputs_(outputs),
      cells_(cells),
      gates_(gates),
      wanted_(wanted),
      inputs_(net, wanted),
      h_(net.h_conv, wanted[kToHWeight], wanted[kToHBias]) {
  h_grad_ = net.images(1, net.features).zero_();
  c_grad_ = net.images(1, net.features);
  c_grad.has_value() ? c_grad_.copy_(*c_grad) : c_grad_.zero_();
  const bool peephole =
      wanted[kToPeephole] || wanted[kToPeephole + 1] || wanted[kToPeephole + 2];
  if (!peephole) return;
  weight_grads_ = at::empty({3, net.features, net.height, net.width},
                            net.options.dtype(opmath_dtype(net.h_conv.weight))
                                .memory_format(at::MemoryFormat::ChannelsLast))
                      .zero_();
}

// As the forward pass left them, or again.
Tensor ConvLstmBackward::gates_of(int64_t first, int64_t last) const {
  const int64_t count = last - first;
  if (gates_.defined()) return net_.of_step(gates_, first, count);
  const Tensor again = net_.x_gates(first, count);
  const Tensor h = net_.images(1, net_.features), c = net_.images(1, net_.features);
  for (int64_t k = 0; k < count; ++k) {
    const int64_t t = first + k;
    net_.update(t, net_.of_step(again, k), h_before(t), c_before(t), true, h, c);
  }
  return again;
}

void ConvLstmBackward::step_back(const Tensor& gates, int64_t t) {
  if (grad_.has_value()) h_grad_.add_(grad_->select(0, t));
  const OptionalTensor kept = net_.mask_of(t);
  OptionalTensor h_kept_grad;
  if (kept.has_value()) h_kept_grad = h_grad_;
  lstm_step_backward(gates, net_.or_zero(c_before(t)), c_after(t), h_grad_,
                     net_.choices, kept, c_grad_, h_kept_grad, weight_grads_);
  const Tensor state = h_before(t);
  if (!state.defined() || (t == 0 && !wanted_[kToH])) return;
  const Tensor through = convolve_backward(gates, h_grad_, net_.h_conv);
  kept.has_value() ? h_grad_.add_(through) : h_grad_.copy_(through);
}

void ConvLstmBackward::add_parameter_grads(const Tensor& gates, int64_t first,
                                           int64_t last) {
  inputs_.add(net_, first, last - first, gates);
  if (!wanted_[kToHWeight] && !wanted_[kToHBias]) return;
  add_conv_grad(gates, net_.states_before(outputs_, net_.h, first, last), net_.h_conv,
                h_);
}

void ConvLstmBackward::run() {
  const int64_t together = gates_.defined() ? kStepsBack : kStepsAgain;
  for (int64_t last = net_.steps; last > 0;) {
    const int64_t first = std::max<int64_t>(last - together, 0);
    const Tensor gates = gates_of(first, last);
    for (int64_t t = last - 1; t >= first; --t) {
      step_back(net_.of_step(gates, t - first), t);
    }
    add_parameter_grads(gates, first, last);
    last = first;
  }
}

ConvLstmGradients ConvLstmBackward::results(const PeepholeTensors& peephole) const {
  std::array<Tensor, 10> found;
  if (inputs_.inputs.defined()) {
    found[kToInputs] = net_.as_sequence(inputs_.inputs);
  }
  if (wanted_[kToH]) found[kToH] = in_format(h_grad_, net_.h_format);
  found[kToXWeight] = inputs_.conv.weight;
  found[kToXBias] = inputs_.conv.bias;
  found[kToHWeight] = h_.weight;
  found[kToHBias] = h_.bias;
  if (wanted_[kToC]) found[kToC] = in_format(c_grad_, net_.c_format);
  if (!weight_grads_.has_value()) return gradients(found, net_.options);
  Tensor sums = *weight_grads_;
  if (peephole.w_ci->size(2) != net_.height || peephole.w_ci->size(3) != net_.width) {
    sums = sums.is_cpu() ? CpuGateDevice::sum_pixels(sums) : sums.sum({2, 3}, true);
  }
  for (int k = 0; k < 3; ++k) {
    if (!wanted_[kToPeephole + k]) continue;
    const Tensor one = sums.narrow(0, k, 1);
    found[kToPeephole + k] = at::empty(one.sizes(), net_.options).copy_(one);
  }
  return gradients(found, net_.options);
}

// The gates, where kept, serve their gradients.
ConvLstmGradients conv_lstm_backward_(
    const OptionalTensor& grad, const OptionalTensor& c_grad,
    const OptionalTensor& inputs, const OptionalTensor& h,
    const OptionalTensor& x_weight, const OptionalTensor& x_bias,
    const Tensor& h_weight, const OptionalTensor& h_bias, const OptionalTensor& c,
    const OptionalTensor& w_ci, const OptionalTensor& w_cf, const OptionalTensor& w_co,
    at::IntArrayRef dilation, at::IntArrayRef slots, double forget_bias,
    const OptionalTensor& mask, const Tensor& outputs, const Tensor& cells,
    const Tensor& gates, bool gates_kept, const c10::List<bool>& wanted) {
  const char* op = "conv_lstm_backward";
  const PlainDispatch plain;
  TORCH_CHECK_VALUE(outputs.dim() == 5, op, ": outputs must be [T, B, F, H, W], got ",
                    outputs.sizes());
  const PeepholeTensors peephole{w_ci, w_cf, w_co};
  const ConvLstm net(op, {inputs, h, x_weight, x_bias, h_weight, h_bias}, c, peephole,
                     outputs.size(0), dilation, slots, forget_bias, mask);
  const auto states = net.sizes(net.features);
  check_beside(op, "outputs", outputs, states, h_weight);
  check_beside(op, "cells", cells, states, h_weight);
  if (grad.has_value()) check_beside(op, "grad", *grad, states, h_weight);
  if (c_grad.has_value()) {
    const auto state = {net.batch, net.features, net.height, net.width};
    check_beside(op, "c_grad", *c_grad, state, h_weight);
  }
  const auto needs = wanted.vec();
  TORCH_CHECK_VALUE(needs.size() == 10, op, ": wanted must be 10 flags, got ",
                    needs.size());
  TORCH_CHECK_VALUE(
      w_ci.has_value() || std::none_of(needs.begin() + kToPeephole, needs.end(),
                                       [](bool want) { return want; }),
      op, ": the gradients to the peephole are wanted, but there is none");
  Tensor left;
  if (!net.empty() && gates_kept) {
    check_beside(op, "gates", gates, net.sizes(4 * net.features), h_weight);
    left = channels_last(gates.flatten(0, 1));
  }
  ConvLstmBackward backward(net, grad, c_grad, outputs, cells, left, needs);
  if (!net.empty()) backward.run();
  return backward.results(peephole);
}

ConvLstmGradients conv_lstm_backward(
    const OptionalTensor& grad, const OptionalTensor& c_grad,
    const OptionalTensor& inputs, const OptionalTensor& h,
    const OptionalTensor& x_weight, const OptionalTensor& x_bias,
    const Tensor& h_weight, const OptionalTensor& h_bias, const OptionalTensor& c,
    const OptionalTensor& w_ci, const OptionalTensor& w_cf, const OptionalTensor& w_co,
    at::IntArrayRef dilation, at::IntArrayRef slots, double forget_bias,
    const OptionalTensor& mask, const Tensor& outputs, const Tensor& cells,
    const Tensor& gates, bool gates_kept, const c10::List<bool>& wanted) {
  const Tensor copy = [&] {
    const PlainDispatch plain;
    return gates.clone();
  }();
  return conv_lstm_backward_(grad, c_grad, inputs, h, x_weight, x_bias, h_weight,
                             h_bias, c, w_ci, w_cf, w_co, dilation, slots, forget_bias,
                             mask, outputs, cells, copy, gates_kept, wanted);
}

TRAJGRU_LIBRARY_IMPL(CompositeExplicitAutograd, m) {
  m.impl("conv_lstm_backward", &conv_lstm_backward);
  m.impl("conv_lstm_backward_", &conv_lstm_backward_);
}

}  // namespace
}  // namespace trajgru_ext
