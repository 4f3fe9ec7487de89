#include "math/gru_gates.h"

#include "cpu/vec/gate_loop.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {

TRAJGRU_INSTANTIATE_GATE_KERNELS(GruGates)
TRAJGRU_INSTANTIATE_GATE_KERNELS(GruGatesBackward)

}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
