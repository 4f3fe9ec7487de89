#pragma once

// The inner loops of the gate updates on the CPU, over rows numbered with the samples
// of a row one after the other: number = inner row * samples + sample.

#include <ATen/OpMathType.h>

#include "cpu/capability.h"
#include "math/gru_gates.h"
#include "math/gru_step.h"
#include "math/lstm_gates.h"

namespace trajgru_ext {

// A row is as long as its elements are in registers, in the wider of the two dtypes.
template <typename gate_t, typename state_t>
inline constexpr size_t kElementBytes<GateDtypes<gate_t, state_t>> = sizeof(state_t);

// D: GateDtypes. Each operator's arguments, with the index type of the CPU.
template <template <typename, typename, typename> typename Args, typename D>
using CpuGates = Args<D, at::opmath_type<typename D::state_t>, int64_t>;

template <typename Args>
using GateLoop = void (*)(const Args& args, int64_t begin, int64_t end);

template <typename D>
struct GruGatesKernels {
  GateLoop<CpuGates<GruGates, D>> gates;
  GateLoop<CpuGates<GruGatesBackward, D>> gates_backward;
  GateLoop<CpuGates<GruReset, D>> reset;
  GateLoop<CpuGates<GruResetBackward, D>> reset_backward;
  GateLoop<CpuGates<GruOutput, D>> output;
  GateLoop<CpuGates<GruOutputBackward, D>> output_backward;
};

template <typename D>
struct LstmGatesKernels {
  GateLoop<CpuGates<LstmGatesForward, D>> gates;
  GateLoop<CpuGates<LstmGatesBackward, D>> gates_backward;
};

template <typename D>
struct GruStepKernels {
  GateLoop<CpuGates<GruStep, D>> step;
  GateLoop<CpuGates<GruStepBackward, D>> backward;
};

TRAJGRU_DECLARE_KERNELS(GruGatesKernels, gru_gates_kernels)
TRAJGRU_DECLARE_KERNELS(LstmGatesKernels, lstm_gates_kernels)
TRAJGRU_DECLARE_KERNELS(GruStepKernels, gru_step_kernels)

// In csrc/cpu/vec: a table for gates and state of one dtype, and of all dtypes, those
// of csrc/gate_layout.h.
#define TRAJGRU_INSTANTIATE_PAIR(Table, kernels, gate_t, state_t) \
  template const Table<GateDtypes<gate_t, state_t>>&              \
  kernels<GateDtypes<gate_t, state_t>>();
#define TRAJGRU_INSTANTIATE_SAME_DTYPE_KERNELS(Table, kernels)         \
  TRAJGRU_INSTANTIATE_PAIR(Table, kernels, float, float)               \
  TRAJGRU_INSTANTIATE_PAIR(Table, kernels, double, double)             \
  TRAJGRU_INSTANTIATE_PAIR(Table, kernels, at::BFloat16, at::BFloat16) \
  TRAJGRU_INSTANTIATE_PAIR(Table, kernels, at::Half, at::Half)
#define TRAJGRU_INSTANTIATE_GATE_KERNELS(Table, kernels)        \
  TRAJGRU_INSTANTIATE_SAME_DTYPE_KERNELS(Table, kernels)        \
  TRAJGRU_INSTANTIATE_PAIR(Table, kernels, at::BFloat16, float) \
  TRAJGRU_INSTANTIATE_PAIR(Table, kernels, at::Half, float)

}  // namespace trajgru_ext
