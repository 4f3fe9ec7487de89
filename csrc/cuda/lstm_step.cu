#include "lstm_step.h"

#include "cuda/gates.h"
#include "library.h"

namespace trajgru_ext::cuda {

TRAJGRU_LIBRARY_IMPL(TRAJGRU_DEVICE_KEY, m) {
  LstmSteps<GateDevice>::implement(m);
}

}  // namespace trajgru_ext::cuda
