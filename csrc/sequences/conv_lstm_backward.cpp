// The gradient of conv_lstm: back in time; the gradients to parameters for a block of
// steps at once.

#include <ATen/ops/empty.h>

#include <algorithm>
#include <vector>

#include "sequences/checks.h"
#include "sequences/conv_lstm.h"
#include "sequences/floats.h"
#include "tensors/library.h"
#include "tensors/tensors.h"

namespace trajgru_ext {
namespace {

using at::Tensor;

// In the order of `wanted`: as of ConvRnnWanted, then c and the peepholes.
constexpr int kToC = kToHBias + 1, kToPeephole = kToC + 1;
using ConvLstmGradients = TensorTuple<10>;

class ConvLstmBackward {
 public:
  // gates: of all steps, or undefined where they were not saved.
  ConvLstmBackward(const ConvLstm& net, const OptionalTensor& grad,
                   const OptionalTensor& c_grad, const Tensor& outputs,
                   const Tensor& cells, const Tensor& gates,
                   const std::vector<bool>& wanted);

  void run();
  ConvLstmGradients results(const PeepholeTensors& peephole) const;

 private:
  Tensor gates_of(int64_t first, int64_t last) const;
  void step_back(const Tensor& gates, const Tensor& gates_grad, int64_t t);
  void add_parameter_grads(const Tensor& gates_grad, int64_t first, int64_t last);
  Tensor h_before(int64_t t) const { return net_.state_before(outputs_, net_.h, t); }
  Tensor c_before(int64_t t) const { return net_.state_before(cells_, net_.c, t); }
  Tensor c_after(int64_t t) const { return channels_last(cells_.select(0, t)); }

