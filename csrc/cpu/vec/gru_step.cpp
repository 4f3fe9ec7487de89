#include "math/gru_step.h"

#include "cpu/vec/gate_loop.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {

TRAJGRU_INSTANTIATE_STEP_KERNELS(GruStep)
TRAJGRU_INSTANTIATE_STEP_KERNELS(GruStepBackward)

}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
