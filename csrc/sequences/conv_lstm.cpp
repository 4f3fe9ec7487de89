#include "sequences/conv_lstm.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <tuple>

#include "operators/gates/gate_checks.h"
#include "sequences/checks.h"
#include "sequences/floats.h"
#include "tensors/library.h"
#include "tensors/tensors.h"

namespace trajgru_ext {

ConvLstm::ConvLstm(const char* op, const ConvRnnTensors& given,
                   const OptionalTensor& cell, const PeepholeTensors& peephole,
                   int64_t count, const Dilations& dilations,
                   at::ArrayRef<double> numbers, const OptionalTensor& zoneout_mask)
    : ConvRnn(op, given, count, 4, dilations, zoneout_mask),
      options(numbers.begin(), numbers.end()) {
  lstm_options(op, numbers);  // checks them
  if (cell.has_value()) {
    const auto wanted = {batch, features, height, width};
    check_argument(op, "c", *cell, wanted, given.h_weight);
    c = channels_last(*cell);
    c_format = memory_format(*cell);
  }
  check_peephole(op, peephole.w_ci, peephole.w_cf, peephole.w_co,
                 {batch, features, height, width}, like.device());
  if (!peephole.w_ci.has_value()) return;
  for (const at::Tensor& w : {*peephole.w_ci, *peephole.w_cf, *peephole.w_co}) {
    check_argument(op, "peephole", w, {-1, -1, -1, -1}, given.h_weight);
  }
  const auto fitted = [&](const OptionalTensor& weight) {
    return channels_last(weight->to(opmath_dtype(given.h_weight)));
  };
  w_ci = fitted(peephole.w_ci);
  w_cf = fitted(peephole.w_cf);
  w_co = fitted(peephole.w_co);
}

const FusedConv& ConvLstm::fused() const {
  if (!fused_.has_value()) fused_ = fuse(x_conv, h_conv, 4);
  return *fused_;
}

at::Tensor ConvLstm::prepare(int64_t first, int64_t count) const {
  return fused().exists() ? images(count, 4 * features) : x_gates(first, count);
}

void ConvLstm::step(int64_t t, const at::Tensor& gates, const at::Tensor& h_before,
                    const at::Tensor& c_before, bool save_gates,
                    const at::Tensor& h_after, const at::Tensor& c_after) const {
  const OptionalTensor masked = mask_of(t);
  OptionalTensor old;
  if (masked.has_value()) old = or_zero(h_before);
  if (!fused().exists()) {
    return call::lstm_step(gates, h_gates(h_before, h_conv), old, or_zero(c_before),
                           inputs.defined(), w_ci, w_cf, w_co, options, masked,
                           save_gates, h_after, c_after, x_bias(), h_bias());
  }
  OptionalTensor left;
  if (save_gates) left = gates;
  const FusedConv& conv = fused();
  call::winograd_lstm_step(fused_images(t, h_before), conv.weights, conv.bias,
                           conv.taps, old, or_zero(c_before), w_ci, w_cf, w_co, options,
                           masked, left, h_after, c_after);
}

namespace {

using at::Tensor;

// Outputs, the last cell state, and as wanted all cell states and gates.
std::tuple<Tensor, Tensor, Tensor, Tensor> conv_lstm(
    const OptionalTensor& inputs, const OptionalTensor& h,
    const OptionalTensor& x_weight, const OptionalTensor& x_bias,
    const Tensor& h_weight, const OptionalTensor& h_bias, const OptionalTensor& c,
    const OptionalTensor& w_ci, const OptionalTensor& w_cf, const OptionalTensor& w_co,
    int64_t steps, at::IntArrayRef x_dilation, at::IntArrayRef h_dilation,
    at::ArrayRef<double> options, const OptionalTensor& mask, bool save_cells,
    bool save_gates) {
  const PlainDispatch plain;
  TORCH_CHECK_VALUE(save_cells || !save_gates,
                    "conv_lstm: save_gates takes save_cells");
  const ConvLstm net("conv_lstm", {inputs, h, x_weight, x_bias, h_weight, h_bias}, c,
                     {w_ci, w_cf, w_co}, steps, {x_dilation, h_dilation}, options,
                     mask);
  if (net.in_floats()) {
    return in_dtype(in_floats(&conv_lstm, inputs, h, x_weight, x_bias, h_weight, h_bias,
                              c, w_ci, w_cf, w_co, steps, x_dilation, h_dilation,
                              options, mask, save_cells, save_gates),
                    net.like);
  }
  const int64_t features = net.features;
  const States outputs(net);
  Tensor gates, cells, c_after = net.or_zero(net.c);
  if (save_cells) cells = net.images(steps, features);
  if (net.empty()) {
    if (save_gates) gates = net.images(steps, 4 * features);
  } else {
    const int64_t steps_per_block =
        save_gates ? steps : net.steps_per_block(4 * features);
    Tensor h_before = net.h, c_before = net.c;
    if (!save_cells) c_after = net.images(1, features);
    for (int64_t t = 0; t < steps; ++t) {
      const int64_t k = t % steps_per_block;
      if (k == 0) gates = net.prepare(t, std::min(steps_per_block, steps - t));
      const Tensor output = outputs.buffer(t);
      if (save_cells) c_after = net.of_step(cells, t);
      net.step(t, net.of_step(gates, k), h_before, c_before, save_gates, output,
               c_after);
      outputs.store(t);
      h_before = output;
      c_before = c_after;
    }
  }
  // A tensor of its own, neither an argument nor part of another result.
  const Tensor last =
      at::empty(c_after.sizes(), net.like.memory_format(net.c_format)).copy_(c_after);
  const auto saved = [&](bool save, const Tensor& all) {
    return save ? net.as_sequence(all) : nothing(net.like);
  };
  return {outputs.all(), last, saved(save_cells, cells), saved(save_gates, gates)};
}

TRAJGRU_LIBRARY_IMPL(CompositeExplicitAutograd, m) {
  m.impl("conv_lstm", &conv_lstm);
}

}  // namespace
}  // namespace trajgru_ext
