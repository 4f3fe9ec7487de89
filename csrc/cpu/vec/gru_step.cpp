// See flow_warp.cpp for what files of this folder may use.

#include "cpu/vec/lanes.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {

TRAJGRU_INSTANTIATE_STEP_KERNELS(GruStep)
TRAJGRU_INSTANTIATE_STEP_KERNELS(GruStepBackward)

}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
