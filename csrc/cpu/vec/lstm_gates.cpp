#include "math/lstm_gates.h"

#include "cpu/vec/gate_loop.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {

TRAJGRU_INSTANTIATE_GATE_KERNELS(LstmGatesForward)
TRAJGRU_INSTANTIATE_GATE_KERNELS(LstmGatesBackward)

}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
