// See flow_warp.cpp for what files of this folder may use.

#include "cpu/vec/lanes.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {

TRAJGRU_INSTANTIATE_GATE_KERNELS(GruGates)
TRAJGRU_INSTANTIATE_GATE_KERNELS(GruGatesBackward)
TRAJGRU_INSTANTIATE_GATE_KERNELS(GruReset)
TRAJGRU_INSTANTIATE_GATE_KERNELS(GruResetBackward)
TRAJGRU_INSTANTIATE_GATE_KERNELS(GruOutput)
TRAJGRU_INSTANTIATE_GATE_KERNELS(GruOutputBackward)

}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
