// A step of TrajGRU; sequences/calls.h says of what.

#include <ATen/MemoryOverlap.h>

#include <type_traits>

#include "cuda/flow_conv.h"
#include "cuda/flow_conv_fused.h"
#include "cuda/gate_device.h"
#include "cuda/gru_step.h"
#include "operators/flow/flow_conv.h"
#include "operators/gates/gru_step.h"
#include "tensors/library.h"

namespace trajgru_ext::cuda {
namespace {

using at::Tensor;
using Gates = GruStepOperators<CudaGateDevice>;

void step(const Tensor& gates, const Tensor& h, const Tensor& flows,
          const Tensor& weight, double flow_scale, bool has_inputs,
          at::ArrayRef<double> options, const OptionalTensor& mask,
          const OptionalTensor& candidate, const Tensor& output,
          const OptionalTensor& x_bias, const OptionalTensor& h_bias) {
  static constexpr const char* op = "flow_conv_gru_step";
  check_flow_conv_weight(op, h, flows, weight);
  Gates::check_step(op, gates, std::nullopt, h, mask, candidate, output);
  TORCH_CHECK_VALUE(weight.size(0) == gates.size(1), op, ": weight must be [3F, ",
                    "links * F] = [", gates.size(1), ", ", weight.size(1), "], got ",
                    weight.sizes());
  const auto overlap = at::get_overlap_status(output, h);
  TORCH_CHECK_VALUE(
      overlap != at::MemOverlapStatus::Full && overlap != at::MemOverlapStatus::Partial,
      op, ": output must not lie where h does");
  const DeviceGuard guard(h.device());
  const PlainDispatch plain;
  const Tensor state = h.contiguous(at::MemoryFormat::ChannelsLast);
  const Tensor moves = flows.to(opmath_dtype(h)), matrix = weight.contiguous();
  if (memory_format(gates) == at::MemoryFormat::Contiguous ||
      !flow_conv_updates_gates(state, moves, matrix)) {
    const Tensor h_gates = flow_conv(h, flows, weight, std::nullopt, flow_scale);
    return gru_step(gates, h_gates, h, has_inputs, options, mask, candidate, output,
                    x_bias, h_bias);
  }
  Gates::with_step(op, gates, std::nullopt, state, has_inputs, options, mask, candidate,
                   output, x_bias, h_bias, [&](const auto& args) {
                     using scalar_t = typename std::decay_t<decltype(args)>::scalar_t;
                     if constexpr (!std::is_same_v<scalar_t, double>) {
                       flow_conv_gru_step(state, moves, matrix, flow_scale, args);
                     }
                   });
}

TRAJGRU_LIBRARY_IMPL(TRAJGRU_DEVICE_KEY, m) {
  m.impl("flow_conv_gru_step", &step);
}

}  // namespace
}  // namespace trajgru_ext::cuda
