#include "cuda/gates.h"
#include "library.h"
#include "lstm_operators.h"

namespace trajgru_ext::cuda {

TRAJGRU_LIBRARY_IMPL(TRAJGRU_DEVICE_KEY, m) {
  LstmOperators<GateDevice>::implement(m);
}

}  // namespace trajgru_ext::cuda
