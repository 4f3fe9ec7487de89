// See flow_warp.cpp for what files of this folder may use.

#include "cpu/gates.h"
#include "cpu/vec/lanes.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {

template <typename D>
const GruStepKernels<D>& gru_step_kernels() {
  static constexpr GruStepKernels<D> kernels = {update_rows<D>, update_rows<D>};
  return kernels;
}

TRAJGRU_INSTANTIATE_SAME_DTYPE_KERNELS(GruStepKernels, gru_step_kernels)

}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
