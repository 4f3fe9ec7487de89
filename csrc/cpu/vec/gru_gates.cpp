// See flow_warp.cpp for what files of this folder may use.

#include "cpu/gates.h"
#include "cpu/vec/lanes.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {

template <typename D>
const GruGatesKernels<D>& gru_gates_kernels() {
  static constexpr GruGatesKernels<D> kernels = {update_rows<D>, update_rows<D>,
                                                 update_rows<D>, update_rows<D>,
                                                 update_rows<D>, update_rows<D>};
  return kernels;
}

TRAJGRU_INSTANTIATE_GATE_KERNELS(GruGatesKernels, gru_gates_kernels)

}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
