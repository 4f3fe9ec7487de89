#include "math/lstm_step.h"

#include "cpu/vec/gate_loop.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {

TRAJGRU_INSTANTIATE_STEP_KERNELS(LstmStep)
TRAJGRU_INSTANTIATE_STEP_KERNELS(LstmStepBackward)

}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
