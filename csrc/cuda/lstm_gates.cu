#include "cuda/gates.h"
#include "library.h"
#include "lstm_operators.h"

namespace trajgru_ext::cuda {
namespace {

using Lstm = LstmOperators<GateDevice>;

TRAJGRU_LIBRARY_IMPL(TRAJGRU_DEVICE_KEY, m) {
  m.impl("lstm_gates", &Lstm::gates);
  m.impl("lstm_gates_backward", &Lstm::gates_backward);
}

}  // namespace
}  // namespace trajgru_ext::cuda
