#include "cuda/gates.h"
#include "gru_operators.h"
#include "library.h"

namespace trajgru_ext::cuda {

TRAJGRU_LIBRARY_IMPL(TRAJGRU_DEVICE_KEY, m) {
  GruOperators<GateDevice>::implement(m);
}

}  // namespace trajgru_ext::cuda
