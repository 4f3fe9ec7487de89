#pragma once

// The inner loops of the gate updates on the CPU, over rows numbered with the samples
// of a row one after the other: number = inner row * samples + sample.

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "cpu/capability.h"
#include "math/gate_rows.h"

namespace trajgru_ext {

// A row is as long as its elements are in registers, in the wider of the two dtypes.
template <template <typename> typename Args, typename gate_t, typename state_t>
inline constexpr size_t kElementBytes<Args<GateDtypes<gate_t, state_t>>> =
    sizeof(state_t);

// Args: of one operator, such as GruGates<GateDtypes<float, float>>.
template <typename Args>
struct GateKernels {
  void (*loop)(const Args& args, int64_t begin, int64_t end);
};

TRAJGRU_DECLARE_KERNELS(GateKernels, gate_kernels)

// In csrc/cpu/vec: an operator for gates and state of one dtype, and for all dtypes,
// those of csrc/operators/gates/gate_layout.h.
#define TRAJGRU_INSTANTIATE_STEP_KERNELS(Args)                      \
  TRAJGRU_INSTANTIATE_GATE_KERNEL(Args, float, float)               \
  TRAJGRU_INSTANTIATE_GATE_KERNEL(Args, double, double)             \
  TRAJGRU_INSTANTIATE_GATE_KERNEL(Args, at::BFloat16, at::BFloat16) \
  TRAJGRU_INSTANTIATE_GATE_KERNEL(Args, at::Half, at::Half)
#define TRAJGRU_INSTANTIATE_GATE_KERNELS(Args)               \
  TRAJGRU_INSTANTIATE_STEP_KERNELS(Args)                     \
  TRAJGRU_INSTANTIATE_GATE_KERNEL(Args, at::BFloat16, float) \
  TRAJGRU_INSTANTIATE_GATE_KERNEL(Args, at::Half, float)

#define TRAJGRU_INSTANTIATE_GATE_KERNEL(Args, gate_t, state_t)   \
  template const GateKernels<Args<GateDtypes<gate_t, state_t>>>& \
  gate_kernels<Args<GateDtypes<gate_t, state_t>>>();

}  // namespace trajgru_ext
