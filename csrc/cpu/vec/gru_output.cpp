#include "math/gru_output.h"

#include "cpu/vec/gate_loop.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {

TRAJGRU_INSTANTIATE_GATE_KERNELS(GruOutput)
TRAJGRU_INSTANTIATE_GATE_KERNELS(GruOutputBackward)

}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