  const ConvLstm& net_;
  OptionalTensor grad_;
  const Tensor outputs_, cells_, gates_;
  const std::vector<bool> wanted_;
  InputsGrad inputs_;
  ConvGrad h_;
  Tensor h_grad_, c_grad_;       // of a step, to what is before it
  Tensor gates_grad_;            // of a block of steps
  OptionalTensor weight_grads_;  // to the peepholes, summed over samples and steps
};

ConvLstmBackward::ConvLstmBackward(const ConvLstm& net, const OptionalTensor& grad,
                                   const OptionalTensor& c_grad, const Tensor& outputs,
                                   const Tensor& cells, const Tensor& gates,
                                   const std::vector<bool>& wanted)
    : net_(net),
      outputs_(net.at_once(outputs)),
      cells_(net.at_once(cells)),
      gates_(gates),
      wanted_(wanted),
      inputs_(net, wanted),
      h_(net.h_conv, wanted[kToHWeight], wanted[kToHBias]) {
  if (grad.has_value()) grad_ = net.at_once(*grad);
  h_grad_ = net.images(1, net.features).zero_();
  c_grad_ = net.images(1, net.features);
  c_grad.has_value() ? c_grad_.copy_(*c_grad) : c_grad_.zero_();
  const bool peephole =
      wanted[kToPeephole] || wanted[kToPeephole + 1] || wanted[kToPeephole + 2];
  if (!peephole) return;
  weight_grads_ = at::empty({3, net.features, net.height, net.width},
                            net.like.dtype(opmath_dtype(net.h_conv.weight))
                                .memory_format(at::MemoryFormat::ChannelsLast))
                      .zero_();
}

// As the forward pass saved them, or computed again.
Tensor ConvLstmBackward::gates_of(int64_t first, int64_t last) const {
  const int64_t count = last - first;
  if (gates_.defined()) return net_.of_step(gates_, first, count);
  const Tensor again = net_.prepare(first, count);
  const Tensor h = net_.images(1, net_.features), c = net_.images(1, net_.features);
  for (int64_t k = 0; k < count; ++k) {
    const int64_t t = first + k;
    net_.step(t, net_.of_step(again, k), h_before(t), c_before(t), true, h, c);
  }
  return again;
}

void ConvLstmBackward::step_back(const Tensor& gates, const Tensor& gates_grad,
                                 int64_t t) {
  if (grad_.has_value()) h_grad_.add_(grad_->select(0, t));
  const OptionalTensor masked = net_.mask_of(t);
  OptionalTensor h_zoneout_grad;
  if (masked.has_value()) h_zoneout_grad = h_grad_;
  call::lstm_step_backward(gates, net_.or_zero(c_before(t)), c_after(t), h_grad_,
                           net_.w_ci, net_.w_cf, net_.w_co, net_.options, masked,
                           gates_grad, c_grad_, h_zoneout_grad, weight_grads_);
  if (t == 0 && !(net_.h.defined() && wanted_[kToH])) return;
  const Tensor through = convolve_backward(gates_grad, h_grad_, net_.h_conv);
  h_grad_ = masked.has_value() ? h_grad_.add_(through) : through;
}

void ConvLstmBackward::add_parameter_grads(const Tensor& gates_grad, int64_t first,
                                           int64_t last) {
  inputs_.add(net_, first, last - first, gates_grad);
  if (!h_.wanted()) return;
  h_.add(gates_grad, net_.states_before(outputs_, net_.h, first, last), net_.h_conv);
}

void ConvLstmBackward::run() {
  const int64_t steps_per_block =
      net_.steps_per_block_back(4 * net_.features, gates_.defined());
  for (int64_t last = net_.steps; last > 0; last -= std::min(steps_per_block, last)) {
    const int64_t first = std::max<int64_t>(last - steps_per_block, 0);
    const Tensor gates = gates_of(first, last);
    if (!gates_.defined()) {
      gates_grad_ = gates;  // whose values nobody reads afterwards
    } else if (!gates_grad_.defined() || gates_grad_.sizes() != gates.sizes()) {
      gates_grad_ = net_.images(last - first, 4 * net_.features);
    }
    for (int64_t t = last - 1; t >= first; --t) {
      step_back(net_.of_step(gates, t - first), net_.of_step(gates_grad_, t - first),
                t);
    }
    add_parameter_grads(gates_grad_, first, last);
  }
}

ConvLstmGradients ConvLstmBackward::results(const PeepholeTensors& peephole) const {
  std::array<Tensor, 10> found;
  if (inputs_.inputs.defined()) {
    found[kToInputs] = net_.as_sequence(inputs_.inputs);
  }
  if (wanted_[kToH]) found[kToH] = in_format(h_grad_, net_.h_format);
  found[kToXWeight] = inputs_.conv.weight.value_or(Tensor());
  found[kToXBias] = inputs_.conv.bias.value_or(Tensor());
  found[kToHWeight] = h_.weight.value_or(Tensor());
  found[kToHBias] = h_.bias.value_or(Tensor());
  if (wanted_[kToC]) found[kToC] = in_format(c_grad_, net_.c_format);
  if (!weight_grads_.has_value()) return gradients(found, net_.like);
  Tensor sums = *weight_grads_;
  if (peephole.w_ci->size(2) != net_.height || peephole.w_ci->size(3) != net_.width) {
    sums = call::pixel_sums(sums);
  }
  for (int k = 0; k < 3; ++k) {
    if (!wanted_[kToPeephole + k]) continue;
    const Tensor one = sums.narrow(0, k, 1);
    found[kToPeephole + k] = at::empty(one.sizes(), net_.like).copy_(one);
  }
  return gradients(found, net_.like);
}

ConvLstmGradients conv_lstm_backward(
    const OptionalTensor& grad, const OptionalTensor& c_grad,
    const OptionalTensor& inputs, const OptionalTensor& h,
    const OptionalTensor& x_weight, const OptionalTensor& x_bias,
    const Tensor& h_weight, const OptionalTensor& h_bias, const OptionalTensor& c,
    const OptionalTensor& w_ci, const OptionalTensor& w_cf, const OptionalTensor& w_co,
    at::IntArrayRef x_dilation, at::IntArrayRef h_dilation,
    at::ArrayRef<double> options, const OptionalTensor& mask, const Tensor& outputs,
    const Tensor& cells, const Tensor& gates, bool gates_saved,
    const c10::List<bool>& wanted) {
  const char* op = "conv_lstm_backward";
  const PlainDispatch plain;
  TORCH_CHECK_VALUE(outputs.dim() == 5, op, ": outputs must be [T, B, F, H, W], got ",
                    outputs.sizes());
  const PeepholeTensors peephole{w_ci, w_cf, w_co};
  const ConvLstm net(op, {inputs, h, x_weight, x_bias, h_weight, h_bias}, c, peephole,
                     outputs.size(0), {x_dilation, h_dilation}, options, mask);
  const auto states = net.sizes(net.features);
  check_argument(op, "outputs", outputs, states, h_weight);
  check_argument(op, "cells", cells, states, h_weight);
  if (grad.has_value()) check_argument(op, "grad", *grad, states, h_weight);
  if (c_grad.has_value()) {
    const auto state = {net.batch, net.features, net.height, net.width};
    check_argument(op, "c_grad", *c_grad, state, h_weight);
  }
  const auto needs = wanted.vec();
  TORCH_CHECK_VALUE(needs.size() == 10, op, ": wanted must be 10 flags, got ",
                    needs.size());
  TORCH_CHECK_VALUE(
      w_ci.has_value() || std::none_of(needs.begin() + kToPeephole, needs.end(),
                                       [](bool want) { return want; }),
      op, ": the gradients to the peephole are wanted, but there is none");
  Tensor saved;
  if (!net.empty() && gates_saved) {
    check_argument(op, "gates", gates, net.sizes(4 * net.features), h_weight);
    saved = channels_last(gates.flatten(0, 1));
  }
  if (net.in_floats()) {
    return in_dtype(
        in_floats(&conv_lstm_backward, grad, c_grad, inputs, h, x_weight, x_bias,
                  h_weight, h_bias, c, w_ci, w_cf, w_co, x_dilation, h_dilation,
                  options, mask, outputs, cells, gates, gates_saved, wanted),
        net.like);
  }
  ConvLstmBackward backward(net, grad, c_grad, outputs, cells, saved, needs);
  if (!net.empty()) backward.run();
  return backward.results(peephole);
}

TRAJGRU_LIBRARY_IMPL(CompositeExplicitAutograd, m) {
  m.impl("conv_lstm_backward", &conv_lstm_backward);
}

}  // namespace
}  // namespace trajgru_ext
