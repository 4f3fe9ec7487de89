#pragma once

// The inner loops of the gate updates on the CPU, over rows numbered with the samples
// of a row one after the other: number = inner row * samples + sample.

#include <ATen/OpMathType.h>

#include "cpu/capability.h"
#include "math/gru_gates.h"
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

TRAJGRU_DECLARE_KERNELS(GruGatesKernels, gru_gates_kernels)
TRAJGRU_DECLARE_KERNELS(LstmGatesKernels, lstm_gates_kernels)

// In csrc/cpu/vec: all dtypes of a table, those of csrc/gate_layout.h.
#define TRAJGRU_INSTANTIATE_GATE_KERNELS(Table, kernels)                               \
  template const Table<GateDtypes<float, float>>& kernels<GateDtypes<float, float>>(); \
  template const Table<GateDtypes<double, double>>&                                    \
  kernels<GateDtypes<double, double>>();                                               \
  template const Table<GateDtypes<at::BFloat16, at::BFloat16>>&                        \
  kernels<GateDtypes<at::BFloat16, at::BFloat16>>();                                   \
  template const Table<GateDtypes<at::Half, at::Half>>&                                \
  kernels<GateDtypes<at::Half, at::Half>>();                                           \
  template const Table<GateDtypes<at::BFloat16, float>>&                               \
  kernels<GateDtypes<at::BFloat16, float>>();                                          \
  template const Table<GateDtypes<at::Half, float>>&                                   \
  kernels<GateDtypes<at::Half, float>>();

}  // namespace trajgru_ext
