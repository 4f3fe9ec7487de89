#include "math/gru_reset.h"

#include "cpu/vec/gate_loop.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {

TRAJGRU_INSTANTIATE_GATE_KERNELS(GruReset)
TRAJGRU_INSTANTIATE_GATE_KERNELS(GruResetBackward)

}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
