#include "math/lstm_memory.h"

#include "cpu/vec/gate_loop.h"

namespace trajgru_ext {
namespace CPU_CAPABILITY {

TRAJGRU_INSTANTIATE_GATE_KERNELS(LstmMemoryForward)
TRAJGRU_INSTANTIATE_GATE_KERNELS(LstmMemoryBackward)

}  // namespace CPU_CAPABILITY
}  // namespace trajgru_ext
