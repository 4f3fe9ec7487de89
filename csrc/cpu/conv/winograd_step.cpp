// Winograd's convolutions to the sums of gates, fused with the updates of these. All
// images are channels last and float32.

#include "operators/conv/winograd_step.h"

#include "cpu/conv/winograd_conv.h"
#include "cpu/gate_device.h"
#include "operators/gates/gru_output.h"
#include "operators/gates/gru_reset.h"
#include "operators/gates/gru_step.h"
#include "operators/gates/lstm_step.h"
#include "tensors/library.h"

namespace trajgru_ext {
namespace {

using at::Tensor;
using Floats = GateDtypes<float, float>;

void check_pixels(const char* op, const GateLayout& layout,
                  std::initializer_list<Tensor> buffers) {
  check_buffers(op, layout, at::kFloat, buffers);
  TORCH_CHECK_VALUE(!layout.planes(), op, ": outputs must be channels last, got ",
                    buffers.begin()->sizes(), " with strides ",
                    buffers.begin()->strides());
}

template <typename Args>
void convolve(const WinogradConv<float>& conv, const Args& args) {
  const auto& kernels = winograd_step_kernels<Args>(conv.features);
  for_winograd_tiles(conv, [&](int64_t begin, int64_t end, float* buffer) {
    kernels.convolve(conv, args, begin, end, buffer);
  });
}

// Leaves the sums where they are wanted.
void leave_sums(const char* op, WinogradConv<float>& conv, const OptionalTensor& sums,
                const Tensor& h) {
  if (!sums.has_value()) return;
  check_gate_tensor(op, "sums", *sums, "h", h, conv.gates);
  show_output(op, "sums", conv, *sums);
}

}  // namespace

void winograd_lstm_step(at::TensorList images, const Tensor& weights,
                        const OptionalTensor& bias, int64_t taps,
                        const OptionalTensor& h, const Tensor& c,
                        const OptionalTensor& w_ci, const OptionalTensor& w_cf,
                        const OptionalTensor& w_co, at::ArrayRef<double> options,
                        const OptionalTensor& mask, const OptionalTensor& gates,
                        const Tensor& h_output, const Tensor& c_output) {
  const char* op = "winograd_lstm_step";
  LstmStepOperators<CpuGateDevice>::check_step(op, h, c, w_ci, w_cf, w_co, mask,
                                               h_output, c_output);
  const LstmOptions chosen = lstm_options(op, options);
  if (gates.has_value()) check_gates(op, *gates, std::nullopt, "c", c, 4);
  const PlainDispatch plain;
  Tensor offset;
  const auto conv = same_conv_args(op, images, weights, bias, 4, taps, c, offset);
  const LstmStepOperands in(h_output, c, mask, w_ci, w_cf, w_co,
                            CpuGateDevice::kRowLength);
  const Tensor state = in.layout.fit(c, at::kFloat);
  const Tensor old = in.layout.fit(mask.has_value() ? h : std::nullopt, at::kFloat);
  check_pixels(op, in.layout, {h_output, c_output});
  if (gates.has_value()) check_buffers(op, in.layout, at::kFloat, {*gates});
  LstmStep<Floats> args{};
  in.fill(args, chosen);
  args.save_gates = gates.has_value();
  if (gates.has_value()) in.layout.show(args.gates, *gates);
  in.layout.show(args.h, old);
  in.layout.show(args.c, state);
  in.layout.show(args.h_output, h_output);
  in.layout.show(args.c_output, c_output);
  args.forget_bias = static_cast<float>(chosen.forget_bias);
  convolve(conv, args);
}

void winograd_gru_step(at::TensorList images, const Tensor& weights,
                       const OptionalTensor& bias, int64_t taps, const Tensor& gates,
                       const Tensor& h, bool has_inputs, at::ArrayRef<double> options,
                       const OptionalTensor& mask, const OptionalTensor& candidate,
                       const Tensor& output) {
  const char* op = "winograd_gru_step";
  GruStepOperators<CpuGateDevice>::check_step(op, gates, std::nullopt, h, mask,
                                              candidate, output);
  const GruOptions chosen = gru_options(op, options, 3);
  const PlainDispatch plain;
  Tensor offset;
  const auto conv = same_conv_args(op, images, weights, bias, 3, taps, h, offset);
  const GruStepOperands in(output, h, mask, CpuGateDevice::kRowLength);
  check_pixels(op, in.layout, {output, gates});
  if (candidate.has_value()) check_pixels(op, in.layout, {*candidate});
  GruStep<Floats> args{};
  in.fill(args, chosen);
  args.has_inputs = has_inputs;
  in.layout.show(args.gates, gates);
  if (candidate.has_value()) in.layout.show(args.candidate, *candidate);
  in.layout.show(args.output, output);
  convolve(conv, args);
}

void winograd_gru_reset(at::TensorList images, const Tensor& weights,
                        const OptionalTensor& bias, int64_t taps, const Tensor& h,
                        at::ArrayRef<double> options, const OptionalTensor& sums,
                        const Tensor& u, const Tensor& reset) {
  const char* op = "winograd_gru_reset";
  check_image(op, "h", h, h.device());
  const GruOptions chosen = gru_options(op, options, 2);
  check_like_state(op, "u", u, "h", h);
  check_like_state(op, "reset", reset, "h", h);
  const PlainDispatch plain;
  Tensor offset;
  auto conv = same_conv_args(op, images, weights, bias, 2, taps, h, offset);
  leave_sums(op, conv, sums, h);
  const GateLayout layout(u, h, CpuGateDevice::kRowLength);
  const Tensor state = layout.fit(h, at::kFloat);
  check_pixels(op, layout, {u, reset});
  GruReset<Floats> args{};
  args.rows = layout.rows();
  layout.show(args.h, state);
  args.order = chosen.order;
  layout.show(args.u, u);
  layout.show(args.reset, reset);
  convolve(conv, args);
}

void winograd_gru_output(at::TensorList images, const Tensor& weights,
                         const OptionalTensor& bias, int64_t taps, const Tensor& u,
                         const Tensor& h, at::ArrayRef<double> options,
                         const OptionalTensor& mask, const OptionalTensor& sums,
                         const Tensor& output) {
  const char* op = "winograd_gru_output";
  check_gru_output(op, u, output, h);
  check_zoneout_mask(op, mask, "h", h);
  const GruOptions chosen = gru_options(op, options, 0);
  const PlainDispatch plain;
  Tensor offset;
  auto conv = same_conv_args(op, images, weights, bias, 1, taps, h, offset);
  leave_sums(op, conv, sums, h);
  const GateLayout layout(output, h, CpuGateDevice::kRowLength);
  const Tensor gate = layout.fit(u, at::kFloat), state = layout.fit(h, at::kFloat);
  const Tensor zoneout = layout.fit(mask, at::kBool);
  check_pixels(op, layout, {output});
  GruOutput<Floats> args{};
  args.rows = layout.rows();
  layout.show(args.u, gate);
  layout.show(args.h, state);
  layout.show(args.mask, zoneout);
  args.update.set(chosen.update);
  layout.show(args.output, output);
  convolve(conv, args);
}

TRAJGRU_LIBRARY_IMPL(CPU, m) {
  m.impl("winograd_lstm_step", &winograd_lstm_step);
  m.impl("winograd_gru_step", &winograd_gru_step);
  m.impl("winograd_gru_reset", &winograd_gru_reset);
  m.impl("winograd_gru_output", &winograd_gru_output);
}

}  // namespace trajgru_ext
