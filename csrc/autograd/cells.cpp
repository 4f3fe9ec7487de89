#include "autograd/cells.h"

#include <ATen/ops/add.h>
#include <ATen/ops/cat.h>

#include <initializer_list>
#include <utility>

#include "autograd/derivatives.h"
#include "cpu/conv/conv2d.h"
#include "cpu/conv/winograd_cells.h"
#include "operators/gates/gru_options.h"
#include "sequences/traj_gru.h"

namespace trajgru_ext {
namespace {

using at::Tensor;

Tensor convolve(const Tensor& image, const CellConv& conv) {
  const auto& [weight, bias, padding, dilation] = conv;
  return conv2d_or_torch(image, weight, bias, {1, 1}, padding, dilation, 1);
}

Tensor joined(const OptionalTensor& input, const Tensor& state) {
  return input.has_value() ? at::cat({*input, state}, 1) : state;
}

bool any_recorded(OptionalTensors tensors,
                  std::initializer_list<const CellConv*> convs) {
  for (const CellConv* conv : convs) {
    tensors.push_back(std::get<0>(*conv));
    tensors.push_back(std::get<1>(*conv));
  }
  return recorded(tensors);
}

}  // namespace

std::vector<Tensor> lstm_cell(const OptionalTensor& input, const Tensor& h,
                              const Tensor& c, const CellConv& conv,
                              const std::vector<OptionalTensor>& peephole,
                              const std::vector<double>& options) {
  OptionalTensors operands = {h, input, c};
  operands.insert(operands.end(), peephole.begin(), peephole.end());
  if (!any_recorded(operands, {&conv})) {
    auto states = winograd_lstm_cell(input, h, c, conv, peephole, options);
    if (states.has_value()) return *std::move(states);
  }
  operands[0] = convolve(joined(input, h), conv);
  operands[1] = std::nullopt;
  return differentiable("lstm_gates", operands, options);
}

Tensor gru_cell_after(const OptionalTensor& input, const Tensor& h,
                      const std::optional<CellConv>& i2h, const CellConv& h2h,
                      const std::vector<double>& options, const OptionalTensor& mask) {
  if (!any_recorded({input, h}, {&h2h, i2h.has_value() ? &*i2h : &h2h})) {
    auto state = winograd_gru_cell_after(input, h, i2h, h2h, options, mask);
    if (state.has_value()) return *std::move(state);
  }
  OptionalTensor x_gates;
  if (input.has_value()) x_gates = convolve(*input, i2h.value());
  return differentiable("gru_gates", {x_gates, convolve(h, h2h), h, mask}, options)[0];
}

Tensor gru_cell_before(const OptionalTensor& input, const Tensor& h,
                       const CellConv& conv_gates, const CellConv& conv_can,
                       const std::vector<double>& options, const OptionalTensor& mask) {
  if (!any_recorded({input, h}, {&conv_gates, &conv_can})) {
    auto state =
        winograd_gru_cell_before(input, h, conv_gates, conv_can, options, mask);
    if (state.has_value()) return *std::move(state);
  }
  const Tensor gates = convolve(joined(input, h), conv_gates);
  const auto halves = differentiable("gru_reset", {gates, std::nullopt, h}, options);
  const Tensor candidate = convolve(joined(input, halves[1]), conv_can);
  return differentiable("gru_output", {halves[0], candidate, h, mask}, options)[0];
}

Tensor traj_gru_cell(const OptionalTensor& input, const Tensor& h,
                     const std::optional<CellConv>& i2h,
                     const std::optional<CellConv>& i2f, const CellConv& h2f,
                     const CellConv& flows_conv, const CellConv& ret,
                     const std::vector<double>& options, const OptionalTensor& mask) {
  const auto last = at::MemoryFormat::ChannelsLast;
  const GruOptions chosen = gru_options("traj_gru", options, 3);
  const Tensor state = h.contiguous(last);
  Tensor hidden = convolve(state, h2f);
  OptionalTensor x_gates;
  if (input.has_value()) {
    const Tensor image = input->contiguous(last);
    hidden = at::add(hidden, convolve(image, i2f.value()));
    x_gates = convolve(image, i2h.value());
  }
  activate_(hidden, chosen.update);
  const Tensor flows = convolve(hidden, flows_conv);
  const auto& [weight, bias, padding, dilation] = ret;
  const Tensor h_gates = differentiable(
      "flow_conv", {state, flows, weight.flatten(1), bias}, {kTrajGruFlowScale})[0];
  const Tensor after =
      differentiable("gru_gates", {x_gates, h_gates, state, mask}, options)[0];
  return after.contiguous((input.has_value() ? *input : h).suggest_memory_format());
}

}  // namespace trajgru_ext
